/* cascade.c - rings behind rings; docs/policy/cascade.md. This is the plain reading: token by token.
 *
 * Slots: sink i in slot i; offset k of ring i in slot base + i W + k, base = sinks rounded up to a whole panel of
 * 16. Counts and starts are the same for all heads, so each head replays the walk on a copy of them. */
#include "ref/policy/cascade.h"

#include "common/numfmt.h"
#include "ref/policy/scores.h"

#include <string.h>

static int64_t ring_base(const kv_policy *p) { return ref_round_up(p->cascade.sinks, REF_PANEL); }

int64_t REF(cascade_slot)(const kv_policy *p, int64_t j) { return ring_base(p) + j; }

/* ---- insertion ------------------------------------------------------------------------------------------ */

/* A token on its way through the rings of one head. */
typedef struct traveller {
    int64_t og;
    real score;
    int64_t from; /* where its row is: a slot, or ~own token */
    int64_t held; /* canonical slot that it held before this insertion */
} traveller;

/* One head's walk. */
typedef struct walk {
    ref_cache *c;
    const kv_cascade_params *p;
    int32_t layer, event_head;
    int silent;
    int64_t n_sink;
    int32_t count[KV_CASCADE_MAX], start[KV_CASCADE_MAX];
    int64_t *og, *from; /* by slot: who is there, and from which slot its row comes */
    real *score;
    int64_t token; /* being inserted */
} walk;

static int64_t power(int64_t base, int32_t i)
{
    int64_t a = 1;
    while (i-- > 0)
        a *= base;
    return a;
}

/* Acceptance period of ring i. */
static int64_t period(const kv_cascade_params *p, int32_t i)
{
    switch (p->accept) {
    case KV_ACCEPT_POW3:
        return power(3, i);
    case KV_ACCEPT_POW4:
        return power(4, i);
    case KV_ACCEPT_IPLUS1:
        return i + 1;
    case KV_ACCEPT_1_THEN_2:
        return i == 0 ? 1 : 2;
    case KV_ACCEPT_POW2_1:
        return i == p->n - 1 ? power(2, i) : 1;
    case KV_ACCEPT_POW2_1_4:
        return i < 3 * p->n / 4 ? 1 : power(2, i);
    case KV_ACCEPT_POW2_2_4:
        return i < 2 * p->n / 4 ? 1 : power(2, i);
    case KV_ACCEPT_POW2_3_4:
        return i < p->n / 4 ? 1 : power(2, i);
    default:
        return power(2, i);
    }
}

/* Whether ring i accepts what is offered to it while `token` comes in. */
static int accepts(const kv_cascade_params *p, int64_t token, int32_t i)
{
    return (p->eager && token <= (int64_t)p->sinks + p->cap) || (token - KV_MUT(F06, 0, p->sinks)) % period(p, i) == 0;
}

static int64_t canonical(const walk *w, int32_t ring, int64_t offset)
{
    return w->p->sinks + (int64_t)ring * w->p->window + offset;
}

static int64_t slot_of(const walk *w, int32_t ring, int64_t offset)
{
    return ring_base(&w->c->policy) + (int64_t)ring * w->p->window + offset;
}

static void report(const walk *w, int32_t kind, int64_t og, int64_t slot, float margin)
{
    const kv_event e = {.og = og, .token = w->token, .head = w->event_head, .kind = kind, .slot = (int32_t)slot,
                        .margin = margin};
    if (!w->silent) REF(cache_decide)(w->c, w->layer, e);
}

/* Puts the traveller into a slot; what was there, if anything, takes its place as traveller. */
static void enter(walk *w, int32_t ring, int64_t offset, traveller *t)
{
    const int64_t s = slot_of(w, ring, offset), slot = canonical(w, ring, offset);
    const traveller out = {w->og[s], w->score[s], w->from[s], slot};
    report(w, ring == 0 ? KV_EVENT_ADMIT : KV_EVENT_MOVE, t->og, slot, kv_inf());
    w->og[s] = t->og;
    w->score[s] = t->score;
    w->from[s] = t->from;
    *t = out;
}

static int incoming_wins(const kv_cascade_params *p, real incoming, real resident)
{
    if (p->select != KV_SELECT_EMA) return p->select == KV_SELECT_NEWEST;
    return KV_MUT(F01, 1, p->compat == KV_COMPAT_STRICT) ? incoming > resident : incoming >= resident;
}

