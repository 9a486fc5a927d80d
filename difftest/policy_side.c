#include "difftest/policy_side.h"

#include "ref/backend.h"

#include <stdio.h>

static kv_status parse(const char *spec, kv_policy *out)
{
    if (!spec || !*spec)
        return kv_fail(KV_ERR_USAGE, "it needs a policy; write --device=policy:sink:cap=1020");
    KV_TRY(kv_policy_parse(spec, out));
    if (out->selection == KV_SEL_XWINDOW)
        return kv_fail(KV_ERR_USAGE, "xwindow computes rows again, in windows of its own, and cannot step along with another "
                                     "policy; name it with --policy");
    return KV_OK;
}

static kv_status available(const char *options, char *why, size_t why_size)
{
    kv_policy p;
    const kv_status st = parse(options, &p);
    if (st != KV_OK) snprintf(why, why_size, "%s", kv_message());
    return st;
}

static kv_status open_session(const kv_open_args *args, kv_session **out)
{
    kv_policy p;
    kv_open_args a = *args;
    KV_TRY(parse(args->options, &p));
    a.policy = &p;
    a.options = NULL;
    return ref_backend()->open(&a, out);
}

const kv_backend *dt_policy_side(void)
{
    static kv_backend side; /* sessions are the reference's own, and so is every other call */
    if (!side.name) {
        side = *ref_backend();
        side.caps &= ~(uint32_t)KV_CAP_FOLLOW;
        side.contract = KV_CONTRACT_STATISTICAL;
        side.available = available;
        side.open = open_session;
        side.name = "policy";
    }
    return &side;
}
