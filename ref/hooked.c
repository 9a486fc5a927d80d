#include "ref/hooked.h"

#include "ref/golf.h"
#include "ref/storage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if REF_BITS == 32

kv_status ref_session_hook(kv_session *handle, const ref_hooks *h)
{
    ref_session *s = (ref_session *)handle;
    if (!s->hooked) s->hooked = calloc(1, sizeof *s->hooked);
    if (!s->hooked) return kv_fail(KV_ERR_NOMEM, "out of memory");
    s->hooked->hooks = *h;
    return KV_OK;
}

/* The step goes on with whatever is in memory, and fails at its end. */
static void note(ref_hooked *h, kv_status st)
{
    if (st == KV_OK || h->status != KV_OK) return;
    h->status = st;
    snprintf(h->message, sizeof h->message, "%s", kv_message());
}

static float *rows(ref_hooked *h, int64_t n)
{
    const kv_status st = kv_buffer_reserve(&h->rows, (size_t)n * sizeof(float));
    note(h, st);
    return st == KV_OK ? h->rows.p : NULL;
}

void ref_hooked_at(const ref_session *s, int32_t layer)
{
    const ref_hooked *h = s->hooked;
    if (h && h->hooks.at) h->hooks.at(h->hooks.ctx, layer, s->seen);
}

int ref_hooked_norm(const ref_session *s, int64_t m, const float *gain, real scale)
{
    ref_hooked *h = s->hooked;
    const int64_t d = s->model->cfg.d_model;
    if (!h || !h->hooks.rmsnorm) return 0;
    if (h->status != KV_OK) return 1;
    note(h, h->hooks.rmsnorm(h->hooks.ctx, s->work.x, gain, m, d, (float)s->model->cfg.norm_eps, s->work.xn));
    if (scale != 1) REF(scale)(s->work.xn, scale, m * d, s->work.xn);
    return 1;
}

int ref_hooked_multiply(const ref_session *s, const real *x, int64_t m, const ref_packed *w, real *c)
{
    ref_hooked *h = s->hooked;
    if (!h || !h->hooks.gemm) return 0;
    float *plain = h->status == KV_OK ? rows(h, w->n * w->k) : NULL;
    for (int64_t j = 0; plain && j < w->n; j++)
        for (int64_t i = 0; i < w->k; i++)
            plain[j * w->k + i] = w->panels[(j / REF_PANEL * w->k + i) * REF_PANEL + j % REF_PANEL];
    if (plain) note(h, h->hooks.gemm(h->hooks.ctx, x, plain, m, w->n, w->k, c));
    return 1;
}

/* What KV head `head` sees, entry by entry. */
static void unpack_head(const ref_attn_layer *a, int64_t head, int64_t heads, float *k, float *v)
{
    const ref_cache *c = &a->s->cache;
    const int64_t D = c->head_dim;
    ref_span spans[REF_MAX_SPANS];
    const int64_t n = ref_attn_spans(a, head, spans, NULL);
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t slot = spans[i].slot0; slot < spans[i].slot0 + spans[i].n; slot++, at++)
            for (int64_t d = 0; d < D; d++) {
                k[(at * heads + head) * D + d] = spans[i].k[(slot / REF_PANEL * D + d) * REF_PANEL + slot % REF_PANEL];
                v[(at * heads + head) * D + d] = spans[i].v[slot * c->dv + d];
            }
}

int ref_hooked_attention(const ref_attn_layer *a)
{
    ref_session *s = a->s;
    ref_hooked *h = s->hooked;
    if (!h || !h->hooks.attention || s->cache.store->spans) return 0;
    if (h->status != KV_OK) return 1;
    const int64_t n = a->stored + a->m, heads = s->cache.n_kv_heads, D = s->cache.head_dim,
                  stats = s->model->cfg.n_heads * a->m;
    float *k = rows(h, 2 * n * heads * D + 2 * stats);
    if (!k) return 1;
    float *v = k + n * heads * D, *max = v + n * heads * D;
    for (int64_t i = 0; i < heads; i++)
        unpack_head(a, i, heads, k, v);
    const ref_op_attn call = {.q = s->work.q,
                              .k = k,
                              .v = v,
                              .T = a->m,
                              .Hq = s->model->cfg.n_heads,
                              .Hk = heads,
                              .D = D,
                              .n = n,
                              .stored = a->stored,
                              .scale = s->scale,
                              .o = s->work.att,
                              .max = max,
                              .sum = max + stats};
    note(h, h->hooks.attention(h->hooks.ctx, &call));
    if (a->row_max) {
        memcpy(a->row_max, call.max, (size_t)stats * sizeof(float));
        memcpy(a->row_sum, call.sum, (size_t)stats * sizeof(float));
    }
    return 1;
}

kv_status ref_hooked_status(const ref_session *s)
{
    ref_hooked *h = s->hooked;
    const kv_status st = h ? h->status : KV_OK;
    if (st == KV_OK) return KV_OK;
    h->status = KV_OK;
    return kv_fail(st, "%s", h->message);
}

void ref_hooked_free(ref_session *s)
{
    if (s->hooked) kv_buffer_free(&s->hooked->rows);
    free(s->hooked);
}

#else

void REF(hooked_at)(const ref_session *s, int32_t layer)
{
    (void)s, (void)layer;
}

int REF(hooked_norm)(const ref_session *s, int64_t m, const float *gain, real scale)
{
    (void)s, (void)m, (void)gain, (void)scale;
    return 0;
}

int REF(hooked_multiply)(const ref_session *s, const real *x, int64_t m, const ref_packed *w, real *c)
{
    (void)s, (void)x, (void)m, (void)w, (void)c;
    return 0;
}

int REF(hooked_attention)(const ref_attn_layer *a)
{
    (void)a;
    return 0;
}

kv_status REF(hooked_status)(const ref_session *s)
{
    (void)s;
    return KV_OK;
}

void REF(hooked_free)(ref_session *s)
{
    (void)s;
}

#endif
