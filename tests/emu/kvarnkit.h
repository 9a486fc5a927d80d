/* kvarnkit.h - storage kvarn as scalar loops written from docs/policy/kvarn.md: rotation, coding of a tile, attention
 * on codes. Slow and plain on purpose. */
#ifndef KV_TESTS_KVARNKIT_H
#define KV_TESTS_KVARNKIT_H

#include "tests/emu/emutest.h"

#include "common/tile.h"

#include <math.h>

namespace emutest
{
/* A layout for any shape; kv_kvarn_layout_of knows those that policies may ask for. */
inline kv_kvarn_layout kvarn_layout(int32_t T, int32_t D, int32_t kbits, int32_t vbits)
{
    kv_kvarn_layout l = {};
    l.T = T;
    l.D = D;
    l.v_group = D < 128 ? D : 128;
    l.v_groups = D / l.v_group;
    l.k_row = T * kbits / 8;
    l.v_row = D * vbits / 8;
    l.k_scale = D * l.k_row;
    l.k_zero = l.k_scale + 2 * D;
    l.k_col = l.k_zero + 2 * D;
    l.v_codes = l.k_col + 2 * T;
    l.v_col = l.v_codes + T * l.v_row;
    l.v_scale = l.v_col + 2 * D;
    l.v_zero = l.v_scale + 2 * T * l.v_groups;
    l.bytes = l.v_zero + 2 * T * l.v_groups;
    return l;
}

inline void hadamard(float *x, int32_t D)
{
    for (int32_t h = 1; h < D; h *= 2)
        for (int32_t i = 0; i < D; i++)
            if ((i & h) == 0) {
                const float a = x[i], b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
    const float scale = (float)(1.0 / kv_dsqrt((double)D));
    for (int32_t i = 0; i < D; i++) x[i] = x[i] * scale;
}

inline float rint_of_page(float y)
{
    if (!(fabsf(y) < 8388608.0f)) return y;
    return copysignf((fabsf(y) + 8388608.0f) - 8388608.0f, y);
}

inline float clip_of_page(float x, float lo, float hi) { return !(x > lo) ? lo : x > hi ? hi : x; }

/* A matrix of the page with its balance. */
struct kvarn_matrix {
    int32_t R, C;
    std::vector<float> x, best_c, best_r; /* x[r * C + c] */
    std::vector<float> trace;             /* imbalance before the first round and after each */
    int32_t best_round = 0;

    static float std_of(const std::vector<float> &v)
    {
        const float n = (float)v.size();
        float sum = 0.0f, s = 0.0f;
        for (const float a : v) sum = sum + a;
        const float mean = sum / n;
        for (const float a : v) {
            const float d = a - mean, dd = d * d;
            s = s + dd;
        }
        return kv_sqrt(s / (n - 1.0f));
    }

    std::vector<float> divided(const std::vector<float> &c, const std::vector<float> &r) const
    {
        std::vector<float> y(x.size());
        for (int32_t i = 0; i < R; i++)
            for (int32_t j = 0; j < C; j++)
                y[(size_t)(i * C + j)] = x[(size_t)(i * C + j)] / c[(size_t)j] / r[(size_t)i];
        return y;
    }

    std::vector<float> stds(const std::vector<float> &y, bool of_columns) const
    {
        std::vector<float> out;
        for (int32_t a = 0; a < (of_columns ? C : R); a++) {
            std::vector<float> v;
            for (int32_t b = 0; b < (of_columns ? R : C); b++)
                v.push_back(y[(size_t)(of_columns ? b * C + a : a * C + b)]);
            out.push_back(std_of(v));
        }
        return out;
    }

    float imbalance(const std::vector<float> &y) const
    {
        float i[2] = {0.0f, 0.0f};
        for (const bool of_columns : {true, false}) {
            const std::vector<float> s = stds(y, of_columns);
            float most = s[0], least = s[0];
            for (const float a : s) {
                if (a > most) most = a;
                if (a < least) least = a;
            }
            i[of_columns ? 0 : 1] = most / (least > 1e-8f ? least : 1e-8f);
        }
        return i[0] + i[1];
    }

    void balance(const kv_kvarn_params &p)
    {
        std::vector<float> lc((size_t)C, 0.0f), lr((size_t)R, 0.0f), ec((size_t)C, 1.0f), er((size_t)R, 1.0f), cur = x;
        best_c = ec;
        best_r = er;
        float best = imbalance(cur);
        trace.push_back(best);
        for (int32_t round = 1; round <= p.iters; round++) {
            for (const bool of_columns : {true, false}) {
                const std::vector<float> s = stds(cur, of_columns);
                std::vector<float> &l = of_columns ? lc : lr, &e = of_columns ? ec : er;
                for (size_t a = 0; a < l.size(); a++) {
                    const float log = (float)kv_log_core((double)clip_of_page(s[a], 1e-3f, 1e3f));
                    l[a] = clip_of_page(l[a] + log, -0.3f, 10.0f);
                    e[a] = (float)kv_exp_core((double)l[a]);
                }
                cur = divided(ec, er);
            }
            trace.push_back(imbalance(cur));
            if (trace.back() <= (p.tie == KV_TIE_REL ? best * 1.00001f : best)) {
                best_c = ec;
                best_r = er;
                best = trace.back();
                best_round = round;
            }
        }
    }

    /* Writes codes, S and Z of rows, scale of columns. */
    void code(int32_t groups, int32_t bits, int32_t dialect, uint8_t *codes, int32_t row_bytes, uint8_t *scale,
              uint8_t *zero, uint8_t *column) const
    {
        const std::vector<float> b = divided(best_c, best_r);
        const int32_t n = C / groups, last = (1 << bits) - 1;
        for (int32_t r = 0; r < R; r++)
            for (int32_t g = 0; g < groups; g++) {
                const float *const v = &b[(size_t)(r * C + g * n)];
                float s, z;
                affine(v, n, last, dialect, &s, &z);
                for (int32_t i = 0; i < n; i++) {
                    const float q = clip_of_page(rint_of_page((v[i] - z) / s), 0.0f, (float)last);
                    kv_code_put(codes + r * row_bytes, g * n + i, bits, (uint32_t)q);
                }
                half(scale, r * groups + g, s * best_r[(size_t)r]);
                half(zero, r * groups + g, z * best_r[(size_t)r]);
            }
        for (int32_t c = 0; c < C; c++) half(column, c, best_c[(size_t)c]);
    }

    static void half(uint8_t *array, int32_t i, float x)
    {
        const uint16_t h = kv_f2f16(clip_of_page(x, -65504.0f, 65504.0f));
        memcpy(array + 2 * i, &h, 2);
    }

    static void affine(const float *v, int32_t n, int32_t last, int32_t dialect, float *s, float *z)
    {
        float lo = v[0], hi = v[0];
        for (int32_t i = 0; i < n; i++) {
            if (kv_max_key(v[i]) < kv_max_key(lo)) lo = v[i];
            if (kv_max_key(v[i]) > kv_max_key(hi)) hi = v[i];
        }
        const float step = (hi - lo) / (float)last;
        if (dialect == KV_KVARN_A) {
            *s = step > 1e-10f ? step : 1e-10f;
            *z = lo;
            return;
        }
        const float s0 = step > 1e-7f ? step : 1e-7f;
        const bool low = fabsf(lo) > fabsf(hi);
        const float edge = low ? lo : hi;
        *s = low ? s0 : -s0;
        const float q0 = rint_of_page(edge / *s);
        *z = 0.0f;
        if (q0 != 0.0f) *s = edge / q0, *z = edge;
    }
};

/* One KV head's tile: rotated rows [T][D] of K and V. */
struct kvarn_tile {
    kv_kvarn_layout l;
    kv_kvarn_params p;
    std::vector<uint8_t> record;
    kvarn_matrix k, v;

    kvarn_tile(const kv_kvarn_layout &layout, const kv_kvarn_params &params, const float *k_rows, const float *v_rows,
               int64_t stride)
        : l(layout), p(params), record((size_t)layout.bytes)
    {
        k.R = l.D, k.C = l.T, v.R = l.T, v.C = l.D;
        for (int32_t d = 0; d < l.D; d++)
            for (int32_t t = 0; t < l.T; t++) k.x.push_back(k_rows[t * stride + d]);
        for (int32_t t = 0; t < l.T; t++) v.x.insert(v.x.end(), v_rows + t * stride, v_rows + t * stride + l.D);
        uint8_t *const r = record.data();
        k.balance(p);
        k.code(1, p.kbits, p.dialect, r + l.k_codes, l.k_row, r + l.k_scale, r + l.k_zero, r + l.k_col);
        v.balance(p);
        v.code(l.v_groups, p.vbits, p.dialect, r + l.v_codes, l.v_row, r + l.v_scale, r + l.v_zero, r + l.v_col);
    }

    float half(int32_t array, int32_t i) const
    {
        uint16_t h;
        memcpy(&h, &record[(size_t)(array + 2 * i)], 2);
        return kv_f162f(h);
    }
    /* w * S + Z */
    float key(int32_t t, int32_t d) const
    {
        const float w = (float)kv_code_get(&record[(size_t)(l.k_codes + d * l.k_row)], t, p.kbits);
        return w * half(l.k_scale, d) + half(l.k_zero, d);
    }
    float value(int32_t t, int32_t d) const
    {
        const int32_t g = t * l.v_groups + d / l.v_group;
        const float w = (float)kv_code_get(&record[(size_t)(l.v_codes + t * l.v_row)], d, p.vbits);
        return w * half(l.v_scale, g) + half(l.v_zero, g);
    }
};

/* One row and head: q is rotated and scaled; the view is tiles, then rotated rows; the row sees its first n entries. */
inline void kvarn_attend(const float *q, const std::vector<kvarn_tile> &tiles, const std::vector<const float *> &k_tail,
                         const std::vector<const float *> &v_tail, int32_t T, int32_t D, int32_t n, float *out)
{
    const int32_t coded = (int32_t)tiles.size() * T;
    std::vector<float> maxima, sums, os;
    for (int32_t c = 0; c < n; c += 256) {
        const int32_t end = c + 256 < n ? c + 256 : n;
        std::vector<float> p;
        int32_t key = INT32_MIN;
        for (int32_t e = c; e < end; e++) {
            float s = 0.0f;
            for (int32_t d = 0; d < D; d++)
                s = kv_fma(q[d], e < coded ? tiles[(size_t)(e / T)].key(e % T, d) : k_tail[(size_t)(e - coded)][d], s);
            if (e < coded) s = s * tiles[(size_t)(e / T)].half(tiles[0].l.k_col, e % T);
            p.push_back(s);
            if (kv_max_key(s) > key) key = kv_max_key(s);
        }
        const float m = kv_max_unkey(key);
        float l = 0.0f;
        for (float &s : p) {
            s = kv_exp(s - m);
            l = l + s;
        }
        for (int32_t d = 0; d < D; d++) {
            float o = 0.0f;
            int32_t e = c;
            for (; e < end && e < coded; e = (e / T + 1) * T) {
                const kvarn_tile &tile = tiles[(size_t)(e / T)];
                float a = 0.0f;
                for (int32_t t = 0; t < T && e + t < end; t++) a = kv_fma(p[(size_t)(e + t - c)], tile.value(t, d), a);
                o = kv_fma(a, tile.half(tile.l.v_col, d), o);
            }
            if (e < end) {
                float a = 0.0f;
                for (; e < end; e++) a = kv_fma(p[(size_t)(e - c)], v_tail[(size_t)(e - coded)][d], a);
                o = o + a;
            }
            os.push_back(o);
        }
        maxima.push_back(m);
        sums.push_back(l);
    }
    combine(maxima, sums, os, D, out);
}
} // namespace emutest

#endif
