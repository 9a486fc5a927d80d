#include "ref/weights.h"

#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

enum { PANEL = 16 };

int64_t ref_packed_size(int64_t n, int64_t k) { return (n + PANEL - 1) / PANEL * PANEL * k; }

void ref_pack_panel(const kv_tensor *t, int64_t row0, float *scratch, float *panel)
{
    const int64_t K = t->cols, rows = t->rows - row0 < PANEL ? t->rows - row0 : PANEL;
    kv_tensor_rows_f32(t, row0, rows, scratch);
    if (rows < PANEL) memset(scratch + rows * K, 0, (size_t)((PANEL - rows) * K) * sizeof *scratch);
    for (int64_t k = 0; k < K; k++)
        for (int64_t j = 0; j < PANEL; j++)
            panel[k * PANEL + j] = scratch[j * K + k];
}

void ref_pack_codes(const kv_tensor *t, int64_t row0, ref_code_block *blocks)
{
    const int64_t rows = t->rows - row0 < PANEL ? t->rows - row0 : PANEL, n = t->cols / 32;
    const int64_t bytes = kv_dtype_block_bytes(t->dtype);
    const uint8_t *src = (const uint8_t *)t->data + row0 * n * bytes;
    memset(blocks, 0, (size_t)n * sizeof *blocks);
    for (int64_t j = 0; j < rows; j++)
        for (int64_t b = 0; b < n; b++) {
            kv_codes c;
            kv_read_codes(t->dtype, src + (j * n + b) * bytes, &c);
            blocks[b].d[j] = c.d;
            blocks[b].m[j] = c.m;
            for (int k = 0; k < 32; k++)
                blocks[b].q[k][j] = c.q[k];
        }
}

/* Everything that has to be packed, so that it can be laid out, then filled in parallel. */
typedef struct item {
    const kv_tensor *t;
    int64_t offset; /* floats into the arena */
    int64_t codes;  /* blocks into the other; -1: the format has none */
    int64_t first_task; /* panels of all items before this one; a vector is one task */
    int is_vector;
} item;

typedef struct packer {
    item *items;
    int64_t n_items, n_tasks, floats, blocks;
    float *arena;
    ref_code_block *codes;
    kv_buffer *scratch; /* [threads] */
} packer;

static void plan_item(packer *p, const kv_tensor *t, int is_vector)
{
    item *it = &p->items[p->n_items++];
    *it = (item){.t = t, .first_task = p->n_tasks, .is_vector = is_vector, .codes = -1};
    p->n_tasks += is_vector ? 1 : (t->rows + PANEL - 1) / PANEL;
    const int64_t floats = is_vector ? t->cols : ref_packed_size(t->rows, t->cols);
    it->offset = p->floats;
    p->floats += (floats + PANEL - 1) / PANEL * PANEL;
    if (is_vector || !kv_dtype_has_codes(t->dtype)) return;
    it->codes = p->blocks;
    p->blocks += (t->rows + PANEL - 1) / PANEL * (t->cols / 32);
}

static void run_task(void *arg, int64_t task, int worker)
{
    packer *p = arg;
    int64_t lo = 0, hi = p->n_items - 1; /* last item whose first_task <= task */
    while (lo < hi) {
        const int64_t mid = (lo + hi + 1) / 2;
        if (p->items[mid].first_task <= task)
            lo = mid;
        else
            hi = mid - 1;
    }
    const item *it = &p->items[lo];
    const int64_t panel = task - it->first_task;
    float *dst = p->arena + it->offset;
    if (it->is_vector)
        kv_tensor_rows_f32(it->t, 0, 1, dst);
    else
        ref_pack_panel(it->t, panel * PANEL, p->scratch[worker].p, dst + panel * PANEL * it->t->cols);
    if (it->codes >= 0)
        ref_pack_codes(it->t, panel * PANEL, p->codes + it->codes + panel * (it->t->cols / 32));
}

/* ---- binding: which tensor becomes which field ---------------------------------------------------- */

typedef struct binder {
    packer *p;
    const kv_model *m;
    int64_t next; /* item to bind */
    int planning;
} binder;

static ref_packed bind_matrix(binder *b, kv_role role, int32_t layer)
{
    const kv_tensor *t = role == KV_ROLE_OUTPUT ? kv_model_head(b->m) : kv_model_tensor(b->m, role, layer);
    if (!t->data) return (ref_packed){0};
    if (b->planning) {
        plan_item(b->p, t, 0);
        return (ref_packed){.n = t->rows, .k = t->cols};
    }
    const item *it = &b->p->items[b->next++];
    return (ref_packed){.panels = b->p->arena + it->offset,
                        .codes = it->codes < 0 ? NULL : b->p->codes + it->codes,
                        .has_min = kv_dtype_has_min(t->dtype), .n = t->rows, .k = t->cols};
}

static const float *bind_vector(binder *b, kv_role role, int32_t layer)
{
    if (!b->m->cfg.norm_weight) return NULL;
    if (b->planning) {
        plan_item(b->p, kv_model_tensor(b->m, role, layer), 1);
        return NULL;
    }
    return b->p->arena + b->p->items[b->next++].offset;
}

