/* locate_attention.c - a wrong row of attention: its view in numbers, for the guesses of locate_attn.h. */
#include "difftest/locate_attn.h"
#include "difftest/locate_calc.h"
#include "difftest/locate_scores.h"
#include "difftest/locate_study.h"

#include "common/tile.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OTHERS = 64 };

/* Keys and values of a view in double, for every KV head. */
typedef struct numbers {
    double *memory;
    double **k, **v; /* [n_kv][entries][D] */
} numbers;

static void free_numbers(numbers *x)
{
    free(x->memory);
    free(x->k);
}

static double gain_of(const kv_model *m, int32_t layer, int32_t kv)
{
    const kv_tensor *t = kv_model_tensor(m, KV_ROLE_K_GAIN, layer);
    float row[KV_MAX_HEAD_DIM];
    if (!t->data || t->cols > KV_MAX_HEAD_DIM) return 1;
    kv_tensor_rows_f32(t, 0, 1, row);
    return (double)row[kv];
}

static void stored_entry(const dt_study *s, const kv_state_head *h, const kv_state_view *run, const dt_entry *e,
                         int32_t kv, double *k, double *v)
{
    const int64_t D = h->head_dim;
    const uint8_t *record = run->records + (int64_t)e->stored * h->record_bytes;
    for (int64_t d = 0; d < D; d++) {
        k[d] = dt_record_value(h->storage, record, D, 0, d);
        v[d] = dt_record_value(h->storage, record, D, 1, d);
    }
    if (h->key_form != KV_KEY_RAW) return;
    const double gain = gain_of(s->flow->s->model, s->layer, kv);
    dt_rotate(&s->rotation, e->pos, 0, D, k, k);
    for (int64_t d = 0; d < D; d++)
        k[d] *= gain;
}

static void own_entry(const dt_study *s, const dt_entry *e, int32_t kv, int64_t D, double *k, double *v)
{
    const float *rk = dt_study_row(s, DT_REF, KV_TAP_K, s->layer, e->row),
                *rv = dt_study_row(s, DT_REF, KV_TAP_V, s->layer, e->row);
    for (int64_t d = 0; d < D; d++) {
        k[d] = (double)rk[kv * D + d];
        v[d] = (double)rv[kv * D + d];
    }
}

/* Heads may hold other tokens; a guess about another head takes what it holds in the same places. */
static kv_status fill_numbers(const dt_study *s, const dt_row_view *view, numbers *x)
{
    const void *before = s->out->state.p;
    kv_state_head h;
    memcpy(&h, before, sizeof h);
    const int64_t D = h.head_dim, all = view->n + view->n_gone, H = h.n_kv_heads;
    x->memory = calloc((size_t)(2 * H * all * D) + 1, sizeof *x->memory);
    x->k = calloc((size_t)(2 * H), sizeof *x->k);
    if (!x->memory || !x->k) return kv_fail(KV_ERR_NOMEM, "out of memory");
    x->v = x->k + H;
    for (int32_t kv = 0; kv < H; kv++) {
        const kv_state_view run = dt_state_run(before, s->layer, kv);
        x->k[kv] = x->memory + (int64_t)kv * all * D;
        x->v[kv] = x->memory + (H + kv) * all * D;
        for (int64_t i = 0; i < all; i++) {
            const dt_entry *e = &view->v[i];
            if (e->stored >= run.run->n) continue;
            if (e->stored >= 0)
                stored_entry(s, &h, &run, e, kv, x->k[kv] + i * D, x->v[kv] + i * D);
            else
                own_entry(s, e, kv, D, x->k[kv] + i * D, x->v[kv] + i * D);
        }
    }
    return KV_OK;
}

/* ---- what stands in the row's place ----------------------------------------------------------------------- */

typedef struct stand_ins {
    const float *row[MAX_OTHERS];
    const char *name[MAX_OTHERS];
    char text[MAX_OTHERS][48];
    int32_t n;
} stand_ins;

