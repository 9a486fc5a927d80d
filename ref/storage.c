#include "ref/storage.h"

#include <stdlib.h>

extern const ref_storage REF(storage_f32), REF(storage_f16), REF(storage_bf16), REF(storage_kvarn),
    REF(storage_kivi);

const ref_storage *REF(storage_find)(int32_t storage)
{
    static const ref_storage *const table[KV_STORE_COUNT] = {
        [KV_STORE_F32] = &REF(storage_f32),
        [KV_STORE_F16] = &REF(storage_f16),
        [KV_STORE_BF16] = &REF(storage_bf16),
        [KV_STORE_KVARN] = &REF(storage_kvarn),
        [KV_STORE_KIVI] = &REF(storage_kivi),
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

kv_status REF(adopt_tokens)(ref_cache *c, ref_layer *l, int64_t head, int64_t og, int64_t n, int64_t seen, int64_t unit)
{
    if (head > 0) return KV_OK; /* all heads hold the same tokens */
    if (og < 0 || n < 0 || n > seen || og % unit != 0)
        return kv_fail(KV_ERR_FORMAT, "cache state: %lld tokens from %lld on after %lld; coded tokens begin at a multiple of %lld",
                       (long long)n, (long long)og, (long long)seen, (long long)unit);
    int64_t *ogs = malloc((size_t)(n + 1) * sizeof *ogs);
    int32_t *pos = malloc((size_t)(n + 1) * sizeof *pos);
    kv_status st = ogs && pos ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int64_t i = 0; st == KV_OK && i < n; i++) {
        ogs[i] = og + i;
        pos[i] = (int32_t)(og + i);
    }
    const ref_adopt a = {n, seen, ogs, pos, NULL};
    if (st == KV_OK) st = REF(cache_reserve)(c, l, n);
    if (st == KV_OK) st = c->ops->adopt(c, l, head, &a);
    free(ogs);
    free(pos);
    return st;
}