/* Runs twice: to plan the layout, then to set the pointers. */
static void bind_all(binder *b, ref_weights *w)
{
    w->output_norm = bind_vector(b, KV_ROLE_OUTPUT_NORM, 0);
    w->head = bind_matrix(b, KV_ROLE_OUTPUT, 0);
    w->bigram_proj = bind_matrix(b, KV_ROLE_BIGRAM_PROJ, 0);
    w->side_gate = bind_matrix(b, KV_ROLE_SIDECAR_GATE, 0);
    w->side_value = bind_matrix(b, KV_ROLE_SIDECAR_VALUE, 0);
    w->side_proj = bind_matrix(b, KV_ROLE_SIDECAR_PROJ, 0);
    for (int32_t l = 0; l < b->m->cfg.n_layers; l++) {
        ref_layer_weights *lw = &w->layers[l];
        lw->attn_norm = bind_vector(b, KV_ROLE_ATTN_NORM, l);
        lw->q = bind_matrix(b, KV_ROLE_ATTN_Q, l);
        lw->k = bind_matrix(b, KV_ROLE_ATTN_K, l);
        lw->v = bind_matrix(b, KV_ROLE_ATTN_V, l);
        lw->o = bind_matrix(b, KV_ROLE_ATTN_OUTPUT, l);
        lw->ffn_norm = bind_vector(b, KV_ROLE_FFN_NORM, l);
        lw->gate = bind_matrix(b, KV_ROLE_FFN_GATE, l);
        lw->up = bind_matrix(b, KV_ROLE_FFN_UP, l);
        lw->down = bind_matrix(b, KV_ROLE_FFN_DOWN, l);
    }
}

static kv_status pack_all(packer *p, kv_pool *pool)
{
    const int threads = kv_pool_threads(pool);
    int64_t cols = 1;
    for (int64_t i = 0; i < p->n_items; i++)
        if (p->items[i].t->cols > cols) cols = p->items[i].t->cols;
    p->scratch = calloc((size_t)threads, sizeof *p->scratch);
    if (!p->scratch) return kv_fail(KV_ERR_NOMEM, "out of memory while packing weights");
    kv_status st = KV_OK;
    for (int i = 0; i < threads && st == KV_OK; i++)
        st = kv_buffer_reserve(&p->scratch[i], (size_t)cols * PANEL * sizeof(float));
    if (st == KV_OK) kv_pool_run(pool, p->n_tasks, run_task, p);
    for (int i = 0; i < threads; i++)
        kv_buffer_free(&p->scratch[i]);
    free(p->scratch);
    return st;
}

static kv_status build(ref_weights *w, kv_pool *pool)
{
    const kv_model *m = w->model;
    packer p = {.items = calloc(6 + 9 * (size_t)m->cfg.n_layers, sizeof *p.items)};
    w->layers = calloc((size_t)m->cfg.n_layers, sizeof *w->layers);
    if (!p.items || !w->layers) {
        free(p.items);
        return kv_fail(KV_ERR_NOMEM, "model '%s': out of memory", m->name);
    }
    binder b = {.p = &p, .m = m, .planning = 1};
    bind_all(&b, w);
    w->arena_bytes = (size_t)p.floats * sizeof(float);
    w->codes_bytes = (size_t)p.blocks * sizeof(ref_code_block);
    w->arena = p.arena = kv_big_alloc(w->arena_bytes);
    w->codes = p.codes = kv_big_alloc(w->codes_bytes);
    kv_status st = KV_OK;
    if (!w->arena || !w->codes)
        st = kv_fail(KV_ERR_NOMEM, "model '%s': out of memory, %zu MiB of packed weights are needed",
                     m->name, (w->arena_bytes + w->codes_bytes) >> 20);
    if (st == KV_OK) st = pack_all(&p, pool);
    b = (binder){.p = &p, .m = m, .planning = 0};
    if (st == KV_OK) bind_all(&b, w);
    free(p.items);
    return st;
}

/* ---- sharing ------------------------------------------------------------------------------------------ */

static ref_weights *shared; /* one entry per open model */

static void destroy(ref_weights *w)
{
    kv_big_free(w->arena, w->arena_bytes);
    kv_big_free(w->codes, w->codes_bytes);
    free(w->layers);
    free(w);
}

kv_status ref_weights_acquire(const kv_model *m, kv_pool *pool, const ref_weights **out)
{
    for (ref_weights *w = shared; w; w = w->next)
        if (w->model == m) {
            w->users++;
            *out = w;
            return KV_OK;
        }
    *out = NULL;
    ref_weights *w = calloc(1, sizeof *w);
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

void ref_weights_release(const ref_weights *cw)
{
    if (!cw) return;
    for (ref_weights **p = &shared; *p; p = &(*p)->next) {
        ref_weights *w = *p;
        if (w != cw) continue;
        if (--w->users == 0) {
            *p = w->next;
            destroy(w);
        }
        return;
    }
}
