#include "tests/golden/first_tile.h"

#include "common/tile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 32, MAX_CODES = 64 * 128 };

/* One of K and V: codes in rows, and up to three lists of numbers. */
typedef struct half {
    const json_t *want;
    int32_t rows, columns;
    int fp32, is_f16;        /* of the side; of the codes */
    uint32_t got[MAX_CODES]; /* [rows][columns] */
    int32_t wrong, soft;     /* codes that differ although they must not; soft ones that do */
    double worst;            /* largest difference of a scale, in its allowed steps */
} half;

/* ---- golden values ----------------------------------------------------------------------------------- */

static uint32_t hex_byte(const char *text, size_t i)
{
    const char digits[3] = {text[2 * i], text[2 * i + 1], 0};
    return (uint32_t)strtoul(digits, NULL, 16);
}

static uint32_t hex_word(const char *text, size_t i)
{
    return hex_byte(text, 2 * i) | hex_byte(text, 2 * i + 1) << 8;
}

static int is_soft(const json_t *want, int32_t row, int32_t column)
{
    const json_t *list = json_object_get(want, "soft_codes");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *pair = json_array_get(list, i);
        if (json_integer_value(json_array_get(pair, 0)) == row && json_integer_value(json_array_get(pair, 1)) == column)
            return 1;
    }
    return 0;
}

/* Code `at` of golden text: `bits` wide, lowest bits first, rows of whole bytes; 16: words. */
static uint32_t golden_code(const char *text, int32_t columns, int32_t row, int32_t column, int32_t bits)
{
    uint8_t bytes[256];
    const size_t row_bytes = (size_t)(columns * bits / 8);
    if (bits == 16) return hex_word(text, (size_t)(row * columns + column));
    for (size_t i = 0; i < row_bytes; i++)
        bytes[i] = (uint8_t)hex_byte(text, (size_t)row * row_bytes + i);
    return kv_code_get(bytes, column, bits);
}

/* Soft codes were found by their distance from a tie in steps. The error of an element in fp32 does not shrink with it
 * (it is a difference of two products), its step does: below 1/4 a step of f16 is so small that any element may lie
 * next to a tie for fp32. */
static int is_small(const half *x, uint32_t word, int32_t bits)
{
    return x->fp32 && bits == 16 && x->is_f16 && (word & 0x7fff) < 0x3400;
}

/* fp16 words as integers in which neighbours differ by one. */
static int32_t ordered(uint32_t h)
{
    return h & 0x8000 ? -(int32_t)(h & 0x7fff) : (int32_t)h;
}

static void compare_codes(half *x, int32_t bits)
{
    const char *text = golden_text(x->want, "codes");
    if (strlen(text) != (size_t)(x->rows * x->columns * bits / 8 * 2)) golden_die("golden codes of another size");
    for (int32_t r = 0; r < x->rows; r++)
        for (int32_t c = 0; c < x->columns; c++) {
            uint32_t want = golden_code(text, x->columns, r, c, bits), got = x->got[r * x->columns + c];
            if (want == got) continue;
            const int32_t off = bits == 16 ? ordered(want) - ordered(got) : (int32_t)want - (int32_t)got;
            const int allowed = abs(off) == 1 && (is_soft(x->want, r, c) || is_small(x, want, bits));
            x->soft += allowed;
            x->wrong += !allowed;
        }
}

static void compare_f16(half *x, const char *key, const uint8_t *got, int32_t n)
{
    const char *text = golden_text(x->want, key);
    if (strlen(text) != (size_t)n * 4) golden_die("golden scales '%s' of another size", key);
    for (int32_t i = 0; i < n; i++) {
        const uint32_t word = (uint32_t)got[2 * i] | (uint32_t)got[2 * i + 1] << 8;
        x->worst = fmax(x->worst, abs(ordered(hex_word(text, (size_t)i)) - ordered(word)));
    }
}

static void compare_f32(half *x, const char *key, int32_t i, const uint8_t *got)
{
    float v;
    const json_t *list = json_object_get(x->want, key);
    memcpy(&v, got, sizeof v);
    const double want = json_number_value(json_array_get(list, (size_t)i));
    x->worst = fmax(x->worst, fabs(want - (double)v) / (1e-5 * fmax(1, fabs(want))));
    if ((int32_t)json_array_size(list) != TOKENS) golden_die("golden scales '%s' of another size", key);
}

static void report(const half *x, const char *name, const char *which)
{
    golden_ok(!x->wrong && x->soft <= x->rows * x->columns / 100 && x->worst <= 1,
              "%s: first tile of %s: %d codes wrong (%d soft ones differ), scales within %.2f of what is allowed",
              name, which, x->wrong, x->soft, x->worst);
}

/* ---- records of each storage ------------------------------------------------------------------------- */

