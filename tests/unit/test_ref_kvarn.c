/* Storage kvarn of the reference, the numbers: the golden tile of tests/golden/kvarn_golden.json to the bit, coding and
 * attention on codes against the plain loops of kvarnnaive.h, for every instruction set. test_ref_double.c runs the same
 * cases in double; whole sessions are in test_ref_tiles.c. */
#include "tests/unit/kvarnnaive.h"

#include "ref/storage/kvarn.h"

#include <jansson.h>

/* ---- the golden tile ------------------------------------------------------------------------------------------- */

enum { G = 8 }; /* tokens, channels and channels of a group there */

static kv_kvarn_layout golden_layout(int32_t kbits, int32_t vbits)
{
    kv_kvarn_layout l = {.T = G, .D = G, .v_group = G, .v_groups = 1, .k_row = kbits, .v_row = vbits};
    l.k_scale = G * l.k_row;
    l.k_zero = l.k_scale + 2 * G;
    l.k_col = l.k_zero + 2 * G;
    l.v_codes = l.k_col + 2 * G;
    l.v_col = l.v_codes + G * l.v_row;
    l.v_scale = l.v_col + 2 * G;
    l.v_zero = l.v_scale + 2 * G;
    l.bytes = l.v_zero + 2 * G;
    return l;
}

static json_t *golden_file(void)
{
    json_error_t e;
    json_t *j = json_load_file("tests/golden/kvarn_golden.json", 0, &e);
    if (!j) fail_msg("tests/golden/kvarn_golden.json: %s", e.text);
    return j;
}

/* rows[t][d] of K or V, rotated. */
static void golden_rows(const json_t *part, real *rows)
{
    for (size_t t = 0; t < G; t++) {
        for (size_t d = 0; d < G; d++)
            rows[t * G + d] =
                (real)json_number_value(json_array_get(json_array_get(json_object_get(part, "input"), t), d));
        kvarn_rotate(rows + t * G, G);
    }
}

static void same_hex(const json_t *list, size_t i, uint32_t got, const char *what)
{
    const char *text = json_string_value(json_array_get(list, i));
    assert_non_null(text);
    if (strtoul(text, NULL, 16) != got) fail_msg("%s %zu: %x, golden %s", what, i, got, text);
}

static void same_halves(const json_t *list, const uint8_t *halves, const char *what)
{
    assert_int_equal(json_array_size(list), G);
    for (size_t i = 0; i < G; i++)
        same_hex(list, i, (uint32_t)(halves[2 * i] | halves[2 * i + 1] << 8), what);
}

static void same_floats(const json_t *list, const real *x, size_t n, const char *what)
{
    assert_int_equal(json_array_size(list), n);
    for (size_t i = 0; REF_BITS == 32 && i < n; i++)
        same_hex(list, i, (uint32_t)kv_f2bits((float)x[i]), what);
}

static void check_golden_part(const ref_kernels *k, const json_t *part, int values, int dialect)
{
    const kv_kvarn_params p = {.tile = G, .kbits = 4, .vbits = 2, .iters = 8, .dialect = dialect};
    const ref_kvarn_coder coder = {k, p, golden_layout(4, 2)};
    const kv_kvarn_layout *l = &coder.layout;
    const json_t *d = json_object_get(part, dialect == KV_KVARN_A ? "A" : "B");
    const json_t *trace = json_object_get(part, "imbalance_trace");
    uint8_t record[512] = {0};
    real rows[G * G], imbalance[9], *x = calloc((size_t)REF(kvarn_scratch)(l), sizeof *x);
    assert_non_null(x);
    golden_rows(part, rows);
    same_floats(json_object_get(part, "rotated_f32"), rows, G * G, "rotated value");
    for (int64_t t = 0; t < G; t++)
        for (int64_t c = 0; c < G; c++)
            x[values ? t * 16 + c : c * 16 + t] = rows[t * G + c];
    (values ? REF(kvarn_code_values) : REF(kvarn_code_keys))(&coder, x, record, imbalance);
    for (size_t i = 0; i < 9; i++)
        if (REF_BITS == 32)
            assert_true((real)json_number_value(json_array_get(trace, i)) == imbalance[i]);
    const real *col = x + 2 * G * 16, *row = col + 16; /* as kvarn.c lays out its scratch */
    same_floats(json_object_get(part, "col_scale_f32"), col, G, "column scale");
    same_floats(json_object_get(part, "row_scale_f32"), row, G, "row scale");
    for (int32_t r = 0; r < G; r++) {
        const uint8_t *codes = record + (values ? l->v_codes + r * l->v_row : l->k_codes + r * l->k_row);
        for (int32_t i = 0; i < G; i++)
            assert_int_equal(kv_code_get(codes, i, values ? 2 : 4),
                             json_integer_value(json_array_get(json_array_get(json_object_get(d, "codes"), (size_t)r), (size_t)i)));
        for (int32_t i = 0; i < (values ? 2 : 4); i++)
            assert_int_equal(codes[i], json_integer_value(json_array_get(
                                           json_array_get(json_object_get(d, "packed"), (size_t)r), (size_t)i)));
    }
    same_halves(json_object_get(d, "fused_scale_f16"), record + (values ? l->v_scale : l->k_scale), "scale");
    same_halves(json_object_get(d, "fused_zero_f16"), record + (values ? l->v_zero : l->k_zero), "zero");
    same_halves(json_object_get(d, "col_scale_f16"), record + (values ? l->v_col : l->k_col), "column scale");
    free(x);
}

