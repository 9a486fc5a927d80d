/* locate_coded.c - a wrong row of attention on coded keys and values (docs/policy/kvarn.md, kivi.md): records are
 * decoded in double under one mistake at a time. */
#include "difftest/locate_attn.h"
#include "difftest/locate_guess_list.h"
#include "difftest/locate_study.h"

#include "common/numfmt.h"
#include "common/tile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* X(symbol, klass, what) */
#define MISTAKES(X)                                                                  \
    X(NONE, "", "")                                                                  \
    X(ZERO_SIGN, "bug-numeric", "zero points are read with the other sign")          \
    X(NO_ZERO, "bug-numeric", "zero points are left out")                            \
    X(SWAPPED, "bug-index", "neighbouring codes are exchanged")                      \
    X(NEXT_GROUP, "bug-index", "scale and zero are those of the neighbouring group") \
    X(FIRST_GROUP, "bug-index", "scale and zero are those of the first group")       \
    X(NO_COLUMN, "bug-numeric", "scales of tokens and channels are left out")        \
    X(UNCODED, "stale-read", "what this step has coded is read as it was before, uncoded")

DT_MISTAKES(MISTAKES);

enum { IN_KEYS = 1, IN_VALUES = 2 };

typedef struct coded {
    const kv_policy *policy;
    kv_state_head head;
    kv_state_view run, before; /* kvarn reads its codes behind the step's own coding, kivi those from before the step */
    int64_t first;             /* token of the step */
    const dt_study *study;
    int32_t kv;
    mistake wrong;
    int where;    /* IN_* */
    int64_t tail; /* first token that is not coded */
} coded;

/* ---- records ------------------------------------------------------------------------------------------------- */

static float f16_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return kv_f162f(h);
}

static double f32_at(const uint8_t *p)
{
    float x;
    memcpy(&x, p, sizeof x);
    return (double)x;
}

/* The entry that stands for a token; kivi's values have a mark. -1: none. size receives its bytes. */
static const uint8_t *entry_of(const coded *c, const kv_state_view *v, int64_t og, int64_t *entry_og, int32_t *size)
{
    const uint8_t *p = v->records, *found = NULL;
    for (int32_t i = 0; i < v->run->n; i++) {
        if (v->og[i] <= og && (og < KV_KIVI_V || v->og[i] >= KV_KIVI_V)) {
            found = p;
            *entry_og = v->og[i];
            *size = kv_state_record_bytes(&c->head, v, i);
        }
        p += kv_state_record_stride(&c->head, v, i);
    }
    return found;
}

static double affine(const coded *c, int here, double w, double scale, double zero)
{
    const mistake wrong = here ? c->wrong : NONE;
    return w * scale + (wrong == ZERO_SIGN ? -zero : wrong == NO_ZERO ? 0 : zero);
}

static int64_t code_at(const coded *c, int here, int64_t k)
{
    return here && c->wrong == SWAPPED ? k ^ 1 : k;
}

static int64_t group_at(const coded *c, int here, int64_t g, int64_t groups)
{
    const mistake wrong = here ? c->wrong : NONE;
    return wrong == FIRST_GROUP ? 0 : wrong == NEXT_GROUP && (g ^ 1) < groups ? g ^ 1 : g;
}

static void hadamard(double *x, int64_t D)
{
    for (int64_t h = 1; h < D; h *= 2)
        for (int64_t i = 0; i < D; i++) {
            if (i & h) continue;
            const double a = x[i], b = x[i + h];
            x[i] = a + b;
            x[i + h] = a - b;
        }
    for (int64_t i = 0; i < D; i++)
        x[i] /= sqrt((double)D);
}

