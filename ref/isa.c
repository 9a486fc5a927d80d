/* isa.c - which table of kernels a session uses. */
#include "ref/kernels.h"
#include "ref/train/kernels.h"

#include <string.h>

extern const ref_kernels REF(kernels_scalar);
#if defined(__x86_64__)
extern const ref_kernels REF(kernels_avx2);
#    if REF_BITS == 32
extern const ref_kernels REF(kernels_avx512);
#    endif
#endif

enum { TABLES = 3 };

typedef struct choice {
    const ref_kernels *table;
    int supported; /* by this CPU */
} choice;

/* Best first. ref64 has no tables beyond AVX2: it is a yardstick, not a workload. */
static int choices(choice c[TABLES])
{
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#    if REF_BITS == 32
#        if defined(REF_AVX512_AS_AVX2)
    const int avx512 = avx2;
#        else
    const int avx512 = avx2 && __builtin_cpu_supports("avx512f");
#        endif
    c[n++] = (choice){&REF(kernels_avx512), avx512};
#    endif
    c[n++] = (choice){&REF(kernels_avx2), avx2};
#endif
    c[n++] = (choice){&REF(kernels_scalar), 1};
    return n;
}

kv_status REF(kernels_find)(const char *isa, const ref_kernels **out)
{
    choice c[TABLES];
    const int n = choices(c);
    *out = NULL;
    for (int i = 0; i < n; i++) {
        if (!isa) {
            if (!c[i].supported) continue;
            *out = c[i].table;
            return KV_OK;
        }
        if (strcmp(isa, c[i].table->name) != 0) continue;
        if (!c[i].supported)
            return kv_fail(KV_ERR_UNSUPPORTED, "isa=%s: this CPU does not have it; leave the option out",
                           isa);
        *out = c[i].table;
        return KV_OK;
    }
    return kv_fail(KV_ERR_USAGE, "isa=%s is unknown; use scalar, avx2 or avx512, or leave it out", isa);
}

int64_t REF(attn_scratch)(int64_t n, int64_t head_dim)
{
    const int64_t chunks = (n + REF_CH - 1) / REF_CH, dv = ref_round_up(head_dim, 16);
    const int64_t scores = 16 * (REF_CH + 16); /* more rows than any table's MR */
    return scores + chunks * REF_ATTN_ROWS * (2 + dv);
}

/* Per tile: keys in panels, values in rows, both kinds of column scales; then partial sums of a sub-block of rows. */
int64_t REF(attn_decoded)(const kv_kvarn_layout *l)
{
    const int64_t dv = ref_round_up(l->D, 16), lanes = ref_round_up(l->T, 16);
    return REF_CH / l->T * (lanes * l->D + l->T * dv + lanes + dv) + 16 * dv;
}

/* The matrix turned and scaled copies of both; logarithms and deviations of columns and rows. */
int64_t REF(balance_scratch)(int64_t rows, int64_t cols)
{
    const int64_t c = ref_round_up(cols, 16), r = ref_round_up(rows, 16);
    return cols * r + ref_max(rows * c, cols * r) + 3 * (c + r);
}

/* Two groups of scores, two of partial sums, and the chains of keys and values. */
int64_t REF(attn_back_scratch)(int64_t n, int64_t head_dim)
{
    return 2 * REF_BACK_QUERIES * (n + head_dim) + 2 * n * ref_round_up(head_dim, 16);
}