static void golden_tile_to_the_bit(void **state)
{
    (void)state;
    const ref_kernels *t[NAIVE_TABLES];
    json_t *j = golden_file();
    for (int i = naive_tables(t, NULL) - 1; i >= 0; i--)
        for (int values = 0; values < 2; values++)
            for (int dialect = 0; dialect < 2; dialect++)
                check_golden_part(t[i], json_object_get(j, values ? "V" : "K"), values, dialect);
    json_decref(j);
}

/* Next cell of a table row; *at moves behind it. */
static const char *next_cell(const char **at)
{
    const char *cell = strchr(*at, '|');
    assert_non_null(cell);
    *at = cell + 1;
    return cell + 1;
}

/* A row of the page's table: its codes, S and Z of both dialects. */
static void check_page_row(const char *line, const json_t *part, size_t row)
{
    static const char *const dialects[] = {"A", "B"};
    const char *at = line;
    assert_int_equal(strtol(next_cell(&at), NULL, 10), row);
    for (int d = 0; d < 2; d++) {
        const json_t *want = json_object_get(part, dialects[d]);
        char *p = (char *)(uintptr_t)next_cell(&at);
        for (size_t i = 0; i < G; i++)
            assert_int_equal(strtol(p, &p, 10),
                             json_integer_value(json_array_get(json_array_get(json_object_get(want, "codes"), row), i)));
        p = (char *)(uintptr_t)next_cell(&at);
        same_hex(json_object_get(want, "fused_scale_f16"), row, (uint32_t)strtoul(p, &p, 16), "scale on the page");
        same_hex(json_object_get(want, "fused_zero_f16"), row, (uint32_t)strtoul(p, &p, 16), "zero on the page");
    }
}

/* docs/policy/kvarn.md shows the golden tile. */
static void the_page_shows_the_golden_tile(void **state)
{
    (void)state;
    static const char *const parts[] = {"K", "V"}, *const inputs[] = {"; K:", "\nV:"};
    static const char *const tables[] = {"| K, channel", "| V, token"};
    size_t size;
    char *page = (char *)kvtest_read("docs/policy/kvarn.md", &size), *at = strstr(page, "## Worked example");
    json_t *j = golden_file();
    assert_non_null(at);
    for (int k = 0; k < 2; k++) {
        const json_t *part = json_object_get(j, parts[k]);
        char *p = strstr(at, inputs[k]) + strlen(inputs[k]);
        for (size_t i = 0; i < G * G; i++) {
            const json_t *row = json_array_get(json_object_get(part, "input"), i / G);
            assert_true((double)strtol(p, &p, 10) / 16 == json_number_value(json_array_get(row, i % G)));
        }
        p = strstr(at, tables[k]);
        assert_non_null(p);
        p = strchr(strchr(p, '\n') + 1, '\n') + 1;
        for (size_t row = 0; row < G; row++, p = strchr(p, '\n') + 1)
            check_page_row(p, part, row);
    }
    json_decref(j);
    free(page);
}

