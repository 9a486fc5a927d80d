/* h2o.c - per KV head the newest tokens and the heaviest others; docs/policy/h2o.md. */
#include "ref/policy/scores.h"

static int64_t slots(const kv_policy *p) { return p->h2o.cap; }

static int64_t piece(const kv_policy *p, int64_t seen, int64_t left)
{
    (void)p;
    (void)seen;
    return left;
}

static kv_status demand(ref_cache *c, const ref_layer *l, int64_t m, ref_demand *out)
{
    (void)c;
    (void)l;
    *out = (ref_demand){.rows = m, .block = 256};
    return KV_OK;
}

/* Scores of [stored | own] of one head. */
static void score(const ref_cache *c, const ref_layer *l, int64_t head, const ref_sums *s, real *out)
{
    for (int64_t i = 0; i < s->stored + s->m; i++) {
        const real u = c->policy.h2o.gqa == KV_GQA_SUM ? REF(group_sum)(s, head, i) : REF(group_max)(s, head, i);
        out[i] = i < KV_MUT(F05, 0, s->stored) ? ref_layer_score(l, head)[i] + u : u;
    }
}

static kv_status settle(ref_cache *c, int32_t layer, const ref_sums *s)
{
    ref_layer *l = &c->layers[layer];
    const int64_t n = s->stored + s->m, older = ref_max(0, n - c->policy.h2o.recent);
    const int full = n > c->policy.h2o.cap;
    KV_TRY(kv_buffer_reserve(&c->work, (size_t)n * (sizeof(ref_ranked) + sizeof(real) + 1)));
    ref_ranked *ranked = c->work.p;
    real *scores = (real *)(void *)(ranked + n);
    uint8_t *keep = (uint8_t *)(scores + n);
    for (int64_t h = 0; h < c->n_kv_heads; h++) {
        ref_survivors k = {.keep = keep, .scores = scores, .lowest = (real)kv_inf(), .event_head = (int32_t)h};
        score(c, l, h, s, scores);
        for (int64_t i = 0; i < n; i++) {
            keep[i] = 1;
            ranked[i] = (ref_ranked){scores[i], i};
        }
        if (full) k.lowest = REF(keep_best)(ranked, older, c->policy.h2o.heavy, keep);
        REF(keep_survivors)(c, layer, h, s, &k);
    }
    l->n = full ? c->policy.h2o.cap : n;
    l->seen += s->m;
    return KV_OK;
}

static kv_status adopt(ref_cache *c, ref_layer *l, int64_t head, const ref_adopt *a)
{
    const kv_h2o_params *p = &c->policy.h2o;
    const int decided = a->seen > p->cap;
    return REF(time_order_adopt)(l, head, a, decided ? p->cap : a->seen, decided ? p->recent : a->seen);
}

const ref_policy REF(policy_h2o) = {.needs_og = 1, .needs_score = 1, .key_form = REF(time_order_key_form),
                                    .slots = slots, .piece = piece, .begin = REF(time_order_begin),
                                    .view = REF(time_order_view), .demand = demand, .settle = settle,
                                    .entry = REF(time_order_entry), .adopt = adopt};
