/* kernels.c - matrix products and element-wise loops; see kernels.h. Compiled once per instruction set
 * (registers: simd.h, shape of the tiles: here). Attention is in kernels_attn.h, few rows times quantised weights
 * in kernels_codes.h, parts of this unit. */
#include "ref/kernels.h"

#include "ref/simd.h"

#include <stddef.h>
#include <string.h>

/* Tiles are `rows` x `groups` blocks of the result, one accumulator of 16 lanes each. MR: rows of the
 * largest; GROUPS(m): column groups that keep enough independent chains in flight for m rows. */
#if defined(REF_ISA_avx512) && REF_BITS == 32
#    define TABLE     REF(kernels_avx512)
#    define ISA_NAME  "avx512"
#    define GROUPS(m) ((m) == 1 ? 8 : (m) <= 3 ? 4 : 2)
enum { MR = 12, MAX_GROUPS = 8, CODE_GROUPS = 4 };
#elif defined(REF_ISA_avx2)
#    define TABLE     REF(kernels_avx2)
#    define ISA_NAME  "avx2"
#    define GROUPS(m) ((m) == 1 ? 4 : (m) <= 3 ? 2 : 1)
enum { MR = 6, MAX_GROUPS = 4, CODE_GROUPS = 2 };
#else
#    define TABLE     REF(kernels_scalar)
#    define ISA_NAME  "scalar"
#    define GROUPS(m) 1
enum { MR = 4, MAX_GROUPS = 1, CODE_GROUPS = 1 };
#endif

enum {
    FEW_ROWS = 3,           /* too few to hide the way to memory */
    AHEAD = 16,             /* rows of b between use and request, see tile() */
    MC = 96,                /* rows whose block of k stays in the second-level cache */
    A_STRIDE = REF_KB + 16, /* of such a block's copy */
    CONFLICT = 256          /* rows that lie a multiple of this apart compete for the same lines of the cache */
};

extern const ref_kernels TABLE;

/* ---- tiles -------------------------------------------------------------------------------------- */

typedef enum tile_mode {
    TILE_SET,     /* c = chain from +0 */
    TILE_ADD,     /* c = c + chain from +0: a later block of KB */
    TILE_CONTINUE /* c holds a chain; carry it on */
} tile_mode;

typedef enum tile_kind {
    TILE_REALS,   /* b: keys or values, in `real` */
    TILE_WEIGHTS, /* b: weights, in float */
    TILE_COLD     /* weights that come from memory; few rows only */
} tile_kind;

/* a: rows of broadcast operands; b: for every k, `groups` vectors of 16 columns. */
typedef struct operands {
    const real *a;
    int64_t lda;     /* between rows */
    const void *b;   /* float (weights) or real (keys, values) */
    int64_t ldb;     /* elements between consecutive k */
    int64_t b_group; /* elements between column groups */
    int64_t ahead;   /* elements from the value of b in use to the one that is asked for */
    real *c;
    int64_t ldc;
} operands;

/* rows, groups and kind are constants at every call, so that the accumulators stay in registers. */
INLINE void tile(const int rows, const int groups, const tile_kind kind, const operands *o, int64_t kc,
                 tile_mode mode)
{
    const int weights = kind != TILE_REALS;
    /* The hardware's prefetchers lose track of so many streams; many rows have time to wait. */
    const int ask = kind == TILE_COLD || (kind == TILE_REALS && rows <= FEW_ROWS);
    const size_t size = weights ? sizeof(float) : sizeof(real);
    v16 acc[MR > MAX_GROUPS ? 2 * MR : 2 * MAX_GROUPS];
    UNROLL
    for (int i = 0; i < rows * groups; i++) {
        const real *c = o->c + (i / groups) * o->ldc + 16 * (i % groups);
        acc[i] = mode == TILE_CONTINUE ? v_load(c) : v_zero();
    }
    const real *a = o->a;
    const int64_t lda = o->lda, group = o->b_group;
    for (int64_t k = 0; k < kc; k++) {
        const int64_t at = k * o->ldb;
        v16 b[MAX_GROUPS];
        UNROLL
        for (int g = 0; g < groups; g++) {
            if (ask) __builtin_prefetch((const char *)o->b + size * (size_t)(at + g * group + o->ahead), 0, 2);
            b[g] = weights ? v_load_w((const float *)o->b + at + g * group)
                           : v_load((const real *)o->b + at + g * group);
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            const v16 x = v_set1(a[i * lda + k]);
            UNROLL
            for (int g = 0; g < groups; g++)
                acc[i * groups + g] = v_fma(x, b[g], acc[i * groups + g]);
        }
    }
    UNROLL
    for (int i = 0; i < rows * groups; i++) {
        real *c = o->c + (i / groups) * o->ldc + 16 * (i % groups);
        v_store(c, mode == TILE_ADD ? v_add(v_load(c), acc[i]) : acc[i]);
    }
}