/* The example of the same source: scores and output of one query, six digits. */
static void golden_attention(void **state)
{
    (void)state;
    static const double want[G] = {0.640756, -0.148383, -0.234647, -1.046082, 0.037113, 0.442499, -0.052311, 0.503950};
    static const double query[G] = {1, -2, 3, 0, 1, 1, -1, 2};
    const kv_kvarn_params p = {.tile = G, .kbits = 4, .vbits = 2, .iters = 8};
    const kv_kvarn_layout l = golden_layout(4, 2);
    const ref_kernels *t[NAIVE_TABLES];
    json_t *j = golden_file();
    uint8_t record[512] = {0};
    kvarn_matrix *m = malloc(sizeof *m);
    real rows[G * G], q[G], out[G], *o = out;
    assert_non_null(m);
    for (int values = 0; values < 2; values++) {
        golden_rows(json_object_get(j, values ? "V" : "K"), rows);
        kvarn_code(&p, &l, values, rows, record, m, NULL);
    }
    for (int d = 0; d < G; d++)
        q[d] = (real)(query[d] / 8);
    for (int i = naive_tables(t, NULL) - 1; i >= 0; i--) {
        real turned[G];
        memcpy(turned, q, sizeof q);
        t[i]->hadamard(turned, G);
        for (int d = 0; d < G; d++)
            turned[d] = turned[d] * (real)(1.0 / kv_dsqrt(8.0));
        const ref_span span = {NULL, NULL, 0, G};
        const ref_tiles tiles = {record, l, 4, 2};
        const int64_t hi = G;
        real *scratch = malloc((size_t)REF(attn_scratch)(G, G) * sizeof *scratch);
        real *decoded = malloc((size_t)REF(attn_decoded)(&l) * sizeof *decoded);
        assert_true(scratch && decoded);
        const ref_attn_job job = {.q = turned, .rows = 1, .head_dim = G, .spans = &span, .n_spans = 1, .tiles = &tiles,
                                  .decoded = decoded, .hi = &hi, .scratch = scratch, .out = &o};
        t[i]->attn(&job);
        t[i]->hadamard(out, G);
        for (int d = 0; d < G; d++)
            assert_true((double)out[d] - want[d] < 2e-6 && want[d] - (double)out[d] < 2e-6);
        free(scratch);
        free(decoded);
    }
    free(m);
    json_decref(j);
}

/* ---- coding ---------------------------------------------------------------------------------------------------- */

/* Rows [T][D] that a tile may meet. */
enum { LIVELY, QUIET, CONSTANT, ZEROS, OUTLIERS, SIGNED_ZEROS, HUGE_VALUES, NEAR_OVERFLOW, KINDS };

static void fill_rows(real *rows, int64_t T, int64_t D, int kind, uint64_t seed)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t d = 0; d < D; d++) {
            real x = 0;
            for (int i = 0; i < 4; i++) /* about normal, deviation about 1 */
                x = x + (real)(naive_random(seed, 4 * (t * D + d) + i) * 4);
            switch (kind) {
            case QUIET: /* below the floor of the scales */
                x = x / 64;
                break;
            case CONSTANT: /* some channels and one token */
                if (d % 5 == 1) x = (real)-1.5;
                if (t == 3) x = (real)0.25;
                break;
            case ZEROS:
                x = 0;
                break;
            case OUTLIERS:
                if (d % 16 == 2) x = x * 40 + 12;
                x = x * (real)(1 + t % 7);
                break;
            case SIGNED_ZEROS: /* no negative number: -0 is the least */
                x = x < 0 ? (t + d) % 2 ? (real)-0.0 : 0 : x;
                break;
            case HUGE_VALUES:
                x = x * (real)1e30;
                break;
            case NEAR_OVERFLOW: /* a scale below 1 makes infinities of them */
                x = d % 7 == 3 ? x : x < 0 ? (real)-3e38f : (real)3e38f;
                break;
            default:
                break;
            }
            rows[t * D + d] = x;
        }
}

typedef struct shape {
    int32_t T, D, kbits, vbits;
} shape;
static const shape shapes[] = {{32, 32, 4, 2}, {64, 64, 2, 4}, {128, 64, 3, 5}, {32, 128, 6, 8}, {128, 256, 4, 2}, {64, 256, 8, 3}};

