/* policies.c - every policy and storage on the tiny model against an independent program in double precision: kept
 * sets, positions, evictions and duels exactly, codes of the first tile exactly but where they lie next to a rounding
 * tie, scores, NLL and logits within bounds. A case that a side cannot run is a failure.
 *
 *     policies SIDE [FOLDER]     default folder: tests/golden/policies */
#include "tests/golden/duels.h"
#include "tests/golden/first_tile.h"
#include "tests/golden/golden.h"

#include "common/rng.h"
#include "common/tile.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_TOKENS = 160, TINY_SEED = 41, TOKEN_TENSOR = 255, N_CASES = 57 };

typedef struct test_case {
    const char *name;
    const json_t *json;
    golden_stream stream;
    kv_policy policy;
    int fp32;         /* the side's arithmetic */
    int32_t n_states; /* states compared */
    int32_t bad_states;
    char first_bad[160];
    int32_t n_scores;
    double score; /* largest difference of a score, relative to scores above 1 */
} test_case;

static void make_tokens(int32_t *t)
{
    for (uint64_t i = 0; i < N_TOKENS; i++)
        t[i] = (int32_t)(kv_splitmix64((uint64_t)(TINY_SEED * 256 + TOKEN_TENSOR) << 32 | i) >> 58);
}

/* ---- how a case is spelled --------------------------------------------------------------------------- */

/* Names of golden parameters that are not ours; NULL: left out. */
static const char *our_name(const char *key)
{
    static const char *const names[][2] = {
        {"homogeneous", "homog"}, {"w", "window"}, {"prefill", "prompt"}, {"v_group", NULL}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(key, names[i][0]) == 0) return names[i][1];
    return key;
}

static size_t add_param(char *dst, size_t size, char separator, const char *key, const json_t *v)
{
    if (json_is_integer(v))
        return (size_t)snprintf(dst, size, "%c%s=%lld", separator, key, (long long)json_integer_value(v));
    if (json_is_boolean(v)) return (size_t)snprintf(dst, size, "%c%s=%d", separator, key, json_is_true(v));
    if (json_is_real(v)) return (size_t)snprintf(dst, size, "%c%s=%.15g", separator, key, json_real_value(v));
    return (size_t)snprintf(dst, size, "%c%s=%s", separator, key, json_string_value(v));
}

/* {"policy": "sliding", "params": {"cap": 24, "pos": "saturate"}} -> "sliding:cap=24,pos=saturate"; a storage alone
 * goes with full. */
static void make_spec(const json_t *j, char *dst, size_t size)
{
    json_t *params = json_object_get(j, "params"), *v;
    const char *key, *policy = golden_text(j, "policy"), *storage = strchr(policy, '+');
    kv_policy known;
    const int alone = !storage && kv_policy_parse(policy, &known) != KV_OK && strstr(kv_message(), "unknown selection");
    const size_t name = storage ? (size_t)(storage - policy) : strlen(policy);
    size_t at = (size_t)snprintf(dst, size, "%s%.*s", alone ? "full+" : "", (int)name, policy);
    char separator = ':';
    if (strcmp(policy, "h2o") == 0) {
        at += (size_t)snprintf(dst + at, size - at, ":cap=%d",
                               (int)(golden_number(params, "heavy") + golden_number(params, "recent")));
        separator = ',';
    }
    json_object_foreach(params, key, v) {
        if (!our_name(key)) continue;
        at += add_param(dst + at, size - at, separator, our_name(key), v);
        separator = ',';
    }
    if (storage) snprintf(dst + at, size - at, "%s", storage);
}

/* ---- states ------------------------------------------------------------------------------------------ */

/* A cascade's sinks have the score +0, and without select=ema everything has: the golden program scores them all. */
static int scored(const kv_policy *p, int32_t i)
{
    return p->selection != KV_SEL_CASCADE || (p->cascade.select == KV_SELECT_EMA && i >= p->cascade.sinks);
}

/* Scores of layer 0 in view order. */
static void compare_scores(test_case *t, const json_t *want, const golden_state *g)
{
    if (!g->v.score || json_array_size(want) != (size_t)g->v.run->n) t->score = INFINITY;
    for (int32_t i = 0; i < g->v.run->n && !isinf(t->score); i++) {
        const double x = scored(&t->policy, i) ? json_number_value(json_array_get(want, (size_t)i)) : 0;
        const double off = fabs(x - (double)g->v.score[i]) / fmax(1, fabs(x));
        t->score = isfinite(off) ? fmax(t->score, off) : HUGE_VAL;
        t->n_scores++;
    }
}

