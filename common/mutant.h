/* mutant.h - places where a bug can be planted (docs/mutants.md).
 *
 *     KV_MUT(ID, bad, good)
 *
 * In the product it is the text `good` and nothing else: a test compares the preprocessed sources. Where it is compiled
 * with -DKV_MUTANTS, which only the libraries of build/mutants/ are, it is `bad` while the bug ID is chosen, else `good`.
 * Both are expressions without a comma at the top; `good` stands in brackets of its own where the place needs them.
 * common/mutants.def lists the bugs. */
#ifndef KV_COMMON_MUTANT_H
#define KV_COMMON_MUTANT_H

#ifndef KV_MUTANTS
#    define KV_MUT(id, bad, good) good
#else
#    define KV_MUT(id, bad, good) (kv_mutant == KV_MUT_##id ? (bad) : (good))

#    include "common/numfmt.h"

enum {
    KV_MUT_NONE, /* the unmutated library: the negative control */
#    define MUTANT(id, side, family, op, head, klass, tier, equivalent, when, about) KV_MUT_##id,
#    include "common/mutants.def"
#    undef MUTANT
};

KV_EXTERN_C_BEGIN
extern __attribute__((visibility("hidden"))) int kv_mutant; /* tests/mutants/side.c: the chosen bug */
KV_EXTERN_C_END

/* What bad expressions need. */
KV_HD float kv_mut_f16(float x) { return kv_f162f(kv_f2f16(x)); }
KV_HD float kv_mut_bf16(float x) { return kv_bf162f(kv_f2bf16(x)); }
KV_HD int64_t kv_mut_min(int64_t a, int64_t b) { return a < b ? a : b; }

/* fp16 towards zero. */
KV_HD uint16_t kv_mut_f16_cut(float x)
{
    const uint16_t h = kv_f2f16(x);
    const float back = kv_f162f(h);
    return (uint16_t)(h - (x < 0 ? back < x : back > x));
}
#endif

#endif