static void add_stand_in(stand_ins *o, const float *row, const char *fmt, long long i)
{
    if (o->n == MAX_OTHERS) return;
    snprintf(o->text[o->n], sizeof o->text[o->n], fmt, i);
    o->name[o->n] = o->text[o->n];
    o->row[o->n++] = row;
}

static void find_stand_ins(const dt_study *s, int64_t row, int32_t head, int64_t D, stand_ins *o)
{
    const int32_t heads = s->flow->s->model->cfg.n_heads;
    for (int64_t r = row - 1; r >= 0 && r >= row - 16; r--)
        add_stand_in(o, dt_study_row(s, DT_REF, KV_TAP_ATTN, s->layer, r) + head * D, "the token %lld before", row - r);
    for (int32_t h = 0; h < heads; h++)
        if (h != head)
            add_stand_in(o, dt_study_row(s, DT_REF, KV_TAP_ATTN, s->layer, row) + h * D, "query head %lld", h);
    if (s->layer > s->layer0)
        add_stand_in(o, dt_study_row(s, DT_REF, KV_TAP_ATTN, s->layer - 1, row) + head * D, "layer %lld", s->layer - 1);
}

/* ---- the question ----------------------------------------------------------------------------------------- */

static int is_raw(const dt_study *s)
{
    kv_state_head h;
    memcpy(&h, s->out->state.p, sizeof h);
    return h.key_form == KV_KEY_RAW;
}

static int64_t sinks_of(const kv_policy *p)
{
    return p->selection == KV_SEL_SINK ? p->sink.sinks : p->selection == KV_SEL_CASCADE ? p->cascade.sinks : 0;
}

static double row_lambda(const kv_model *m, int32_t layer, int32_t head)
{
    const kv_tensor *t = kv_model_tensor(m, KV_ROLE_LOCAL_V, layer);
    float row[KV_MAX_HEAD_DIM];
    if (!t->data || t->cols > KV_MAX_HEAD_DIM) return 0;
    kv_tensor_rows_f32(t, 0, 1, row);
    return (double)row[head];
}

/* A question about one row that is wrong although its query, keys and values are right. */
static void ask(const dt_study *s, int64_t row, const dt_row_view *view, const numbers *x, int32_t head,
                dt_guess *guess)
{
    const kv_config *cfg = &s->flow->s->model->cfg;
    const int64_t D = cfg->head_dim;
    const int32_t kv = head / (cfg->n_heads / cfg->n_kv_heads);
    const float *q = dt_study_row(s, DT_REF, KV_TAP_Q, s->layer, row) + head * D;
    double qd[KV_MAX_HEAD_DIM], own[KV_MAX_HEAD_DIM];
    for (int64_t d = 0; d < D; d++) {
        qd[d] = (double)q[d];
        own[d] = (double)dt_study_row(s, DT_REF, KV_TAP_V, s->layer, row)[kv * D + d];
    }
    stand_ins others = {.n = 0};
    find_stand_ins(s, row, head, D, &others);
    dt_attn a = {.n = view->n,
                 .n_gone = view->n_gone,
                 .stored = view->stored,
                 .D = D,
                 .n_kv = cfg->n_kv_heads,
                 .kv = kv,
                 .entry = view->v,
                 .k = (const double *const *)x->k,
                 .v = (const double *const *)x->v,
                 .q = qd,
                 .scale = cfg->softmax_scale > 0 ? (double)cfg->softmax_scale : 1 / sqrt((double)D),
                 .rotation = &s->rotation,
                 .sinks = sinks_of(s->flow->s->policy),
                 .raw = is_raw(s),
                 .key_gain = gain_of(s->flow->s->model, s->layer, kv),
                 .others = others.row,
                 .other_names = others.name,
                 .n_others = others.n,
                 .ref = dt_study_row(s, DT_REF, KV_TAP_ATTN, s->layer, row) + head * D,
                 .got = dt_study_row(s, DT_GOT, KV_TAP_ATTN, s->layer, row) + head * D};
    a.xsa = s->layer < 64 && (cfg->xsa_layer_mask >> s->layer & 1);
    a.lambda = row_lambda(s->flow->s->model, s->layer, head);
    if (a.xsa || cfg->local_v) a.own_v = own;
    *guess = (dt_guess){.entry = -1};
    double size = 0;
    for (int64_t d = 0; d < D; d++)
        size = fmax(size, fabs((double)a.ref[d]));
    if (dt_attn_check(&a) <= 1e-4 * size) dt_attn_guess(&a, guess);
}

