/* A side that promises digests and has none. */
#include "tests/sides/stub.h"

static const kv_backend side = {STUB_TABLE, .caps = KV_CAP_DIGEST};
const kv_backend *kv_side_entry(uint32_t abi)
{
    (void)abi;
    return &side;
}