static void check_coding(const shape *s, int kind, int dialect, int tie, int iters)
{
    const kv_kvarn_params p = {s->T, s->kbits, s->vbits, iters, dialect, tie};
    const kv_kvarn_layout l = kv_kvarn_layout_of(&p, s->D);
    const ref_kernels *t[NAIVE_TABLES];
    uint8_t *want = calloc(1, (size_t)l.bytes), *got = malloc((size_t)l.bytes);
    real *rows = malloc((size_t)(s->T * s->D) * sizeof *rows), *x = malloc((size_t)REF(kvarn_scratch)(&l) * sizeof *x);
    kvarn_matrix *m = malloc(sizeof *m);
    assert_true(want && got && rows && x && m);
    for (int n = naive_tables(t, NULL) - 1; n >= 0; n--) {
        const ref_kvarn_coder coder = {t[n], p, l};
        memset(got, 0xff, (size_t)l.bytes);
        for (int values = 0; values < 2; values++) {
            real trace[17], naive_trace[17];
            fill_rows(rows, s->T, s->D, kind, (uint64_t)(10 + values));
            kvarn_code(&p, &l, values, rows, want, m, naive_trace);
            for (int64_t i = 0; i < s->T; i++)
                for (int64_t d = 0; d < s->D; d++)
                    x[values ? i * s->D + d : d * s->T + i] = rows[i * s->D + d];
            (values ? REF(kvarn_code_values) : REF(kvarn_code_keys))(&coder, x, got, trace);
            for (int i = 0; kind < HUGE_VALUES && i <= iters; i++) /* there it may be NaN */
                assert_bits(&trace[i], &naive_trace[i], 1, "%s: kind %d, round %d", t[n]->name, kind, i);
        }
        for (int32_t i = 0; i < l.bytes; i++)
            if (got[i] != want[i])
                fail_msg("%s: T %d, D %d, kind %d, dialect %d: byte %d of %d is %02x, not %02x", t[n]->name, s->T, s->D,
                         kind, dialect, i, l.bytes, got[i], want[i]);
    }
    free(want);
    free(got);
    free(rows);
    free(x);
    free(m);
}

static void coding_has_the_bits_of_the_page(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int dialect = 0; dialect < 2; dialect++)
            check_coding(&shapes[i], LIVELY, dialect, (int)i % 2, 8);
}

static void coding_of_difficult_tiles(void **state)
{
    (void)state;
    for (int kind = 0; kind < KINDS; kind++)
        for (int dialect = 0; dialect < 2; dialect++)
            for (int tie = 0; tie < 2; tie++)
                check_coding(&shapes[0], kind, dialect, tie, kind == LIVELY ? 1 : 16);
}

/* Deviations of a quiet tile do not move a scale above exp(-0.3); under tie=rel the tie with no scaling at all is won. */
static void scales_stop_at_the_floor(void **state)
{
    (void)state;
    const kv_kvarn_params p = {.tile = 32, .kbits = 4, .vbits = 2, .iters = 8, .tie = KV_TIE_REL};
    const kv_kvarn_layout l = kv_kvarn_layout_of(&p, 32);
    ref_kvarn_coder c = {NULL, p, l};
    real *x = malloc((size_t)REF(kvarn_scratch)(&l) * sizeof *x);
    uint8_t *record = malloc((size_t)l.bytes);
    assert_true(x && record);
    assert_ok(REF(kernels_find)("scalar", &c.kernels));
    fill_rows(x, 32, 32, QUIET, 5);
    REF(kvarn_code_values)(&c, x, record, NULL);
    for (int i = 0; i < 32; i++)
        assert_int_equal(record[l.v_col + 2 * i] | record[l.v_col + 2 * i + 1] << 8, kv_f2f16(0.74081822f));
    memset(x, 0, (size_t)REF(kvarn_scratch)(&l) * sizeof *x);
    REF(kvarn_code_values)(&c, x, record, NULL);
    for (int i = l.v_codes; i < l.v_codes + 32 * l.v_row; i++)
        assert_int_equal(record[i], 0); /* an all-zero tile: code 0, zero 0 */
    for (int i = 0; i < 32; i++)
        assert_int_equal(record[l.v_zero + 2 * i] | record[l.v_zero + 2 * i + 1], 0);
    free(x);
    free(record);
}

static void codes_of_every_width_come_back(void **state)
{
    (void)state;
    static const int widths[] = {2, 3, 4, 5, 6, 8};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        uint8_t row[129] = {0};
        const int bits = widths[w];
        for (int i = 0; i < 128; i++)
            kv_code_put(row, i, bits, (uint32_t)kv_splitmix64((uint64_t)i) & ((1u << bits) - 1));
        assert_int_equal(row[128], 0);
        for (int i = 0; i < 128; i++)
            assert_int_equal(kv_code_get(row, i, bits), (uint32_t)kv_splitmix64((uint64_t)i) & ((1u << bits) - 1));
    }
}