static void read_tile(const coded *c, const uint8_t *r, int64_t t, double *k, double *v)
{
    const int64_t D = c->head.head_dim;
    const kv_kvarn_params *p = &c->policy->kvarn;
    const kv_kvarn_layout y = kv_kvarn_layout_of(p, (int32_t)D);
    const int keys = (c->where & IN_KEYS) != 0, values = (c->where & IN_VALUES) != 0;
    for (int64_t d = 0; d < D; d++) {
        const uint32_t w = kv_code_get(r + y.k_codes + d * y.k_row, (int32_t)code_at(c, keys, t), p->kbits);
        const double col = keys && c->wrong == NO_COLUMN ? 1 : (double)f16_at(r + y.k_col + 2 * t);
        k[d] = affine(c, keys, w, (double)f16_at(r + y.k_scale + 2 * d), (double)f16_at(r + y.k_zero + 2 * d)) * col;
        const uint32_t u = kv_code_get(r + y.v_codes + t * y.v_row, (int32_t)code_at(c, values, d), p->vbits);
        const int64_t g = 2 * (t * y.v_groups + group_at(c, values, d / y.v_group, y.v_groups));
        const double channel = values && c->wrong == NO_COLUMN ? 1 : (double)f16_at(r + y.v_col + 2 * d);
        v[d] = affine(c, values, u, (double)f16_at(r + y.v_scale + g), (double)f16_at(r + y.v_zero + g)) * channel;
    }
}

static void read_block(const coded *c, const uint8_t *r, int64_t t, double *k)
{
    const int64_t D = c->head.head_dim;
    const kv_kivi_layout y = kv_kivi_layout_of(&c->policy->kivi, (int32_t)D);
    const int here = (c->where & IN_KEYS) != 0;
    for (int64_t d = 0; d < D; d++) {
        const int64_t g = d * (y.R / y.G) + group_at(c, here, t / y.G, y.R / y.G);
        const uint32_t w = kv_code_get(r + d * y.k_row, (int32_t)code_at(c, here, t), c->policy->kivi.bits);
        k[d] = affine(c, here, w, f32_at(r + y.k_scale + 4 * g), f32_at(r + y.k_min + 4 * g));
    }
}

static void read_value(const coded *c, const uint8_t *r, double *v)
{
    const int64_t D = c->head.head_dim;
    const kv_kivi_layout y = kv_kivi_layout_of(&c->policy->kivi, (int32_t)D);
    const int here = (c->where & IN_VALUES) != 0;
    for (int64_t d = 0; d < D; d++) {
        const int64_t g = group_at(c, here, d / y.G, D / y.G);
        const uint32_t w = kv_code_get(r, (int32_t)code_at(c, here, d), c->policy->kivi.bits);
        v[d] = affine(c, here, w, f32_at(r + y.v_scale + 4 * g), f32_at(r + y.v_min + 4 * g));
    }
}

static void copy_row(const uint8_t *r, int64_t D, double *x)
{
    for (int64_t d = 0; d < D; d++)
        x[d] = f32_at(r + 4 * d);
}

/* ---- tokens ---------------------------------------------------------------------------------------------------- */

static void own_row(const coded *c, int point, int64_t og, double *x)
{
    const int64_t D = c->head.head_dim;
    const float *row = dt_study_row(c->study, DT_REF, point, c->study->layer, og - c->first) + c->kv * D;
    for (int64_t d = 0; d < D; d++)
        x[d] = (double)row[d];
}

static int read_kvarn(coded *c, int64_t og, double *k, double *v)
{
    const int64_t D = c->head.head_dim;
    int64_t from;
    int32_t size;
    const kv_state_view *run = c->wrong == UNCODED ? &c->before : &c->run;
    if (c->wrong == UNCODED && og >= c->first) {
        own_row(c, KV_TAP_K, og, k);
        own_row(c, KV_TAP_V, og, v);
        return 1;
    }
    const uint8_t *r = entry_of(c, run, og, &from, &size);
    if (!r) return 0;
    if (size == 8 * D) {
        if (from != og) return 0;
        copy_row(r, D, k);
        copy_row(r + 4 * D, D, v);
        if (og < c->tail) c->tail = og;
    } else
        read_tile(c, r, og - from, k, v);
    hadamard(k, D); /* its own inverse */
    hadamard(v, D);
    return 1;
}

