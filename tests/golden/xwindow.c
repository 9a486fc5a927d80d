/* xwindow.c - where the published form of xwindow puts its rows: offsets and lengths of its list, from another program
 * that worked out windows of 2048 tokens, stride 64, caches of 8192 and 4096 rows. Every number of that rule is a
 * multiple of 64, so it is run here with all of them divided by 32, on the tiny model.
 *
 *     xwindow SIDE */
#include "tests/golden/golden.h"

#include "common/rng.h"

#include <stdlib.h>

enum { SCALE = 32, WINDOW = 2048 / SCALE, STRIDE = 64 / SCALE, LAST = 128, N = LAST * STRIDE + WINDOW };

/* Before window w: the position of its first token, and the rows of earlier windows in view. */
typedef struct point {
    int32_t window, offset, length;
} point;

static const point cache_8192[] = {{0, 0, 0},        {1, 2048, 64},    {2, 2112, 128},   {31, 3968, 1984},
                                   {33, 4096, 2112}, {64, 6080, 4096}, {97, 8192, 6208}, {128, 8192, 8192}};
static const point cache_4096[] = {{0, 0, 0}, {32, 4032, 2048}, {33, 4096, 2112}, {64, 4096, 4096}};

static void feed_window(golden_stream *s, const int32_t *tokens, int32_t w)
{
    const kv_step step = {.tokens = tokens + w * STRIDE,
                          .n = WINDOW,
                          .rows = KV_ROWS_NONE,
                          .flags = KV_STEP_RECOMPUTE,
                          .pos0 = w * STRIDE};
    if (s->side->step(s->session, &step) != KV_OK) golden_die("%s", s->side->last_error(s->session));
}

/* Rows in the list of every layer and head; -1 when they disagree. */
static int32_t list_length(golden_stream *s)
{
    int32_t n = -2;
    for (int32_t l = 0; l < s->layers; l++)
        for (int32_t h = 0; h < s->model->cfg.n_kv_heads; h++) {
            golden_state g;
            golden_export(s, l, h, 0, &g);
            n = n == -2 || n == g.v.run->n ? g.v.run->n : -1;
            golden_state_free(&g);
        }
    return n;
}

/* The window's newest row stays in the list, at the position that it was read with. */
static int32_t offset_of(golden_stream *s)
{
    golden_state g;
    golden_export(s, s->layers - 1, 0, 0, &g);
    const int32_t n = g.v.run->n, offset = n ? g.v.pos[n - 1] - (WINDOW - 1) : -1;
    golden_state_free(&g);
    return offset;
}

static void check(const dt_side *side, const kv_model *m, const int32_t *tokens, int32_t cache, const point *points,
                  size_t n)
{
    char spec[KV_POLICY_TEXT_MAX];
    golden_stream s;
    int32_t length = 0;
    size_t next = 0, bad = 0;
    snprintf(spec, sizeof spec, "xwindow:window=%d,stride=%d,cache=%d,ver=published", WINDOW, STRIDE, cache / SCALE);
    if (!golden_open(&s, side, m, spec, 2)) return;
    for (int32_t w = 0; next < n; w++) {
        feed_window(&s, tokens, w);
        const int32_t offset = offset_of(&s);
        if (points[next].window == w) {
            bad += offset != points[next].offset / SCALE || length != points[next].length / SCALE;
            next++;
        }
        length = list_length(&s);
    }
    golden_ok(!bad, "%s: offset and length of the list before %zu windows (%zu differ)", spec, n, bad);
    golden_close(&s);
}

int main(int argc, char **argv)
{
    int32_t tokens[N];
    dt_side side;
    kv_model *m;
    if (argc != 2) golden_die("usage: xwindow SIDE");
    if (dt_side_open(argv[1], &side) != KV_OK || kv_model_open("tiny", NULL, &m, NULL) != KV_OK)
        golden_die("%s", kv_message());
    for (uint64_t i = 0; i < N; i++)
        tokens[i] = (int32_t)(kv_splitmix64(i) % (uint64_t)m->cfg.vocab_size);
    check(&side, m, tokens, 8192, cache_8192, sizeof cache_8192 / sizeof *cache_8192);
    check(&side, m, tokens, 4096, cache_4096, sizeof cache_4096 / sizeof *cache_4096);
    kv_model_close(m);
    dt_side_close(&side);
    return golden_done();
}
