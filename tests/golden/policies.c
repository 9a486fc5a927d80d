/* policies.c - every policy on the tiny model against an independent program in double precision: kept sets,
 * positions and evictions exactly, NLL and logits within 2e-4.
 *
 *     policies SIDE [FOLDER]     default folder: tests/golden/policies */
#include "tests/golden/golden.h"

#include "common/rng.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_TOKENS = 160, TINY_SEED = 41, TOKEN_TENSOR = 255, MAX_KEPT = 256 };

typedef struct test_case {
    const char *name;
    const json_t *json;
    golden_stream stream;
    int32_t n_states; /* states compared */
    int32_t bad_states;
    char first_bad[160];
} test_case;

static void make_tokens(int32_t *t)
{
    for (uint64_t i = 0; i < N_TOKENS; i++)
        t[i] = (int32_t)(kv_splitmix64((uint64_t)(TINY_SEED * 256 + TOKEN_TENSOR) << 32 | i) >> 58);
}

/* {"cap": 24, "pos": "saturate"} -> "sliding:cap=24,pos=saturate" */
static void make_spec(const json_t *j, char *dst, size_t size)
{
    json_t *params = json_object_get(j, "params"), *v;
    const char *key;
    size_t at = (size_t)snprintf(dst, size, "%s", golden_text(j, "policy"));
    char separator = ':';
    json_object_foreach(params, key, v) {
        if (json_is_integer(v))
            at += (size_t)snprintf(dst + at, size - at, "%c%s=%lld", separator, key,
                                   (long long)json_integer_value(v));
        else
            at += (size_t)snprintf(dst + at, size - at, "%c%s=%s", separator, key, json_string_value(v));
        separator = ',';
    }
}

/* state[layer][head] = [original indices, positions] */
static int same_run(test_case *t, const json_t *state, int32_t layer, int32_t head)
{
    const json_t *run = json_array_get(json_array_get(state, (size_t)layer), (size_t)head);
    const json_t *og = json_array_get(run, 0), *pos = json_array_get(run, 1);
    int64_t got[MAX_KEPT];
    int32_t at[MAX_KEPT];
    const int32_t n = golden_kept(&t->stream, layer, head, got, at, MAX_KEPT);
    if (!run || json_array_size(og) != (size_t)n) return 0;
    for (int32_t i = 0; i < n; i++)
        if (json_integer_value(json_array_get(og, (size_t)i)) != got[i] ||
            json_integer_value(json_array_get(pos, (size_t)i)) != at[i])
            return 0;
    return 1;
}

static void check_states(void *arg, int32_t seen)
{
    test_case *t = arg;
    const json_t *kept = json_object_get(t->json, "kept"), *v;
    const char *token;
    if (!json_is_object(kept)) return; /* full: "all tokens" */
    json_object_foreach((json_t *)(uintptr_t)kept, token, v) {
        if (json_integer_value(json_object_get(v, "seen")) != seen) continue;
        for (int32_t l = 0; l < t->stream.layers; l++)
            for (int32_t h = 0; h < t->stream.model->cfg.n_kv_heads; h++) {
                t->n_states++;
                if (same_run(t, json_object_get(v, "state"), l, h)) continue;
                if (!t->bad_states++)
                    snprintf(t->first_bad, sizeof t->first_bad, "after %d tokens, layer %d, head %d", seen, l, h);
            }
    }
}

/* Largest difference of an array of numbers. */
static double worst(const json_t *want, const float *got, size_t n)
{
    double w = json_array_size(want) == n ? 0 : INFINITY;
    for (size_t i = 0; i < n && !isinf(w); i++)
        w = fmax(w, fabs(json_number_value(json_array_get(want, i)) - (double)got[i]));
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

static void run_case(const dt_side *side, const kv_model *m, const char *folder, const char *file)
{
    json_t *j = golden_load(folder, file);
    int32_t tokens[N_TOKENS], chunk;
    float nll[N_TOKENS], logits[N_TOKENS * 64];
    char spec[KV_POLICY_TEXT_MAX];
    test_case t = {.name = golden_text(j, "case"), .json = j};
    make_tokens(tokens);
    make_spec(j, spec, sizeof spec);
    if (sscanf(golden_text(j, "schedule"), "chunks of %d", &chunk) != 1) golden_die("%s: schedule", file);
    golden_open(&t.stream, side, m, spec, 2);
    const int32_t V = m->cfg.vocab_size;
    const int32_t rows = golden_feed(&t.stream, tokens, N_TOKENS, chunk, chunk, nll, logits, check_states, &t);
    check_evictions(&t);
    const double w = worst(json_object_get(j, "nll"), nll, N_TOKENS - 1);
    golden_ok(w <= 2e-4, "%s: 159 NLLs within 2e-4 (largest %.1e)", t.name, w);
    if (json_is_object(json_object_get(j, "kept")))
        golden_ok(t.n_states > 0 && !t.bad_states, "%s: %d kept sets and positions %s", t.name, t.n_states,
                  t.first_bad);
    const double last = worst(json_object_get(j, "last_logits"), logits + (rows - 1) * V, (size_t)V);
    golden_ok(last <= 2e-4, "%s: last logits within 2e-4 (largest %.1e)", t.name, last);
    golden_close(&t.stream);
    if (json_is_object(json_object_get(j, "hidden"))) check_hidden(&t, side, tokens);
    json_decref(j);
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static int wanted(const struct dirent *d)
{
    const char *n = d->d_name;
    return (strncmp(n, "full-", 5) == 0 || strncmp(n, "sink-", 5) == 0 || strncmp(n, "sliding-", 8) == 0) &&
           strstr(n, ".json");
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
    if (n <= 0) golden_die("no golden files in %s", folder);
    for (int i = 0; i < n; i++) {
        run_case(&side, m, folder, files[i]->d_name);
        free(files[i]);
    }
    free(files);
    kv_model_close(m);
    dt_side_close(&side);
    return golden_done();
}