/* ---- attention on codes ---------------------------------------------------------------------------------------- */

/* A ring of tiles that starts in its middle, and a tail. */
typedef struct coded_view {
    kv_kvarn_params p;
    kv_kvarn_layout l;
    int64_t n_tiles, n_tail, n;
    uint8_t *ring;
    const uint8_t **tiles; /* in view order */
    real *tail_k, *tail_v, *panels, *rows;
    ref_span spans[3];
} coded_view;

static coded_view make_coded(const shape *s, int64_t n_tiles, int64_t n_tail)
{
    coded_view w = {.p = {s->T, s->kbits, s->vbits, 2, (int32_t)n_tail % 2, KV_TIE_LITERAL}, .n_tiles = n_tiles,
                    .n_tail = n_tail, .n = n_tiles * s->T + n_tail};
    const int64_t D = s->D, first = n_tiles / 3, tail_slots = (n_tail + 15) / 16 * 16;
    w.l = kv_kvarn_layout_of(&w.p, s->D);
    w.ring = calloc(1, (size_t)(n_tiles * w.l.bytes + REF_CODE_SLACK));
    w.tiles = calloc((size_t)n_tiles + 1, sizeof *w.tiles);
    w.tail_k = naive_randoms(91, n_tail * D + 1);
    w.tail_v = naive_randoms(92, n_tail * D + 1);
    w.panels = malloc((size_t)(tail_slots * D + 1) * sizeof *w.panels);
    w.rows = malloc((size_t)(tail_slots * D + 1) * sizeof *w.rows);
    kvarn_matrix *m = malloc(sizeof *m);
    real *x = malloc((size_t)(s->T * D) * sizeof *x);
    assert_true(w.ring && w.tiles && w.panels && w.rows && m && x);
    for (int64_t t = 0; t < n_tiles; t++) {
        uint8_t *record = w.ring + (t + first) % n_tiles * w.l.bytes;
        w.tiles[t] = record;
        for (int values = 0; values < 2; values++) {
            fill_rows(x, s->T, D, t % 2 ? OUTLIERS : LIVELY, (uint64_t)(100 + 2 * t + values));
            kvarn_code(&w.p, &w.l, values, x, record, m, NULL);
        }
    }
    for (int64_t i = 0; i < tail_slots * D; i++)
        w.panels[i] = w.rows[i] = (real)kv_nan();
    for (int64_t t = 0; t < n_tail; t++)
        for (int64_t d = 0; d < D; d++) {
            w.panels[(t / 16 * D + d) * 16 + t % 16] = w.tail_k[t * D + d];
            w.rows[t * D + d] = w.tail_v[t * D + d];
        }
    w.spans[0] = (ref_span){NULL, NULL, first * s->T, (n_tiles - first) * s->T};
    w.spans[1] = (ref_span){NULL, NULL, 0, first * s->T};
    w.spans[2] = (ref_span){w.panels, w.rows, 0, n_tail};
    free(m);
    free(x);
    return w;
}

static void free_coded(coded_view *w)
{
    free(w->ring);
    free(w->tiles);
    free(w->tail_k);
    free(w->tail_v);
    free(w->panels);
    free(w->rows);
}

static void check_coded(const coded_view *w, int64_t rows, int64_t group)
{
    const int64_t D = w->l.D;
    const ref_kernels *t[NAIVE_TABLES];
    const ref_tiles tiles = {w->ring, w->l, w->p.kbits, w->p.vbits};
    real *q = naive_randoms(77, rows * D), *got = malloc((size_t)(rows * D) * sizeof *got), want[256];
    real *scratch = malloc((size_t)REF(attn_scratch)(w->n, D) * sizeof *scratch), *out[REF_ATTN_ROWS];
    real *decoded = malloc((size_t)REF(attn_decoded)(&w->l) * sizeof *decoded);
    int64_t hi[REF_ATTN_ROWS];
    assert_true(got && scratch && decoded);
    for (int64_t r = 0; r < rows; r++) {
        hi[r] = w->n - (rows - 1) / group + r / group;
        out[r] = got + r * D;
    }
    assert_true(hi[0] >= 1);
    for (int i = naive_tables(t, NULL) - 1; i >= 0; i--) {
        const ref_attn_job job = {.q = q, .rows = rows, .head_dim = D, .spans = w->spans, .n_spans = 3, .tiles = &tiles,
                                  .decoded = decoded, .hi = hi, .scratch = scratch, .out = out};
        t[i]->attn(&job);
        for (int64_t r = 0; r < rows; r++) {
            kvarn_attention(&w->p, &w->l, q + r * D, w->tiles, w->n_tiles, w->tail_k, w->tail_v, hi[r], want);
            assert_bits(out[r], want, D, "%s: T %d, D %lld, codes of %d and %d bits, %lld rows, row %lld sees %lld",
                        t[i]->name, w->l.T, (long long)D, w->p.kbits, w->p.vbits, (long long)rows, (long long)r,
                        (long long)hi[r]);
        }
    }
    free(q);
    free(got);
    free(scratch);
    free(decoded);
}

