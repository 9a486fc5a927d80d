/* vec_metrics.c - passes over logit rows. Compiled once per instruction set (VM_ISA_scalar,
 * VM_ISA_avx2); the tables give the same bits.
 *
 * docs/numerics.md wants sums in ascending order inside blocks of 4,096 values. One such chain is a
 * string of dependent additions, so four blocks run side by side, one per lane. A tile is 4
 * consecutive values of 4 blocks, transposed on loading; its four vectors go through the
 * exponential together, which hides the latency of the long dependent polynomial. A lane without a
 * value (the last blocks of a row) holds FILL, whose exp is +0, which changes no sum. */
#include "difftest/vec_metrics.h"

#include "common/math.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))

/* clang unrolls small constant loops by itself; gcc needs to be told at -O2. */
#if defined(__clang__)
#    define UNROLL
#else
#    define UNROLL _Pragma("GCC unroll 16")
#endif

enum { LANES = 4, GROUP = LANES * DT_VOCAB_BLOCK, CHUNK = 64 };

#define FILL (-1e300)

#if defined(VM_ISA_avx2) /* ---- one ymm per value of the tile \ -------------------------------------------------------- */
#    include <immintrin.h>
#    define TABLE      dt_vec_metrics_avx2
#    define TABLE_NAME "avx2"
typedef __m256d lanes;
typedef struct tile {
    __m256d a, b, c, d; /* value i, i + 1, i + 2, i + 3 of each block */
} tile;
#    define EACH(f, x, y)  ((tile){f(x.a, y.a), f(x.b, y.b), f(x.c, y.c), f(x.d, y.d)})
#    define EACH1(f, x, y) ((tile){f(x.a, y), f(x.b, y), f(x.c, y), f(x.d, y)})

INLINE lanes lanes_zero(void)
{
    return _mm256_setzero_pd();
}
INLINE void lanes_store(double *p, lanes v)
{
    _mm256_storeu_pd(p, v);
}
INLINE tile tile_sub(tile x, tile y)
{
    return EACH(_mm256_sub_pd, x, y);
}
INLINE tile tile_mul(tile x, tile y)
{
    return EACH(_mm256_mul_pd, x, y);
}
INLINE tile tile_sub1(tile x, double y)
{
    const __m256d v = _mm256_set1_pd(y);
    return EACH1(_mm256_sub_pd, x, v);
}
INLINE tile tile_abs(tile x)
{
    const __m256d v = _mm256_set1_pd(-0.0);
    return (tile){_mm256_andnot_pd(v, x.a), _mm256_andnot_pd(v, x.b), _mm256_andnot_pd(v, x.c),
                  _mm256_andnot_pd(v, x.d)};
}

/* (((acc + value i) + value i + 1) + ...) in every lane */
INLINE lanes lanes_add(lanes acc, tile x)
{
    acc = _mm256_add_pd(_mm256_add_pd(acc, x.a), x.b);
    return _mm256_add_pd(_mm256_add_pd(acc, x.c), x.d);
}
INLINE lanes lanes_max(lanes acc, tile x)
{
    acc = _mm256_max_pd(acc, _mm256_max_pd(x.a, x.b));
    return _mm256_max_pd(acc, _mm256_max_pd(x.c, x.d));
}

/* x * y + c with a constant c, and c * x + y with a constant c */
INLINE tile fma_c(tile x, tile y, double c)
{
    const __m256d v = _mm256_set1_pd(c);
    return (tile){_mm256_fmadd_pd(x.a, y.a, v), _mm256_fmadd_pd(x.b, y.b, v),
                  _mm256_fmadd_pd(x.c, y.c, v), _mm256_fmadd_pd(x.d, y.d, v)};
}
INLINE tile fma_by(tile x, double c, tile y)
{
    const __m256d v = _mm256_set1_pd(c);
    return (tile){_mm256_fmadd_pd(x.a, v, y.a), _mm256_fmadd_pd(x.b, v, y.b),
                  _mm256_fmadd_pd(x.c, v, y.c), _mm256_fmadd_pd(x.d, v, y.d)};
}

/* 2^k from t = 1.5 * 2^52 + k, or 0 where x < -708. Only the low 12 bits of k survive the shift to
 * the exponent, so the bits of t serve as they are. */
INLINE __m256d scale_of(__m256d t, __m256d x)
{
    const __m256i k = _mm256_slli_epi64(_mm256_castpd_si256(t), 52);
    const __m256i bits = _mm256_add_epi64(k, _mm256_set1_epi64x(INT64_C(1023) << 52));
    const __m256d underflow = _mm256_cmp_pd(x, _mm256_set1_pd(-708.0), _CMP_LT_OQ);
    return _mm256_andnot_pd(underflow, _mm256_castsi256_pd(bits));
}