/* The shapes in use: 1 .. MR rows by 1 group, or by GROUPS of some row count. */
#if defined(REF_ISA_avx512) && REF_BITS == 32
#    define TILES_OF_FEW  T(1, 1) T(2, 1) T(3, 1) T(1, 8) T(2, 4) T(3, 4)
#    define TILES_OF_MANY                                                                          \
        T(4, 1) T(5, 1) T(6, 1) T(7, 1) T(8, 1) T(9, 1) T(10, 1) T(11, 1) T(12, 1) T(1, 2) T(2, 2) \
        T(3, 2) T(4, 2) T(5, 2) T(6, 2) T(7, 2) T(8, 2) T(9, 2) T(10, 2) T(11, 2) T(12, 2)
#elif defined(REF_ISA_avx2)
#    define TILES_OF_FEW  T(1, 1) T(2, 1) T(3, 1) T(1, 4) T(2, 2) T(3, 2)
#    define TILES_OF_MANY T(4, 1) T(5, 1) T(6, 1)
#else
#    define TILES_OF_FEW  T(1, 1) T(2, 1) T(3, 1)
#    define TILES_OF_MANY T(4, 1)
#endif
#define T(r, g)                                                                                    \
    case (r) * 16 + (g):                                                                           \
        tile(r, g, KIND, o, kc, mode);                                                             \
        break;

static void tile_weights(int64_t rows, int64_t groups, const operands *o, int64_t kc, tile_mode mode)
{
#define KIND TILE_WEIGHTS
    switch (rows * 16 + groups) { TILES_OF_FEW TILES_OF_MANY }
#undef KIND
}

static void tile_cold(int64_t rows, int64_t groups, const operands *o, int64_t kc, tile_mode mode)
{
#define KIND TILE_COLD
    switch (rows * 16 + groups) { TILES_OF_FEW }
#undef KIND
}

static void tile_reals(int64_t rows, int64_t groups, const operands *o, int64_t kc, tile_mode mode)
{
#define KIND TILE_REALS
    switch (rows * 16 + groups) { TILES_OF_FEW TILES_OF_MANY }
#undef KIND
}
#undef T

/* Rows of the next tile when `left` remain: the last two tiles share evenly, because a tile of one or
 * two rows cannot hide the latency of its chains. */
INLINE int64_t next_rows(int64_t left)
{
    if (left <= MR) return left;
    return left < 2 * MR ? (left + 1) / 2 : MR;
}

/* ---- matrix product ------------------------------------------------------------------------------ */

/* The packed matrix, `at` values on. */
INLINE const void *packed_at(const ref_gemm_job *j, int64_t at)
{
    return j->reals ? (const void *)(j->reals + at) : (const void *)(j->panels + at);
}

typedef void tile_fn(int64_t rows, int64_t groups, const operands *o, int64_t kc, tile_mode mode);
INLINE tile_fn *tile_of(const ref_gemm_job *j) { return j->reals ? tile_reals : tile_weights; }

/* The last panel of a matrix whose N is not a multiple of 16: through a full-width tile on the side. */
static void gemm_edge(const ref_gemm_job *j)
{
    real side[MR * 16];
    const int64_t full = j->n / 16, n = j->n % 16;
    real *c = j->c + 16 * full;
    for (int64_t m = 0, h; m < j->m; m += h) {
        h = ref_min(MR, j->m - m);
        for (int64_t k0 = 0; k0 < j->k; k0 += REF_KB) {
            const operands o = {j->a + m * j->lda + k0, j->lda, packed_at(j, (full * j->k + k0) * 16), 16, 0, 0, side, 16};
            tile_of(j)(h, 1, &o, ref_min(REF_KB, j->k - k0), k0 ? TILE_ADD : TILE_SET);
        }
        for (int64_t i = 0; i < h; i++)
            memcpy(c + (m + i) * j->ldc, side + 16 * i, (size_t)n * sizeof *c);
    }
}

