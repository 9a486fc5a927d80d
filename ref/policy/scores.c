#include "ref/policy/scores.h"

#include <stdlib.h>

/* ---- over heads --------------------------------------------------------------------------------------- */

real REF(group_sum)(const ref_sums *s, int64_t h, int64_t i)
{
    const real *acc = s->acc + h * s->group * s->stride + i;
    real sum = acc[0];
    for (int64_t g = 1; g < s->group; g++)
        sum = sum + acc[g * s->stride];
    return sum;
}

real REF(group_max)(const ref_sums *s, int64_t h, int64_t i)
{
    const real *acc = s->acc + h * s->group * s->stride + i;
    real max = acc[0];
    for (int64_t g = 1; g < s->group; g++)
        max = acc[g * s->stride] > max || acc[g * s->stride] != acc[g * s->stride] ? acc[g * s->stride] : max;
    return max; /* NaN if one of them is */
}

/* ---- ranking -------------------------------------------------------------------------------------------- */

static int rank(const void *a, const void *b)
{
    const ref_ranked *x = a, *y = b;
    const int x_nan = x->score != x->score, y_nan = y->score != y->score;
    if (x_nan != y_nan) return x_nan - y_nan;
    if (!x_nan && x->score != y->score) return x->score > y->score ? -1 : 1;
    return KV_MUT(G43, x->i > y->i, x->i < y->i) ? -1 : 1;
}

real REF(keep_best)(ref_ranked *v, int64_t n, int64_t want, uint8_t *keep)
{
    qsort(v, (size_t)n, sizeof *v, rank);
    for (int64_t i = 0; i < n; i++)
        keep[v[i].i] = i < want;
    if (want <= 0) return (real)kv_inf();
    return v[ref_min(want, n) - KV_MUT(F07, 0, 1)].score;
}

/* ---- who stays -------------------------------------------------------------------------------------------- */

static int64_t original_index(const ref_layer *l, int64_t head, const ref_sums *s, int64_t i)
{
    return i < s->stored ? ref_layer_og(l, head)[i] : l->seen + (i - s->stored);
}

static void report(ref_cache *c, int32_t layer, int64_t head, const ref_sums *s, const ref_survivors *k)
{
    const ref_layer *l = &c->layers[layer];
    const int64_t newest = l->seen + s->m - 1;
    kv_event e = {.token = newest, .head = k->event_head, .kind = KV_EVENT_EVICT};
    for (int64_t i = 0; i < s->stored + s->m; i++) {
        if (k->keep[i]) continue;
        e.og = original_index(l, head, s, i);
        e.slot = (int32_t)i;
        e.margin = k->scores ? (float)(k->lowest - k->scores[i]) : kv_inf();
        REF(cache_decide)(c, layer, e);
    }
    e.kind = KV_EVENT_ADMIT;
    e.margin = kv_inf();
    for (int64_t i = 0, at = 0; i < s->stored + s->m; i++) {
        if (i >= s->stored) {
            e.og = e.token = original_index(l, head, s, i);
            e.slot = k->keep[i] ? (int32_t)at : -1;
            REF(cache_decide)(c, layer, e);
        }
        at += k->keep[i];
    }
}

void REF(keep_survivors)(ref_cache *c, int32_t layer, int64_t head, const ref_sums *s, const ref_survivors *k)
{
    ref_layer *l = &c->layers[layer];
    if (!k->silent) report(c, layer, head, s, k);
    int64_t *og = ref_layer_og(l, head), at = 0;
    for (int64_t i = 0; i < s->stored + s->m; i++) {
        if (!k->keep[i]) continue;
        og[at] = original_index(l, head, s, i);
        if (l->score) ref_layer_score(l, head)[at] = k->scores[KV_MUT(F08, at, i)];
        if (i >= s->stored)
            REF(cache_move)(c, head, at, ~(i - s->stored));
        else if (i != at)
            REF(cache_move)(c, head, at, i);
        at++;
    }
}

/* ---- caches in time order ------------------------------------------------------------------------------------ */

int32_t REF(time_order_key_form)(const kv_policy *p)
{
    (void)p;
    return KV_KEY_ROTATED;
}

int64_t REF(time_order_begin)(ref_cache *c, int32_t layer, int64_t m)
{
    (void)m;
    return c->layers[layer].seen;
}

int64_t REF(time_order_view)(const ref_cache *c, const ref_layer *l, ref_range *out)
{
    (void)c;
    if (l->n == 0) return 0;
    out[0] = (ref_range){0, l->n};
    return 1;
}

ref_entry REF(time_order_entry)(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i)
{
    (void)c;
    const int64_t og = ref_layer_og(l, head)[i];
    return (ref_entry){i, og, (int32_t)og};
}

kv_status REF(time_order_adopt)(ref_layer *l, int64_t head, const ref_adopt *a, int64_t n, int64_t tail)
{
    if (a->n != n)
        return kv_fail(KV_ERR_FORMAT, "cache state: %lld entries after %lld tokens; this policy then has %lld", (long long)a->n,
                       (long long)a->seen, (long long)n);
    int64_t before = -1;
    for (int64_t i = 0; i < n; i++) {
        const int misses = i >= n - tail && a->og[i] != a->seen - n + i;
        if (a->og[i] <= before || a->og[i] >= a->seen || a->pos[i] != a->og[i] || misses)
            return kv_fail(KV_ERR_FORMAT, "cache state: entry %lld is token %lld at position %d; original indices ascend and "
                                          "are the positions, and the newest %lld tokens are all there", (long long)i,
                           (long long)a->og[i], a->pos[i], (long long)tail);
        before = ref_layer_og(l, head)[i] = a->og[i];
    }
    l->n = n;
    l->seen = a->seen;
    return KV_OK;
}
