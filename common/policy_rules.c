/* policy_rules.c - rules between parameters: what follows from what, what is refused, how large things get. */
#include "common/policy_rules.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- derived values ------------------------------------------------------------------------------ */

static void apply_preset(kv_policy *p, uint64_t given, const char *const *names, size_t n_names)
{
    kv_cascade_params *c = &p->cascade;
    if (c->preset == 0) return;
    for (size_t i = 0; i < n_names; i++) {
        if (given >> i & 1) continue;
        if (strcmp(names[i], "sinks") == 0) c->sinks = 64;
        if (c->preset == 2 && strcmp(names[i], "beta") == 0) c->beta = 0.9999999;
        if (c->preset == 2 && strcmp(names[i], "score") == 0) c->score = KV_SCORE_F16;
    }
    c->preset = 0;
}

static kv_status derive_cascade(const char *spec, kv_policy *p)
{
    kv_cascade_params *c = &p->cascade;
    if (c->cap == 0 && c->window == 0)
        return kv_fail(KV_ERR_USAGE, "policy '%s': cap=N or window=N is missing; neither has a default", spec);
    if (c->cap == 0 && (int64_t)c->window * c->n > KV_POLICY_CAP_MAX)
        return kv_fail(KV_ERR_USAGE, "policy '%s': window=%d times n=%d is more than %d slots; the nearest legal window "
                                     "is %d", spec, c->window, c->n, KV_POLICY_CAP_MAX, KV_POLICY_CAP_MAX / c->n);
    if (c->cap == 0) c->cap = c->window * c->n;
    if (c->cap % c->n != 0 || c->cap < c->n)
        return kv_fail(KV_ERR_USAGE, "policy '%s': cap=%d cannot be shared by n=%d rings of equal size; the nearest legal "
                                     "value is %d", spec, c->cap, c->n,
                       c->cap < c->n ? c->n : (c->cap + c->n / 2) / c->n * c->n);
    if (c->window != 0 && c->window != c->cap / c->n)
        return kv_fail(KV_ERR_USAGE, "policy '%s': cap=%d and window=%d contradict each other: %d rings share cap=%d; leave "
                                     "one out", spec, c->cap, c->window, c->n, c->window * c->n);
    c->window = c->cap / c->n;
    return KV_OK;
}

static kv_status derive_h2o(const char *spec, kv_policy *p)
{
    kv_h2o_params *h = &p->h2o;
    if (h->heavy < 0 && h->recent < 0) {
        if (h->cap % 2 != 0)
            return kv_fail(KV_ERR_USAGE, "policy '%s': cap=%d cannot be halved into heavy and recent; the nearest legal value "
                                         "is %d, or give one of them", spec, h->cap, h->cap + 1);
        h->heavy = h->recent = h->cap / 2;
    }
    if (h->heavy < 0) h->heavy = h->cap - h->recent;
    if (h->recent < 0) h->recent = h->cap - h->heavy;
    if (h->heavy < 0 || h->recent < 0 || h->heavy + h->recent != h->cap)
        return kv_fail(KV_ERR_USAGE, "policy '%s': cap=%d is not heavy + recent; leave one of the three rules out", spec,
                       h->cap);
    return KV_OK;
}

kv_status kv_policy_derive(const char *spec, kv_policy *p, uint64_t given)
{
    if (p->selection == KV_SEL_CASCADE) {
        size_t n;
        const kv_policy_param *d = kv_selection_params(KV_SEL_CASCADE, &n);
        const char *names[32];
        for (size_t i = 0; i < n; i++)
            names[i] = d[i].name;
        apply_preset(p, given, names, n);
        return derive_cascade(spec, p);
    }
    return p->selection == KV_SEL_H2O ? derive_h2o(spec, p) : KV_OK;
}

/* ---- refusals --------------------------------------------------------------------------------------- */

const char *kv_policy_pair_reason(const kv_policy *p)
{
    if (p->storage != KV_STORE_KVARN && p->storage != KV_STORE_KIVI) return NULL;
    switch (p->selection) {
    case KV_SEL_FULL:
        return NULL;
    case KV_SEL_SLIDING:
        return p->sliding.pos == KV_SLIDING_ABSOLUTE
                   ? NULL
                   : "a tile cannot be re-positioned; use sliding with pos=absolute";
    case KV_SEL_SINK:
        return "it keeps keys un-rotated, a tile holds them rotated";
    case KV_SEL_XWINDOW:
        return "it computes rows again, a tile is coded once";
    default:
        return "it evicts single tokens, a tile leaves as a whole";
    }
}

static int32_t nearest_bits(int32_t bits) { return bits == 7 ? 6 : bits; }