static void duel(walk *w, int32_t ring, traveller *t)
{
    const int64_t W = w->p->window, newest = (w->start[ring] + w->count[ring] - 1) % W;
    const real resident = w->score[slot_of(w, ring, newest)];
    const int wins = incoming_wins(w->p, t->score, resident);
    const real margin = wins ? t->score - resident : resident - t->score;
    if (wins) enter(w, ring, newest, t);
    report(w, KV_EVENT_EVICT, t->og, t->held, w->p->select == KV_SELECT_EMA ? (float)margin : kv_inf());
}

/* Offers the traveller to a ring. Returns 1 when the walk goes on with what fell out. */
static int offer(walk *w, int32_t ring, traveller *t)
{
    const kv_cascade_params *p = w->p;
    int32_t *count = &w->count[ring], *start = &w->start[ring];
    if (*count > 0 && !accepts(p, w->token, ring)) {
        duel(w, ring, t);
        return 0;
    }
    if (*count < p->window) {
        enter(w, ring, *start + *count, t);
        (*count)++;
        return 0;
    }
    enter(w, ring, *start, t);
    *start = (*start + 1) % p->window;
    return 1;
}

static void insert_one(walk *w, traveller t)
{
    w->token = t.og;
    if (w->n_sink < w->p->sinks) {
        const int64_t s = w->n_sink++;
        report(w, KV_EVENT_ADMIT, t.og, s, kv_inf());
        w->og[s] = t.og;
        w->score[s] = 0;
        w->from[s] = t.from;
        return;
    }
    for (int32_t ring = 0; ring < w->p->n; ring++)
        if (!offer(w, ring, &t)) return;
    report(w, KV_EVENT_EVICT, t.og, t.held, kv_inf());
}

static int64_t used_slots(const kv_policy *p, const walk *w)
{
    int64_t n = 0;
    for (int32_t i = 0; i < p->cascade.n; i++)
        n = w->count[i] > 0 ? (int64_t)i * p->cascade.window + w->count[i] : n;
    return ring_base(p) + n;
}

kv_status REF(cascade_insert)(ref_cache *c, int32_t layer, int64_t m, const real *fresh)
{
    ref_layer *l = &c->layers[layer];
    const int agree = kv_policy_heads_agree(&c->policy);
    KV_TRY(kv_buffer_reserve(&c->work, (size_t)l->cap * sizeof(int64_t)));
    walk w = {.c = c, .p = &c->policy.cascade, .layer = layer, .from = c->work.p};
    for (int64_t h = 0; h < c->n_kv_heads; h++) {
        w.n_sink = l->n_sink;
        memcpy(w.count, l->count, sizeof w.count);
        memcpy(w.start, l->start, sizeof w.start);
        w.og = ref_layer_og(l, h);
        w.score = ref_layer_score(l, h);
        w.event_head = agree ? -1 : (int32_t)h;
        w.silent = agree && h > 0;
        for (int64_t s = 0; s < l->cap; s++)
            w.from[s] = s;
        for (int64_t x = 0; x < m; x++)
            insert_one(&w, (traveller){l->seen + x, fresh[h * m + x], ~x, -1});
        for (int64_t s = 0, end = used_slots(&c->policy, &w); s < end; s++)
            if (w.from[s] != s) REF(cache_move)(c, h, s, w.from[s]);
    }
    memcpy(l->count, w.count, sizeof w.count);
    memcpy(l->start, w.start, sizeof w.start);
    l->n_sink = w.n_sink;
    l->seen += m;
    l->n = w.n_sink;
    for (int32_t i = 0; i < w.p->n; i++)
        l->n += w.count[i];
    return KV_OK;
}

static int64_t view(const ref_cache *c, const ref_layer *l, ref_range *out)
{
    const kv_cascade_params *p = &c->policy.cascade;
    int64_t n = 0;
    if (l->n_sink) out[n++] = (ref_range){0, l->n_sink};
    for (int32_t i = p->n - 1; i >= 0; i--) {
        const int64_t first = ring_base(&c->policy) + (int64_t)i * p->window, older = l->count[i] - l->start[i];
        if (older > 0) out[n++] = (ref_range){first + l->start[i], older};
        if (l->start[i]) out[n++] = (ref_range){first, l->start[i]};
    }
    return n;
}

/* ---- scores ------------------------------------------------------------------------------------------------ */