/* Few rows: every weight is used once or twice, so that panels are walked to their ends, group by group. */
static void gemm_few(const ref_gemm_job *j)
{
    const int64_t full = j->n / 16, groups = GROUPS(j->m);
    for (int64_t p = 0, g; p < full; p += g) {
        g = p + groups <= full ? groups : 1;
        for (int64_t k0 = 0; k0 < j->k; k0 += REF_KB) {
            const operands o = {j->a + k0, j->lda, packed_at(j, (p * j->k + k0) * 16), 16, j->k * 16, 16 * AHEAD,
                                j->c + 16 * p, j->ldc};
            (j->cold ? tile_cold : tile_of(j))(j->m, g, &o, ref_min(REF_KB, j->k - k0),
                                                 k0 ? TILE_ADD : TILE_SET);
        }
    }
}

/* A block of rows and of k times all full panels. */
INLINE void gemm_block(const ref_gemm_job *j, int64_t m, int64_t rows, int64_t k0, const real *a, int64_t lda)
{
    const int64_t full = j->n / 16, groups = GROUPS(j->m), kc = ref_min(REF_KB, j->k - k0);
    for (int64_t p = 0, g; p < full; p += g) {
        g = p + groups <= full ? groups : 1;
        operands o = {a, lda, packed_at(j, (p * j->k + k0) * 16), 16, j->k * 16, 0, j->c + m * j->ldc + 16 * p, j->ldc};
        for (int64_t left = rows, h; left > 0; left -= h) {
            h = next_rows(left);
            tile_of(j)(h, g, &o, kc, k0 ? TILE_ADD : TILE_SET);
            o.a += h * o.lda;
            o.c += h * o.ldc;
        }
    }
}

static void gemm_many(const ref_gemm_job *j)
{
    real copy[MC * A_STRIDE];
    for (int64_t m = 0; m < j->m; m += MC) {
        const int64_t rows = ref_min(MC, j->m - m);
        for (int64_t k0 = 0; k0 < j->k; k0 += REF_KB) {
            const real *a = j->a + m * j->lda + k0;
            if (j->lda % CONFLICT) {
                gemm_block(j, m, rows, k0, a, j->lda);
                continue;
            }
            for (int64_t i = 0; i < rows; i++)
                memcpy(copy + i * A_STRIDE, a + i * j->lda, (size_t)ref_min(REF_KB, j->k - k0) * sizeof *a);
            gemm_block(j, m, rows, k0, copy, A_STRIDE);
        }
    }
}

#if REF_BITS == 32
#    include "ref/kernels_codes.h"
#else
static void gemm_codes(const ref_gemm_job *j) { gemm_few(j); }
#endif

static void gemm(const ref_gemm_job *j)
{
    if (j->m <= FEW_ROWS && j->codes)
        gemm_codes(j);
    else if (j->m <= FEW_ROWS)
        gemm_few(j);
    else
        gemm_many(j);
    if (j->n % 16) gemm_edge(j);
}

/* ---- reductions and element-wise loops ------------------------------------------------------------ */

/* Exact maximum of n values (n >= 1); of zeros +0 wins, as with integer keys. */
static real exact_max(const real *x, int64_t n)
{
    int64_t i = 0;
    real m = x[0];
    if (n >= 16) {
        v16 best = v_load(x);
        real lanes[16];
        for (i = 16; i + 16 <= n; i += 16)
            best = v_max(best, v_load(x + i));
        v_store(lanes, best);
        for (int l = 0; l < 16; l++)
            m = lanes[l] > m ? lanes[l] : m;
    }
    for (; i < n; i++)
        m = x[i] > m ? x[i] : m;
    if (m == 0) /* comparisons do not tell the zeros apart */
        for (i = 0; i < n && __builtin_signbit(m); i++)
            if (x[i] == 0 && !__builtin_signbit(x[i])) m = 0;
    return m;
}

INLINE real tree64(real lanes[REF_L])
{
    for (int s = REF_L / 2; s; s >>= 1)
        for (int j = 0; j < s; j++)
            lanes[j] = lanes[j] + lanes[j + s];
    return lanes[0];
}

/* The same tree over four vectors. */
INLINE real tree64_of(const v16 acc[4])
{
    real lanes[16];
    v_store(lanes, v_add(v_add(acc[0], acc[2]), v_add(acc[1], acc[3])));
    for (int s = 8; s; s >>= 1)
        for (int j = 0; j < s; j++)
            lanes[j] = lanes[j] + lanes[j + s];
    return lanes[0];
}

