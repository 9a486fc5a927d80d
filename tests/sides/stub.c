/* A side that loads. */
#include "tests/sides/stub.h"

static const kv_backend side = {STUB_TABLE};
const kv_backend *kv_side_entry(uint32_t abi)
{
    return abi == KV_BACKEND_ABI ? &side : NULL;
}
