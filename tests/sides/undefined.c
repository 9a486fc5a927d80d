/* A library that needs a function which nobody has. */
#include "tests/sides/stub.h"

void kv_nobody_has_this(void);

static const kv_backend side = {STUB_TABLE};
const kv_backend *kv_side_entry(uint32_t abi)
{
    (void)abi;
    kv_nobody_has_this();
    return &side;
}
