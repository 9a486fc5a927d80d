/* kernels_codes.h - the product of a few rows with weights that are widened on the way: the part of kernels.c
 * for formats with one scale per 32 weights. Included by kernels.c only.
 *
 * A weight is d * q, or d * q + m, as in common/tensor.h: the product is exact, so that one fma is the sum's one
 * rounding, and every bit is that of the fp32 panels. */
#ifndef KV_REF_KERNELS_CODES_H
#define KV_REF_KERNELS_CODES_H

enum { CODE_BLOCKS_AHEAD = 2, CACHE_LINE = 64 };

INLINE void ask_for(const ref_code_block *b)
{
    for (size_t at = 0; at < sizeof *b; at += CACHE_LINE)
        __builtin_prefetch((const char *)b + at, 0, 2);
}

/* rows, groups and has_min are constants at every call. b: the first block of `groups` panels, `stride` apart. */
INLINE void code_tile(const int rows, const int groups, const int has_min, const ref_code_block *b, int64_t stride,
                      int64_t blocks, const operands *o, tile_mode mode)
{
    v16 acc[FEW_ROWS * CODE_GROUPS], d[CODE_GROUPS], m[CODE_GROUPS];
    UNROLL
    for (int i = 0; i < rows * groups; i++)
        acc[i] = v_zero();
    for (int64_t n = 0; n < blocks; n++) {
        const real *a = o->a + 32 * n;
        UNROLL
        for (int g = 0; g < groups; g++) {
            ask_for(&b[g * stride + n + CODE_BLOCKS_AHEAD]);
            d[g] = v_load_w(b[g * stride + n].d);
            m[g] = v_load_w(b[g * stride + n].m);
        }
        for (int k = 0; k < 32; k++) {
            UNROLL
            for (int g = 0; g < groups; g++) {
                const v16 q = v_load_q(b[g * stride + n].q[k]);
                const v16 w = has_min ? v_fma(d[g], q, m[g]) : v_mul(d[g], q);
                UNROLL
                for (int i = 0; i < rows; i++)
                    acc[i * groups + g] = v_fma(v_set1(a[i * o->lda + k]), w, acc[i * groups + g]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < rows * groups; i++) {
        real *c = o->c + (i / groups) * o->ldc + 16 * (i % groups);
        v_store(c, mode == TILE_ADD ? v_add(v_load(c), acc[i]) : acc[i]);
    }
}

static void code_tile_any(int64_t rows, int groups, int has_min, const ref_code_block *b, int64_t stride,
                          int64_t blocks, const operands *o, tile_mode mode)
{
    switch (rows * 4 + (groups > 1) * 2 + has_min) {
#define T(r)                                                                                                      \
    case (r) * 4:                                                                                                 \
        code_tile(r, 1, 0, b, stride, blocks, o, mode);                                                           \
        break;                                                                                                    \
    case (r) * 4 + 1:                                                                                             \
        code_tile(r, 1, 1, b, stride, blocks, o, mode);                                                           \
        break;                                                                                                    \
    case (r) * 4 + 2:                                                                                             \
        code_tile(r, CODE_GROUPS, 0, b, stride, blocks, o, mode);                                                 \
        break;                                                                                                    \
    case (r) * 4 + 3:                                                                                             \
        code_tile(r, CODE_GROUPS, 1, b, stride, blocks, o, mode);                                                 \
        break;
        T(1) T(2) T(3)
#undef T
    }
}

static void gemm_codes(const ref_gemm_job *j)
{
    const int64_t full = j->n / 16, blocks = j->k / 32;
    for (int64_t p = 0, g; p < full; p += g) {
        g = p + CODE_GROUPS <= full ? CODE_GROUPS : 1;
        for (int64_t k0 = 0; k0 < j->k; k0 += REF_KB) {
            const operands o = {.a = j->a + k0, .lda = j->lda, .c = j->c + 16 * p, .ldc = j->ldc};
            code_tile_any(j->m, (int)g, j->has_min, j->codes + p * blocks + k0 / 32, blocks,
                          ref_min(REF_KB, j->k - k0) / 32, &o, k0 ? TILE_ADD : TILE_SET);
        }
    }
}

#endif
