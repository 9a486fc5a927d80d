/* puppet.h - a reference on strings, for what the engine does around policies: the real one under another policy, which
 * computes a window anew from an empty cache (docs/policy/xwindow.md with cache=0), writes down its steps, and gives
 * evictions the margin that a test wants. Sessions are the real reference's. */
#ifndef KV_TESTS_PUPPET_H
#define KV_TESTS_PUPPET_H

#include "tests/unit/labkit.h"

static struct {
    kv_policy inner;
    char steps[2000];  /* of the reference and of honest devices: "n " or "w<pos0>:n " */
    int imports;
    float margin;      /* of the evictions that token `at` causes in layer `layer`; all others have 1/4 */
    int64_t at;
    int32_t layer;
    int margins;       /* whether they are changed at all */
} puppet;

KV_UNUSED_TEST_HELPER kv_status puppet_open(const kv_open_args *args, kv_session **out)
{
    kv_open_args own = *args;
    const int plain = args->policy->selection == KV_SEL_FULL && args->policy->storage == KV_STORE_F32;
    own.policy = plain ? args->policy : &puppet.inner;
    return ref_backend()->open(&own, out);
}

KV_UNUSED_TEST_HELPER kv_status puppet_step(kv_session *s, const kv_step *step)
{
    kv_step own = *step;
    const size_t n = strlen(puppet.steps), before = step->events ? step->events->n : 0;
    own.flags = 0;
    own.pos0 = 0;
    if (step->flags & KV_STEP_RECOMPUTE) {
        snprintf(puppet.steps + n, sizeof puppet.steps - n, "w%lld:%d ", (long long)step->pos0, step->n);
        KV_TRY(ref_backend()->reset(s));
    } else
        snprintf(puppet.steps + n, sizeof puppet.steps - n, "%d ", step->n);
    KV_TRY(ref_backend()->step(s, &own));
    for (size_t i = before; puppet.margins && step->events && i < step->events->n; i++) {
        kv_event *e = &step->events->v[i];
        if (e->kind == KV_EVENT_EVICT)
            e->margin = e->token == puppet.at && e->layer == puppet.layer ? puppet.margin : 0.25f;
    }
    return KV_OK;
}

KV_UNUSED_TEST_HELPER kv_status puppet_import(kv_session *s, const void *src, size_t size)
{
    puppet.imports++;
    return ref_backend()->import_state(s, src, size);
}

/* From now on the laboratory's reference and the honest side of its liars. */
KV_UNUSED_TEST_HELPER void puppet_instead(const char *inner)
{
    static kv_backend table;
    memset(&puppet, 0, sizeof puppet);
    assert_ok(kv_policy_parse(inner, &puppet.inner));
    table = *ref_backend();
    table.open = puppet_open;
    table.step = puppet_step;
    table.import_state = puppet_import;
    lab_reference = &table;
}

#endif
