/* smollm2.c - the reference on SmolLM2-135M-Instruct against independent double-precision programs:
 * logits, taps, NLLs. Data: $KVDIFF_SHARED/golden/smollm2.
 *
 *     smollm2 [--allow-long]     with the file of 12,288 tokens, beyond the trained context of 8,192 */
#include "tests/golden/golden.h"
#include "tests/golden/text.h"

#include "common/math.h"
#include "common/pool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TOKENS = GOLDEN_TOKENS };

static dt_side side;
static kv_model *model;
static const char *folder;

/* ---- prompt64: logits, log-sum-exp, arg-max, taps ---------------------------------------------------- */

enum { PROMPT = 64, TAPS = 3, WIDEST = 2048 };

static double logsumexp(const float *x, int32_t n, int32_t *top)
{
    double m = -INFINITY, sum = 0;
    for (int32_t i = 0; i < n; i++)
        if ((double)x[i] > m) {
            m = (double)x[i];
            *top = i;
        }
    for (int32_t i = 0; i < n; i++)
        sum += exp((double)x[i] - m);
    return m + log(sum);
}

static void check_rows(const json_t *j, const float *logits, const float *nll)
{
    const int32_t V = model->cfg.vocab_size;
    const json_t *rows = json_object_get(j, "per_position");
    double w_max = 0, w_lse = 0, w_nll = 0;
    int32_t wrong = 0, top = 0;
    for (int32_t i = 0; i < PROMPT; i++) {
        const json_t *r = json_array_get(rows, (size_t)i);
        const double lse = logsumexp(logits + (int64_t)i * V, V, &top);
        wrong += json_integer_value(json_object_get(r, "argmax")) != top;
        w_max = fmax(w_max, fabs(golden_number(r, "max") - (double)logits[(int64_t)i * V + top]));
        w_lse = fmax(w_lse, fabs(golden_number(r, "lse") - lse));
        if (i < PROMPT - 1) w_nll = fmax(w_nll, fabs(golden_number(r, "nll_next") - (double)nll[i]));
    }
    golden_ok(wrong == 0, "prompt64: arg-max of all 64 positions (%d differ)", wrong);
    golden_ok(w_max <= 2e-4, "prompt64: largest logit of all 64 within 2e-4 (largest %.1e)", w_max);
    golden_ok(w_lse <= 2e-4, "prompt64: log-sum-exp of all 64 within 2e-4 (largest %.1e)", w_lse);
    golden_ok(w_nll <= 2e-4, "prompt64: NLL of the first 63 within 2e-4 (largest %.1e)", w_nll);
}

static void check_last_row(const float *row)
{
    char path[8192];
    const int32_t V = model->cfg.vocab_size;
    double *want = malloc((size_t)V * sizeof *want), w = 0;
    snprintf(path, sizeof path, "%s/prompt64_last_logits.f64", folder);
    FILE *f = fopen(path, "rb");
    if (!f || !want || fread(want, sizeof *want, (size_t)V, f) != (size_t)V) golden_die("cannot read %s", path);
    fclose(f);
    for (int32_t i = 0; i < V; i++)
        w = fmax(w, fabs(want[i] - (double)row[i]));
    golden_ok(w <= 2e-4, "prompt64: all %d logits of the last position within 2e-4 (largest %.1e)", V, w);
    free(want);
}

