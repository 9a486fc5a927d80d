/* A side that cannot run anywhere, says why on two lines, and knows one option. */
#include "tests/sides/stub.h"

#include <stdio.h>
#include <string.h>

static kv_status available(const char *options, char *why, size_t size)
{
    if (options && *options && strcmp(options, "fast") != 0) {
        snprintf(why, size, "option '%s' is unknown; it has fast", options);
        return KV_ERR_USAGE;
    }
    snprintf(why, size, "no abacus in this machine\nbuy one");
    return KV_ERR_DEVICE;
}

static kv_backend side = {STUB_TABLE};
const kv_backend *kv_side_entry(uint32_t abi)
{
    (void)abi;
    side.available = available;
    return &side;
}
