/* blaskit.c - the blas side on a stream, and the Llama block in double loops that it is compared with. */
#include "tests/unit/blaskit.h"
#include "tests/unit/sidekit.h"

#include "common/rng.h"

#include <math.h>

const kv_backend *bk_blas;
kv_model *bk_nano;

int bk_set_up(void **state)
{
    (void)state;
    static dt_side side;
    if (sidekit_folder() != 0) return -1;
    assert_ok(dt_side_open("blas", &side));
    bk_blas = side.backend;
    assert_ok(kv_model_open("nano", NULL, &bk_nano, NULL));
    return 0;
}

int bk_tear_down(void **state)
{
    (void)state;
    kv_model_close(bk_nano);
    return 0;
}

kv_session *bk_open_on(const kv_model *m, const char *policy, int threads)
{
    kv_policy p;
    kv_session *s = NULL;
    assert_ok(kv_policy_parse(policy, &p));
    const kv_open_args args = {.model = m, .policy = &p, .threads = threads, .max_step = 64};
    if (bk_blas->open(&args, &s) != KV_OK) fail_msg("open: %s", bk_blas->last_error(NULL));
    return s;
}

int32_t bk_token_at(const kv_model *m, int64_t i)
{
    return (int32_t)kv_philox_below(77, 0, (uint64_t)i, (uint32_t)m->cfg.vocab_size);
}

/* ---- the forward pass in double ------------------------------------------------------------- */

static const float *weights(bk_naive *n, kv_role role, int32_t layer)
{
    const kv_tensor *t = kv_model_tensor(n->m, role, layer);
    float **slot = &n->w[t - n->m->tensors];
    if (!*slot) {
        *slot = malloc((size_t)(t->rows * t->cols) * sizeof(float));
        kv_tensor_rows_f32(t, 0, t->rows, *slot);
    }
    return *slot;
}

static size_t n_tensors(const kv_model *m)
{
    return KV_ROLE_GLOBAL_COUNT + (size_t)m->cfg.n_layers * KV_ROLE_PER_LAYER;
}

static size_t history(const kv_model *m)
{
    return (size_t)m->cfg.n_layers * BK_ROWS * (size_t)(m->cfg.n_kv_heads * m->cfg.head_dim);
}

bk_naive bk_naive_open(const kv_model *m)
{
    const size_t n = history(m);
    return (bk_naive){m,
                      calloc(n_tensors(m), sizeof(float *)),
                      calloc(n, sizeof(double)),
                      calloc(n, sizeof(double)),
                      calloc(n, sizeof(double)),
                      calloc(n, sizeof(double)),
                      0};
}

void bk_naive_close(bk_naive *n)
{
    for (size_t i = 0; i < n_tensors(n->m); i++)
        free(n->w[i]);
    free(n->w);
    free(n->k);
    free(n->v);
    free(n->read_k);
    free(n->read_v);
}

static void matvec(const float *w, int64_t rows, int64_t cols, const double *x, double *y)
{
    for (int64_t r = 0; r < rows; r++) {
        y[r] = 0;
        for (int64_t c = 0; c < cols; c++)
            y[r] += (double)w[r * cols + c] * x[c];
    }
}

static void normalise(const double *x, const float *gain, int64_t n, double eps, double *y)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] / sqrt(sum / (double)n + eps) * (double)gain[i];
}

static void rotate(const kv_config *c, int64_t pos, const double *src, double *dst)
{
    memcpy(dst, src, (size_t)c->head_dim * sizeof *dst);
    for (int32_t i = 0; i < c->rope_dims / 2; i++) {
        const int a = c->rope_pairing == KV_ROPE_HALF ? i : 2 * i;
        const int b = c->rope_pairing == KV_ROPE_HALF ? i + c->rope_dims / 2 : 2 * i + 1;
        const double t = (double)pos * pow(c->rope_theta, -2.0 * i / c->rope_dims);
        const double co = cos(t), si = sin(t) * c->rope_sign;
        dst[a] = src[a] * co - src[b] * si;
        dst[b] = src[b] * co + src[a] * si;
    }
}

/* Key (rotated) and value of an entry for one KV head. */
static const double *row_of(const bk_naive *n, int32_t l, const bk_entry *e, int64_t kv_head, double *key)
{
    const kv_config *c = &n->m->cfg;
    const int64_t D = c->head_dim, width = c->n_kv_heads * D, layer = l * BK_ROWS * width;
    if (e->og < n->n_read) {
        memcpy(key, n->read_k + layer + e->og * width + kv_head * D, (size_t)D * sizeof *key);
        return n->read_v + layer + e->og * width + kv_head * D;
    }
    rotate(c, e->pos, n->k + layer + e->row * width + kv_head * D, key);
    return n->v + layer + e->row * width + kv_head * D;
}

