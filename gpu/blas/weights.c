#include "gpu/blas/blas.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS_PER_TASK = 256, FLOATS_PER_LINE = 16 };

/* One tensor and where its rows go. */
typedef struct item {
    const kv_tensor *t;
    int64_t offset; /* floats into the arena */
    int64_t first_task;
} item;

typedef struct plan {
    item *items;
    int64_t n_items, n_tasks, floats;
    float *arena;
    int placing; /* second pass: offsets become pointers */
    int64_t next;
} plan;

static const float *place(plan *p, const kv_tensor *t)
{
    if (!t->data) return NULL;
    if (p->placing) return p->arena + p->items[p->next++].offset;
    p->items[p->n_items++] = (item){t, p->floats, p->n_tasks};
    p->n_tasks += (t->rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    p->floats += t->rows * t->cols;
    return NULL;
}

/* Matrices that share their input lie one below the other. */
static blas_matrix stack(plan *p, const kv_model *m, int32_t layer, const kv_role *roles, int n)
{
    blas_matrix out = {NULL, 0, 0};
    p->floats = (p->floats + FLOATS_PER_LINE - 1) / FLOATS_PER_LINE * FLOATS_PER_LINE;
    for (int i = 0; i < n; i++) {
        const kv_tensor *t =
            roles[i] == KV_ROLE_OUTPUT ? kv_model_head(m) : kv_model_tensor(m, roles[i], layer);
        const float *w = place(p, t);
        if (!out.w) out.w = w;
        out.n += t->rows;
        if (t->data) out.k = t->cols;
    }
    return out;
}

static const float *gains(plan *p, const kv_model *m, kv_role role, int32_t layer)
{
    return m->cfg.norm_weight ? place(p, kv_model_tensor(m, role, layer)) : NULL;
}

static const float *vector(plan *p, const kv_model *m, kv_role role, int32_t layer)
{
    return place(p, kv_model_tensor(m, role, layer));
}

static void lay_out_golf(plan *p, blas_weights *w)
{
    static const kv_role proj[] = {KV_ROLE_BIGRAM_PROJ}, gate[] = {KV_ROLE_SIDECAR_GATE}, value[] = {KV_ROLE_SIDECAR_VALUE},
                         back[] = {KV_ROLE_SIDECAR_PROJ};
    const kv_model *m = w->model;
    w->bigram_proj = stack(p, m, 0, proj, 1);
    w->side_gate = stack(p, m, 0, gate, 1);
    w->side_value = stack(p, m, 0, value, 1);
    w->side_proj = stack(p, m, 0, back, 1);
    w->bigram_scale = vector(p, m, KV_ROLE_BIGRAM_SCALE, 0);
    w->smear = vector(p, m, KV_ROLE_SMEAR_GATE, 0);
    w->skips = vector(p, m, KV_ROLE_SKIP_WEIGHTS, 0);
    w->conv = vector(p, m, KV_ROLE_SIDECAR_CONV, 0);
    w->site_gate = vector(p, m, KV_ROLE_SIDECAR_SITE_GATE, 0);
    w->side_scale = vector(p, m, KV_ROLE_SIDECAR_SCALE, 0);
    for (int32_t l = 0; l < m->cfg.n_layers; l++) {
        blas_layer_weights *lw = &w->layers[l];
        lw->resid_mix = vector(p, m, KV_ROLE_RESID_MIX, l);
        lw->attn_scale = vector(p, m, KV_ROLE_ATTN_SCALE, l);
        lw->ffn_scale = vector(p, m, KV_ROLE_FFN_SCALE, l);
        lw->q_gain = vector(p, m, KV_ROLE_Q_GAIN, l);
        lw->k_gain = vector(p, m, KV_ROLE_K_GAIN, l);
        lw->k_shift = vector(p, m, KV_ROLE_K_SHIFT, l);
        lw->v_shift = vector(p, m, KV_ROLE_V_SHIFT, l);
        lw->local_v = vector(p, m, KV_ROLE_LOCAL_V, l);
    }
}

/* Runs twice: to lay out, then to set the pointers. */
static void lay_out(plan *p, blas_weights *w)
{
    static const kv_role qkv[] = {KV_ROLE_ATTN_Q, KV_ROLE_ATTN_K, KV_ROLE_ATTN_V},
                         o[] = {KV_ROLE_ATTN_OUTPUT},
                         gate_up[] = {KV_ROLE_FFN_GATE, KV_ROLE_FFN_UP},
                         down[] = {KV_ROLE_FFN_DOWN}, head[] = {KV_ROLE_OUTPUT};
    const kv_model *m = w->model;
    w->output_norm = gains(p, m, KV_ROLE_OUTPUT_NORM, 0);
    w->head = stack(p, m, 0, head, 1);
    for (int32_t l = 0; l < m->cfg.n_layers; l++) {
        blas_layer_weights *lw = &w->layers[l];
        lw->attn_norm = gains(p, m, KV_ROLE_ATTN_NORM, l);
        lw->ffn_norm = gains(p, m, KV_ROLE_FFN_NORM, l);
        lw->qkv = stack(p, m, l, qkv, 3);
        lw->o = stack(p, m, l, o, 1);
        lw->gate_up = stack(p, m, l, gate_up, 2);
        lw->down = stack(p, m, l, down, 1);
    }
}

static void widen(void *arg, int64_t task, int worker)
{
    (void)worker;
    const plan *p = arg;
    const item *it = p->items + p->n_items - 1;
    while (it->first_task > task)
        it--;
    const int64_t row = (task - it->first_task) * ROWS_PER_TASK, left = it->t->rows - row;
    kv_tensor_rows_f32(it->t, row, left < ROWS_PER_TASK ? left : ROWS_PER_TASK,
                       p->arena + it->offset + row * it->t->cols);
}

static kv_status build(blas_weights *w, kv_pool *pool)
{
    const kv_model *m = w->model;
    plan p = {.items = calloc(12 + 17 * (size_t)m->cfg.n_layers, sizeof *p.items)};
    w->layers = calloc((size_t)m->cfg.n_layers, sizeof *w->layers);
    if (!p.items || !w->layers) {
        free(p.items);
        return kv_fail(KV_ERR_NOMEM, "model '%s': out of memory", m->name);
    }
    lay_out(&p, w);
    lay_out_golf(&p, w);
    w->arena_bytes = (size_t)p.floats * sizeof(float);
    w->arena = p.arena = kv_big_alloc(w->arena_bytes);
    if (w->arena) {
        kv_pool_run(pool, p.n_tasks, widen, &p);
        p.placing = 1;
        p.floats = 0;
        lay_out(&p, w);
        lay_out_golf(&p, w);
    }
    free(p.items);
    return w->arena
               ? KV_OK
               : kv_fail(KV_ERR_NOMEM, "model '%s': out of memory, %zu MiB of weights are needed",
                         m->name, w->arena_bytes >> 20);
}

/* ---- sharing: sessions are opened and closed by one thread ---------------------------------- */

static blas_weights *shared;

static void destroy(blas_weights *w)
{
    kv_big_free(w->arena, w->arena_bytes);
    free(w->layers);
    free(w);
}

kv_status blas_weights_acquire(const kv_model *m, kv_pool *pool, const blas_weights **out)
{
    for (blas_weights *w = shared; w; w = w->next)
        if (w->model == m) {
            w->users++;
            *out = w;
            return KV_OK;
        }
    *out = NULL;
    blas_weights *w = calloc(1, sizeof *w);
    if (!w) return kv_fail(KV_ERR_NOMEM, "model '%s': out of memory", m->name);
    w->model = m;
    w->users = 1;
    const kv_status st = build(w, pool);
    if (st != KV_OK) {
        destroy(w);
        return st;
    }
    w->next = shared;
    shared = w;
    *out = w;
    return KV_OK;
}

void blas_weights_release(const blas_weights *weights)
{
    for (blas_weights **p = &shared; weights && *p; p = &(*p)->next) {
        blas_weights *w = *p;
        if (w != weights) continue;
        if (--w->users == 0) {
            *p = w->next;
            destroy(w);
        }
        return;
    }
}