/* Largest |difference| / L2 of the vector's norm and first four values. */
static double tap_error(const json_t *row, const char *l2_key, const char *first_key, const float *x, int32_t n)
{
    const double l2 = golden_number(row, l2_key);
    double sum = 0, w;
    for (int32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    w = fabs(sqrt(sum) - l2);
    for (size_t i = 0; i < 4; i++)
        w = fmax(w, fabs(json_number_value(json_array_get(json_object_get(row, first_key), i)) - (double)x[i]));
    return w / l2;
}

static void check_taps(const json_t *j, const float *taps)
{
    static const int width_of[TAPS] = {0, 1, 1};
    const int32_t widths[2] = {model->cfg.d_model, model->cfg.n_kv_heads * model->cfg.head_dim};
    static const char *const keys[TAPS][2] = {{"res_l2", "res0_4"}, {"k_l2", "k0_4"}, {"v_l2", "v0_4"}};
    const json_t *rows = json_object_get(json_object_get(j, "layer_taps"), "rows");
    double w = 0;
    int32_t n = 0;
    for (int32_t l = 0; l < model->cfg.n_layers; l++)
        for (int t = 0; t < TAPS; t++, n++)
            w = fmax(w, tap_error(json_array_get(rows, (size_t)l), keys[t][0], keys[t][1],
                                  taps + (int64_t)(l * TAPS + t) * WIDEST, widths[width_of[t]]));
    golden_ok(w <= 2e-5 && n == 3 * (int32_t)json_array_size(rows),
              "prompt64: %d taps of %d layers within 2e-5 of their L2 (largest %.1e)", n, model->cfg.n_layers, w);
}

static void check_prompt(int threads)
{
    static const int points[TAPS] = {KV_TAP_RESID, KV_TAP_K, KV_TAP_V};
    const int32_t V = model->cfg.vocab_size, L = model->cfg.n_layers, d = model->cfg.d_model;
    const int32_t kv = model->cfg.n_kv_heads * model->cfg.head_dim;
    json_t *j = golden_load(folder, "prompt64.json");
    int32_t ids[PROMPT + 1] = {0};
    for (size_t i = 0; i < PROMPT; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(json_object_get(j, "tokens"), i));
    float *logits = malloc(sizeof *logits * PROMPT * (size_t)V), nll[PROMPT];
    float *values = malloc(sizeof *values * (size_t)L * TAPS * WIDEST);
    kv_tap *taps = malloc(sizeof *taps * (size_t)L * TAPS);
    if (!logits || !values || !taps) golden_die("out of memory");
    for (int32_t i = 0; i < L * TAPS; i++)
        taps[i] = (kv_tap){.point = points[i % TAPS], .layer = i / TAPS, .row = PROMPT - 1,
                           .width = i % TAPS ? kv : d, .dst = values + (int64_t)i * WIDEST};
    golden_stream s;
    golden_open(&s, &side, model, "full", threads);
    const kv_step step = {.tokens = ids, .n = PROMPT, .rows = KV_ROWS_ALL, .logits = logits, .targets = ids + 1,
                          .nll = nll, .n_taps = L * TAPS, .taps = taps};
    if (s.side->step(s.session, &step) != KV_OK) golden_die("%s", s.side->last_error(s.session));
    check_rows(j, logits, nll);
    check_last_row(logits + (int64_t)(PROMPT - 1) * V);
    check_taps(j, values);
    golden_close(&s);
    free(logits);
    free(values);
    free(taps);
    json_decref(j);
}

/* ---- files of NLLs ----------------------------------------------------------------------------------- */

static void check_nll512(int threads)
{
    int32_t *tokens = calloc(MAX_TOKENS, sizeof *tokens);
    double *want = calloc(MAX_TOKENS, sizeof *want), half = 0;
    float *got = calloc(MAX_TOKENS, sizeof *got);
    if (!tokens || !want || !got) golden_die("out of memory");
    const int32_t n = golden_nll("nll512.tsv", 1, 2, 3, tokens, want);
    json_t *j = golden_load(folder, "nll512_summary.json");
    golden_bound c = {.each = 1e-4, .mean = 1e-5};
    golden_stream s;
    golden_open(&s, &side, model, "full", threads);
    golden_feed(&s, tokens, n + 1, 128, 128, got, NULL, NULL, NULL);
    golden_close(&s);
    const int ok = golden_compare(want, got, n, &c);
    golden_ok(ok && n == 511, "nll512: %d NLLs within 1e-4 (largest %.1e), mean within 1e-5 (off by %.1e)", n,
              c.worst, c.mean_off);
    for (int32_t i = 256; i <= 510; i++)
        half += (double)got[i] / 255;
    const double off = fabs(half - golden_number(j, "second_half_256_510_mean_nll"));
    golden_ok(off <= 1e-5, "nll512: half-window mean within 1e-5 (off by %.1e)", off);
    json_decref(j);
    free(tokens);
    free(want);
    free(got);
}

static void check_long(int threads)
{
    int32_t *tokens = calloc(MAX_TOKENS, sizeof *tokens), first;
    double *want = calloc(MAX_TOKENS, sizeof *want);
    float *got = calloc(MAX_TOKENS, sizeof *got);
    if (!tokens || !want || !got) golden_die("out of memory");
    golden_ids("dev_2701-moby-dick.64k.tok.u32", &first, 1); /* this file leaves the first token out */
    tokens[0] = first;
    const int32_t n = golden_nll("nll_long12288_torch_fp32.tsv", -1, 1, 2, tokens, want);
    golden_bound c = {.each = 1e-3, .mean = 1e-5};
    golden_stream s;
    golden_open(&s, &side, model, "full", threads);
    golden_feed(&s, tokens, n + 1, 256, 256, got, NULL, NULL, NULL);
    golden_close(&s);
    const int ok = golden_compare(want, got, n, &c);
    golden_ok(ok && n == 12288, "long: %d NLLs within 1e-3 (largest %.1e, mean off by %.1e)", n, c.worst, c.mean_off);
    free(tokens);
    free(want);
    free(got);
}

int main(int argc, char **argv)
{
    const int threads = kv_cpu_count();
    if (!golden_shared()) {
        golden_skip("SmolLM2 golden values", "KVDIFF_SHARED is not set");
        return golden_done();
    }
    folder = golden_text_folder();
    if (dt_side_open("ref", &side) != KV_OK) golden_die("%s", kv_message());
    if (kv_model_open("smollm2", NULL, &model, NULL) != KV_OK) {
        golden_skip("SmolLM2 golden values", kv_message());
        return golden_done();
    }
    check_prompt(threads);
    check_nll512(threads);
    if (argc > 1 && strcmp(argv[1], "--allow-long") == 0) check_long(threads);
    kv_model_close(model);
    dt_side_close(&side);
    return golden_done();
}