/* kv_dexp, operation by operation. Arguments below -708 are lifted to it, so that 0 is multiplied
 * by something finite. */
INLINE tile tile_exp(tile x)
{
    const __m256d least = _mm256_set1_pd(-708.0), magic = _mm256_set1_pd(6755399441055744.0);
    const tile y = EACH1(_mm256_max_pd, x, least);
    const tile m = {magic, magic, magic, magic};
    const tile t = fma_by(y, 0x1.71547652b82fep0, m);
    const tile n = EACH1(_mm256_sub_pd, t, magic);
    const tile scale = EACH(scale_of, t, x);
    tile r = fma_by(n, -0x1.62e42fefap-1, y);
    r = fma_by(n, -0x1.cf79abc9e3b3ap-40, r);
    const __m256d top = _mm256_set1_pd(0x1.adfaef07246ffp-26);
    tile q = {top, top, top, top};
    q = fma_c(q, r, 0x1.28b151c0efe3cp-22);
    q = fma_c(q, r, 0x1.71ded7a603ad9p-19);
    q = fma_c(q, r, 0x1.a019956e9b276p-16);
    q = fma_c(q, r, 0x1.a01a014d18fa9p-13);
    q = fma_c(q, r, 0x1.6c16c1861a06p-10);
    q = fma_c(q, r, 0x1.111111112149fp-7);
    q = fma_c(q, r, 0x1.555555554fddcp-5);
    q = fma_c(q, r, 0x1.5555555555514p-3);
    q = fma_c(q, r, 0x1.000000000000cp-1);
    q = fma_c(q, r, 1.0);
    q = fma_c(q, r, 1.0);
    return tile_mul(q, scale);
}

INLINE tile tile_load(const float *p)
{
    __m128 r0 = _mm_loadu_ps(p), r1 = _mm_loadu_ps(p + DT_VOCAB_BLOCK),
           r2 = _mm_loadu_ps(p + 2 * DT_VOCAB_BLOCK), r3 = _mm_loadu_ps(p + 3 * DT_VOCAB_BLOCK);
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    return (tile){_mm256_cvtps_pd(r0), _mm256_cvtps_pd(r1), _mm256_cvtps_pd(r2),
                  _mm256_cvtps_pd(r3)};
}

INLINE tile tile_from(double v[4][LANES])
{
    return (tile){_mm256_loadu_pd(v[0]), _mm256_loadu_pd(v[1]), _mm256_loadu_pd(v[2]),
                  _mm256_loadu_pd(v[3])};
}
#else /* ---- plain C: the written definition \ ------------------------------------------------------ */
#    define TABLE      dt_vec_metrics_scalar
#    define TABLE_NAME "scalar"
typedef struct lanes {
    double v[LANES];
} lanes;
typedef struct tile {
    double v[4][LANES]; /* value i, i + 1, i + 2, i + 3 of each block */
} tile;
#    define EACH(expr)                      \
        tile o;                             \
        for (int j = 0; j < 4; j++)         \
            for (int b = 0; b < LANES; b++) \
                o.v[j][b] = (expr);         \
        return o
INLINE lanes lanes_zero(void)
{
    return (lanes){{0}};
}
INLINE void lanes_store(double *p, lanes a)
{
    memcpy(p, a.v, sizeof a.v);
}
INLINE tile tile_sub(tile x, tile y)
{
    EACH(x.v[j][b] - y.v[j][b]);
}
INLINE tile tile_mul(tile x, tile y)
{
    EACH(x.v[j][b] * y.v[j][b]);
}
INLINE tile tile_sub1(tile x, double y)
{
    EACH(x.v[j][b] - y);
}
INLINE tile tile_abs(tile x)
{
    EACH(__builtin_fabs(x.v[j][b]));
}
INLINE tile tile_exp(tile x)
{
    EACH(kv_dexp(x.v[j][b]));
}
INLINE tile tile_load(const float *p)
{
    EACH((double)p[b * DT_VOCAB_BLOCK + j]);
}
INLINE tile tile_from(double v[4][LANES])
{
    EACH(v[j][b]);
}
INLINE lanes lanes_add(lanes acc, tile x)
{
    for (int j = 0; j < 4; j++)
        for (int b = 0; b < LANES; b++)
            acc.v[b] += x.v[j][b];
    return acc;
}
INLINE lanes lanes_max(lanes acc, tile x)
{
    for (int j = 0; j < 4; j++)
        for (int b = 0; b < LANES; b++)
            if (x.v[j][b] > acc.v[b]) acc.v[b] = x.v[j][b];
    return acc;
}
#    undef EACH
#endif