/* ---- verdicts --------------------------------------------------------------------------------------------- */

static int has_codes(const kv_policy *p, const void *blob, int32_t layer, int32_t D)
{
    if (p->storage != KV_STORE_KVARN && p->storage != KV_STORE_KIVI) return 0;
    kv_state_head h;
    memcpy(&h, blob, sizeof h);
    const kv_state_view v = dt_state_run(blob, layer, 0);
    for (int32_t i = 0; i < v.run->n; i++)
        if (kv_state_record_bytes(&h, &v, i) != (p->storage == KV_STORE_KVARN ? 8 : 4) * D) return 1;
    return 0;
}

static void without_guess(dt_study *s, const char *op)
{
    const int64_t D = s->flow->s->model->cfg.head_dim;
    const int32_t head = s->out->head;
    const float *ref = dt_study_row(s, DT_REF, KV_TAP_ATTN, s->layer, s->row) + head * D;
    const float *got = dt_study_row(s, DT_GOT, KV_TAP_ATTN, s->layer, s->row) + head * D;
    const int index = strcmp(op, "attn") == 0 && dt_row_error(ref, got, D) > 0.02;
    s->out->op = op;
    s->out->klass = dt_klass_of(ref, got, D, 1, index ? "bug-index" : "bug-numeric");
    if (!s->out->hypothesis[0])
        snprintf(s->out->hypothesis, sizeof s->out->hypothesis, "%lld of %lld elements of the head differ",
                 (long long)dt_row_differing(ref, got, D), (long long)D);
}

static void take_guess(dt_study *s, const dt_row_view *view, const dt_guess *g)
{
    dt_finding *out = s->out;
    out->op = g->op;
    out->klass = g->klass;
    snprintf(out->hypothesis, sizeof out->hypothesis, "%s", g->text);
    if (g->entry < 0 || g->entry >= view->n + view->n_gone) return;
    out->slot = view->v[g->entry].slot;
    out->slot_token = dt_flow_pos(s->flow, view->v[g->entry].og);
}

/* The guess about one row; *view is the row's. */
static kv_status guess_row(dt_study *s, int64_t row, dt_row_view *view, dt_guess *guess)
{
    const dt_subject *sub = s->flow->s;
    const kv_config *cfg = &sub->model->cfg;
    const int32_t head = s->out->head, kv = head / (cfg->n_heads / cfg->n_kv_heads);
    numbers x = {0};
    *guess = (dt_guess){.entry = -1};
    kv_status st =
        dt_row_view_make(sub->policy, s->out->state.p, &s->flow->events[DT_REF], s->flow->turn.at - s->flow->begin,
                         s->flow->turn.n, (int32_t)row, s->layer, kv, view);
    if (st == KV_OK) st = fill_numbers(s, view, &x);
    if (st == KV_OK) ask(s, row, view, &x, head, guess);
    free_numbers(&x);
    return st;
}

static int same_rows(const dt_study *s, int point, int64_t row)
{
    return memcmp(dt_study_row(s, DT_REF, point, s->layer, row), dt_study_row(s, DT_GOT, point, s->layer, row),
                  (size_t)kv_tap_width(&s->flow->s->model->cfg, point) * sizeof(float)) == 0;
}

/* The last row in which the head is wrong while everything that it reads is right: it sees most entries, so that a
 * guess that fits there says most. */
