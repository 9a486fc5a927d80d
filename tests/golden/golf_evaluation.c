/* golf_evaluation.c - evaluation of the golf family against an independent program in double: windows alone, windows with
 * a cache of earlier rows, steps with a ring; windows of 32 tokens, stride 8. */
#include "tests/golden/golf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct mode {
    const char *key;    /* in the golden file */
    const char *policy; /* NULL: every window is a stream of its own under `full` */
    int forget;         /* steps: the model forgets everything before each */
    int train, base;    /* rope_train_len and rope_base_len, when they are others */
} mode;

static const mode modes[] = {
    {"sliding_once", "xwindow:window=32,stride=8,cache=0", 0, 0, 0},
    {"sliding_compat", NULL, 0, 0, 0},
    {"sliding_compat_call_base", NULL, 0, 0, 32}, /* no call is longer than the model was trained for: one base */
    {"nc_fixed_C0_reset", "xwindow:window=32,stride=8,cache=0", 0, 0, 0},
    {"nc_fixed_C16_reset", "xwindow:window=32,stride=8,cache=16", 0, 0, 0},
    {"nc_fixed_C48_reset", "xwindow:window=32,stride=8,cache=48", 0, 0, 0},
    {"nc_fixed_C0_carry", "xwindow:window=32,stride=8,cache=0,pred=carry", 0, 0, 0},
    {"nc_fixed_C48_carry", "xwindow:window=32,stride=8,cache=48,pred=carry", 0, 0, 0},
    {"nc_published_C0", "xwindow:window=32,stride=8,cache=0,ver=published", 0, 0, 0},
    {"nc_published_C16", "xwindow:window=32,stride=8,cache=16,ver=published", 0, 0, 0},
    {"nc_published_C48", "xwindow:window=32,stride=8,cache=48,ver=published", 0, 0, 0},
    {"nc_published_C48_train16", "xwindow:window=32,stride=8,cache=48,ver=published", 0, 16, 0},
    {"incremental_ring24", "sliding:cap=32", 0, 0, 0},
    {"incremental_ring24", "sliding:cap=32,pos=absolute", 0, 0, 0},
    {"incremental_ring72", "sliding:cap=80", 0, 0, 0},
    {"incremental_ring24_state_forgotten", "sliding:cap=32", 1, 0, 0},
};

/* The session goes on with its cache, but the model has forgotten the tokens before: a carry of zeros. */
static void forget(golden_stream *s)
{
    golden_state g;
    golden_export(s, -1, 0, KV_STATE_KV | KV_STATE_SCORE, &g);
    uint8_t *end = (uint8_t *)g.blob.p + g.h.total_bytes;
    memset(end - g.h.carry_bytes, 0, g.h.carry_bytes);
    if (s->side->import_state(s->session, g.blob.p, g.h.total_bytes) != KV_OK)
        golden_die("%s", s->side->last_error(s->session));
    golden_state_free(&g);
}

/* The policy drops by the number of tokens that come: the last step is filled up with the token behind the stream, whose
 * row nobody reads. */
static void feed_window(golden_stream *s, const mode *m, const int32_t *tokens, int32_t ws, int32_t n, float *nll, float *xf)
{
    golf_step step = {.tokens = tokens + ws, .n = n, .window = -1, .nll = nll, .point = KV_TAP_FINAL_NORM, .tap = xf};
    if (!m->policy && s->side->reset(s->session) != KV_OK) golden_die("%s", s->side->last_error(s->session));
    if (m->policy && strncmp(m->policy, "xwindow", 7) == 0) step.window = ws;
    if (m->policy && step.window < 0) step.n = 8;
    if (m->forget && ws > 0) forget(s);
    golf_feed(s, &step);
}

/* What a run of windows was off by, and what it scored. */
typedef struct totals {
    double worst, off, sum;
    int64_t scored;
} totals;