/* A group: four blocks of a row of n values, beginning at x[first]. full: all four are complete. */

INLINE tile load(const float *x, int64_t n, int64_t first, int full, int64_t i)
{
    if (full) return tile_load(x + first + i);
    double v[4][LANES];
    for (int64_t j = 0; j < 4; j++)
        for (int64_t b = 0; b < LANES; b++) {
            const int64_t at = first + b * DT_VOCAB_BLOCK + i + j;
            v[j][b] = at < n && i + j < DT_VOCAB_BLOCK ? (double)x[at] : FILL;
        }
    return tile_from(v);
}

/* Values of the longest of a group's blocks. */
INLINE int64_t group_length(int64_t n, int64_t first)
{
    return n - first < DT_VOCAB_BLOCK ? n - first : DT_VOCAB_BLOCK;
}

/* total + block 0 + block 1 + ...: block sums, ascending. */
INLINE double add_blocks(double total, lanes blocks)
{
    double sum[LANES];
    lanes_store(sum, blocks);
    for (int b = 0; b < LANES; b++)
        total += sum[b];
    return total;
}

INLINE lanes sum_exp_group(const float *x, int64_t n, int64_t first, int full, double max)
{
    const int64_t len = group_length(n, first);
    lanes acc = lanes_zero();
    for (int64_t i = 0; i < len; i += 4)
        acc = lanes_add(acc, tile_exp(tile_sub1(load(x, n, first, full, i), max)));
    return acc;
}

static double sum_exp(const float *x, int64_t n, double max)
{
    double total = 0.0;
    int64_t first = 0;
    for (; first + GROUP <= n; first += GROUP)
        total = add_blocks(total, sum_exp_group(x, n, first, 1, max));
    if (first < n) total = add_blocks(total, sum_exp_group(x, n, first, 0, max));
    return total;
}

INLINE void diverge_group(const dt_softmax *p, const dt_softmax *q, int64_t n, int64_t first,
                          int full, dt_divergence *out)
{
    const int64_t len = group_length(n, first);
    lanes kl = lanes_zero(), sq = kl, largest = kl;
    for (int64_t i = 0; i < len; i += 4) {
        const tile x = load(p->x, n, first, full, i), y = load(q->x, n, first, full, i);
        const tile d = tile_sub(y, x);
        sq = lanes_add(sq, tile_mul(d, d));
        largest = lanes_max(largest, tile_abs(d));
        const tile lp = tile_sub1(tile_sub1(x, p->max), p->log_sum);
        const tile lq = tile_sub1(tile_sub1(y, q->max), q->log_sum);
        const tile gain = tile_sub(lp, lq);
        kl = lanes_add(kl, tile_mul(tile_exp(lp), gain));
    }
    out->kl = add_blocks(out->kl, kl);
    out->sum_sq = add_blocks(out->sum_sq, sq);
    double most[LANES];
    lanes_store(most, largest);
    for (int b = 0; b < LANES; b++)
        if (most[b] > out->max_abs) out->max_abs = most[b];
}

static void diverge(const dt_softmax *p, const dt_softmax *q, int64_t n, dt_divergence *out)
{
    int64_t first = 0;
    *out = (dt_divergence){0, 0, 0};
    for (; first + GROUP <= n; first += GROUP)
        diverge_group(p, q, n, first, 1, out);
    if (first < n) diverge_group(p, q, n, first, 0, out);
}

/* ---- the scan ------------------------------------------------------------------------------- */

/* What a pass over one chunk of a row finds. */
typedef struct chunk_info {
    float max;
    uint32_t
        magnitude; /* largest value without sign, as bits; from 0x7f800000 on it is not finite */
} chunk_info;

INLINE uint32_t umax(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* Order-preserving integer of a float's bits, with +0 and -0 alike. */
INLINE int32_t ordered(int32_t bits)
{
    const int32_t mag = bits & 0x7fffffff;
    return bits < 0 ? -mag : mag;
}

static chunk_info scan_values(const float *x, int64_t n)
{
    chunk_info c = {-kv_inf(), 0};
    for (int64_t i = 0; i < n; i++) {
        if (x[i] > c.max) c.max = x[i];
        c.magnitude = umax(c.magnitude, (uint32_t)kv_f2bits(x[i]) & 0x7fffffff);
    }
    return c;
}

static uint32_t ulp_values(const float *a, const float *b, int64_t n)
{
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t d = (int64_t)ordered(kv_f2bits(a[i])) - ordered(kv_f2bits(b[i]));
        most = umax(most, (uint32_t)(d < 0 ? -d : d));
    }
    return most;
}