static int64_t telling_row(const dt_study *s)
{
    const int64_t D = s->flow->s->model->cfg.head_dim;
    int64_t best = s->row;
    for (int64_t r = 0; r < s->flow->turn.n; r++) {
        const float *ref = dt_study_row(s, DT_REF, KV_TAP_ATTN, s->layer, r) + s->out->head * D;
        const float *got = dt_study_row(s, DT_GOT, KV_TAP_ATTN, s->layer, r) + s->out->head * D;
        if (!same_rows(s, KV_TAP_K, r) || !same_rows(s, KV_TAP_V, r)) break;
        if (!same_rows(s, KV_TAP_Q, r) || r <= s->row) continue;
        const double e = dt_row_error(ref, got, D);
        if (e > 0 && isfinite(e)) best = r;
    }
    return best;
}

/* Both texts say the same but for numbers. */
static int same_words(const char *a, const char *b)
{
    for (;;) {
        while (isdigit((unsigned char)*a))
            a++;
        while (isdigit((unsigned char)*b))
            b++;
        if (*a != *b) return 0;
        if (!*a) return 1;
        a++;
        b++;
    }
}

/* The telling row speaks, since it sees more; but of which entry is said about the first wrong one where that says the
 * same. */
static void choose_guess(dt_study *s, int64_t row, const dt_row_view *view, const dt_guess *guess,
                         const dt_row_view *first_view, const dt_guess *first)
{
    dt_finding *o = s->out;
    if (!guess->op || (first->op && strcmp(guess->op, "attn") == 0 && same_words(first->text, guess->text))) {
        if (first->op) take_guess(s, first_view, first);
        return;
    }
    take_guess(s, view, guess);
    const size_t n = strlen(o->hypothesis);
    if (row != s->row && guess->entry >= 0)
        snprintf(o->hypothesis + n, sizeof o->hypothesis - n, " (in the row of token %lld)",
                 (long long)(s->flow->turn.at + row));
}

static kv_status guess_both(dt_study *s, int *done)
{
    dt_row_view view = {0}, first_view = {0};
    dt_guess guess = {.entry = -1}, first = {.entry = -1};
    const int64_t row = telling_row(s);
    *done = 0;
    kv_status st = guess_row(s, row, &view, &guess);
    if (st == KV_OK && row != s->row) st = guess_row(s, s->row, &first_view, &first);
    if (st == KV_OK) choose_guess(s, row, &view, &guess, &first_view, &first);
    *done = s->out->op != NULL;
    if (st == KV_OK && !*done && !s->flow->s->quick) st = dt_study_dye(s, &view);
    if (st == KV_OK && !*done && s->dye_agrees && is_raw(s)) {
        s->out->op = "rope";
        s->out->klass = "bug-index";
        snprintf(s->out->hypothesis, sizeof s->out->hypothesis,
                 "behind an import every stored entry has its weight, in the device's own "
                 "layout not: keys are rotated by their physical place");
        *done = 1;
    }
    dt_row_view_free(&view);
    dt_row_view_free(&first_view);
    return st;
}

kv_status dt_study_attention(dt_study *s)
{
    const kv_policy *p = s->flow->s->policy;
    const int32_t D = s->flow->s->model->cfg.head_dim;
    const int coded =
        has_codes(p, s->out->state.p, s->layer, D) || (p->storage == KV_STORE_KVARN && s->flow->state[DT_REF].p &&
                                                       has_codes(p, s->flow->state[DT_REF].p, s->layer, D));
    int done = 0;
    s->out->op = NULL;
    kv_status st = guess_both(s, &done);
    if (st == KV_ERR_UNSUPPORTED) st = dt_study_coded(s, telling_row(s));
    if (st == KV_OK && !s->out->op) without_guess(s, coded ? "attn_quant" : "attn");
    return st;
}

/* ---- scores ----------------------------------------------------------------------------------------------- */

