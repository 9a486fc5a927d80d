/* The blas side against a forward pass in plain double loops, with the decisions of docs/policy/
 * made by this file, and the calls of its door. */
#include "tests/unit/kvtest.h"

#include "common/rng.h"
#include "common/state.h"
#include "difftest/side.h"
#include "ref/backend.h"

#include <math.h>
#include <unistd.h>

enum { MAX_TOKENS = 256 };

static const kv_backend *blas;
static kv_model *nano;

static int set_up(void **state)
{
    (void)state;
    static dt_side side;
    char sides[1024];
    const ssize_t n = readlink("/proc/self/exe", sides, sizeof sides - 8);
    if (n < 0) return -1;
    sides[n] = '\0';
    for (int i = 0; i < 3; i++)
        *strrchr(sides, '/') = '\0';
    strcat(sides, "/sides");
    setenv("KVDIFF_SIDES", sides, 1);
    assert_ok(dt_side_open("blas", &side));
    blas = side.backend;
    assert_ok(kv_model_open("nano", NULL, &nano, NULL));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kv_model_close(nano);
    return 0;
}

static kv_session *open_on(const kv_model *m, const char *policy, int threads)
{
    kv_policy p;
    kv_session *s = NULL;
    assert_ok(kv_policy_parse(policy, &p));
    const kv_open_args args = {.model = m, .policy = &p, .threads = threads, .max_step = 64};
    if (blas->open(&args, &s) != KV_OK) fail_msg("open: %s", blas->last_error(NULL));
    return s;
}

static int32_t token_at(const kv_model *m, int64_t i)
{
    return (int32_t)kv_philox_below(77, 0, (uint64_t)i, (uint32_t)m->cfg.vocab_size);
}

/* ---- decisions by the letter of docs/policy/ ------------------------------------------------ */

typedef struct entry {
    int64_t og, pos; /* pos: where its key is rotated in the next piece */
    int32_t slot;
} entry;

typedef struct sim {
    kv_policy p;
    entry e[2 * MAX_TOKENS];
    int64_t n, base;
    kv_events events; /* of one layer */
} sim;

static void decide(sim *s, int kind, int64_t og, int64_t token, int64_t slot)
{
    kv_events_push(&s->events, (kv_event){.og = og,
                                          .token = token,
                                          .head = -1,
                                          .kind = kind,
                                          .slot = (int32_t)slot,
                                          .margin = INFINITY});
}

static void drop(sim *s, int64_t i)
{
    memmove(s->e + i, s->e + i + 1, (size_t)(s->n - i - 1) * sizeof *s->e);
    s->n--;
}

/* Before a piece: evictions, and positions of everything that it sees. */
static void sim_before(sim *s, int64_t first, int64_t m)
{
    const int sliding = s->p.selection == KV_SEL_SLIDING;
    const int64_t over = sliding ? s->n + m - s->p.sliding.cap : 0;
    for (int64_t i = 0; i < over; i++)
        decide(s, KV_EVENT_EVICT, s->e[i].og, first, i);
    for (int64_t i = 0; i < over; i++)
        drop(s, 0);
    const int absolute =
        s->p.selection == KV_SEL_FULL || (sliding && s->p.sliding.pos == KV_SLIDING_ABSOLUTE);
    s->base = absolute ? first : s->n;
    if (s->p.selection == KV_SEL_SINK || (sliding && s->p.sliding.pos == KV_SLIDING_REROTATE))
        for (int64_t i = 0; i < s->n; i++)
            s->e[i].pos = i;
}

static void sim_after(sim *s, int64_t first, int64_t m)
{
    for (int64_t x = 0; x < m; x++) {
        const int64_t og = first + x, full = s->p.sink.sinks + (int64_t)s->p.sink.cap;
        int64_t slot = s->p.selection == KV_SEL_FULL ? og : s->n;
        const int replaces = s->p.selection == KV_SEL_SINK && s->n == full;
        if (replaces) slot = s->e[s->p.sink.sinks].slot;
        decide(s, KV_EVENT_ADMIT, og, og, slot);
        if (replaces) {
            decide(s, KV_EVENT_EVICT, s->e[s->p.sink.sinks].og, og, slot);
            drop(s, s->p.sink.sinks);
        }
        s->e[s->n++] = (entry){og, s->base + x, (int32_t)slot};
    }
}