/* One query head over the view, whose last entry is the token itself. */
static void attend(const bk_naive *n, int32_t l, const bk_entry *view, int64_t n_view, const double *q, int64_t kv_head,
                   double *out)
{
    const int64_t D = n->m->cfg.head_dim;
    double key[KV_MAX_HEAD_DIM], sum = 0;
    for (int64_t d = 0; d < D; d++)
        out[d] = 0;
    for (int64_t i = 0; i < n_view; i++) {
        double dot = 0;
        const double *v = row_of(n, l, &view[i], kv_head, key);
        for (int64_t d = 0; d < D; d++)
            dot += q[d] * key[d];
        const double p = exp(dot / sqrt((double)D));
        sum += p;
        for (int64_t d = 0; d < D; d++)
            out[d] += p * v[d];
    }
    for (int64_t d = 0; d < D; d++)
        out[d] /= sum;
}

/* Token x of a piece; what it computes becomes row row0 + x. */
static void attention_row(bk_naive *n, const bk_sim *s, int32_t l, int64_t first, int64_t x, int64_t row0,
                          double *stream)
{
    const kv_config *c = &n->m->cfg;
    const int64_t d = c->d_model, D = c->head_dim, H = c->n_kv_heads, Hq = c->n_heads;
    const int64_t at = (l * (int64_t)BK_ROWS + row0 + x) * H * D;
    double *xn = malloc((size_t)d * sizeof *xn), *q = malloc((size_t)(Hq * D) * sizeof *q);
    double *out = malloc((size_t)(Hq * D) * sizeof *out), turned[KV_MAX_HEAD_DIM];
    bk_entry view[2 * BK_ROWS];
    normalise(stream, weights(n, KV_ROLE_ATTN_NORM, l), d, (double)c->norm_eps, xn);
    matvec(weights(n, KV_ROLE_ATTN_Q, l), Hq * D, d, xn, q);
    matvec(weights(n, KV_ROLE_ATTN_K, l), H * D, d, xn, n->k + at);
    matvec(weights(n, KV_ROLE_ATTN_V, l), H * D, d, xn, n->v + at);
    for (int64_t h = 0; h < Hq; h++) {
        const bk_view *v = bk_view_at(s, l, s->n_sets > 1 ? h / (Hq / H) : 0);
        const int64_t stored = v->to - v->from;
        memcpy(view, v->e + v->from, (size_t)stored * sizeof *view);
        for (int64_t y = 0; y <= x; y++)
            view[stored + y] = (bk_entry){first + y, v->base + y, row0 + y};
        rotate(c, v->base + x, q + h * D, turned);
        attend(n, l, view, stored + x + 1, turned, h / (Hq / H), out + h * D);
    }
    matvec(weights(n, KV_ROLE_ATTN_OUTPUT, l), d, Hq * D, out, xn);
    for (int64_t i = 0; i < d; i++)
        stream[i] += xn[i];
    free(xn);
    free(q);
    free(out);
}

static void ffn_row(bk_naive *n, int32_t l, double *stream)
{
    const kv_config *c = &n->m->cfg;
    const int64_t d = c->d_model, f = c->ffn_dim;
    double *xn = malloc((size_t)d * sizeof *xn), *g = malloc((size_t)f * sizeof *g);
    double *u = malloc((size_t)f * sizeof *u);
    normalise(stream, weights(n, KV_ROLE_FFN_NORM, l), d, (double)c->norm_eps, xn);
    matvec(weights(n, KV_ROLE_FFN_GATE, l), f, d, xn, g);
    matvec(weights(n, KV_ROLE_FFN_UP, l), f, d, xn, u);
    for (int64_t i = 0; i < f; i++)
        g[i] = g[i] / (1 + exp(-g[i])) * u[i];
    matvec(weights(n, KV_ROLE_FFN_DOWN, l), d, f, g, xn);
    for (int64_t i = 0; i < d; i++)
        stream[i] += xn[i];
    free(xn);
    free(g);
    free(u);
}

void bk_naive_forward(bk_naive *n, const bk_sim *s, int64_t first, int64_t m, int64_t row0, double *logits)
{
    const kv_config *c = &n->m->cfg;
    const int64_t d = c->d_model;
    double *x = malloc((size_t)(m * d) * sizeof *x), *xn = malloc((size_t)d * sizeof *xn);
    for (int64_t r = 0; r < m; r++)
        for (int64_t i = 0; i < d; i++)
            x[r * d + i] =
                (double)weights(n, KV_ROLE_TOKEN_EMBD, 0)[bk_token_at(n->m, first + r) * d + i];
    for (int32_t l = 0; l < c->n_layers; l++)
        for (int64_t r = 0; r < m; r++) {
            attention_row(n, s, l, first, r, row0, x + r * d);
            ffn_row(n, l, x + r * d);
        }
    const kv_role head = c->tied_head ? KV_ROLE_TOKEN_EMBD : KV_ROLE_OUTPUT;
    for (int64_t r = 0; r < m; r++) {
        normalise(x + r * d, weights(n, KV_ROLE_OUTPUT_NORM, 0), d, (double)c->norm_eps, xn);
        matvec(weights(n, head, 0), c->vocab_size, d, xn, logits + r * c->vocab_size);
    }
    free(x);
    free(xn);
}

/* ---- a stream through both ------------------------------------------------------------------ */

