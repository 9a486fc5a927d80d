/* A side of another version, which says so. */
#include "tests/sides/stub.h"

static const kv_backend side = {STUB_TABLE};
const kv_backend *kv_side_entry(uint32_t abi)
{
    return abi == KV_BACKEND_ABI + 1 ? &side : NULL;
}