/* state[layer][head] = [original indices, positions] */
static int same_run(test_case *t, const json_t *point, int32_t layer, int32_t head)
{
    const json_t *run = json_array_get(json_array_get(json_object_get(point, "state"), (size_t)layer), (size_t)head);
    const json_t *og = json_array_get(run, 0), *pos = json_array_get(run, 1);
    const json_t *scores = layer == 0 ? json_object_get(point, "scores_layer0") : NULL;
    golden_state g;
    golden_export(&t->stream, layer, head, scores ? KV_STATE_SCORE : 0, &g);
    const int32_t n = g.v.run->n;
    int same = run && json_array_size(og) == (size_t)n;
    for (int32_t i = 0; i < n && same; i++)
        same = json_integer_value(json_array_get(og, (size_t)i)) == g.v.og[i] &&
               json_integer_value(json_array_get(pos, (size_t)i)) == g.v.pos[i];
    if (scores && same) compare_scores(t, json_array_get(scores, (size_t)head), &g);
    golden_state_free(&g);
    return same;
}

/* Tokens that entry i of a full cache stands for. */
static int64_t span(const test_case *t, const golden_state *g, int64_t i)
{
    const int32_t D = g->h.head_dim;
    if (!g->v.bytes) return 1;
    if (t->policy.storage == KV_STORE_KVARN) return g->v.bytes[i] == 8 * D ? 1 : t->policy.kvarn.tile;
    return g->v.og[i] >= KV_KIVI_V || g->v.bytes[i] == 4 * D ? 1 : t->policy.kivi.residual;
}

/* "all tokens, position = index"; kivi's V rows follow its K as entries of their own. */
static int holds_all(test_case *t, int32_t layer, int32_t head)
{
    golden_state g;
    int64_t next = 0, values = 0;
    int same = 1;
    golden_export(&t->stream, layer, head, KV_STATE_KV, &g);
    for (int64_t i = 0; i < g.v.run->n && same; i++) {
        const int is_value = g.v.og[i] >= KV_KIVI_V;
        int64_t *at = is_value ? &values : &next;
        same = g.v.og[i] == *at + (is_value ? KV_KIVI_V : 0) && g.v.pos[i] == *at && (!is_value || next == N_TOKENS);
        *at += span(t, &g, i);
    }
    golden_state_free(&g);
    return same && next == N_TOKENS && values == (t->policy.storage == KV_STORE_KIVI ? N_TOKENS : 0);
}

static void compare_state(test_case *t, const json_t *point, int32_t seen)
{
    for (int32_t l = 0; l < t->stream.layers; l++)
        for (int32_t h = 0; h < t->stream.model->cfg.n_kv_heads; h++) {
            t->n_states++;
            if (point ? same_run(t, point, l, h) : holds_all(t, l, h)) continue;
            if (!t->bad_states++)
                snprintf(t->first_bad, sizeof t->first_bad, "after %d tokens, layer %d, head %d", seen, l, h);
        }
}

static void check_states(void *arg, int32_t seen)
{
    test_case *t = arg;
    const json_t *kept = json_object_get(t->json, "kept"), *v;
    const char *token;
    if (json_is_string(kept) && seen == N_TOKENS) compare_state(t, NULL, seen);
    json_object_foreach((json_t *)(uintptr_t)kept, token, v) {
        if (json_integer_value(json_object_get(v, "seen")) == seen) compare_state(t, v, seen);
    }
}

/* Largest difference of an array of numbers; infinite when the sizes differ or a number is none. */
static double worst(const json_t *want, const float *got, size_t n)
{
    double w = json_array_size(want) == n ? 0 : INFINITY;
    for (size_t i = 0; i < n && !isinf(w); i++)
        w = isfinite(got[i]) ? fmax(w, fabs(json_number_value(json_array_get(want, i)) - (double)got[i])) : HUGE_VAL;
    return w;
}

static void check_evictions(const test_case *t)
{
    const json_t *want = json_object_get(t->json, "evicted_layer0_head0");
    size_t n = 0, bad = 0;
    for (size_t i = 0; i < t->stream.events.n; i++) {
        const kv_event *e = &t->stream.events.v[i];
        if (e->kind != KV_EVENT_EVICT || e->layer != 0 || e->head > 0) continue;
        bad += json_integer_value(json_array_get(want, n)) != e->og;
        n++;
    }
    golden_ok(!bad && n == json_array_size(want), "%s: %zu evictions in order", t->name, n);
}

/* Residual stream of full-c160 through taps. */
static void check_hidden(const test_case *t, const dt_side *side, const int32_t *tokens)
{
    const int32_t d = t->stream.model->cfg.d_model;
    json_t *hidden = json_object_get(t->json, "hidden");
    golden_stream s;
    golden_open(&s, side, t->stream.model, "full", 1);
    double w = 0;
    int32_t n = 0;
    for (int32_t l = 0; l < s.layers; l++)
        for (int32_t row = 0; row < N_TOKENS; row += N_TOKENS - 1) {
            char key[64];
            float x[1024];
            const kv_tap tap = {.point = KV_TAP_RESID, .layer = l, .row = row, .width = d, .dst = x};
            const kv_step step = {.tokens = tokens, .n = N_TOKENS, .n_taps = 1, .taps = &tap};
            snprintf(key, sizeof key, "after layer %d, position %d", l, row);
            if (s.side->reset(s.session) != KV_OK || s.side->step(s.session, &step) != KV_OK)
                golden_die("%s", s.side->last_error(s.session));
            w = fmax(w, worst(json_object_get(hidden, key), x, (size_t)d));
            n++;
        }
    golden_ok(w <= 2e-4 && n == 2 * s.layers, "%s: residual stream within 2e-4 (largest %.1e)", t->name, w);
    golden_close(&s);
}

