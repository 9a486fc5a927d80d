/* golf.c - the golf family's forward pass on the presets A, B and U against an independent program in double:
 * logits, NLL, every tapped stage, a probe that sees a wrong eps; the models themselves; evaluation.
 *
 *     golf SIDE */
#define REF_BITS 32
#include "tests/golden/golf.h"

#include "common/golf.h"
#include "ref/golf.h"
#include "ref/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the kit ---------------------------------------------------------------------------------------------- */

void golf_tokens(int32_t tokens[GOLF_N + 1])
{
    for (int32_t i = 0; i <= GOLF_N; i++)
        tokens[i] = i % 40 == 0 ? 1 : 4 + (5 * i * i + 3 * i + i / 7) % 251;
    for (int32_t i = 60; i < 72; i++)
        tokens[i] = tokens[i - 40];
}

void golf_open(golf_model *g, char preset)
{
    char name[16];
    *g = (golf_model){.name = {preset}};
    snprintf(name, sizeof name, "nano-%c", preset + ('a' - 'A'));
    if (kv_model_open(name, NULL, &g->own, NULL) != KV_OK) golden_die("%s", kv_message());
    const size_t n = KV_ROLE_GLOBAL_COUNT + (size_t)g->own->cfg.n_layers * KV_ROLE_PER_LAYER;
    g->m = *g->own;
    g->tensors = malloc(n * sizeof *g->tensors);
    if (!g->tensors) golden_die("out of memory");
    memcpy(g->tensors, g->own->tensors, n * sizeof *g->tensors);
    g->m.tensors = g->tensors;
}

void golf_close(golf_model *g)
{
    for (int i = 0; i < 2; i++)
        free(g->changed[i]);
    free(g->tensors);
    kv_model_close(g->own);
}

double golf_worst(const json_t *want, const float *got, size_t n)
{
    double w = json_array_size(want) == n ? 0 : INFINITY;
    for (size_t i = 0; i < n; i++) {
        const double d = fabs(json_number_value(json_array_get(want, i)) - (double)got[i]);
        w = d <= w ? w : d; /* a NaN stays */
    }
    return w;
}

