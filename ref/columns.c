/* columns.c - sums of attention probabilities by entry, per query head (docs/policy/cascade.md, step 4): the
 * second pass over the keys, with the maximum and the sum that each row's softmax ended with. */
#include "ref/attention.h"

#include <string.h>

enum { TASK_PANELS = 8 };

/* Panels of one stretch of keys. */
typedef struct stretch {
    const real *k;      /* of KV head 0 */
    int64_t head_stride; /* reals from one KV head's panels to the next */
    int64_t panel0, panels;
    int64_t slot0, n;   /* entries of the view that it holds */
    int64_t view0;      /* view index of the first */
    int own;            /* the piece's own keys: query x sees keys 0 .. x */
    int64_t task0;      /* first task */
} stretch;

typedef struct columns_job {
    ref_attn_layer *a;
    const ref_demand *d;
    const real *q; /* [Hq][rows][D] scaled */
    stretch v[REF_MAX_SPANS];
    int64_t n, tasks; /* per query head */
    real *acc;
    int64_t stride;
} columns_job;

static void add_stretch(columns_job *j, stretch s)
{
    s.panel0 = s.slot0 / REF_PANEL;
    s.panels = (s.slot0 + s.n + REF_PANEL - 1) / REF_PANEL - s.panel0;
    s.task0 = j->tasks;
    j->tasks += (s.panels + TASK_PANELS - 1) / TASK_PANELS;
    j->v[j->n++] = s;
}

static void list_stretches(columns_job *j)
{
    const ref_attn_layer *a = j->a;
    const int64_t D = a->s->cache.head_dim;
    int64_t view = 0;
    for (int64_t i = 0; i < a->n_ranges; view += a->ranges[i].n, i++)
        add_stretch(j, (stretch){.k = a->stored_k, .head_stride = a->layer->cap * D, .slot0 = a->ranges[i].slot0,
                                 .n = a->ranges[i].n, .view0 = view});
    add_stretch(j, (stretch){.k = a->s->work.own_k, .head_stride = a->panels * D * REF_PANEL, .n = a->m, .view0 = view,
                             .own = 1});
}

/* The wanted queries of one head, scaled as attention scales them. */
static void scale_task(void *arg, int64_t head, int worker)
{
    (void)worker;
    const columns_job *j = arg;
    const ref_session *s = j->a->s;
    const int64_t D = s->cache.head_dim, rows = j->d->rows;
    real *q = (real *)(uintptr_t)j->q + head * rows * D;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < D; d++)
            q[r * D + d] = s->work.q[(j->d->first + r) * ref_q_width(s) + head * D + d] * KV_MUT(F24, 1, s->scale);
}

static void sum_task(void *arg, int64_t task, int worker)
{
    const columns_job *j = arg;
    const ref_attn_layer *a = j->a;
    const int64_t head = task / j->tasks, t = task % j->tasks, D = a->s->cache.head_dim;
    const stretch *s = j->v;
    while (s + 1 < j->v + j->n && t >= s[1].task0)
        s++;
    const int64_t first = s->panel0 + (t - s->task0) * TASK_PANELS;
    const int64_t panels = ref_min(TASK_PANELS, s->panel0 + s->panels - first);
    real acc[TASK_PANELS * REF_PANEL];
    const ref_column_job job = {.q = j->q + head * j->d->rows * D, .rows = j->d->rows, .head_dim = D,
                                .row0 = j->d->first, .max = a->row_max + head * a->m + j->d->first,
                                .sum = a->row_sum + head * a->m + j->d->first, .weights = j->d->weights,
                                .block = j->d->block, .reversed = s->own && j->d->own_reversed,
                                .k = s->k + head / a->group * s->head_stride + first * D * REF_PANEL, .panels = panels,
                                .key0 = s->own ? first * REF_PANEL : -1, .acc = acc,
                                .scratch = a->s->scratch[worker].p};
    a->s->kernels->columns(&job);
    real *out = j->acc + head * j->stride;
    for (int64_t i = 0; i < panels * REF_PANEL; i++) {
        const int64_t e = first * REF_PANEL + i - s->slot0;
        if (e >= 0 && e < s->n) out[s->view0 + e] = acc[i];
    }
}

kv_status REF(columns)(ref_attn_layer *a, const ref_demand *d, ref_sums *out)
{
    ref_session *s = a->s;
    const int64_t heads = s->model->cfg.n_heads, D = s->cache.head_dim;
    columns_job j = {.a = a, .d = d, .stride = ref_round_up(a->stored + a->m, REF_PANEL)};
    KV_TRY(kv_buffer_reserve(&s->columns, (size_t)(heads * (j.stride + d->rows * D)) * sizeof(real)));
    for (int i = 0; i < kv_pool_threads(s->pool); i++)
        KV_TRY(kv_buffer_reserve(&s->scratch[i], REF_COLUMN_SCRATCH * sizeof(real)));
    j.acc = s->columns.p;
    j.q = j.acc + heads * j.stride;
    list_stretches(&j);
    kv_pool_run(s->pool, heads, scale_task, &j);
    kv_pool_run(s->pool, heads * j.tasks, sum_task, &j);
    out->acc = j.acc;
    out->stride = j.stride;
    return KV_OK;
}
