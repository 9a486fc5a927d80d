/* door_attention.c - attn_prefill and attn_decode of the blas side: the segments become one set of rows, as its cache has them. */
#include "gpu/blas/door.h"

#include <stdlib.h>

static int lives(const kvdk_segment *s, int64_t i)
{
    return !s->valid.data || ((const uint8_t *)s->valid.data)[blas_door_row(&s->valid, i)];
}

static int64_t rows_of(const kvdk_segment *s) { return s->k.data ? s->k.dim[0] : 0; }

/* Entries of the view, and how many of them every token sees. */
static kv_status count_view(const kvdk_attn_args *a, int64_t *n, int64_t *stored)
{
    *n = *stored = 0;
    for (int64_t i = 0; i < a->n_segments; i++) {
        const kvdk_segment *s = &a->segment[i];
        const int64_t before = *n;
        for (int64_t j = 0; j < rows_of(s); j++)
            *n += lives(s, j);
        if (s->kind != KVDK_SELF)
            *stored = *n;
        else if (i + 1 < a->n_segments || *n - before != a->T)
            return blas_door_refuse("the tokens of a step are all alive, and the last in the view");
    }
    return *n ? KV_OK : blas_door_refuse("a view has an entry: a step sees its own tokens");
}

/* rows[Hk][n][hd] of the entries that live. */
static kv_status take_rows(blas_door *d, const kvdk_attn_args *a, int values, int64_t n, float **rows)
{
    int64_t at = 0;
    KV_TRY(blas_door_take(d, a->Hk * n * a->hd, rows));
    for (int64_t i = 0; i < a->n_segments; i++) {
        const kvdk_segment *s = &a->segment[i];
        float *from;
        if (rows_of(s) == 0) continue;
        KV_TRY(blas_door_in(d, values ? &s->v : &s->k, rows_of(s), a->Hk, a->hd, &from));
        for (int64_t j = 0; j < rows_of(s); j++) {
            if (!lives(s, j)) continue;
            for (int64_t h = 0; h < a->Hk; h++)
                for (int64_t c = 0; c < a->hd; c++)
                    (*rows)[(h * n + at) * a->hd + c] = from[(j * a->Hk + h) * a->hd + c];
            at++;
        }
    }
    return KV_OK;
}

/* Tokens that do not stand in the view all see the same: a step of one token each. */
static kv_status attend(blas_session *s, const kvdk_attn_args *a, int64_t n, int64_t stored)
{
    const int own = n > stored;
    blas_view *view = s->views;
    view->n = own ? stored : stored - 1;
    if (own) return blas_attend(s, a->T);
    for (int64_t t = 0; t < a->T; t++) {
        KV_TRY(blas_attend(s, 1));
        s->work.qkv += a->Hq * a->hd;
        s->work.att += a->Hq * a->hd;
        s->work.stats += a->Hq * 2;
    }
    return KV_OK;
}

/* A statistic of [T][Hq][2] as the interface has it: [Hq][T]. */
static kv_status give_statistic(blas_door *d, const kvdk_attn_args *a, const kvdk_tensor *t, const float *stats)
{
    float *turned;
    if (!t->data) return KV_OK;
    KV_TRY(blas_door_take(d, a->Hq * a->T, &turned));
    for (int64_t h = 0; h < a->Hq; h++)
        for (int64_t x = 0; x < a->T; x++)
            turned[h * a->T + x] = stats[(x * a->Hq + h) * 2];
    return blas_door_out(t, a->Hq, a->T, 1, turned);
}

/* Runs attention in a session that has only what this needs. */
static kv_status in_session(blas_door *d, const kvdk_attn_args *a, kv_model *model, int64_t n, int64_t stored)
{
    blas_session *s = &d->session;
    blas_layer_weights layer = {.qkv.n = a->Hq * a->hd};
    blas_weights weights = {.layers = &layer};
    blas_view view = {0};
    kv_buffer scratch = {0};
    float *k, *v, *q, *out, *stats;
    KV_TRY(take_rows(d, a, 0, n, &k));
    KV_TRY(take_rows(d, a, 1, n, &v));
    KV_TRY(blas_door_in(d, &a->q, a->T, a->Hq, a->hd, &q));
    KV_TRY(blas_door_take(d, a->T * a->Hq * a->hd, &out));
    KV_TRY(blas_door_take(d, a->T * a->Hq * 2, &stats));
    model->cfg.n_heads = (int32_t)a->Hq;
    model->cfg.n_kv_heads = (int32_t)a->Hk;
    model->cfg.head_dim = (int32_t)a->hd;
    view.keys = k;
    view.values = v;
    view.key_stride = view.value_stride = n * a->hd;
    s->model = model;
    s->weights = &weights;
    s->views = &view;
    s->scratch = &scratch;
    s->scale = (float)a->scale;
    s->cache.n_sets = 1;
    s->cache.set_heads = (int32_t)a->Hk;
    s->work.qkv = q;
    s->work.att = out;
    s->work.stats = stats;
    const kv_status st = attend(s, a, n, stored);
    kv_buffer_free(&scratch);
    KV_TRY(st);
    KV_TRY(blas_door_out(&a->o, a->T, a->Hq, a->hd, out));
    KV_TRY(give_statistic(d, a, &a->row_max, stats));
    return give_statistic(d, a, &a->row_sum, stats + 1);
}

static kv_status attention(blas_door *d, const kvdk_attn_args *a)
{
    int64_t n, stored;
    KV_TRY(count_view(a, &n, &stored));
    kv_model *model = calloc(1, sizeof *model);
    if (!model) return kv_fail(KV_ERR_NOMEM, "out of memory");
    const kv_status st = in_session(d, a, model, n, stored);
    free(model);
    return st;
}

static int run(const kvdk_attn_args *a)
{
    blas_door d;
    blas_door_begin(&d);
    return blas_door_end(&d, attention(&d, a));
}

int kvdk_attn_prefill(const kvdk_attn_args *a, kvdk_stream stream)
{
    (void)stream;
    return run(a);
}

int kvdk_attn_decode(const kvdk_attn_args *a, kvdk_stream stream)
{
    (void)stream;
    return run(a);
}
