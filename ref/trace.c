/* trace.c - the insertion rules of sink and cascade without a model: the trace call of the door. */
#include "ref/policy/cascade.h"
#include "ref/trace.h"

#include <stdlib.h>

typedef struct tracer {
    ref_cache cache;
    kv_trace_state state;
    int32_t count[KV_CASCADE_MAX], start[KV_CASCADE_MAX];
    int64_t *og;
    int32_t *pos;
} tracer;

static int64_t slot_of(const kv_policy *p, int64_t j)
{
    return p->selection == KV_SEL_CASCADE ? REF(cascade_slot)(p, j) : ref_round_up(p->sink.sinks, REF_PANEL) + j;
}

static kv_status open_tracer(tracer *t, const kv_policy *p)
{
    const kv_config one = {.n_layers = 1, .n_kv_heads = 1, .head_dim = 1};
    const int32_t slots = p->selection == KV_SEL_CASCADE ? p->cascade.cap : p->sink.cap;
    t->state.n_slots = slots;
    t->state.n_rings = p->selection == KV_SEL_CASCADE ? p->cascade.n : 1;
    t->og = malloc((size_t)slots * sizeof *t->og);
    t->pos = malloc((size_t)slots * sizeof *t->pos);
    if (!t->og || !t->pos) return kv_fail(KV_ERR_NOMEM, "out of memory");
    KV_TRY(REF(cache_init)(&t->cache, &one, p));
    return REF(cache_reserve)(&t->cache, &t->cache.layers[0], t->cache.ops->slots(p));
}

static void close_tracer(tracer *t)
{
    if (t->cache.layers) REF(cache_free)(&t->cache);
    free(t->og);
    free(t->pos);
}

static void describe(tracer *t)
{
    const ref_layer *l = &t->cache.layers[0];
    const kv_policy *p = &t->cache.policy;
    for (int32_t i = 0; i < t->state.n_rings; i++) {
        t->count[i] = p->selection == KV_SEL_CASCADE ? l->count[i] : (int32_t)(l->n - l->n_sink);
        t->start[i] = p->selection == KV_SEL_CASCADE ? l->start[i] : (int32_t)l->head;
    }
    for (int32_t j = 0; j < t->state.n_slots; j++)
        t->og[j] = t->pos[j] = -1;
    for (int64_t i = l->n_sink; i < l->n; i++) {
        const ref_entry e = t->cache.ops->entry(&t->cache, l, 0, i);
        const int64_t j = e.slot - slot_of(p, 0);
        t->og[j] = e.og;
        t->pos[j] = e.pos;
    }
    t->state.seen = l->seen;
    t->state.n_sink = (int32_t)l->n_sink;
    t->state.count = t->count;
    t->state.start = t->start;
    t->state.og = t->og;
    t->state.pos = t->pos;
}

static kv_status insert_one(tracer *t, const kv_trace *args, int64_t token)
{
    ref_cache *c = &t->cache;
    c->moves[0].n = 0;
    if (c->policy.selection == KV_SEL_CASCADE) {
        const real score = (real)args->score(args->arg, token);
        KV_TRY(REF(cascade_insert)(c, 0, 1, &score));
    } else {
        c->ops->place(c, 0, 0);
    }
    kv_events *from = &c->layers[0].events;
    for (size_t i = 0; args->events && i < from->n; i++)
        if (kv_events_push(args->events, from->v[i]) != KV_OK) return kv_fail(KV_ERR_NOMEM, "out of memory");
    from->n = 0;
    return c->event_status;
}

static kv_status run(tracer *t, const kv_trace *args)
{
    KV_TRY(open_tracer(t, args->policy));
    t->cache.record_events = args->events != NULL;
    for (int64_t token = 0; token < args->n_tokens; token++) {
        KV_TRY(insert_one(t, args, token));
        if (!args->look) continue;
        describe(t);
        if (args->look(args->arg, &t->state)) break;
    }
    return KV_OK;
}

kv_status REF(trace)(const kv_trace *args)
{
    const int32_t s = args->policy->selection;
    if (s != KV_SEL_SINK && s != KV_SEL_CASCADE)
        return kv_fail(KV_ERR_UNSUPPORTED, "selection %s cannot be traced without a model; sink and cascade can",
                       kv_selection_name(s));
    KV_TRY(kv_policy_check(args->policy));
    tracer t = {0};
    const kv_status st = run(&t, args);
    close_tracer(&t);
    return st;
}
