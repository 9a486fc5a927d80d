/* A side that answers for every ABI with its own table. */
#include "tests/sides/stub.h"

static kv_backend side = {STUB_TABLE};
const kv_backend *kv_side_entry(uint32_t abi)
{
    side.abi = abi + 41;
    return &side;
}
