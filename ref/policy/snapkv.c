/* snapkv.c - compresses the prompt once; docs/policy/snapkv.md. The policy pyramid differs in the budget of a
 * layer only; docs/policy/pyramid.md. */
#include "ref/policy/scores.h"

static int64_t slots(const kv_policy *p)
{
    (void)p;
    return 0;
}

static int64_t piece(const kv_policy *p, int64_t seen, int64_t left)
{
    return seen == 0 ? ref_min(left, p->snapkv.prompt) : left;
}

/* Entries outside the window that a layer keeps of the prompt. */
static int64_t snapkv_budget(const ref_cache *c, int32_t layer)
{
    (void)layer;
    return c->policy.snapkv.cap - c->policy.snapkv.window;
}

static int64_t pyramid_budget(const ref_cache *c, int32_t layer)
{
    const kv_snapkv_params *p = &c->policy.snapkv;
    const int64_t each = p->cap - p->window, T = p->prompt;
    if (T < 2 * each || c->n_layers == 1) return each;
    int64_t lo = each / KV_MUT(F12, p->beta + 10, p->beta), hi = 2 * each - lo;
    if (hi >= T - p->window) {
        hi = T - p->window;
        lo = 2 * each - hi;
    }
    return hi - layer * ((hi - lo) / (c->n_layers - 1));
}

static int64_t budget(const ref_cache *c, int32_t layer)
{
    return c->policy.selection == KV_SEL_PYRAMID ? pyramid_budget(c, layer) : snapkv_budget(c, layer);
}

static int compresses(const ref_cache *c, const ref_layer *l)
{
    return l->seen == 0 && c->policy.snapkv.prompt >= c->policy.snapkv.cap;
}

static kv_status demand(ref_cache *c, const ref_layer *l, int64_t m, ref_demand *out)
{
    const int64_t w = c->policy.snapkv.window;
    if (compresses(c, l)) *out = (ref_demand){.first = m - w, .rows = w, .block = w};
    return KV_OK;
}

/* Mean over the window's queries, pool over neighbours, mean over the group: scores of keys 0 .. n-1. */
static void score(const ref_cache *c, int64_t head, const ref_sums *s, int64_t n, real *mean, real *out)
{
    const int64_t half = (c->policy.snapkv.kernel - KV_MUT(F10, 3, 1)) / 2;
    for (int64_t g = 0; g < s->group; g++) {
        const real *acc = s->acc + (head * s->group + g) * s->stride;
        for (int64_t j = 0; j < n; j++)
            mean[j] = acc[j] / (real)c->policy.snapkv.window;
        for (int64_t j = 0; j < n; j++) {
            const int64_t first = ref_max(0, j - half), last = ref_min(n - 1, j + half);
            real sum = mean[first];
            for (int64_t i = first + 1; i <= last; i++)
                sum = sum + mean[i];
            const real pool = sum / (real)KV_MUT(F11, last - first + 1, c->policy.snapkv.kernel);
            out[j] = g == 0 ? pool : out[j] + pool;
        }
    }
    for (int64_t j = 0; j < n; j++)
        out[j] = out[j] / (real)s->group;
}

static kv_status settle(ref_cache *c, int32_t layer, const ref_sums *s)
{
    ref_layer *l = &c->layers[layer];
    const int64_t n = s->stored + s->m, older = n - c->policy.snapkv.window;
    const int now = compresses(c, l);
    const int64_t kept = now ? ref_min(budget(c, layer), older) : 0;
    KV_TRY(kv_buffer_reserve(&c->work, (size_t)n * (sizeof(ref_ranked) + 2 * sizeof(real) + 1)));
    ref_ranked *ranked = c->work.p;
    real *scores = (real *)(void *)(ranked + n), *mean = scores + n;
    uint8_t *keep = (uint8_t *)(mean + n);
    for (int64_t h = 0; h < c->n_kv_heads; h++) {
        ref_survivors k = {.keep = keep, .scores = now && kept > 0 ? scores : NULL, .event_head = (int32_t)h};
        for (int64_t i = 0; i < n; i++)
            keep[i] = 1;
        if (now) {
            score(c, h, s, older, mean, scores);
            for (int64_t i = 0; i < older; i++)
                ranked[i] = (ref_ranked){scores[i], i};
            k.lowest = REF(keep_best)(ranked, older, kept, keep);
        }
        REF(keep_survivors)(c, layer, h, s, &k);
    }
    l->n = now ? kept + c->policy.snapkv.window : n;
    l->seen += s->m;
    return KV_OK;
}

/* Before the prompt there is nothing, behind it everything that came later. */
static kv_status adopt(ref_cache *c, ref_layer *l, int64_t head, const ref_adopt *a)
{
    const kv_snapkv_params *p = &c->policy.snapkv;
    const int64_t later = a->seen - p->prompt;
    if (a->seen > 0 && later < 0)
        return kv_fail(KV_ERR_FORMAT, "cache state: %lld tokens; the first step brings the whole prompt, prompt=%d",
                       (long long)a->seen, p->prompt);
    if (a->seen == 0 || p->prompt < p->cap) return REF(time_order_adopt)(l, head, a, a->seen, a->seen);
    const int64_t kept = ref_min(budget(c, (int32_t)(l - c->layers)), p->prompt - p->window);
    return REF(time_order_adopt)(l, head, a, kept + p->window + later, p->window + later);
}

#define SNAPKV_TABLE                                                                                                 \
    {.needs_og = 1, .key_form = REF(time_order_key_form), .slots = slots, .piece = piece,                            \
     .begin = REF(time_order_begin), .view = REF(time_order_view), .demand = demand, .settle = settle,               \
     .entry = REF(time_order_entry), .adopt = adopt}

const ref_policy REF(policy_snapkv) = SNAPKV_TABLE;
const ref_policy REF(policy_pyramid) = SNAPKV_TABLE;
