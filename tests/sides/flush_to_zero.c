/* A library that does on loading what fast-math start-up code does. */
#include "tests/sides/stub.h"

#if defined(__x86_64__)
#    include <xmmintrin.h>
__attribute__((constructor)) static void flush(void)
{
    _mm_setcsr(_mm_getcsr() | 0x8040);
}
#endif

static const kv_backend side = {STUB_TABLE};
const kv_backend *kv_side_entry(uint32_t abi)
{
    (void)abi;
    return &side;
}