#if defined(VM_ISA_avx2)
INLINE __m256i load_bits(const float *p)
{
    return _mm256_castps_si256(_mm256_loadu_ps(p));
}

/* 1 when all bits of two complete chunks agree. */
static int chunk_equal(const float *a, const float *b)
{
    __m256i x = _mm256_setzero_si256();
    UNROLL
    for (int i = 0; i < CHUNK; i += 8)
        x = _mm256_or_si256(x, _mm256_xor_si256(load_bits(a + i), load_bits(b + i)));
    return _mm256_testz_si256(x, x);
}

INLINE float horizontal_max(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    m = _mm_max_ss(m, _mm_movehdup_ps(m));
    return _mm_cvtss_f32(m);
}

INLINE uint32_t horizontal_umax(__m256i v)
{
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

static chunk_info scan_chunk(const float *x)
{
    const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
    __m256 m = _mm256_loadu_ps(x);
    __m256i mag = _mm256_and_si256(load_bits(x), no_sign);
    UNROLL
    for (int i = 8; i < CHUNK; i += 8) {
        m = _mm256_max_ps(_mm256_loadu_ps(x + i), m);
        mag = _mm256_max_epu32(mag, _mm256_and_si256(load_bits(x + i), no_sign));
    }
    return (chunk_info){horizontal_max(m), horizontal_umax(mag)};
}

INLINE __m256i ordered8(__m256i bits)
{
    const __m256i sign = _mm256_srai_epi32(bits, 31);
    const __m256i mag = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    return _mm256_sub_epi32(_mm256_xor_si256(mag, sign), sign);
}

static uint32_t ulp_chunk(const float *a, const float *b)
{
    __m256i most = _mm256_setzero_si256();
    UNROLL
    for (int i = 0; i < CHUNK; i += 8) {
        const __m256i x = ordered8(load_bits(a + i)), y = ordered8(load_bits(b + i));
        const __m256i d = _mm256_sub_epi32(_mm256_max_epi32(x, y), _mm256_min_epi32(x, y));
        most = _mm256_max_epu32(most, d);
    }
    return horizontal_umax(most);
}
#else
static int chunk_equal(const float *a, const float *b)
{
    return memcmp(a, b, CHUNK * sizeof *a) == 0;
}
static chunk_info scan_chunk(const float *x)
{
    return scan_values(x, CHUNK);
}
static uint32_t ulp_chunk(const float *a, const float *b)
{
    return ulp_values(a, b, CHUNK);
}
#endif

static void top_insert(dt_top *t, float value, int64_t index)
{
    int i = t->n < DT_TOP ? t->n++ : DT_TOP - 1;
    for (; i > 0 && value > t->value[i - 1]; i--) {
        t->value[i] = t->value[i - 1];
        t->index[i] = t->index[i - 1];
    }
    t->value[i] = value;
    t->index[i] = (int32_t)index;
}

/* A chunk is looked at value by value only when its maximum enters the list. */
static void top_chunk(dt_top *t, const float *x, int64_t first, int64_t n, float max)
{
    if (t->n == DT_TOP && !(max > t->value[DT_TOP - 1])) return;
    for (int64_t i = first; i < first + n; i++)
        if (t->n < DT_TOP || x[i] > t->value[DT_TOP - 1]) top_insert(t, x[i], i);
}

static void scan(const float *a, const float *b, int64_t n, dt_scan *out)
{
    memset(out, 0, sizeof *out);
    uint32_t mag_a = 0, mag_b = 0;
    for (int64_t first = 0; first < n; first += CHUNK) {
        const float *ca = a + first, *cb = b + first;
        const int64_t len = n - first < CHUNK ? n - first : CHUNK;
        const int whole = len == CHUNK;
        const chunk_info ia = whole ? scan_chunk(ca) : scan_values(ca, len);
        chunk_info ib = ia;
        if (!(whole ? chunk_equal(ca, cb) : memcmp(ca, cb, (size_t)len * sizeof *a) == 0)) {
            out->differs = 1;
            ib = whole ? scan_chunk(cb) : scan_values(cb, len);
            out->max_ulp = umax(out->max_ulp, whole ? ulp_chunk(ca, cb) : ulp_values(ca, cb, len));
        }
        mag_a = umax(mag_a, ia.magnitude);
        mag_b = umax(mag_b, ib.magnitude);
        top_chunk(&out->top_a, a, first, len, ia.max);
        top_chunk(&out->top_b, b, first, len, ib.max);
    }
    out->a_finite = mag_a < 0x7f800000;
    out->b_finite = mag_b < 0x7f800000;
    if (!out->a_finite || !out->b_finite) out->max_ulp = 0;
}

const dt_vec_metrics TABLE = {TABLE_NAME, scan, sum_exp, diverge};