/* Weights of m queries, and behind them beta^m. */
static kv_status fill_weights(ref_cache *c, int64_t m)
{
    if (c->weights_m == m) return KV_OK;
    c->weights_m = 0;
    KV_TRY(kv_buffer_reserve(&c->weights, (size_t)(m + 1) * sizeof(real)));
    real *w = c->weights.p;
    const double beta = c->policy.cascade.beta;
    double b = 1;
    for (int64_t k = 0; k < m; k++, b = b * beta)
        w[m - 1 - k] = (real)((1 - beta) * b);
    w[m] = (real)b;
    c->weights_m = m;
    return KV_OK;
}

static kv_status demand(ref_cache *c, const ref_layer *l, int64_t m, ref_demand *out)
{
    (void)l;
    if (c->policy.cascade.select != KV_SELECT_EMA) return KV_OK;
    KV_TRY(fill_weights(c, m));
    *out = (ref_demand){.rows = m, .weights = c->weights.p, .block = 256,
                        .own_reversed = c->policy.cascade.compat == KV_COMPAT_REVERSED};
    return KV_OK;
}

/* Lower middle of n values. */
static real median(const real *v, int64_t stride, int64_t n)
{
    real sorted[256];
    for (int64_t i = 0; i < n; i++) {
        int64_t at = i;
        for (; at > 0 && sorted[at - 1] > v[i * stride]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = v[i * stride];
    }
    return sorted[KV_MUT(F04, n, (n - 1)) / 2];
}

static real reduce(const ref_cache *c, const ref_sums *s, int64_t h, int64_t i)
{
    ref_sums over = *s;
    if (c->policy.cascade.homog) {
        over.group = s->n_heads;
        h = 0;
    }
    switch (c->policy.cascade.reduce) {
    case KV_REDUCE_MEAN:
        return REF(group_sum)(&over, h, i) / (real)KV_MUT(F03, s->n_heads, over.group);
    case KV_REDUCE_MEDIAN:
        return median(s->acc + h * over.group * s->stride + i, s->stride, over.group);
    default:
        return REF(group_max)(&over, h, i);
    }
}

static real stored_as(const ref_cache *c, real score)
{
    return c->policy.cascade.score == KV_SCORE_F16 ? (real)kv_f162f(kv_f2f16((float)score)) : score;
}

/* View index of a canonical ring slot; -1: empty. */
static int64_t view_of(const ref_cache *c, const ref_layer *l, int64_t j)
{
    const int32_t W = c->policy.cascade.window;
    const int32_t ring = (int32_t)(j / W), offset = (int32_t)(j % W);
    int64_t before = l->n_sink;
    if (offset >= l->count[ring]) return -1;
    for (int32_t i = c->policy.cascade.n - 1; i > ring; i--)
        before += l->count[i];
    return before + (offset - l->start[ring] + l->count[ring]) % l->count[ring];
}

/* compat=shifted: slot j is credited with what the entry `sinks` places earlier earned. */
static real earned_before(const ref_cache *c, const ref_layer *l, const ref_sums *s, int64_t h, int64_t j)
{
    const int64_t sinks = c->policy.cascade.sinks;
    const int64_t i = j < sinks ? (j < l->n_sink ? j : -1) : view_of(c, l, j - sinks);
    return i < 0 ? 0 : reduce(c, s, h, i);
}

static void update_scores(ref_cache *c, ref_layer *l, const ref_sums *s, real *fresh)
{
    const int shifted = c->policy.cascade.compat == KV_COMPAT_SHIFTED && s->m > 1;
    const real decay = ((const real *)c->weights.p)[s->m];
    ref_range ranges[REF_MAX_SPANS];
    const int64_t n = view(c, l, ranges);
    for (int64_t h = 0; h < c->n_kv_heads; h++) {
        real *score = ref_layer_score(l, h);
        for (int64_t r = 0, i = 0; r < n; r++)
            for (int64_t slot = ranges[r].slot0; slot < ranges[r].slot0 + ranges[r].n; slot++, i++) {
                if (i < l->n_sink) continue;
                const real by = KV_MUT(F02, 1, decay);
                const real gain = shifted ? earned_before(c, l, s, h, slot - ring_base(&c->policy)) : reduce(c, s, h, i);
                score[slot] = stored_as(c, r_fma(by, score[slot], gain));
            }
        for (int64_t x = 0; x < s->m; x++)
            fresh[h * s->m + x] = stored_as(c, reduce(c, s, h, s->stored + x));
    }
}

static kv_status settle(ref_cache *c, int32_t layer, const ref_sums *s)
{
    KV_TRY(kv_buffer_reserve(&c->fresh, (size_t)(c->n_kv_heads * s->m) * sizeof(real)));
    real *fresh = c->fresh.p;
    memset(fresh, 0, (size_t)(c->n_kv_heads * s->m) * sizeof *fresh);
    if (c->policy.cascade.select == KV_SELECT_EMA) update_scores(c, &c->layers[layer], s, fresh);
    return REF(cascade_insert)(c, layer, s->m, fresh);
}

/* ---- the rest of the table -------------------------------------------------------------------------------------------------- */

static int32_t key_form(const kv_policy *p)
{
    (void)p;
    return KV_KEY_RAW;
}

static int64_t slots(const kv_policy *p) { return ring_base(p) + p->cascade.cap; }

static int64_t piece(const kv_policy *p, int64_t seen, int64_t left)
{
    (void)p;
    (void)seen;
    return left;
}

static int64_t begin(ref_cache *c, int32_t layer, int64_t m)
{
    (void)m;
    return c->layers[layer].n;
}

static ref_entry entry(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i)
{
    const kv_cascade_params *p = &c->policy.cascade;
    int64_t slot = i, left = i - l->n_sink;
    int32_t ring = p->n - 1;
    if (left >= 0) {
        while (left >= l->count[ring])
            left -= l->count[ring--];
        slot = ring_base(&c->policy) + (int64_t)ring * p->window + (l->start[ring] + left) % l->count[ring];
    }
    return (ref_entry){slot, ref_layer_og(l, head)[slot], (int32_t)i};
}

/* Counts and starts follow from the number of tokens: the walk without rows and scores. */
static void replay(ref_cache *c, ref_layer *l, int64_t seen)
{
    const kv_cascade_params *p = &c->policy.cascade;
    memset(l->count, 0, sizeof l->count);
    memset(l->start, 0, sizeof l->start);
    l->n_sink = ref_min(seen, p->sinks);
    for (int64_t t = l->n_sink; t < seen; t++)
        for (int32_t i = 0; i < p->n; i++) {
            if (l->count[i] > 0 && !accepts(p, t, i)) break;
            if (l->count[i] < p->window) {
                l->count[i]++;
                break;
            }
            l->start[i] = (l->start[i] + 1) % p->window;
        }
    l->seen = seen;
    l->n = l->n_sink;
    for (int32_t i = 0; i < p->n; i++)
        l->n += l->count[i];
}

static int is_as_head_0(const ref_layer *l, int64_t slot, const ref_adopt *a, int64_t i)
{
    const real score = (real)a->score[i];
    return ref_layer_og(l, 0)[slot] == a->og[i] && memcmp(&ref_layer_score(l, 0)[slot], &score, sizeof score) == 0;
}

/* Ring 0 accepts every token under every rule, so that the newest are in it. */
static kv_status adopt(ref_cache *c, ref_layer *l, int64_t head, const ref_adopt *a)
{
    if (head == 0) replay(c, l, a->seen);
    if (a->n != l->n)
        return kv_fail(KV_ERR_FORMAT, "cache state: %lld entries after %lld tokens; this cascade holds %lld",
                       (long long)a->n, (long long)a->seen, (long long)l->n);
    for (int64_t i = 0; i < a->n; i++) {
        const int64_t least = i == 0 ? 0 : a->og[i - 1] + 1, slot = entry(c, l, head, i).slot;
        const int misses = (i < l->n_sink && a->og[i] != i) || (i >= a->n - l->count[0] && a->og[i] != a->seen - a->n + i);
        if (a->pos[i] != i || a->og[i] < least || a->og[i] >= a->seen || misses)
            return kv_fail(KV_ERR_FORMAT, "cache state: entry %lld is token %lld at position %d; a cascade's entries stand in the "
                                          "order of the text, without gaps in position, sinks and the newest are all there",
                           (long long)i, (long long)a->og[i], a->pos[i]);
        if (c->policy.cascade.homog && head > 0 && !is_as_head_0(l, slot, a, i))
            return kv_fail(KV_ERR_FORMAT, "cache state: entry %lld differs between heads, which share their scores with homog=1",
                           (long long)i);
        ref_layer_og(l, head)[slot] = a->og[i];
    }
    return KV_OK;
}

const ref_policy REF(policy_cascade) = {.needs_og = 1, .needs_score = 1, .key_form = key_form, .slots = slots,
                                        .piece = piece, .begin = begin, .view = view, .demand = demand,
                                        .settle = settle, .entry = entry, .adopt = adopt};