/* What a side said of the entries of a view: scores in its export after the step, margins of its evictions. */
static void read_said(const dt_study *s, int side, const dt_row_view *view, double *score, double *margin)
{
    const kv_policy *p = s->flow->s->policy;
    const kv_events *events = &s->flow->events[side];
    const int32_t layer = s->out->layer, head = s->out->head;
    const kv_state_view run = dt_state_run(s->flow->state[side].p, layer, head < 0 ? 0 : head);
    const int cascade = p->selection == KV_SEL_CASCADE;
    for (int64_t i = 0; i < view->n; i++) {
        score[i] = margin[i] = (double)NAN;
        for (int32_t j = 0; run.score && j < run.run->n; j++)
            if (run.og[j] == view->v[i].og && !(cascade && run.og[j] < p->cascade.sinks))
                score[i] = (double)run.score[j];
        for (size_t e = 0; e < events->n && !cascade; e++)
            if (events->v[e].kind == KV_EVENT_EVICT && events->v[e].layer == layer && events->v[e].head == head &&
                events->v[e].og == view->v[i].og)
                margin[i] = (double)events->v[e].margin;
    }
}

static kv_status compare_scores(dt_study *s, const dt_row_view *view, const numbers *x)
{
    const kv_config *cfg = &s->flow->s->model->cfg;
    const int32_t kv = s->out->head < 0 ? 0 : s->out->head;
    const kv_state_view before = dt_state_run(s->out->state.p, s->layer, kv);
    double *said = malloc((size_t)(4 * view->n) * sizeof *said);
    if (!said) return kv_fail(KV_ERR_NOMEM, "out of memory");
    const dt_sums sums = {.policy = s->flow->s->policy,
                          .n = view->n,
                          .stored = view->stored,
                          .m = s->flow->turn.n,
                          .D = cfg->head_dim,
                          .n_heads = cfg->n_heads,
                          .n_kv = cfg->n_kv_heads,
                          .kv = kv,
                          .q = dt_study_row(s, DT_REF, KV_TAP_Q, s->layer, 0),
                          .k = (const double *const *)x->k,
                          .carried = before.score,
                          .scale =
                              cfg->softmax_scale > 0 ? (double)cfg->softmax_scale : 1 / sqrt((double)cfg->head_dim)};
    const dt_scored ref = {said, said + view->n}, got = {said + 2 * view->n, said + 3 * view->n};
    const char *text = NULL;
    read_said(s, DT_REF, view, said, said + view->n);
    read_said(s, DT_GOT, view, said + 2 * view->n, said + 3 * view->n);
    const char *klass = dt_scores_guess(&sums, &ref, &got, &text);
    if (klass) {
        char was[sizeof s->out->hypothesis];
        snprintf(was, sizeof was, "%s", s->out->hypothesis);
        s->out->klass = klass;
        snprintf(s->out->hypothesis, sizeof s->out->hypothesis, "%s; %.300s", text, was);
    }
    free(said);
    return KV_OK;
}

kv_status dt_study_scores(dt_study *s)
{
    const dt_subject *sub = s->flow->s;
    const int32_t kv = s->out->head < 0 ? 0 : s->out->head;
    dt_row_view view = {0};
    numbers x = {0};
    if (!s->flow->exact || !(s->flow->side[DT_GOT]->caps & KV_CAP_TAPS) || s->out->layer < 0) return KV_OK;
    s->layer = s->out->layer;
    if (s->layer < s->layer0 || s->layer >= s->layer1) {
        KV_TRY(dt_study_tap(s, s->layer, s->layer + 1));
        KV_TRY(dt_flow_export(s->flow, DT_REF));
        KV_TRY(dt_flow_export(s->flow, DT_GOT));
    }
    kv_status st =
        dt_row_view_make(sub->policy, s->out->state.p, &s->flow->events[DT_REF], s->flow->turn.at - s->flow->begin,
                         s->flow->turn.n, s->flow->turn.n - 1, s->layer, kv, &view);
    if (st == KV_OK) st = fill_numbers(s, &view, &x);
    if (st == KV_OK) st = compare_scores(s, &view, &x);
    free_numbers(&x);
    dt_row_view_free(&view);
    return st == KV_ERR_UNSUPPORTED ? KV_OK : st;
}
