/* Any text as a policy: refused in one line, or accepted with a canonical spelling that means the
 * same. */
#include "tests/fuzz/fuzz.h"

#include "common/policy.h"

#include <string.h>

static const char *const spellings[] = {
    "full",
    "full+f32",
    "sink:cap=1020,sinks=4",
    "sink:cap=1,sinks=0",
    "sliding:cap=512,pos=absolute",
    "sliding:pos=saturate,cap=2",
    "sliding:cap=99999999999,pos=rerotate+f32",
};

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    if (i >= sizeof spellings / sizeof *spellings) return NULL;
    *size = strlen(spellings[i]);
    return (uint8_t *)strdup(spellings[i]);
}

static void accepted(const kv_policy *p)
{
    char text[KV_POLICY_TEXT_MAX], again[KV_POLICY_TEXT_MAX];
    kv_policy q;
    FUZZ_DEMAND(kv_policy_check(p) == KV_OK);
    kv_policy_format(p, text);
    FUZZ_DEMAND(kv_policy_parse(text, &q) == KV_OK);
    FUZZ_DEMAND(memcmp(p, &q, sizeof q) == 0);
    kv_policy_format(&q, again);
    FUZZ_DEMAND(strcmp(text, again) == 0);
    const int64_t bound = kv_policy_max_position(p, 1000, 7);
    FUZZ_DEMAND(bound >= 0 && bound < 1000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char spec[512];
    if (size >= sizeof spec) return 0;
    if (size) memcpy(spec, data, size);
    spec[size] = '\0';
    kv_policy p;
    const kv_status st = kv_policy_parse(spec, &p);
    if (st == KV_OK)
        accepted(&p);
    else
        FUZZ_DEMAND(st == KV_ERR_USAGE && kv_message()[0] != '\0');
    return 0;
}