/* What may differ. In fp32 a rounded or coded number may flip, which is amplified. ref64 is a second double program:
 * what differs is that its results are handed over as fp32. */
typedef struct bounds {
    double nll, mean, score;
} bounds;

static bounds bounds_of(const test_case *t)
{
    if (!t->fp32) return (bounds){1e-6, 2e-7, 1e-7};
    if (t->policy.storage == KV_STORE_F32) return (bounds){2e-4, 1e-5, 2e-5};
    return (bounds){5e-3, 1e-4, 2e-5};
}

static void check_numbers(const test_case *t, const float *nll, const float *last_row)
{
    const json_t *want = json_object_get(t->json, "nll");
    const size_t V = (size_t)t->stream.model->cfg.vocab_size;
    const bounds b = bounds_of(t);
    const double w = worst(want, nll, N_TOKENS - 1);
    double mean = 0;
    for (size_t i = 0; i < N_TOKENS - 1; i++)
        mean += fabs(json_number_value(json_array_get(want, i)) - (double)nll[i]) / (N_TOKENS - 1);
    golden_ok(w <= b.nll && mean <= b.mean, "%s: 159 NLLs within %.0e (largest %.1e), in the mean within %.0e (%.1e)",
              t->name, b.nll, w, b.mean, mean);
    const double last = worst(json_object_get(t->json, "last_logits"), last_row, V);
    golden_ok(last <= b.nll, "%s: last logits within %.0e (largest %.1e)", t->name, b.nll, last);
}

static void check_decisions(const test_case *t)
{
    const json_t *duels = json_object_get(t->json, "duels_layer0_head0");
    golden_ok(t->n_states > 0 && !t->bad_states, "%s: %d kept sets and positions %s", t->name, t->n_states,
              t->first_bad);
    check_evictions(t);
    if (t->n_scores)
        golden_ok(t->score <= bounds_of(t).score, "%s: %d scores within %.0e (largest %.1e)", t->name, t->n_scores,
                  bounds_of(t).score, t->score);
    if (duels) golden_duels(&t->stream.events, &t->policy.cascade, json_object_get(duels, "rows"), t->name);
}

/* "chunks of 5" or "64 then 1" */
static void read_schedule(const json_t *j, int32_t *first, int32_t *chunk)
{
    const char *text = golden_text(j, "schedule");
    if (sscanf(text, "%d then %d", first, chunk) == 2) return;
    if (sscanf(text, "chunks of %d", chunk) != 1) golden_die("schedule '%s'", text);
    *first = *chunk;
}

static void run_case(const dt_side *side, const kv_model *m, const char *folder, const char *file)
{
    json_t *j = golden_load(folder, file);
    int32_t tokens[N_TOKENS], first, chunk;
    float nll[N_TOKENS], logits[N_TOKENS * 64];
    char spec[KV_POLICY_TEXT_MAX];
    test_case t = {.name = golden_text(j, "case"), .json = j, .fp32 = strcmp(side->name, "ref64") != 0};
    make_tokens(tokens);
    make_spec(j, spec, sizeof spec);
    read_schedule(j, &first, &chunk);
    if (kv_policy_parse(spec, &t.policy) != KV_OK) golden_die("%s: %s", file, kv_message());
    if (golden_open(&t.stream, side, m, spec, 2)) {
        const int32_t rows = golden_feed(&t.stream, tokens, N_TOKENS, first, chunk, nll, logits, check_states, &t);
        check_decisions(&t);
        check_numbers(&t, nll, logits + (rows - 1) * m->cfg.vocab_size);
        if (json_object_get(j, "first_tile"))
            golden_first_tile(&t.stream, &t.policy, json_object_get(j, "first_tile"), t.name, t.fp32);
        golden_close(&t.stream);
        if (json_is_object(json_object_get(j, "hidden"))) check_hidden(&t, side, tokens);
    }
    json_decref(j);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int wanted(const struct dirent *d)
{
    const char *end = strrchr(d->d_name, '.');
    return end && strcmp(end, ".json") == 0;
}

int main(int argc, char **argv)
{
    const char *folder = argc > 2 ? argv[2] : "tests/golden/policies";
    struct dirent **files;
    dt_side side;
    kv_model *m;
    if (argc < 2) golden_die("usage: policies SIDE [FOLDER]");
    if (dt_side_open(argv[1], &side) != KV_OK || kv_model_open("tiny", NULL, &m, NULL) != KV_OK)
        golden_die("%s", kv_message());
    const int n = scandir(folder, &files, wanted, by_name);
    golden_ok(n == N_CASES, "%d cases in %s", N_CASES, folder);
    for (int i = 0; i < n; i++) {
        run_case(&side, m, folder, files[i]->d_name);
        free(files[i]);
    }
    free(files);
    kv_model_close(m);
    dt_side_close(&side);
    return golden_done();
}