static kv_status check_bits(const char *spec, const char *name, int32_t bits)
{
    if (nearest_bits(bits) == bits) return KV_OK;
    return kv_fail(KV_ERR_USAGE, "policy '%s': %s=%d: codes have 2, 3, 4, 5, 6 or 8 bits; the nearest legal value is %d", spec,
                   name, bits, nearest_bits(bits));
}

/* Tiles of g tokens under a window. */
static kv_status check_granularity(const char *spec, const kv_policy *p, int32_t g, const char *what)
{
    if (p->selection != KV_SEL_SLIDING) return KV_OK;
    const int32_t cap = p->sliding.cap;
    if (cap % g == 0 && cap >= 2 * g) return KV_OK;
    const int32_t nearest = cap < 2 * g ? 2 * g : cap / g * g;
    return kv_fail(KV_ERR_USAGE, "policy '%s': cap=%d must be a multiple of %s=%d and hold at least two; the nearest legal "
                                 "value is %d", spec, cap, what, g, nearest);
}

static kv_status check_kvarn(const char *spec, const kv_policy *p)
{
    const kv_kvarn_params *k = &p->kvarn;
    if (k->tile != 32 && k->tile != 64 && k->tile != 128)
        return kv_fail(KV_ERR_USAGE, "policy '%s': tile=%d: a tile has 32, 64 or 128 tokens; the nearest legal value is %d",
                       spec, k->tile, k->tile < 48 ? 32 : k->tile < 96 ? 64 : 128);
    KV_TRY(check_bits(spec, "kbits", k->kbits));
    KV_TRY(check_bits(spec, "vbits", k->vbits));
    return check_granularity(spec, p, k->tile, "tile");
}

static kv_status check_kivi(const char *spec, const kv_policy *p)
{
    const kv_kivi_params *k = &p->kivi;
    KV_TRY(check_bits(spec, "bits", k->bits));
    if (k->residual % k->group != 0)
        return kv_fail(KV_ERR_USAGE, "policy '%s': residual=%d must be a multiple of group=%d; the nearest legal value is %d",
                       spec, k->residual, k->group,
                       k->residual < k->group ? k->group : k->residual / k->group * k->group);
    if (k->residual * k->bits % 8 != 0)
        return kv_fail(KV_ERR_USAGE, "policy '%s': residual=%d codes of %d bits do not fill whole bytes; use a multiple of 8",
                       spec, k->residual, k->bits);
    return check_granularity(spec, p, k->residual, "residual");
}

static kv_status check_xwindow(const char *spec, const kv_xwindow_params *x)
{
    if (x->stride > x->window)
        return kv_fail(KV_ERR_USAGE, "policy '%s': stride=%d is more than window=%d, so tokens would be left out; the nearest "
                                     "legal value is %d", spec, x->stride, x->window, x->window);
    if (x->cache != 0 && x->cache < x->stride)
        return kv_fail(KV_ERR_USAGE, "policy '%s': cache=%d does not hold the rows of one stride=%d; the nearest legal value "
                                     "is %d", spec, x->cache, x->stride, x->stride);
    return KV_OK;
}

static kv_status check_snapkv(const char *spec, const kv_snapkv_params *s)
{
    if (s->cap <= s->window)
        return kv_fail(KV_ERR_USAGE, "policy '%s': cap=%d includes window=%d and must be larger; the nearest legal value is %d",
                       spec, s->cap, s->window, s->window + 1);
    if (s->prompt < s->window)
        return kv_fail(KV_ERR_USAGE, "policy '%s': prompt=%d is shorter than window=%d; the nearest legal value is %d", spec,
                       s->prompt, s->window, s->window);
    if (s->kernel % 2 == 0)
        return kv_fail(KV_ERR_USAGE, "policy '%s': kernel=%d is even and has no middle; the nearest legal value is %d", spec,
                       s->kernel, s->kernel - 1);
    return KV_OK;
}

static kv_status check_selection(const char *spec, const kv_policy *p)
{
    switch (p->selection) {
    case KV_SEL_XWINDOW:
        return check_xwindow(spec, &p->xwindow);
    case KV_SEL_SNAPKV:
    case KV_SEL_PYRAMID:
        return check_snapkv(spec, &p->snapkv);
    case KV_SEL_CASCADE:
        if (p->cascade.n < 1 || p->cascade.window < 1 || p->cascade.cap != p->cascade.window * p->cascade.n)
            return kv_fail(KV_ERR_USAGE, "policy '%s': cap must be n times window", spec);
        if (!(p->cascade.beta > 0 && p->cascade.beta < 1))
            return kv_fail(KV_ERR_USAGE, "policy '%s': beta must be inside (0, 1)", spec);
        return KV_OK;
    case KV_SEL_H2O:
        if (p->h2o.cap != p->h2o.heavy + p->h2o.recent)
            return kv_fail(KV_ERR_USAGE, "policy '%s': cap must be heavy + recent", spec);
        return KV_OK;
    default:
        return KV_OK;
    }
}

