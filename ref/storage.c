#include "ref/storage.h"

extern const ref_storage REF(storage_f32), REF(storage_f16), REF(storage_bf16);

const ref_storage *REF(storage_find)(int32_t storage)
{
    static const ref_storage *const table[KV_STORE_COUNT] = {
        [KV_STORE_F32] = &REF(storage_f32),
        [KV_STORE_F16] = &REF(storage_f16),
        [KV_STORE_BF16] = &REF(storage_bf16),
    };
    return table[storage];
}

static void round_values(const ref_cache *c, real *x, int64_t stride, int64_t n)
{
    for (int64_t i = 0; c->store->round && i < n; i++)
        x[i * stride] = c->store->round(x[i * stride]);
}

void REF(storage_arrive)(const ref_cache *c, real *x, int64_t n)
{
    if (c->policy.selection != KV_SEL_XWINDOW) round_values(c, x, 1, n);
}

void REF(storage_record)(const ref_cache *c, real *x, int64_t stride, int64_t n)
{
    if (c->policy.selection == KV_SEL_XWINDOW) round_values(c, x, stride, n);
}