static real dot(const real *a, const real *b, int64_t n)
{
    v16 acc[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int64_t i = 0;
    for (; i + REF_L <= n; i += REF_L)
        for (int j = 0; j < 4; j++)
            acc[j] = v_fma(v_load(a + i + 16 * j), v_load(b + i + 16 * j), acc[j]);
    for (int j = 0; i + 16 <= n; i += 16, j++)
        acc[j] = v_fma(v_load(a + i), v_load(b + i), acc[j]);
    if (i == n) return tree64_of(acc);
    real lanes[REF_L];
    for (int j = 0; j < 4; j++)
        v_store(lanes + 16 * j, acc[j]);
    for (int64_t j = i % REF_L; i < n; i++, j++)
        lanes[j] = r_fma(a[i], b[i], lanes[j]);
    return tree64(lanes);
}

static void rmsnorm(const real *x, const float *w, int64_t n, real eps, real *y)
{
    const real r = 1 / r_sqrt(dot(x, x, n) / (real)n + eps);
    if (w)
        for (int64_t i = 0; i < n; i++)
            y[i] = (x[i] * r) * (real)w[i];
    else
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i] * r;
}

static void swiglu(const real *g, const real *u, int64_t n, real *h)
{
    int64_t i = 0;
    const v16 one = v_set1(1);
    for (; i + 16 <= n; i += 16) {
        const v16 x = v_load(g + i);
        v_store(h + i, v_mul(v_div(x, v_add(one, v_exp(v_neg(x)))), v_load(u + i)));
    }
    for (; i < n; i++)
        h[i] = (g[i] / (1 + r_exp(-g[i]))) * u[i];
}

static void add(real *x, const real *y, int64_t n)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(x + i, v_add(v_load(x + i), v_load(y + i)));
    for (; i < n; i++)
        x[i] = x[i] + y[i];
}

/* R64 of exp(x - m) with plain additions over one block. */
static real exp_sum(const real *x, int64_t n, real m)
{
    real lanes[REF_L];
    v16 acc[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    const v16 max = v_set1(m);
    int64_t i = 0;
    for (; i + REF_L <= n; i += REF_L)
        for (int j = 0; j < 4; j++)
            acc[j] = v_add(acc[j], v_exp(v_sub(v_load(x + i + 16 * j), max)));
    for (int j = 0; j < 4; j++)
        v_store(lanes + 16 * j, acc[j]);
    for (int j = 0; i < n; i++, j++)
        lanes[j] = lanes[j] + r_exp(x[i] - m);
    return tree64(lanes);
}

static real nll(const real *z, int64_t n, int64_t target)
{
    const real m = exact_max(z, n);
    real sum = 0;
    for (int64_t b = 0; b < n; b += REF_VB)
        sum = sum + exp_sum(z + b, ref_min(REF_VB, n - b), m);
    return r_log(sum) - (z[target] - m);
}

static void rotate_panel(const real *src, int64_t head_dim, int64_t rd, int half, const real *cos,
                         const real *sin, int64_t stride, real *dst)
{
    for (int64_t i = 0; i < rd / 2; i++) {
        const int64_t a = half ? i : 2 * i, b = half ? i + rd / 2 : 2 * i + 1;
        const v16 x = v_load(src + 16 * a), y = v_load(src + 16 * b);
        const v16 c = v_load(cos + i * stride), s = v_load(sin + i * stride);
        v_store(dst + 16 * a, v_fma(x, c, v_neg(v_mul(y, s))));
        v_store(dst + 16 * b, v_fma(y, c, v_mul(x, s)));
    }
    memcpy(dst + 16 * rd, src + 16 * rd, (size_t)(head_dim - rd) * 16 * sizeof *dst);
}

#include "ref/kernels_kvarn.h"

#include "ref/kernels_attn.h"
#include "ref/kernels_columns.h"

#include "ref/train/kernels_rows.h"
#include "ref/train/kernels_attn_back.h"

static const ref_train_kernels train_table = {squares, rms_back, channel_sums, square_relu_back, loss_row, attn_back};

const ref_kernels TABLE = {ISA_NAME, gemm,    attn,     rmsnorm,        dot,         swiglu, add, nll, rotate_panel,
                           columns,  balance, hadamard, hadamard_panel, &train_table};