static int64_t sim_piece(const sim *s, int64_t left)
{
    const int32_t cap = s->p.sliding.cap;
    return s->p.selection == KV_SEL_SLIDING && left > cap ? cap / 2 : left;
}

/* The same decisions in every layer. */
static void for_all_layers(const sim *s, int32_t n_layers, kv_events *out)
{
    out->n = 0;
    for (int32_t l = 0; l < n_layers; l++)
        for (size_t i = 0; i < s->events.n; i++) {
            kv_event e = s->events.v[i];
            e.layer = l;
            kv_events_push(out, e);
        }
}

/* ---- the forward pass in double ------------------------------------------------------------- */

typedef struct naive {
    const kv_model *m;
    float **w;     /* [tensors] widened */
    double *k, *v; /* [layer][token][H * D], keys before RoPE */
} naive;

static const float *weights(naive *n, kv_role role, int32_t layer)
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
    return (size_t)m->cfg.n_layers * MAX_TOKENS * (size_t)(m->cfg.n_kv_heads * m->cfg.head_dim);
}

static naive naive_open(const kv_model *m)
{
    return (naive){m, calloc(n_tensors(m), sizeof(float *)), calloc(history(m), sizeof(double)),
                   calloc(history(m), sizeof(double))};
}

static void naive_close(naive *n)
{
    for (size_t i = 0; i < n_tensors(n->m); i++)
        free(n->w[i]);
    free(n->w);
    free(n->k);
    free(n->v);
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

/* One query head over the view, token `og` of position pos itself being the last. */
static void naive_attend(const naive *n, const entry *view, int64_t n_view, const double *q,
                         const double *k, const double *v, int64_t kv_head, double *out)
{
    const kv_config *c = &n->m->cfg;
    const int64_t D = c->head_dim, width = c->n_kv_heads * D;
    double p[2 * MAX_TOKENS], key[KV_MAX_HEAD_DIM], sum = 0;
    for (int64_t i = 0; i < n_view; i++) {
        double dot = 0;
        rotate(c, view[i].pos, k + view[i].og * width + kv_head * D, key);
        for (int64_t d = 0; d < D; d++)
            dot += q[d] * key[d];
        p[i] = exp(dot / sqrt((double)D));
        sum += p[i];
    }
    for (int64_t d = 0; d < D; d++) {
        out[d] = 0;
        for (int64_t i = 0; i < n_view; i++)
            out[d] += p[i] / sum * v[view[i].og * width + kv_head * D + d];
    }
}

static void attention_row(naive *n, const sim *s, int32_t l, int64_t first, int64_t x,
                          double *stream)
{
    const kv_config *c = &n->m->cfg;
    const int64_t d = c->d_model, D = c->head_dim, H = c->n_kv_heads, Hq = c->n_heads;
    double *k = n->k + (int64_t)l * MAX_TOKENS * H * D, *v = n->v + (int64_t)l * MAX_TOKENS * H * D;
    double *xn = malloc((size_t)d * sizeof *xn), *q = malloc((size_t)(Hq * D) * sizeof *q);
    double *out = malloc((size_t)(Hq * D) * sizeof *out), turned[KV_MAX_HEAD_DIM];
    entry view[2 * MAX_TOKENS];
    normalise(stream, weights(n, KV_ROLE_ATTN_NORM, l), d, (double)c->norm_eps, xn);
    matvec(weights(n, KV_ROLE_ATTN_Q, l), Hq * D, d, xn, q);
    matvec(weights(n, KV_ROLE_ATTN_K, l), H * D, d, xn, k + (first + x) * H * D);
    matvec(weights(n, KV_ROLE_ATTN_V, l), H * D, d, xn, v + (first + x) * H * D);
    memcpy(view, s->e, (size_t)s->n * sizeof *view);
    for (int64_t y = 0; y <= x; y++)
        view[s->n + y] = (entry){first + y, s->base + y, 0};
    for (int64_t h = 0; h < Hq; h++) {
        rotate(c, s->base + x, q + h * D, turned);
        naive_attend(n, view, s->n + x + 1, turned, k, v, h / (Hq / H), out + h * D);
    }
    matvec(weights(n, KV_ROLE_ATTN_OUTPUT, l), d, Hq * D, out, xn);
    for (int64_t i = 0; i < d; i++)
        stream[i] += xn[i];
    free(xn);
    free(q);
    free(out);
}

static void ffn_row(naive *n, int32_t l, double *stream)
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

/* logits[m][vocab] of one piece whose view is s. */
static void naive_forward(naive *n, const sim *s, int64_t first, int64_t m, double *logits)
{
    const kv_config *c = &n->m->cfg;
    const int64_t d = c->d_model;
    double *x = malloc((size_t)(m * d) * sizeof *x), *xn = malloc((size_t)d * sizeof *xn);
    for (int64_t r = 0; r < m; r++)
        for (int64_t i = 0; i < d; i++)
            x[r * d + i] =
                (double)weights(n, KV_ROLE_TOKEN_EMBD, 0)[token_at(n->m, first + r) * d + i];
    for (int32_t l = 0; l < c->n_layers; l++)
        for (int64_t r = 0; r < m; r++) {
            attention_row(n, s, l, first, r, x + r * d);
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

typedef struct stream {
    kv_session *session;
    sim sim;
    kv_events list, reported;
    int64_t seen;
    float *logits; /* of the last step */
} stream;

static stream stream_open(const kv_model *m, const char *policy, int threads)
{
    stream s = {.session = open_on(m, policy, threads)};
    assert_ok(kv_policy_parse(policy, &s.sim.p));
    s.logits = calloc((size_t)MAX_TOKENS * (size_t)m->cfg.vocab_size, sizeof *s.logits);
    return s;
}

static void stream_close(stream *s)
{
    blas->close(s->session);
    free(s->sim.events.v);
    free(s->list.v);
    free(s->reported.v);
    free(s->logits);
}

/* Decides a step of n tokens; with n_ (may be NULL) also computes expected[n][vocab]. */
static void plan_step(stream *s, const kv_model *m, int64_t n, naive *n_, double *expected)
{
    s->sim.events.n = 0;
    for (int64_t at = 0, piece; at < n; at += piece) {
        piece = sim_piece(&s->sim, n - at);
        sim_before(&s->sim, s->seen + at, piece);
        if (n_) naive_forward(n_, &s->sim, s->seen + at, piece, expected + at * m->cfg.vocab_size);
        sim_after(&s->sim, s->seen + at, piece);
    }
    for_all_layers(&s->sim, m->cfg.n_layers, &s->list);
}

static kv_status feed(stream *s, const kv_model *m, int64_t n, const kv_events *list)
{
    int32_t tokens[MAX_TOKENS];
    for (int64_t i = 0; i < n; i++)
        tokens[i] = token_at(m, s->seen + i);
    s->reported.n = 0;
    const kv_step step = {.tokens = tokens,
                          .n = (int32_t)n,
                          .rows = KV_ROWS_ALL,
                          .follow = list,
                          .logits = s->logits,
                          .events = &s->reported};
    return blas->step(s->session, &step);
}

static void step_ok(stream *s, const kv_model *m, int64_t n)
{
    plan_step(s, m, n, NULL, NULL);
    if (feed(s, m, n, &s->list) != KV_OK) fail_msg("step: %s", blas->last_error(s->session));
    s->seen += n;
}

static void compare_with_naive(const kv_model *m, const char *policy, const int *steps,
                               double tolerance)
{
    stream s = stream_open(m, policy, 2);
    naive n = naive_open(m);
    const int64_t V = m->cfg.vocab_size;
    double *expected = malloc((size_t)MAX_TOKENS * (size_t)V * sizeof *expected), worst = 0;
    for (; *steps; steps++) {
        plan_step(&s, m, *steps, &n, expected);
        if (feed(&s, m, *steps, &s.list) != KV_OK)
            fail_msg("%s: %s", policy, blas->last_error(s.session));
        assert_int_equal(s.reported.n, s.list.n);
        assert_memory_equal(s.reported.v, s.list.v, s.list.n * sizeof *s.list.v);
        s.seen += *steps;
        for (int64_t i = 0; i < *steps * V; i++)
            worst = fmax(worst, fabs((double)s.logits[i] - expected[i]));
    }
    free(expected);
    naive_close(&n);
    stream_close(&s);
    if (!(worst < tolerance)) fail_msg("%s: logits are off by %g", policy, worst);
}

/* Wraps every cache several times; 40 is longer than every cap. */
static const int long_schedule[] = {3, 1, 7, 1, 40, 2, 16, 1, 1, 20, 5, 0};

static void full_equals_double_loops(void **state)
{
    (void)state;
    compare_with_naive(nano, "full", long_schedule, 1e-4);
}

static void sink_equals_double_loops(void **state)
{
    (void)state;
    compare_with_naive(nano, "sink:cap=11,sinks=3", long_schedule, 1e-4);
    compare_with_naive(nano, "sink:cap=16,sinks=0", long_schedule, 1e-4);
}

static void sliding_equals_double_loops_in_every_position_mode(void **state)
{
    (void)state;
    compare_with_naive(nano, "sliding:cap=13", long_schedule, 1e-4);
    compare_with_naive(nano, "sliding:cap=13,pos=absolute", long_schedule, 1e-4);
    compare_with_naive(nano, "sliding:cap=13,pos=saturate", long_schedule, 1e-4);
}

static void smollm2_equals_double_loops(void **state)
{
    (void)state;
    kv_model *m;
    const int steps[] = {3, 1, 0};
    if (kv_model_open("smollm2", NULL, &m, NULL) != KV_OK) kvtest_skip("%s", kv_message());
    compare_with_naive(m, "full", steps, 1e-3);
    kv_model_close(m);
}

/* ---- lists that cannot be obeyed ------------------------------------------------------------ */

static void refused(stream *s, int64_t n, const kv_events *list, const char *words)
{
    assert_int_equal(feed(s, nano, n, list), KV_ERR_USAGE);
    if (!strstr(blas->last_error(s->session), words))
        fail_msg("'%s' does not say '%s'", blas->last_error(s->session), words);
    assert_int_equal(s->reported.n, 0);
}

static void bad_lists_are_refused_and_change_nothing(void **state)
{
    (void)state;
    stream s = stream_open(nano, "sink:cap=6,sinks=2", 1),
           twin = stream_open(nano, "sink:cap=6,sinks=2", 1);
    step_ok(&s, nano, 12);
    step_ok(&twin, nano, 12);
    plan_step(&s, nano, 3, NULL, NULL);
    kv_events bad = {0};
    const size_t last = s.list.n - 1; /* an eviction in the last layer */
    for (size_t i = 0; i < s.list.n; i++)
        kv_events_push(&bad, s.list.v[i]);
#define WITH(field, value, words)          \
    do {                                   \
        const kv_event kept = bad.v[last]; \
        bad.v[last].field = (value);       \
        refused(&s, 3, &bad, words);       \
        bad.v[last] = kept;                \
    } while (0)
    WITH(og, 2, "slot is taken");
    WITH(slot, 0, "does not hold");
    WITH(head, 0, "heads decide alike");
    WITH(kind, KV_EVENT_SEAL, "does not have");
    WITH(layer, 0, "layers must ascend");
    WITH(token, 99, "slot is taken");
#undef WITH
    bad.n--;
    refused(&s, 3, &bad, "slot is taken");
    bad.n++;
    kv_events_push(&bad, bad.v[last]);
    refused(&s, 3, &bad, "more than the step");
    bad.n = 0;
    refused(&s, 3, &bad, "does not admit token 12");
    refused(&s, 3, NULL, "no policy of its own");
    assert_int_equal(feed(&s, nano, 3, &s.list), KV_OK);
    step_ok(&twin, nano, 3);
    assert_memory_equal(s.logits, twin.logits, 3 * 260 * sizeof(float));
    free(bad.v);
    stream_close(&s);
    stream_close(&twin);
}

static void bad_sliding_lists_are_refused(void **state)
{
    (void)state;
    stream s = stream_open(nano, "sliding:cap=6", 1);
    step_ok(&s, nano, 6);
    plan_step(&s, nano, 2, NULL, NULL);
    s.list.v[0].og = 3;
    refused(&s, 2, &s.list, "view index");
    s.list.v[0].og = 0;
    s.list.v[2].slot++;
    refused(&s, 2, &s.list, "slot that is not the token's");
    s.list.v[2].slot--;
    assert_int_equal(feed(&s, nano, 2, &s.list), KV_OK);
    stream_close(&s);
}

static void full_needs_no_list(void **state)
{
    (void)state;
    stream a = stream_open(nano, "full", 1), b = stream_open(nano, "full", 1);
    for (int i = 0; i < 3; i++) {
        step_ok(&a, nano, 5);
        assert_int_equal(feed(&b, nano, 5, NULL), KV_OK);
        b.seen += 5;
        assert_memory_equal(a.logits, b.logits, 5 * 260 * sizeof(float));
        assert_int_equal(b.reported.n, a.list.n);
        assert_memory_equal(b.reported.v, a.list.v, a.list.n * sizeof *a.list.v);
    }
    stream_close(&a);
    stream_close(&b);
}

/* ---- the other calls ------------------------------------------------------------------------ */

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    stream a = stream_open(nano, "sink:cap=20", 1), b = stream_open(nano, "sink:cap=20", 3);
    for (int i = 0; i < 4; i++) {
        step_ok(&a, nano, 1 + 9 * i);
        step_ok(&b, nano, 1 + 9 * i);
        assert_memory_equal(a.logits, b.logits, (size_t)(1 + 9 * i) * 260 * sizeof(float));
    }
    stream_close(&a);
    stream_close(&b);
}

static void *exported(kv_session *s, size_t *size)
{
    assert_int_equal(blas->export_state(s, -1, KV_STATE_KV, NULL, 0, size), KV_OK);
    void *blob = malloc(*size);
    assert_int_equal(blas->export_state(s, -1, KV_STATE_KV, blob, *size, size), KV_OK);
    assert_ok(kv_state_check(blob, *size));
    return blob;
}

static void state_moves_between_sessions(void **state)
{
    (void)state;
    const char *const policies[] = {"full", "sink:cap=9,sinks=2", "sliding:cap=9",
                                    "sliding:cap=9,pos=absolute", "sliding:cap=9,pos=saturate"};
    for (size_t i = 0; i < 5; i++) {
        size_t size, again_size;
        stream a = stream_open(nano, policies[i], 1);
        step_ok(&a, nano, 8);
        step_ok(&a, nano, 7);
        stream b = stream_open(nano, policies[i], 1);
        void *blob = exported(a.session, &size);
        assert_int_equal(blas->import_state(b.session, blob, size), KV_OK);
        void *again = exported(b.session, &again_size);
        assert_int_equal(size, again_size);
        assert_memory_equal(blob, again, size);
        free(b.sim.events.v);
        b.sim = a.sim;
        b.sim.events = (kv_events){0};
        b.seen = a.seen;
        step_ok(&a, nano, 5);
        step_ok(&b, nano, 5);
        assert_memory_equal(a.logits, b.logits, 5 * 260 * sizeof(float));
        assert_int_equal(blas->import_state(b.session, blob, size - 8), KV_ERR_FORMAT);
        free(blob);
        free(again);
        stream_close(&a);
        stream_close(&b);
    }
}

static void foreign_states_are_refused(void **state)
{
    (void)state;
    size_t size, need;
    stream a = stream_open(nano, "full", 1), b = stream_open(nano, "sink:cap=4", 1);
    step_ok(&a, nano, 3);
    void *blob = exported(a.session, &size);
    assert_int_equal(blas->import_state(b.session, blob, size), KV_ERR_MISMATCH);
    assert_int_equal(blas->export_state(a.session, 4, KV_STATE_KV, NULL, 0, &need), KV_ERR_USAGE);
    assert_int_equal(blas->export_state(a.session, -1, KV_STATE_KV, blob, 10, &need), KV_ERR_USAGE);
    size_t offset = sizeof(kv_state_head);
    const kv_state_view v = kv_state_place(blob, blob, &offset, -1, 0);
    v.og[1] = v.og[0];
    assert_int_equal(blas->import_state(a.session, blob, size), KV_ERR_FORMAT);
    step_ok(&a, nano, 2); /* a refused import leaves the session as it was */
    free(blob);
    stream_close(&a);
    stream_close(&b);
}

static void snapshot_and_reset_go_back(void **state)
{
    (void)state;
    float kept[6 * 260];
    void *snap;
    stream s = stream_open(nano, "sink:cap=9,sinks=2", 1);
    step_ok(&s, nano, 6);
    memcpy(kept, s.logits, sizeof kept);
    assert_int_equal(blas->reset(s.session), KV_OK);
    s.sim.n = s.seen = 0;
    step_ok(&s, nano, 6);
    assert_memory_equal(kept, s.logits, sizeof kept);
    step_ok(&s, nano, 9);
    assert_int_equal(blas->snapshot(s.session, &snap), KV_OK);
    const sim before = s.sim;
    for (int i = 0; i < 2; i++) {
        step_ok(&s, nano, 6);
        if (i) assert_memory_equal(kept, s.logits, sizeof kept);
        memcpy(kept, s.logits, sizeof kept);
        assert_int_equal(blas->restore(s.session, snap), KV_OK);
        const kv_events list = s.sim.events;
        s.sim = before;
        s.sim.events = list;
        s.seen -= 6;
    }
    blas->snapshot_free(s.session, snap);
    blas->snapshot_free(s.session, NULL);
    stream_close(&s);
    blas->close(NULL);
}

static void tables_have_the_bits_of_the_reference(void **state)
{
    (void)state;
    kv_policy p;
    kv_session *r;
    float a[8 * 16], b[8 * 16];
    assert_ok(kv_policy_parse("full", &p));
    const kv_open_args args = {.model = nano, .policy = &p, .threads = 1};
    assert_int_equal(ref_backend()->open(&args, &r), KV_OK);
    kv_session *s = open_on(nano, "full", 1);
    const int64_t first[] = {0, 1000, 131072, 5000000};
    for (int i = 0; i < 8; i++) {
        const kv_table which = i & 1 ? KV_TABLE_ROPE_SIN : KV_TABLE_ROPE_COS;
        assert_int_equal(ref_backend()->table(r, which, first[i / 2], 8, a), KV_OK);
        assert_int_equal(blas->table(s, which, first[i / 2], 8, b), KV_OK);
        assert_memory_equal(a, b, sizeof a);
    }
    ref_backend()->close(r);
    blas->close(s);
}

static void taps_and_nll_show_the_pass(void **state)
{
    (void)state;
    float k[64], v[64], embed[128], logits[4 * 260], nll[4];
    const int32_t tokens[] = {5, 9, 200, 31}, targets[] = {9, 200, 31, 7};
    const kv_tap taps[] = {
        {KV_TAP_K, 2, 3, 64, k}, {KV_TAP_V, 2, 3, 64, v}, {KV_TAP_EMBED, 0, 1, 128, embed}};
    kv_session *s = open_on(nano, "full", 2);
    const kv_step step = {.tokens = tokens,
                          .n = 4,
                          .rows = KV_ROWS_ALL,
                          .n_taps = 3,
                          .taps = taps,
                          .logits = logits,
                          .targets = targets,
                          .nll = nll};
    assert_int_equal(blas->step(s, &step), KV_OK);
    size_t size, offset = sizeof(kv_state_head);
    void *blob = exported(s, &size);
    for (int run = 0; run < 2 * 2 + 2; run++) {
        const kv_state_view view = kv_state_place(blob, blob, &offset, -1, 0);
        const float *record = (const float *)(const void *)view.records + 3 * 64;
        if (view.run->layer != 2) continue;
        assert_memory_equal(record, k + 32 * view.run->head, 32 * sizeof(float));
        assert_memory_equal(record + 32, v + 32 * view.run->head, 32 * sizeof(float));
    }
    free(blob);
    float row[128];
    kv_tensor_rows_f32(kv_model_tensor(nano, KV_ROLE_TOKEN_EMBD, 0), 9, 1, row);
    assert_memory_equal(row, embed, sizeof row);
    for (int r = 0; r < 4; r++) {
        double sum = 0;
        for (int i = 0; i < 260; i++)
            sum += exp((double)logits[r * 260 + i]);
        assert_true(fabs((double)nll[r] - (log(sum) - (double)logits[r * 260 + targets[r]])) <
                    1e-5);
    }
    blas->close(s);
}

static void last_row_alone_equals_the_row_of_all(void **state)
{
    (void)state;
    float all[4 * 260], last[260], nll_last;
    const int32_t tokens[] = {5, 9, 200, 31}, target = 7;
    kv_session *a = open_on(nano, "full", 1), *b = open_on(nano, "full", 1);
    kv_step step = {.tokens = tokens, .n = 4, .rows = KV_ROWS_ALL, .logits = all};
    assert_int_equal(blas->step(a, &step), KV_OK);
    step.rows = KV_ROWS_LAST;
    step.logits = last;
    step.targets = &target;
    step.nll = &nll_last;
    assert_int_equal(blas->step(b, &step), KV_OK);
    for (int i = 0; i < 260; i++)
        assert_true(fabsf(all[3 * 260 + i] - last[i]) < 1e-4f);
    step.logits = NULL; /* scored, not returned */
    step.rows = KV_ROWS_NONE;
    assert_int_equal(blas->step(b, &step), KV_OK);
    blas->close(a);
    blas->close(b);
}

static void impossible_steps_are_refused(void **state)
{
    (void)state;
    kv_session *s = open_on(nano, "full", 1);
    float buffer[260], nll;
    const int32_t good = 3, outside = 260, negative = -1;
    kv_tap tap = {KV_TAP_K, 0, 0, 63, buffer};
    const struct {
        kv_step step;
        kv_status status;
    } bad[] = {
        {{.tokens = &good, .n = 0}, KV_ERR_USAGE},
        {{.tokens = &outside, .n = 1}, KV_ERR_USAGE},
        {{.tokens = &negative, .n = 1}, KV_ERR_USAGE},
        {{.tokens = &good, .n = 1, .rows = KV_ROWS_ALL, .nll = &nll}, KV_ERR_USAGE},
        {{.tokens = &good, .n = 1, .rows = KV_ROWS_ALL, .nll = &nll, .targets = &outside},
         KV_ERR_USAGE},
        {{.tokens = &good, .n = 1, .n_taps = 1, .taps = &tap}, KV_ERR_USAGE},
        {{.tokens = &good, .n = 1, .flags = KV_STEP_RECOMPUTE}, KV_ERR_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(blas->step(s, &bad[i].step), bad[i].status);
        assert_true(*blas->last_error(s));
    }
    const kv_step fine = {.tokens = &good, .n = 1, .rows = KV_ROWS_LAST, .logits = buffer};
    assert_int_equal(blas->step(s, &fine), KV_OK);
    blas->close(s);
}

static void what_the_side_lacks_is_refused_by_name(void **state)
{
    (void)state;
    kv_policy p;
    kv_session *s;
    kv_model odd = *nano;
    odd.cfg.qkv_bias = 1;
    assert_ok(kv_policy_parse("full", &p));
    kv_open_args args = {.model = &odd, .policy = &p, .threads = 1};
    assert_int_equal(blas->open(&args, &s), KV_ERR_UNSUPPORTED);
    assert_non_null(strstr(blas->last_error(NULL), "qkv_bias"));
    args.model = nano;
    args.threads = 0;
    assert_int_equal(blas->open(&args, &s), KV_ERR_USAGE);
    args.threads = 1;
    args.options = "fast";
    assert_int_equal(blas->open(&args, &s), KV_ERR_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_equals_double_loops),
        cmocka_unit_test(sink_equals_double_loops),
        cmocka_unit_test(sliding_equals_double_loops_in_every_position_mode),
        cmocka_unit_test(smollm2_equals_double_loops),
        cmocka_unit_test(bad_lists_are_refused_and_change_nothing),
        cmocka_unit_test(bad_sliding_lists_are_refused),
        cmocka_unit_test(full_needs_no_list),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(state_moves_between_sessions),
        cmocka_unit_test(foreign_states_are_refused),
        cmocka_unit_test(snapshot_and_reset_go_back),
        cmocka_unit_test(tables_have_the_bits_of_the_reference),
        cmocka_unit_test(taps_and_nll_show_the_pass),
        cmocka_unit_test(last_row_alone_equals_the_row_of_all),
        cmocka_unit_test(impossible_steps_are_refused),
        cmocka_unit_test(what_the_side_lacks_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