/* Whether the mean of a run that has all golden windows is the golden one; a run without the last ones has none. */
static int mean_agrees(const totals *t, int whole, const json_t *want, golf_limits lim)
{
    if (!whole) return 1;
    return t->scored == golden_number(want, "scored") &&
           fabs(t->sum / (double)t->scored - golden_number(want, "mean_nll")) <= lim.nll / 10;
}

/* Windows up to the first that ends with the stream; a stream of its own may be any. */
static void check_mode(const dt_side *side, char preset, const json_t *j, const mode *m)
{
    const golf_limits lim = golf_limits_of(side);
    int32_t tokens[GOLF_N + 2];
    float nll[GOLF_N + 1], *xf;
    golf_model g;
    golden_stream s;
    totals all = {0};
    size_t n = 0;
    golf_tokens(tokens);
    tokens[GOLF_N + 1] = 0;
    golf_open(&g, preset);
    if (m->train) g.m.cfg.rope_train_len = m->train;
    if (m->base) g.m.cfg.rope_base_len = m->base;
    if (!(xf = calloc((size_t)(GOLF_N * g.m.cfg.d_model), sizeof *xf))) golden_die("out of memory");
    if (golden_open(&s, side, &g.m, m->policy ? m->policy : "full", 2)) {
        const json_t *windows = json_object_get(j, m->key);
        for (int32_t end = 0; n < json_array_size(windows) && (!m->policy || end < GOLF_N); n++) {
            const json_t *w = json_array_get(windows, n);
            const int32_t ws = (int32_t)golden_number(w, "ws"), first = (int32_t)golden_number(w, "s");
            end = (int32_t)golden_number(w, "end");
            feed_window(&s, m, tokens, ws, end - ws, nll, xf);
            all.worst = fmax(all.worst, golf_worst(json_object_get(w, "nll"), nll + first, (size_t)(end - ws - first)));
            all.off = fmax(all.off, fabs(golf_l2(xf, (size_t)((end - ws) * g.m.cfg.d_model)) / golden_number(w, "xf_l2") - 1));
            for (int32_t i = first; i < end - ws; i++, all.scored++)
                all.sum += (double)nll[i];
        }
        golden_close(&s);
    }
    const int whole = n == json_array_size(json_object_get(j, m->key));
    golden_ok(n >= 9 && all.worst <= lim.nll && all.off <= lim.l2 &&
                  mean_agrees(&all, whole, json_object_get(json_object_get(j, "totals"), m->key), lim),
              "%c %s%s%s: %zu windows, NLL within %.0e (largest %.1e), L2 of the last rows within %.0e (%.1e)%s", preset, m->key,
              m->policy ? " by " : "", m->policy ? m->policy : "", n, lim.nll, all.worst, lim.l2, all.off,
              whole ? ", the mean" : "");
    free(xf);
    golf_close(&g);
}

/* The published program scores the stream's end again in windows that see their targets. Here no window is fed behind the
 * first that ends with the stream, which is number 8: none of the golden leaks can occur. */
static void check_leaks(char preset, const json_t *leaks)
{
    int early = json_array_size(leaks) == 0;
    for (size_t i = 0; i < json_array_size(leaks); i++)
        early += json_integer_value(json_array_get(json_array_get(leaks, i), 1)) <= 64;
    golden_ok(!early, "%c: published windows leak %zu scores, none of them in windows that are fed here", preset,
              json_array_size(leaks));
}

void golf_evaluation(const dt_side *side, const char *folder)
{
    json_t *j = golden_load(folder, "2b_evaluation.json");
    for (const char *p = "ABU"; *p; p++) {
        const char key[2] = {*p};
        check_leaks(*p, json_object_get(json_object_get(j, key), "published_leaks"));
        for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
            if (!modes[i].policy || !(side->backend->caps & KV_CAP_NEEDS_FOLLOW)) check_mode(side, *p, json_object_get(j, key), &modes[i]);
    }
    json_decref(j);
}
