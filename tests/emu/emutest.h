/* emutest.h - what the kernel tests share: cmocka, device arrays, test data, bitwise comparison. Most
 * tests compile with nvcc as well (`make cuda-tests`) and then run on a GPU.
 *
 * The expected values of a kernel test are scalar loops written from docs/numerics.md, in the test itself.
 * Every launch is repeated under several schedule seeds: results must not depend on the order of threads
 * and blocks. */
#ifndef KV_TESTS_EMUTEST_H
#define KV_TESTS_EMUTEST_H

#include "common/rng.h"
#include "gpu/policy.cuh"
#include "gpu/session.cuh"

#include <fstream>
#include <setjmp.h>
#include <sstream>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <string>
#include <vector>

/* Last: its macro fail() would cut into other headers. */
extern "C" {
#include <cmocka.h>
}

#define assert_ok(expr)                                                                            \
    do {                                                                                           \
        const kv_status emutest_st = (expr);                                                       \
        if (emutest_st != KV_OK)                                                                   \
            fail_msg("%s: %s: %s", #expr, kv_status_name(emutest_st), kv_message());               \
    } while (0)

namespace emutest
{
/* Schedule seeds of every kernel test; 0 is ascending order. */
const uint64_t SEEDS[] = {0, 1, 2, 3, 4, 5};

/* A stream for one run. */
struct stream {
    cudaStream_t s = nullptr;

    explicit stream(uint64_t seed = 0, int32_t threads = 2) { assert_ok(gpu_stream_open(&s, seed, threads)); }
    stream(const stream &) = delete;
    stream &operator=(const stream &) = delete;
    ~stream() { gpu_stream_close(s); }
    void finish() const { assert_ok(gpu_stream_finish(s)); }
};

/* A device array. What is not uploaded is NaN. */
template <class T> struct array {
    gpu_buffer<T> b;

    explicit array(size_t n) { assert_ok(b.reserve(n)); }
    array(const std::vector<T> &v, const stream &on)
    {
        assert_ok(b.reserve(v.size()));
        assert_ok(gpu_copy_up(b.p, v.data(), v.size() * sizeof(T), on.s));
    }
    T *p() const { return b.p; }
    std::vector<T> get(const stream &on) const
    {
        std::vector<T> v(b.n);
        assert_ok(gpu_copy_down(v.data(), b.p, v.size() * sizeof(T), on.s));
        on.finish();
        return v;
    }
};

typedef array<float> floats;
typedef array<int32_t> ints;

/* n values around scale: most uniform, one in eight tiny, one in eight large, some zeros of both signs. */
inline std::vector<float> noise(size_t n, uint64_t seed, float scale = 1.0f)
{
    std::vector<float> v(n);
    for (size_t i = 0; i < n; i++) {
        const uint32_t w = kv_philox_word(seed, 1, i);
        const float u = (float)((int32_t)(w >> 8) - (1 << 23)) * 0x1p-23f * scale;
        switch (w & 31) {
        case 0:
            v[i] = w & 32 ? 0.0f : -0.0f;
            break;
        case 1:
        case 2:
        case 3:
        case 4:
            v[i] = u * 0x1p-12f;
            break;
        case 5:
        case 6:
        case 7:
        case 8:
            v[i] = u * 4.0f;
            break;
        default:
            v[i] = u;
        }
    }
    return v;
}

/* The same bits, everywhere. */
inline void assert_bits(const std::vector<float> &got, const std::vector<float> &wanted, const char *what,
                        uint64_t seed)
{
    assert_int_equal(got.size(), wanted.size());
    for (size_t i = 0; i < got.size(); i++)
        if (kv_f2bits(got[i]) != kv_f2bits(wanted[i]))
            fail_msg("%s, seed %llu: value %zu is %a (%08x), by definition %a (%08x)", what,
                     (unsigned long long)seed, i, (double)got[i], (unsigned)kv_f2bits(got[i]),
                     (double)wanted[i], (unsigned)kv_f2bits(wanted[i]));
}

/* ---- docs/numerics.md, section 3, as scalar loops ---- */

/* One output of a matrix product: x[k] and a row of weights w[k]. */
inline float product(const float *x, const float *w, int32_t k)
{
    float total = 0.0f;
    for (int32_t b = 0; b < k; b += 256) {
        float acc = 0.0f;
        for (int32_t i = b; i < k && i < b + 256; i++) acc = kv_fma(x[i], w[i], acc);
        total = b == 0 ? acc : total + acc;
    }
    return total;
}

/* Ends R64: adds the 64 lanes up. */
inline float tree64(float *lane)
{
    for (int s = 32; s > 0; s /= 2)
        for (int j = 0; j < s; j++) lane[j] = lane[j] + lane[j + s];
    return lane[0];
}

inline void rmsnorm(const float *x, const float *w, int32_t n, float eps, float *y)
{
    float lane[64] = {0};
    for (int32_t i = 0; i < n; i++) lane[i % 64] = kv_fma(x[i], x[i], lane[i % 64]);
    const float mean = tree64(lane) / (float)n;
    const float r = 1.0f / kv_sqrt(mean + eps);
    for (int32_t i = 0; i < n; i++) {
        const float v = x[i] * r;
        y[i] = w ? v * w[i] : v;
    }
}

inline float swiglu(float g, float u) { return g / (1.0f + kv_exp(-g)) * u; }

inline float nll(const float *x, int32_t vocab, int32_t target)
{
    int32_t key = INT32_MIN;
    for (int32_t i = 0; i < vocab; i++)
        if (kv_max_key(x[i]) > key) key = kv_max_key(x[i]);
    const float m = kv_max_unkey(key);
    float sum = 0.0f;
    for (int32_t b = 0; b < vocab; b += 4096) {
        float lane[64] = {0};
        for (int32_t i = b; i < vocab && i < b + 4096; i++) lane[(i - b) % 64] += kv_exp(x[i] - m);
        sum = sum + tree64(lane);
    }
    return kv_log(sum) - (x[target] - m);
}

/* Rotates one head in place. */
inline void rope(float *head, int32_t dims, bool half, const float *cosines, const float *sines)
{
    for (int32_t i = 0; i < dims / 2; i++) {
        float *const a = head + (half ? i : 2 * i), *const b = half ? head + i + dims / 2 : a + 1;
        const float x = *a, y = *b, bs = y * sines[i], as = x * sines[i];
        *a = kv_fma(x, cosines[i], -bs);
        *b = kv_fma(y, cosines[i], as);
    }
}

/* Section 4, the combination of chunks: maxima, sums and weighted values [chunk][head_dim]. */
inline void combine(const std::vector<float> &maxima, const std::vector<float> &sums, const std::vector<float> &o,
                    int32_t head_dim, float *out)
{
    const size_t d_n = (size_t)head_dim;
    int32_t key = INT32_MIN;
    for (const float m : maxima)
        if (kv_max_key(m) > key) key = kv_max_key(m);
    const float most = kv_max_unkey(key);
    float l = 0.0f;
    for (size_t c = 0; c < maxima.size(); c++) l = kv_fma(sums[c], kv_exp(maxima[c] - most), l);
    for (size_t d = 0; d < d_n; d++) {
        float acc = 0.0f;
        for (size_t c = 0; c < maxima.size(); c++)
            acc = kv_fma(o[c * d_n + d], kv_exp(maxima[c] - most), acc);
        out[d] = acc / l + 0.0f;
    }
}

/* Section 4 for one query row and head: q is scaled already; entry v's key is keys[v], its value
 * values[v], head_dim floats each. */
inline void attend(const float *q, const std::vector<const float *> &keys,
                   const std::vector<const float *> &values, int32_t head_dim, float *out)
{
    const size_t n = keys.size(), d_n = (size_t)head_dim;
    std::vector<float> maxima, sums, o;
    for (size_t c = 0; c < n; c += 256) {
        const size_t end = c + 256 < n ? c + 256 : n;
        std::vector<float> p;
        int32_t key = INT32_MIN;
        for (size_t v = c; v < end; v++) {
            float acc = 0.0f;
            for (size_t d = 0; d < d_n; d++) acc = kv_fma(q[d], keys[v][d], acc);
            p.push_back(acc);
            if (kv_max_key(acc) > key) key = kv_max_key(acc);
        }
        const float m = kv_max_unkey(key);
        float l = 0.0f;
        for (float &x : p) {
            x = kv_exp(x - m);
            l = l + x;
        }
        for (size_t d = 0; d < d_n; d++) {
            float acc = 0.0f;
            for (size_t v = c; v < end; v++) acc = kv_fma(p[v - c], values[v][d], acc);
            o.push_back(acc);
        }
        maxima.push_back(m);
        sums.push_back(l);
    }
    combine(maxima, sums, o, head_dim, out);
}
} // namespace emutest

#endif
