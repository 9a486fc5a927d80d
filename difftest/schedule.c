#include "difftest/schedule.h"

#include "common/backend.h"

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

dt_schedule dt_schedule_begin(const kv_policy *policy, int32_t q, int64_t begin, int64_t end)
{
    return (dt_schedule){.policy = policy, .q = q, .begin = begin, .end = end, .start = begin, .done = begin};
}

/* The last window is the first one that ends at the segment's end. */
static void next_window(dt_schedule *s, dt_turn *t)
{
    const kv_xwindow_params *x = &s->policy->xwindow;
    const int64_t end = least(s->start + x->window, s->end);
    *t = (dt_turn){.at = s->start, .fresh = s->done, .n = (int32_t)(end - s->start), .flags = KV_STEP_RECOMPUTE,
                   .pos0 = s->start - s->begin};
    s->done = end;
    s->start += x->stride;
}

int dt_schedule_next(dt_schedule *s, dt_turn *t)
{
    if (s->done >= s->end) return 0;
    if (s->policy->selection == KV_SEL_XWINDOW) {
        next_window(s, t);
        return 1;
    }
    const int32_t first = s->done == s->begin ? kv_policy_first_step(s->policy) : 0;
    *t = (dt_turn){.at = s->done, .fresh = s->done, .n = (int32_t)least(first ? first : s->q, s->end - s->done)};
    s->done += t->n;
    return 1;
}

int32_t dt_schedule_longest(const kv_policy *policy, int32_t q, int64_t n)
{
    const int32_t first = (int32_t)least(kv_policy_first_step(policy), n), later = (int32_t)least(q, n - first);
    if (policy->selection == KV_SEL_XWINDOW) return (int32_t)least(policy->xwindow.window, n);
    return first > later ? first : later;
}