static void attention_reads_codes_of_every_width(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        coded_view w = make_coded(&shapes[i], 300 / shapes[i].T + 1, 13);
        check_coded(&w, 5, 1);
        for (int64_t heads = 1; heads <= 5; heads++) /* the queries of one token */
            check_coded(&w, heads, heads);
        free_coded(&w);
    }
}

static void attention_on_codes_for_1_to_48_rows(void **state)
{
    (void)state;
    coded_view w = make_coded(&shapes[0], 3, 7);
    for (int64_t rows = 1; rows <= REF_ATTN_ROWS; rows++)
        check_coded(&w, rows, 1);
    free_coded(&w);
}

/* Rows that end inside tiles, at their first token, in earlier chunks, before the tail. */
static void attention_on_codes_of_rows_that_see_less(void **state)
{
    (void)state;
    static const int64_t tails[] = {0, 1, 31};
    for (int i = 0; i < 3; i++) {
        coded_view w = make_coded(&shapes[0], 9, tails[i]);
        check_coded(&w, 48, 1);
        check_coded(&w, 48, 3);
        free_coded(&w);
    }
    coded_view w = make_coded(&shapes[0], 2, 0);
    check_coded(&w, 48, 1);
    free_coded(&w);
    w = make_coded(&shapes[2], 4, 40); /* a chunk that holds nothing but the tail */
    check_coded(&w, 48, 1);
    free_coded(&w);
}

static void rotation_is_its_own_inverse_and_the_same_in_panels(void **state)
{
    (void)state;
    const ref_kernels *t[NAIVE_TABLES];
    for (int i = naive_tables(t, NULL) - 1; i >= 0; i--)
        for (int64_t D = 32; D <= 256; D *= 2) {
            real *x = naive_randoms(3, 16 * D), *panel = malloc((size_t)(16 * D) * sizeof *panel);
            assert_non_null(panel);
            for (int64_t l = 0; l < 16; l++)
                for (int64_t d = 0; d < D; d++)
                    panel[16 * d + l] = x[l * D + d];
            t[i]->hadamard_panel(panel, D);
            for (int64_t l = 0; l < 16; l++) {
                real want[256], back[256];
                memcpy(want, x + l * D, (size_t)D * sizeof *want);
                memcpy(back, x + l * D, (size_t)D * sizeof *back);
                kvarn_rotate(want, D);
                t[i]->hadamard(back, D);
                assert_bits(back, want, D, "%s: rotation of %lld", t[i]->name, (long long)D);
                for (int64_t d = 0; d < D; d++)
                    assert_bits(&panel[16 * d + l], &want[d], 1, "%s: panel of %lld", t[i]->name, (long long)D);
                t[i]->hadamard(back, D);
                for (int64_t d = 0; d < D; d++)
                    assert_true(kv_bits2d(kv_d2bits((double)(back[d] - x[l * D + d])) & INT64_MAX) < 1e-4);
            }
            free(x);
            free(panel);
        }
}

#ifndef REF_CASES_ONLY
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_tile_to_the_bit),
        cmocka_unit_test(the_page_shows_the_golden_tile),
        cmocka_unit_test(golden_attention),
        cmocka_unit_test(coding_has_the_bits_of_the_page),
        cmocka_unit_test(coding_of_difficult_tiles),
        cmocka_unit_test(scales_stop_at_the_floor),
        cmocka_unit_test(codes_of_every_width_come_back),
        cmocka_unit_test(attention_reads_codes_of_every_width),
        cmocka_unit_test(attention_on_codes_for_1_to_48_rows),
        cmocka_unit_test(attention_on_codes_of_rows_that_see_less),
        cmocka_unit_test(rotation_is_its_own_inverse_and_the_same_in_panels),
        cmocka_unit_test(every_instruction_set_was_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