static int read_kivi(coded *c, int64_t og, double *k, double *v)
{
    const int64_t D = c->head.head_dim;
    int64_t from;
    int32_t size;
    if (og >= c->first) {
        own_row(c, KV_TAP_K, og, k);
        own_row(c, KV_TAP_V, og, v);
        return 1;
    }
    const uint8_t *r = entry_of(c, &c->before, og, &from, &size);
    if (!r) return 0;
    if (size == 4 * D && from == og)
        copy_row(r, D, k);
    else
        read_block(c, r, og - from, k);
    r = entry_of(c, &c->before, og + KV_KIVI_V, &from, &size);
    if (!r || from != og + KV_KIVI_V) return 0;
    if (size == 4 * D)
        copy_row(r, D, v);
    else
        read_value(c, r, v);
    return 1;
}

/* Keys and values of tokens lo .. lo + n - 1; 0: the exports do not hold them. */
static int read_all(coded *c, mistake wrong, int where, int64_t lo, int64_t n, double *k, double *v)
{
    const int64_t D = c->head.head_dim;
    c->wrong = wrong;
    c->where = where;
    c->tail = INT64_MAX;
    for (int64_t i = 0; i < n; i++)
        if (!(c->policy->storage == KV_STORE_KVARN ? read_kvarn : read_kivi)(c, lo + i, k + i * D, v + i * D)) return 0;
    return 1;
}

/* The first token in view: the oldest stored one that no eviction in front of the row has taken. */
static int64_t first_in_view(const coded *c, int64_t row_og)
{
    const kv_events *events = &c->study->flow->events[DT_REF];
    int64_t lo = c->before.run->n ? c->before.og[0] : c->first;
    for (size_t i = 0; i < events->n; i++) {
        const kv_event *e = &events->v[i];
        if (e->kind == KV_EVENT_EVICT && e->layer == c->study->layer && e->token <= row_og && e->og >= lo)
            lo = e->og + 1;
    }
    return lo;
}

/* ---- guesses ----------------------------------------------------------------------------------------------------- */

/* Values of the tail only, with the weights that all entries have: what tiles gave was overwritten. */
static int tail_alone(const dt_attn *a, int64_t lo, int64_t tail, const double *v)
{
    double *p = malloc((size_t)a->n * sizeof *p), wrong = 0, left = 0;
    if (!p) return 0;
    dt_attn_weights(a, p);
    for (int64_t d = 0; d < a->D; d++) {
        double sum = 0;
        for (int64_t i = 0; i < a->n; i++)
            if (lo + i >= tail) sum += p[i] * v[i * a->D + d];
        left = fmax(left, fabs(sum - (double)a->got[d]));
        wrong = fmax(wrong, fabs((double)a->ref[d] - (double)a->got[d]));
    }
    free(p);
    return left < 0.05 * wrong;
}

static void say(dt_study *s, const char *klass, const char *text, int where)
{
    s->out->op = "attn_quant";
    s->out->klass = klass;
    snprintf(s->out->hypothesis, sizeof s->out->hypothesis, "%s%s",
             where == IN_KEYS     ? "keys: "
             : where == IN_VALUES ? "values: "
                                  : "",
             text);
}

/* dt_attn_check measures the distance to `ref`: with the device's row in its place, how well a mistake explains it. */
static int explains(dt_attn a, const float *got, double wrong)
{
    a.ref = got;
    return dt_attn_check(&a) < 0.05 * wrong;
}