double golf_l2(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

golf_limits golf_limits_of(const dt_side *side)
{
    if (strcmp(side->name, "ref64") == 0) return (golf_limits){2e-6, 2e-6, 1e-7};
    return (golf_limits){5e-5, 3e-5, 2e-6};
}

void golf_feed(golden_stream *s, const golf_step *g)
{
    const int64_t width = g->point < 0 ? 0 : kv_tap_width(&s->model->cfg, g->point);
    kv_tap taps[GOLF_N];
    for (int32_t i = 0; g->point >= 0 && i < g->n; i++)
        taps[i] = (kv_tap){.point = g->point, .layer = g->layer, .row = i, .width = (int32_t)width, .dst = g->tap + i * width};
    const kv_step step = {.tokens = g->tokens, .n = g->n, .rows = g->logits || g->nll ? KV_ROWS_ALL : KV_ROWS_NONE,
                          .flags = g->window >= 0 ? KV_STEP_RECOMPUTE : 0, .pos0 = g->window >= 0 ? g->window : 0,
                          .n_taps = g->point < 0 ? 0 : g->n, .taps = taps, .logits = g->logits,
                          .targets = g->tokens + 1, .nll = g->nll};
    if (s->side->step(s->session, &step) != KV_OK) golden_die("%s", s->side->last_error(s->session));
}

/* ---- stages --------------------------------------------------------------------------------------------------- */

/* {l2 of all rows, r5 = first four of row 5, last = last two of the last row}: norm relative, entries absolute. */
static void compare_stage(const json_t *want, const float *rows, int64_t width, golf_limits lim, const char *what)
{
    const double l2 = golf_l2(rows, (size_t)(GOLF_N * width)), norm = golden_number(want, "l2");
    const double off = fabs(l2 - norm) / norm;
    double w = golf_worst(json_object_get(want, "r5"), rows + 5 * width, 4);
    w = fmax(w, golf_worst(json_object_get(want, "last"), rows + GOLF_N * width - 2, 2));
    golden_ok(off <= lim.l2 && w <= lim.logit, "%s: L2 within %.0e (off by %.1e), six values within %.0e (%.1e)", what, lim.l2,
              off, lim.logit, w);
}

static void check_stage(golden_stream *s, const int32_t *tokens, int point, int32_t layer, const json_t *want, golf_limits lim,
                        const char *what)
{
    const int64_t width = kv_tap_width(&s->model->cfg, point);
    float *rows = calloc((size_t)(GOLF_N * width), sizeof *rows);
    if (!rows || s->side->reset(s->session) != KV_OK) golden_die("%s", s->side->last_error(s->session));
    golf_feed(s, &(golf_step){.tokens = tokens, .n = GOLF_N, .window = -1, .point = point, .layer = layer, .tap = rows});
    compare_stage(want, rows, width, lim, what);
    free(rows);
}

static void check_stages(golden_stream *s, const golf_model *g, const int32_t *tokens, const json_t *j, golf_limits lim)
{
    static const struct {
        const char *name;
        int point;
    } stages[] = {{"h", KV_TAP_ATTN_NORM}, {"qq", KV_TAP_Q}, {"kk", KV_TAP_K}, {"vt", KV_TAP_V}, {"yf", KV_TAP_ATTN},
                  {"x1", KV_TAP_ATTN_RESID}, {"xo", KV_TAP_RESID}};
    char what[64];
    snprintf(what, sizeof what, "%s x0", g->name);
    check_stage(s, tokens, KV_TAP_EMBED, 0, json_object_get(json_object_get(j, "embed"), "x0"), lim, what);
    snprintf(what, sizeof what, "%s final norm", g->name);
    check_stage(s, tokens, KV_TAP_FINAL_NORM, 0, json_object_get(j, "final_norm"), lim, what);
    for (int32_t l = 0; l < s->layers; l++) {
        const json_t *want = json_object_get(json_array_get(json_object_get(j, "layers"), (size_t)l), "stages");
        for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
            snprintf(what, sizeof what, "%s layer %d %s", g->name, l, stages[i].name);
            check_stage(s, tokens, stages[i].point, l, json_object_get(want, stages[i].name), lim, what);
        }
    }
}

/* ---- logits --------------------------------------------------------------------------------------------------- */

static void check_logits(golden_stream *s, const golf_model *g, const int32_t *tokens, const json_t *j, golf_limits lim)
{
    static const int32_t rows[] = {0, 1, 47, 94};
    const int32_t V = g->m.cfg.vocab_size;
    float *logits = malloc((size_t)(GOLF_N * V) * sizeof *logits), nll[GOLF_N];
    double w = 0, mean = 0;
    if (!logits || s->side->reset(s->session) != KV_OK) golden_die("%s", s->side->last_error(s->session));
    golf_feed(s, &(golf_step){.tokens = tokens, .n = GOLF_N, .window = -1, .logits = logits, .nll = nll, .point = -1});
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char key[8];
        snprintf(key, sizeof key, "%d", rows[i]);
        w = fmax(w, golf_worst(json_object_get(json_object_get(j, "logits"), key), logits + rows[i] * V, (size_t)V));
    }
    golden_ok(w <= lim.logit, "%s: four rows of logits within %.0e (largest %.1e)", g->name, lim.logit, w);
    w = golf_worst(json_object_get(j, "nll"), nll, GOLF_N);
    for (int i = 0; i < GOLF_N; i++)
        mean += (double)nll[i] / GOLF_N;
    mean = fabs(mean - golden_number(j, "loss"));
    golden_ok(w <= lim.nll && mean <= lim.nll / 10, "%s: 95 NLLs within %.0e (largest %.1e), their mean within %.0e (%.1e)",
              g->name, lim.nll, w, lim.nll / 10, mean);
    free(logits);
}

/* Embeddings of 1/256 of their size: the only place where eps decides anything. */
static void shrink(golf_model *g, kv_role role, int which)
{
    kv_tensor *t = &g->tensors[role];
    const int64_t n = t->rows * t->cols;
    if (!(g->changed[which] = malloc((size_t)n * sizeof(float)))) golden_die("out of memory");
    for (int64_t i = 0; i < n; i++)
        g->changed[which][i] = ((const float *)t->data)[i] / 256;
    t->data = (void *)g->changed[which];
}