bk_stream bk_open(const kv_model *m, const char *policy, int threads)
{
    bk_stream s = {.session = bk_open_on(m, policy, threads), .m = m};
    bk_sim_open(&s.sim, policy, &m->cfg);
    s.logits = calloc((size_t)BK_TOKENS * (size_t)m->cfg.vocab_size, sizeof *s.logits);
    return s;
}

void bk_close(bk_stream *s)
{
    bk_blas->close(s->session);
    bk_sim_close(&s->sim);
    free(s->list.v);
    free(s->reported.v);
    free(s->logits);
}

void bk_stand_at(bk_stream *to, const bk_stream *from)
{
    for (int i = 0; i < to->sim.n_layers * to->sim.n_sets; i++) {
        const kv_events events = to->sim.views[i].events;
        to->sim.views[i] = from->sim.views[i];
        to->sim.views[i].events = events;
    }
    to->seen = from->seen;
    to->first = from->first;
    to->rows = from->rows;
}

static void collect(bk_stream *s)
{
    s->list.n = 0;
    for (int32_t i = 0; i < s->sim.n_layers * s->sim.n_sets; i++)
        for (size_t e = 0; e < s->sim.views[i].events.n; e++) {
            kv_event event = s->sim.views[i].events.v[e];
            event.layer = i / s->sim.n_sets;
            event.head = kv_policy_heads_agree(&s->sim.p) ? -1 : i % s->sim.n_sets;
            kv_events_push(&s->list, event);
        }
}

void bk_plan(bk_stream *s, int64_t n, bk_naive *n_, double *expected)
{
    const int windows = s->sim.p.selection == KV_SEL_XWINDOW;
    for (int32_t i = 0; i < s->sim.n_layers * s->sim.n_sets; i++)
        s->sim.views[i].events.n = 0;
    s->first = windows ? (s->seen ? s->first + s->sim.p.xwindow.stride : 0) : s->seen;
    for (int64_t at = 0, m; at < n; at += m) {
        m = bk_piece(&s->sim, s->first, n, at);
        bk_before(&s->sim, s->first + at, m);
        const int64_t row0 = windows ? s->rows : s->first + at;
        if (n_) bk_naive_forward(n_, &s->sim, s->first + at, m, row0, expected + at * s->m->cfg.vocab_size);
        bk_after(&s->sim, s->first + at, m, row0, s->seen);
        s->rows += m;
    }
    collect(s);
}

kv_status bk_feed(bk_stream *s, int64_t n, const kv_events *list)
{
    int32_t tokens[BK_TOKENS];
    for (int64_t i = 0; i < n; i++)
        tokens[i] = bk_token_at(s->m, s->first + i);
    s->reported.n = 0;
    const kv_step step = {.tokens = tokens,
                          .n = (int32_t)n,
                          .rows = KV_ROWS_ALL,
                          .flags = s->sim.p.selection == KV_SEL_XWINDOW ? KV_STEP_RECOMPUTE : 0,
                          .pos0 = s->first,
                          .follow = list,
                          .logits = s->logits,
                          .events = &s->reported};
    return bk_blas->step(s->session, &step);
}

static void feed_planned(bk_stream *s, int64_t n)
{
    if (bk_feed(s, n, &s->list) != KV_OK) fail_msg("step: %s", bk_blas->last_error(s->session));
    assert_int_equal(s->reported.n, s->list.n);
    if (s->list.n) assert_memory_equal(s->reported.v, s->list.v, s->list.n * sizeof *s->list.v);
    s->seen = s->first + n;
}

void bk_step(bk_stream *s, int64_t n)
{
    bk_plan(s, n, NULL, NULL);
    feed_planned(s, n);
}

void bk_refused(bk_stream *s, int64_t n, const kv_events *list, const char *words)
{
    assert_int_equal(bk_feed(s, n, list), KV_ERR_USAGE);
    const char *text = bk_blas->last_error(s->session);
    if (!strstr(text, words) || strchr(text, '\n')) fail_msg("'%s' does not say '%s' in one line", text, words);
    assert_int_equal(s->reported.n, 0);
}

double bk_distance(const kv_model *m, const char *policy, const int *steps)
{
    bk_stream s = bk_open(m, policy, 2);
    bk_naive n = bk_naive_open(m);
    const int64_t V = m->cfg.vocab_size;
    double *expected = malloc((size_t)BK_TOKENS * (size_t)V * sizeof *expected), worst = 0;
    for (; *steps; steps++) {
        bk_plan(&s, *steps, &n, expected);
        feed_planned(&s, *steps);
        for (int64_t i = 0; i < *steps * V; i++)
            worst = fmax(worst, fabs((double)s.logits[i] - expected[i]));
    }
    free(expected);
    bk_naive_close(&n);
    bk_close(&s);
    return worst;
}

void *bk_exported(kv_session *s, size_t *size)
{
    assert_int_equal(bk_blas->export_state(s, -1, KV_STATE_KV, NULL, 0, size), KV_OK);
    void *blob = malloc(*size);
    assert_int_equal(bk_blas->export_state(s, -1, KV_STATE_KV, blob, *size, size), KV_OK);
    assert_ok(kv_state_check(blob, *size));
    return blob;
}
