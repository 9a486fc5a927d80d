#include "difftest/locate_shrink.h"

#include "difftest/options.h"

#include <string.h>

/* Quotient of two capacities that belong together, and the capacity of a policy; 0: none. */
static int32_t cap_of(const kv_policy *p)
{
    switch (p->selection) {
    case KV_SEL_SLIDING:
        return p->sliding.cap;
    case KV_SEL_SINK:
        return p->sink.cap;
    case KV_SEL_CASCADE:
        return p->cascade.cap;
    case KV_SEL_H2O:
        return p->h2o.cap;
    case KV_SEL_TOVA:
        return p->tova.cap;
    default:
        return 0;
    }
}

int dt_policy_with_cap(const kv_policy *p, int32_t cap, kv_policy *out)
{
    *out = *p;
    switch (p->selection) {
    case KV_SEL_SLIDING:
        out->sliding.cap = cap;
        break;
    case KV_SEL_SINK:
        out->sink.cap = cap;
        break;
    case KV_SEL_CASCADE:
        out->cascade.cap = cap;
        out->cascade.window = cap / p->cascade.n;
        break;
    case KV_SEL_H2O:
        out->h2o.cap = cap;
        out->h2o.heavy = (int32_t)((int64_t)p->h2o.heavy * cap / p->h2o.cap);
        out->h2o.recent = cap - out->h2o.heavy;
        break;
    case KV_SEL_TOVA:
        out->tova.cap = cap;
        break;
    default:
        return 0;
    }
    return kv_policy_check(out) == KV_OK;
}

/* Whether the smaller case fails in the same operation with the same class. */
static kv_status still_fails(const dt_subject *s, const dt_finding *found, dt_shrunk *t, dt_finding *again, int *fails)
{
    dt_subject small = *s;
    small.n = t->n;
    small.q = t->q;
    small.policy = &t->policy;
    small.quick = 1;
    t->tried++;
    KV_TRY(dt_locate(&small, again));
    *fails = again->found == found->found && again->op == found->op &&
             (again->klass == found->klass || strcmp(found->klass, "bug-race") == 0); /* which repeats alone can tell */
    if (*fails && again->pos >= 0 && small.n - 2 < again->pos) /* the row must be scored to be judged by `kvdiff run` */
        *fails = again->pos + 1 == small.n && s->n == small.n;
    return KV_OK;
}

static kv_status try_this(const dt_subject *s, const dt_finding *found, dt_shrunk *best, dt_shrunk attempt, int *taken,
                          int64_t *pos)
{
    dt_finding again = {0};
    kv_status st = still_fails(s, found, &attempt, &again, taken);
    best->tried = attempt.tried;
    if (st == KV_OK && *taken) {
        *best = attempt;
        *pos = again.pos;
    }
    dt_finding_free(&again);
    return st;
}

/* The shortest prefix that shows it: up to the token behind the wrong one, or the end of its step. */
static kv_status fewer_tokens(const dt_subject *s, const dt_finding *found, int64_t step_end, dt_shrunk *best,
                              int64_t *pos)
{
    const int64_t lengths[] = {*pos + 2, step_end + 1, step_end + best->q};
    int taken = 0;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths && !taken; i++) {
        if (lengths[i] >= best->n || lengths[i] < 2) continue;
        dt_shrunk t = *best;
        t.n = lengths[i];
        KV_TRY(try_this(s, found, best, t, &taken, pos));
    }
    return KV_OK;
}

static kv_status smaller_cache(const dt_subject *s, const dt_finding *found, dt_shrunk *best, int64_t *pos)
{
    static const int32_t caps[] = {4, 8, 16, 32, 64, 128, 256, 512};
    const int32_t most = cap_of(&best->policy);
    int taken = 0;
    for (size_t i = 0; i < sizeof caps / sizeof *caps && caps[i] < most && !taken; i++) {
        dt_shrunk t = *best;
        if (dt_policy_with_cap(&best->policy, caps[i], &t.policy)) KV_TRY(try_this(s, found, best, t, &taken, pos));
    }
    return KV_OK;
}

static kv_status shorter_steps(const dt_subject *s, const dt_finding *found, dt_shrunk *best, int64_t *pos)
{
    static const int32_t lengths[] = {1, 4, 16, 64};
    int taken = 0;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths && lengths[i] < best->q && !taken; i++) {
        dt_shrunk t = *best;
        t.q = lengths[i];
        KV_TRY(try_this(s, found, best, t, &taken, pos));
    }
    return KV_OK;
}

kv_status dt_shrink(const dt_subject *s, const dt_finding *found, int cut, dt_shrunk *out)
{
    int64_t pos = found->pos;
    *out = (dt_shrunk){.n = s->n, .q = s->q, .policy = *s->policy};
    if (!cut || s->window || s->warm || pos < 0 || found->step_at < 0) return KV_OK;
    KV_TRY(fewer_tokens(s, found, found->step_at + found->step_n, out, &pos));
    if (s->policy->selection != KV_SEL_XWINDOW) KV_TRY(shorter_steps(s, found, out, &pos));
    KV_TRY(smaller_cache(s, found, out, &pos));
    return fewer_tokens(s, found, pos + 2, out, &pos);
}