static void check_eps(const dt_side *side, char preset, const int32_t *tokens, const json_t *j, golf_limits lim)
{
    golf_model g;
    golden_stream s;
    float nll[GOLF_N];
    char what[64];
    golf_open(&g, preset);
    shrink(&g, KV_ROLE_TOKEN_EMBD, 0);
    shrink(&g, KV_ROLE_BIGRAM_EMBED, 1);
    const int32_t V = g.m.cfg.vocab_size;
    float *logits = malloc((size_t)(GOLF_N * V) * sizeof *logits);
    if (!logits) golden_die("out of memory");
    if (golden_open(&s, side, &g.m, "full", 2)) {
        snprintf(what, sizeof what, "%s eps probe, x0", g.name);
        check_stage(&s, tokens, KV_TAP_EMBED, 0, json_object_get(json_object_get(j, "embed"), "x0"), lim, what);
        if (s.side->reset(s.session) != KV_OK) golden_die("%s", s.side->last_error(s.session));
        golf_feed(&s, &(golf_step){.tokens = tokens, .n = GOLF_N, .window = -1, .logits = logits, .nll = nll, .point = -1});
        const double w = golf_worst(json_object_get(j, "nll_first8"), nll, 8);
        const double z = golf_worst(json_object_get(j, "logits_94_first8"), logits + 94 * V, 8);
        golden_ok(w <= lim.nll && z <= lim.logit, "%s eps probe: eight NLLs and logits within %.0e (largest %.1e, %.1e)", g.name,
                  lim.nll, w, z);
        golden_close(&s);
    }
    free(logits);
    golf_close(&g);
}

/* ---- what only the reference shows ------------------------------------------------------------------------------ */

static void check_tables(const golf_model *g, const int32_t *tokens, const json_t *j)
{
    const kv_config *cfg = &g->m.cfg;
    const json_t *rows = json_object_get(j, "bigram_rows");
    const double base = ref_rope_base(cfg, cfg->rope_base_len), want = golden_number(j, "rope_base");
    int bad = json_array_size(rows) != GOLF_N;
    for (int i = 0; i < GOLF_N; i++)
        bad += ref_bigram_row(cfg, i ? tokens[i - 1] : -1, tokens[i]) != json_integer_value(json_array_get(rows, (size_t)i));
    golden_ok(!bad, "%s: 95 rows of the bigram table (%d differ)", g->name, bad);
    golden_ok(fabs(base - want) <= 1e-12 * want, "%s: base of RoPE %.6f", g->name, base);
}

static void check_preset(const dt_side *side, char preset, const json_t *j)
{
    const golf_limits lim = golf_limits_of(side);
    int32_t tokens[GOLF_N + 1];
    golf_model g;
    golden_stream s;
    golf_tokens(tokens);
    golf_open(&g, preset);
    if (strcmp(side->name, "ref") == 0) check_tables(&g, tokens, j);
    if (golden_open(&s, side, &g.m, "full", 2)) {
        check_logits(&s, &g, tokens, j, lim);
        check_stages(&s, &g, tokens, j, lim);
        golden_close(&s);
    }
    check_eps(side, preset, tokens, json_object_get(j, "eps_probe"), lim);
    golf_close(&g);
}

int main(int argc, char **argv)
{
    dt_side side;
    char folder[4096];
    if (argc != 2) golden_die("usage: golf SIDE");
    if (dt_side_open(argv[1], &side) != KV_OK) golden_die("%s", kv_message());
    if (!golden_shared()) {
        golden_skip("the golf family", "KVDIFF_SHARED is not set: no golden values");
        dt_side_close(&side);
        return golden_done();
    }
    snprintf(folder, sizeof folder, "%s/golf", golden_shared());
    if (strcmp(side.name, "ref") == 0) golf_weights(folder);
    json_t *j = golden_load(folder, "2_forward.json");
    for (const char *p = "ABU"; *p; p++) {
        const char key[2] = {*p};
        check_preset(&side, *p, json_object_get(j, key));
    }
    json_decref(j);
    golf_evaluation(&side, folder);
    dt_side_close(&side);
    return golden_done();
}
