/* A side whose promise is none of kv_contract. */
#include "tests/sides/stub.h"

static kv_backend side = {STUB_TABLE};
const kv_backend *kv_side_entry(uint32_t abi)
{
    (void)abi;
    side.contract = 7;
    return &side;
}
