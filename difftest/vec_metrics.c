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
#include "difftest/vec_tile.h"

#include <string.h>

/* clang unrolls small constant loops by itself; gcc needs to be told at -O2. */
#if defined(__clang__)
#    define UNROLL
#else
#    define UNROLL _Pragma("GCC unroll 16")
#endif

enum { RUN = 4 * LANES, GROUP = LANES * DT_VOCAB_BLOCK, CHUNK = 64 };

#define FILL (-1e300)

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

/* The last block of a row when it stands alone: there is nothing to put beside it, so its values
 * go through the exponential sixteen in a row, and the additions wait for one another. */
INLINE tile load_run(const float *x, int64_t n, int64_t i)
{
    double v[4][LANES];
    if (i + RUN <= n) return tile_load_run(x + i);
    for (int64_t j = 0; j < RUN; j++)
        v[j / LANES][j % LANES] = i + j < n ? (double)x[i + j] : FILL;
    return tile_from(v);
}

INLINE double add_run(double sum, tile t)
{
    double v[RUN];
    tile_store(v, t);
    for (int j = 0; j < RUN; j++)
        sum += v[j];
    return sum;
}

static double sum_exp_last(const float *x, int64_t n, double max)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i += RUN)
        sum = add_run(sum, tile_exp(tile_sub1(load_run(x, n, i), max)));
    return sum;
}

static double sum_exp(const float *x, int64_t n, double max)
{
    double total = 0.0;
    int64_t first = 0;
    for (; first + GROUP <= n; first += GROUP)
        total = add_blocks(total, sum_exp_group(x, n, first, 1, max));
    if (first == n) return total;
    if (n - first <= DT_VOCAB_BLOCK) return total + sum_exp_last(x + first, n - first, max);
    return add_blocks(total, sum_exp_group(x, n, first, 0, max));
}

/* Terms of the three sums for a tile of both rows. */
typedef struct terms {
    tile kl, sq, abs;
} terms;

INLINE terms terms_of(const dt_softmax *p, const dt_softmax *q, tile x, tile y)
{
    const tile d = tile_sub(y, x);
    const tile lp = tile_sub1(tile_sub1(x, p->max), p->log_sum);
    const tile lq = tile_sub1(tile_sub1(y, q->max), q->log_sum);
    return (terms){tile_mul(tile_exp(lp), tile_sub(lp, lq)), tile_mul(d, d), tile_abs(d)};
}

static void take_max(dt_divergence *out, lanes abs)
{
    double most[LANES];
    lanes_store(most, abs);
    for (int b = 0; b < LANES; b++)
        if (most[b] > out->max_abs) out->max_abs = most[b];
}

INLINE void diverge_group(const dt_softmax *p, const dt_softmax *q, int64_t n, int64_t first,
                          int full, dt_divergence *out)
{
    const int64_t len = group_length(n, first);
    lanes kl = lanes_zero(), sq = kl, abs = kl;
    for (int64_t i = 0; i < len; i += 4) {
        const terms t =
            terms_of(p, q, load(p->x, n, first, full, i), load(q->x, n, first, full, i));
        kl = lanes_add(kl, t.kl);
        sq = lanes_add(sq, t.sq);
        abs = lanes_max(abs, t.abs);
    }
    out->kl = add_blocks(out->kl, kl);
    out->sum_sq = add_blocks(out->sum_sq, sq);
    take_max(out, abs);
}

static void diverge_last(const dt_softmax *p, const dt_softmax *q, int64_t n, int64_t first,
                         dt_divergence *out)
{
    double kl = 0.0, sq = 0.0;
    lanes abs = lanes_zero();
    for (int64_t i = first; i < n; i += RUN) {
        const terms t = terms_of(p, q, load_run(p->x, n, i), load_run(q->x, n, i));
        kl = add_run(kl, t.kl);
        sq = add_run(sq, t.sq);
        abs = lanes_max(abs, t.abs);
    }
    out->kl += kl;
    out->sum_sq += sq;
    take_max(out, abs);
}

static void diverge(const dt_softmax *p, const dt_softmax *q, int64_t n, dt_divergence *out)
{
    int64_t first = 0;
    *out = (dt_divergence){0, 0, 0};
    for (; first + GROUP <= n; first += GROUP)
        diverge_group(p, q, n, first, 1, out);
    if (first == n) return;
    if (n - first <= DT_VOCAB_BLOCK)
        diverge_last(p, q, n, first, out);
    else
        diverge_group(p, q, n, first, 0, out);
}

/* ---- the scan ------------------------------------------------------------------------------- */

/* What a pass over one chunk of a row finds. */
typedef struct chunk_info {
    float max;
    uint32_t magnitude; /* largest bits without sign; from 0x7f800000 on they are not finite */
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