static void try_mistakes(dt_study *s, coded *c, const dt_attn *a, int64_t lo, double *k, double *v, double wrong)
{
    if (tail_alone(a, lo, c->tail, v)) {
        say(s, "bug-numeric", "what the tail gives overwrites what the tiles gave", 0);
        return;
    }
    for (int m = 1; m < N_MISTAKES; m++)
        for (int where = IN_KEYS | IN_VALUES; where > 0; where--) {
            if (m == UNCODED && (where != (IN_KEYS | IN_VALUES) || c->policy->storage != KV_STORE_KVARN)) continue;
            if (!read_all(c, (mistake)m, where, lo, a->n, k, v) || !explains(*a, a->got, wrong)) continue;
            say(s, klasses[m], texts[m], where);
            return;
        }
    dt_guess guess;
    if (!read_all(c, NONE, 0, lo, a->n, k, v)) return;
    dt_attn_guess(a, &guess);
    if (guess.op) say(s, guess.klass, guess.text, 0);
}

static void ask(dt_study *s, coded *c, int64_t row, int64_t lo, double *k, double *v)
{
    const kv_config *cfg = &s->flow->s->model->cfg;
    const int64_t D = cfg->head_dim, row_og = c->first + row, n = row_og - lo + 1;
    const dt_rotation none = {.n = 0};
    double q[KV_MAX_HEAD_DIM], size = 0, wrong = 0;
    const double *const keys[] = {k}, *const values[] = {v};
    dt_entry *entry = calloc((size_t)n, sizeof *entry);
    if (!entry) return;
    for (int64_t i = 0; i < n; i++)
        entry[i] = (dt_entry){.og = lo + i,
                              .slot = i,
                              .pos = (int32_t)(lo + i),
                              .stored = lo + i < c->first ? 0 : -1,
                              .row = lo + i < c->first ? -1 : (int32_t)(lo + i - c->first)};
    for (int64_t d = 0; d < D; d++)
        q[d] = (double)dt_study_row(s, DT_REF, KV_TAP_Q, s->layer, row)[s->out->head * D + d];
    const dt_attn a = {.n = n,
                       .stored = c->first - lo,
                       .D = D,
                       .n_kv = 1,
                       .entry = entry,
                       .k = keys,
                       .v = values,
                       .q = q,
                       .scale = cfg->softmax_scale > 0 ? (double)cfg->softmax_scale : 1 / sqrt((double)D),
                       .rotation = &none,
                       .key_gain = 1,
                       .ref = dt_study_row(s, DT_REF, KV_TAP_ATTN, s->layer, row) + s->out->head * D,
                       .got = dt_study_row(s, DT_GOT, KV_TAP_ATTN, s->layer, row) + s->out->head * D};
    for (int64_t d = 0; d < D; d++) {
        size = fmax(size, fabs((double)a.ref[d]));
        wrong = fmax(wrong, fabs((double)a.ref[d] - (double)a.got[d]));
    }
    if (read_all(c, NONE, 0, lo, n, k, v) && dt_attn_check(&a) <= 1e-4 * size) try_mistakes(s, c, &a, lo, k, v, wrong);
    free(entry);
}

kv_status dt_study_coded(dt_study *s, int64_t row)
{
    const dt_flow *f = s->flow;
    const kv_config *cfg = &f->s->model->cfg;
    const int tiles = f->s->policy->storage == KV_STORE_KVARN || f->s->policy->storage == KV_STORE_KIVI;
    if (!tiles || !f->exact || kv_config_is_golf(cfg)) return KV_OK;
    coded c = {.policy = f->s->policy,
               .study = s,
               .first = f->turn.at - f->begin,
               .kv = s->out->head / (cfg->n_heads / cfg->n_kv_heads)};
    memcpy(&c.head, s->out->state.p, sizeof c.head);
    c.before = dt_state_run(s->out->state.p, s->layer, c.kv);
    c.run = dt_state_run(f->state[DT_REF].p, s->layer, c.kv);
    const int64_t lo = first_in_view(&c, c.first + row), n = c.first + row - lo + 1;
    double *memory = malloc((size_t)(2 * n * cfg->head_dim) * sizeof *memory);
    if (!memory) return kv_fail(KV_ERR_NOMEM, "out of memory");
    ask(s, &c, row, lo, memory, memory + n * cfg->head_dim);
    free(memory);
    return KV_OK;
}