kv_status kv_policy_check_rules(const char *spec, const kv_policy *p)
{
    KV_TRY(check_selection(spec, p));
    const char *reason = kv_policy_pair_reason(p);
    if (reason)
        return kv_fail(KV_ERR_USAGE, "policy '%s': %s does not go with storage %s: %s; see `kvdiff policy list`", spec,
                       kv_selection_name(p->selection), kv_storage_name(p->storage), reason);
    if (p->storage == KV_STORE_KVARN) return check_kvarn(spec, p);
    return p->storage == KV_STORE_KIVI ? check_kivi(spec, p) : KV_OK;
}

kv_status kv_policy_fit(const kv_policy *p, const kv_config *cfg)
{
    const int32_t D = cfg->head_dim;
    if (p->storage == KV_STORE_KVARN && (D < 32 || (D & (D - 1)) != 0))
        return kv_fail(KV_ERR_USAGE, "storage kvarn rotates rows whose size is a power of two from 32 on; this model's "
                                     "head_dim is %d; use kivi, f16 or f32", D);
    if (p->storage == KV_STORE_KIVI && D % p->kivi.group != 0)
        return kv_fail(KV_ERR_USAGE, "storage kivi: group=%d does not divide this model's head_dim %d; use a divisor of it",
                       p->kivi.group, D);
    if (p->storage == KV_STORE_KIVI && D * p->kivi.bits % 8 != 0)
        return kv_fail(KV_ERR_USAGE, "storage kivi: %d codes of %d bits do not fill whole bytes; use bits=4 or bits=8", D,
                       p->kivi.bits);
    if (p->selection == KV_SEL_XWINDOW && p->xwindow.layers > cfg->n_layers)
        return kv_fail(KV_ERR_USAGE, "xwindow: layers=%d, but the model has %d; the nearest legal value is %d",
                       p->xwindow.layers, cfg->n_layers, cfg->n_layers);
    return KV_OK;
}

/* ---- how large things get ----------------------------------------------------------------------------- */

int64_t kv_policy_max_position(const kv_policy *p, int64_t n_tokens, int32_t q)
{
    const int64_t last = n_tokens - 1;
    int64_t bound = last;
    switch (p->selection) {
    case KV_SEL_SLIDING:
        /* A step ends with at most cap entries; its newest sits at cap - 1. */
        if (p->sliding.pos != KV_SLIDING_ABSOLUTE) bound = (int64_t)p->sliding.cap - 1;
        break;
    case KV_SEL_SINK:
        /* Stored entries hold 0 .. sinks + cap - 1; a step's tokens follow. */
        bound = (int64_t)p->sink.sinks + p->sink.cap + q - 1;
        break;
    case KV_SEL_CASCADE:
        bound = (int64_t)p->cascade.sinks + p->cascade.cap + q - 1;
        break;
    case KV_SEL_XWINDOW:
        /* Positions count from the first row in view. */
        bound = (int64_t)p->xwindow.cache + p->xwindow.window - 1;
        break;
    default:
        break;
    }
    return bound < last ? bound : last;
}

int64_t kv_policy_max_entries(const kv_policy *p)
{
    switch (p->selection) {
    case KV_SEL_SLIDING:
        return p->sliding.cap;
    case KV_SEL_SINK:
        return (int64_t)p->sink.sinks + p->sink.cap;
    case KV_SEL_CASCADE:
        return (int64_t)p->cascade.sinks + p->cascade.cap;
    case KV_SEL_XWINDOW:
        return (int64_t)p->xwindow.cache + p->xwindow.window;
    case KV_SEL_H2O:
        return p->h2o.cap;
    case KV_SEL_TOVA:
        return p->tova.cap;
    default:
        return INT64_MAX;
    }
}

int32_t kv_policy_first_step(const kv_policy *p)
{
    return p->selection == KV_SEL_SNAPKV || p->selection == KV_SEL_PYRAMID ? p->snapkv.prompt : 0;
}

int kv_policy_heads_agree(const kv_policy *p)
{
    switch (p->selection) {
    case KV_SEL_CASCADE:
        return p->cascade.homog || p->cascade.select != KV_SELECT_EMA;
    case KV_SEL_H2O:
    case KV_SEL_SNAPKV:
    case KV_SEL_PYRAMID:
        return 0;
    default:
        return 1;
    }
}