static const uint8_t *record(const golden_state *g, int64_t entry)
{
    const uint8_t *p = g->v.records;
    for (int64_t i = 0; i < entry; i++)
        p += kv_state_record_stride(&g->h, &g->v, i);
    return p;
}

static void read_codes(half *x, const uint8_t *rows, int32_t row_bytes, int32_t bits)
{
    for (int32_t r = 0; r < x->rows; r++)
        for (int32_t c = 0; c < x->columns; c++)
            x->got[r * x->columns + c] = kv_code_get(rows + r * row_bytes, c, bits);
}

/* 16-bit words: K row, V row per token. */
static void rows_tile(const golden_state *g, half *k, half *v)
{
    const int32_t D = g->h.head_dim;
    for (int32_t t = 0; t < TOKENS; t++) {
        const uint8_t *p = record(g, t);
        for (int32_t d = 0; d < 2 * D; d++) {
            half *x = d < D ? k : v;
            x->got[t * D + d % D] = (uint32_t)p[2 * d] | (uint32_t)p[2 * d + 1] << 8;
        }
    }
    compare_codes(k, 16);
    compare_codes(v, 16);
}

static void kvarn_tile(const golden_state *g, const kv_kvarn_params *p, half *k, half *v)
{
    const kv_kvarn_layout l = kv_kvarn_layout_of(p, g->h.head_dim);
    const uint8_t *r = record(g, 0);
    if (g->v.bytes[0] != l.bytes) golden_die("the first record is no tile");
    read_codes(k, r, l.k_row, p->kbits);
    read_codes(v, r + l.v_codes, l.v_row, p->vbits);
    compare_codes(k, p->kbits);
    compare_codes(v, p->vbits);
    compare_f16(k, "S", r + l.k_scale, l.D);
    compare_f16(k, "Z", r + l.k_zero, l.D);
    compare_f16(k, "c", r + l.k_col, l.T);
    compare_f16(v, "c", r + l.v_col, l.D);
    compare_f16(v, "S", r + l.v_scale, l.T * l.v_groups);
    compare_f16(v, "Z", r + l.v_zero, l.T * l.v_groups);
}

/* Entry that holds og; dies when there is none. */
static int64_t find(const golden_state *g, int64_t og)
{
    for (int64_t i = 0; i < g->v.run->n; i++)
        if (g->v.og[i] == og) return i;
    golden_die("no entry of original index %lld", (long long)og);
}

static void kivi_tile(const golden_state *g, const kv_kivi_params *p, half *k, half *v)
{
    const kv_kivi_layout l = kv_kivi_layout_of(p, g->h.head_dim);
    const uint8_t *r = record(g, find(g, 0));
    if (l.R != TOKENS || l.G != TOKENS || l.D != TOKENS) golden_die("one group per row is what this test knows");
    read_codes(k, r, l.k_row, p->bits);
    for (int32_t i = 0; i < TOKENS; i++) {
        compare_f32(k, "scale", i, r + l.k_scale + 4 * i);
        compare_f32(k, "mn", i, r + l.k_min + 4 * i);
    }
    for (int32_t t = 0; t < TOKENS; t++) {
        const int64_t entry = find(g, KV_KIVI_V + t);
        r = record(g, entry);
        if (g->v.bytes[entry] != l.v_bytes) golden_die("V of token %d is not coded", t);
        for (int32_t c = 0; c < l.D; c++)
            v->got[t * l.D + c] = kv_code_get(r, c, p->bits);
        compare_f32(v, "scale", t, r + l.v_scale);
        compare_f32(v, "mn", t, r + l.v_min);
    }
    compare_codes(k, p->bits);
    compare_codes(v, p->bits);
}

void golden_first_tile(golden_stream *s, const kv_policy *p, const json_t *tile, const char *name, int fp32)
{
    golden_state g;
    static half k, v;
    golden_export(s, 0, 0, KV_STATE_KV, &g);
    const int32_t D = g.h.head_dim;
    const int rows = p->storage == KV_STORE_F16 || p->storage == KV_STORE_BF16;
    k = (half){.want = json_object_get(tile, "K"),
               .rows = rows ? TOKENS : D,
               .columns = rows ? D : TOKENS,
               .fp32 = fp32,
               .is_f16 = p->storage == KV_STORE_F16};
    v = (half){.want = json_object_get(tile, "V"),
               .rows = TOKENS,
               .columns = D,
               .fp32 = fp32,
               .is_f16 = p->storage == KV_STORE_F16};
    if (rows)
        rows_tile(&g, &k, &v);
    else if (p->storage == KV_STORE_KVARN)
        kvarn_tile(&g, &p->kvarn, &k, &v);
    else
        kivi_tile(&g, &p->kivi, &k, &v);
    report(&k, name, "K");
    report(&v, name, "V");
    golden_state_free(&g);
}
