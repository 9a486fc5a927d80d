#include "difftest/locate_flow.h"

#include "common/hash.h"
#include "common/state.h"
#include "difftest/decisions.h"
#include "difftest/digest.h"
#include "difftest/kernel_side.h"
#include "difftest/options.h"
#include "ref/backend.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ---------------------------------------------------------------------------------------------- */

static int32_t longest_step(const dt_subject *s)
{
    const int32_t n = dt_schedule_longest(s->policy, s->q, s->window ? s->window : s->n);
    return n > 1 ? n : 1;
}

static kv_status open_side(dt_flow *f, int side)
{
    const dt_subject *s = f->s;
    const kv_open_args a = {.model = s->model,
                            .policy = s->policy,
                            .options = side == DT_GOT ? s->options : NULL,
                            .threads = s->threads,
                            .max_step = longest_step(s)};
    const kv_status st = f->side[side]->open(&a, &f->session[side]);
    if (st == KV_OK) return KV_OK;
    f->session[side] = NULL;
    snprintf(f->why, sizeof f->why, "%s", f->side[side]->last_error(NULL)); /* which may be this thread's message */
    return kv_fail(st, "%s", f->why);
}

static kv_status reserve(dt_flow *f)
{
    const int64_t rows = longest_step(f->s), V = f->s->model->cfg.vocab_size;
    for (int i = 0; i < DT_SIDES; i++) {
        if (!f->session[i]) continue;
        KV_TRY(kv_buffer_reserve(&f->logits[i], (size_t)(rows * V) * sizeof(float)));
        KV_TRY(kv_buffer_reserve(&f->nll[i], (size_t)rows * sizeof(float)));
    }
    return kv_buffer_reserve(&f->targets, (size_t)rows * sizeof(int32_t));
}

/* What a device that does not promise bits is granted: its rows, and values inside. */
static kv_status grant(dt_flow *f)
{
    const dt_subject *s = f->s;
    dt_budget b;
    double allowed = (double)NAN;
    f->factor = DBL_MAX;
    kv_status st = dt_budget_init(&b, s->model, 1, s->threads);
    if (st == KV_OK) st = dt_budget_rows(&b, 0, s->policy->storage, s->tokens, s->n, &allowed);
    if (st == KV_OK) st = dt_budget_factor(&b, 0, s->tokens, s->n, &f->factor);
    dt_budget_free(&b);
    if (!dt_is_kernel_side(s->device)) f->bound = dt_bound_begin(allowed); /* a candidate's calls are judged as they are made */
    return st == KV_ERR_UNSUPPORTED || st == KV_ERR_NONFINITE ? KV_OK : st; /* without an allowance only what is not finite shows */
}

kv_status dt_flow_open(dt_flow *f, const dt_subject *s, kv_status *device)
{
    *f = (dt_flow){.s = s, .side = {ref_backend(), s->device, ref64_backend()}};
    f->exact = s->device->contract == KV_CONTRACT_BITEXACT;
    f->follows =
        (s->device->caps & KV_CAP_NEEDS_FOLLOW) || (s->mode == DT_MODE_FOLLOW && (s->device->caps & KV_CAP_FOLLOW));
    KV_TRY(open_side(f, DT_REF));
    f->bound = dt_bound_begin((double)NAN);
    if (!f->exact) KV_TRY(grant(f));
    if (!f->exact) KV_TRY(open_side(f, DT_TRUTH));
    *device = open_side(f, DT_GOT);
    if (*device != KV_OK) {
        f->device_failed = 1;
        return KV_OK;
    }
    return reserve(f);
}

static void free_snaps(dt_flow *f, void *snap[DT_SIDES])
{
    for (int i = 0; i < DT_SIDES; i++) {
        if (snap[i]) f->side[i]->snapshot_free(f->session[i], snap[i]);
        snap[i] = NULL;
    }
}

void dt_flow_close(dt_flow *f)
{
    free_snaps(f, f->here);
    for (int i = 0; i < 2; i++)
        free_snaps(f, f->back[i].snap);
    for (int i = 0; i < DT_SIDES; i++) {
        if (f->session[i]) f->side[i]->close(f->session[i]);
        kv_buffer_free(&f->logits[i]);
        kv_buffer_free(&f->nll[i]);
        kv_buffer_free(&f->state[i]);
        free(f->events[i].v);
    }
    kv_buffer_free(&f->targets);
    *f = (dt_flow){0};
}

/* ---- calls whose failure may be the device's -------------------------------------------------------------- */

/* What a call of a side gave: the device's failure is noted, any other returned. */
static kv_status judge(dt_flow *f, int side, kv_status st, const char *what)
{
    if (st == KV_OK) return KV_OK;
    const char *text = f->side[side]->last_error(f->session[side]);
    if (side != DT_GOT) return kv_fail(st, "%s of the reference: %s", what, text);
    if (!f->device_failed) snprintf(f->why, sizeof f->why, "%s: %s", what, text);
    f->device_failed = 1;
    return KV_OK;
}

static kv_status reset_all(dt_flow *f)
{
    for (int i = 0; i < DT_SIDES; i++)
        if (f->session[i]) KV_TRY(judge(f, i, f->side[i]->reset(f->session[i]), "reset"));
    return KV_OK;
}

static kv_status restore(dt_flow *f, int side, void *const snap[DT_SIDES])
{
    return f->session[side] ? judge(f, side, f->side[side]->restore(f->session[side], snap[side]), "restore") : KV_OK;
}

/* 0: the device cannot; the others' copies are thrown away again. */
static int take_snaps(dt_flow *f, void *snap[DT_SIDES])
{
    for (int i = 0; i < DT_SIDES; i++)
        if (f->session[i] && f->side[i]->snapshot(f->session[i], &snap[i]) != KV_OK) {
            snap[i] = NULL;
            free_snaps(f, snap);
            return 0;
        }
    return 1;
}

kv_status dt_flow_export(dt_flow *f, int side)
{
    const kv_status st = dt_export(f->side[side], f->session[side], -1, KV_STATE_KV | KV_STATE_SCORE, &f->state[side],
                                   &f->state_bytes[side]);
    if (st == KV_OK) return kv_state_check(f->state[side].p, f->state_bytes[side]);
    return st;
}

/* ---- one step --------------------------------------------------------------------------------------------- */

/* Locked mode: the device starts from the reference's cache. */
static kv_status lock(dt_flow *f)
{
    if (f->s->mode != DT_MODE_LOCKED) return KV_OK;
    KV_TRY(dt_flow_export(f, DT_REF));
    return judge(f, DT_GOT,
                 f->side[DT_GOT]->import_state(f->session[DT_GOT], f->state[DT_REF].p, f->state_bytes[DT_REF]),
                 "import of the reference's cache");
}

static void set_targets(const dt_flow *f)
{
    int32_t *to = f->targets.p;
    for (int32_t i = 0; i < f->turn.n; i++) {
        const int64_t next = f->turn.at + i + 1;
        to[i] = next < f->end ? f->s->tokens[next] : f->s->after;
    }
}

/* The buffers are filled with NaN first: a row that is not written must not pass for the last one. */
kv_status dt_flow_step(dt_flow *f, int side, const kv_tap *taps, int32_t n_taps)
{
    const dt_turn *t = &f->turn;
    const size_t rows = (size_t)t->n * (size_t)f->s->model->cfg.vocab_size * sizeof(float);
    set_targets(f);
    memset(f->logits[side].p, 0xff, rows);
    memset(f->nll[side].p, 0xff, (size_t)t->n * sizeof(float));
    f->events[side].n = 0;
    const kv_step step = {.tokens = f->s->tokens + t->at,
                          .n = t->n,
                          .rows = KV_ROWS_ALL,
                          .flags = t->flags,
                          .pos0 = t->pos0,
                          .logits = f->logits[side].p,
                          .targets = f->targets.p,
                          .nll = f->nll[side].p,
                          .events = &f->events[side],
                          .taps = taps,
                          .n_taps = n_taps,
                          .follow = side == DT_GOT && f->follows ? &f->events[DT_REF] : NULL};
    return judge(f, side, f->side[side]->step(f->session[side], &step), "step");
}

static int is_nan(float x)
{
    return !(x == x);
}

static int64_t first_other_bits(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0 && !(is_nan(a[i]) && is_nan(b[i]))) return i;
    return -1;
}

/* Root mean square of x - y; *at: the worst element, the first NaN if there is one. */
static double row_off(const float *x, const float *y, int64_t n, int64_t *at)
{
    double sum = 0, worst = -1;
    for (int64_t i = 0; i < n; i++) {
        const double e = (double)x[i] - (double)y[i];
        sum += e * e;
        if (fabs(e) > worst || (isnan(e) && !isnan(worst))) {
            worst = fabs(e);
            *at = i;
        }
    }
    return sqrt(sum / (double)n);
}

int64_t dt_row_beyond(const float *ref, const float *got, int64_t n, double allowed)
{
    int64_t at = 0;
    return row_off(got, ref, n, &at) <= allowed ? -1 : at;
}

int64_t dt_row_wrong(const float *ref, const float *got, const float *truth, int64_t n, double factor, double *bound)
{
    *bound = 0;
    if (!truth) return first_other_bits(ref, got, n);
    int64_t at = 0, unused;
    double size = 0;
    for (int64_t i = 0; i < n; i++)
        size += (double)truth[i] * (double)truth[i];
    /* where the reference is right by luck one unit in the last place of the row's size is granted */
    *bound = factor * fmax(row_off(ref, truth, n, &unused), 0x1p-24 * sqrt(size / (double)n));
    return row_off(got, truth, n, &at) <= *bound ? -1 : at;
}

/* ---- how a step went -------------------------------------------------------------------------------------- */

static int wrong_logits(const dt_flow *f, const float *ref, const float *got, double bound)
{
    const int64_t V = f->s->model->cfg.vocab_size;
    return f->exact ? first_other_bits(ref, got, V) >= 0 : dt_row_beyond(ref, got, V, bound) >= 0;
}

/* tie: a decision of the step was a legal tie. */
static void look_at_rows(dt_flow *f, int tie, dt_look *look)
{
    const int64_t V = f->s->model->cfg.vocab_size;
    const float *ref = f->logits[DT_REF].p, *got = f->logits[DT_GOT].p;
    const float *ref_nll = f->nll[DT_REF].p, *got_nll = f->nll[DT_GOT].p;
    const int holds = dt_bound_holds(&f->bound, f->turn.at, &f->events[DT_REF], tie, f->s->mode == DT_MODE_LOCKED);
    look->bound = f->exact ? 0 : holds ? f->bound.allowed : DBL_MAX;
    for (int64_t r = 0; r < f->turn.n && look->row < 0; r++) {
        look->logits = wrong_logits(f, ref + r * V, got + r * V, look->bound);
        look->nll = f->exact && first_other_bits(ref_nll + r, got_nll + r, 1) >= 0;
        if (look->logits || look->nll) look->row = r;
    }
}

static kv_status look_at_events(dt_flow *f, dt_look *look, int *tie)
{
    const kv_events *ref = &f->events[DT_REF], *got = &f->events[DT_GOT];
    const int exact = f->exact || f->follows;
    *tie = 0;
    if (dt_decisions_same(ref, got, exact)) return KV_OK;
    if (!exact) KV_TRY(dt_flow_export(f, DT_REF));
    const dt_decisions d = dt_decisions_judge(f->s->policy, ref, got, exact ? NULL : f->state[DT_REF].p);
    look->events = d.broken;
    *tie = d.ties > 0;
    if (!d.broken) /* a legal tie: the device goes on from the reference's cache */
        return judge(f, DT_GOT,
                     f->side[DT_GOT]->import_state(f->session[DT_GOT], f->state[DT_REF].p, f->state_bytes[DT_REF]),
                     "import after a legal tie");
    return KV_OK;
}

static int same_digest(const kv_digest *a, const kv_digest *b, int exact)
{
    return a->order == b->order && (!exact || (a->content == b->content && a->score == b->score));
}

static kv_status look_at_state(dt_flow *f, dt_look *look)
{
    kv_digest ref, got, exported;
    const kv_backend *dev = f->side[DT_GOT];
    KV_TRY(dt_digest(f->side[DT_REF], f->session[DT_REF], -1, f->exact, &f->state[DT_REF], &ref));
    if (dt_digest(dev, f->session[DT_GOT], -1, f->exact, &f->state[DT_GOT], &got) != KV_OK)
        return judge(f, DT_GOT, KV_ERR_INTERNAL, "cache export");
    look->state = !same_digest(&ref, &got, f->exact);
    const int own = f->exact && dev->caps & KV_CAP_DIGEST && (look->state || f->turn.at + f->turn.n == f->end);
    if (!own) return KV_OK;
    kv_backend plain = *dev;
    plain.caps &= ~(uint32_t)KV_CAP_DIGEST;
    if (dt_digest(&plain, f->session[DT_GOT], -1, 1, &f->state[DT_GOT], &exported) != KV_OK)
        return judge(f, DT_GOT, KV_ERR_INTERNAL, "cache export");
    look->digest_lies = !same_digest(&got, &exported, 1);
    return KV_OK;
}

kv_status dt_flow_look(dt_flow *f, dt_look *look)
{
    *look = (dt_look){.row = -1};
    int tie;
    KV_TRY(look_at_events(f, look, &tie));
    look_at_rows(f, tie, look);
    return f->device_failed ? KV_OK : look_at_state(f, look);
}

/* ---- streaming -------------------------------------------------------------------------------------------- */

static int is_bad(const dt_look *l)
{
    return l->row >= 0 || l->events || l->state || l->digest_lies;
}

static kv_status both_step(dt_flow *f)
{
    KV_TRY(lock(f));
    for (int i = 0; i < DT_SIDES && !f->device_failed; i++)
        if (f->session[i]) KV_TRY(dt_flow_step(f, i, NULL, 0));
    return KV_OK;
}

static void mark(dt_flow *f, const dt_schedule *next, int with_snapshots)
{
    void *snap[DT_SIDES] = {NULL};
    if (with_snapshots && !take_snaps(f, snap)) return;
    free_snaps(f, f->back[1].snap);
    f->back[1] = f->back[0];
    f->back[0] = (dt_checkpoint){.set = 1, .begin = f->begin, .end = f->end, .next = *next};
    memcpy(f->back[0].snap, snap, sizeof snap);
}

static kv_status search_segment(dt_flow *f, int *bad, dt_look *look)
{
    dt_schedule s = dt_schedule_begin(f->s->policy, f->s->q, f->begin, f->end);
    int64_t marked = f->begin;
    mark(f, &s, 0);
    for (;;) {
        const dt_schedule before = s;
        if (!dt_schedule_next(&s, &f->turn)) return KV_OK;
        if (before.done - marked >= DT_CHECKPOINT_TOKENS) {
            mark(f, &before, 1);
            marked = before.done;
        }
        KV_TRY(both_step(f));
        if (!f->device_failed) KV_TRY(dt_flow_look(f, look));
        *bad = f->device_failed || is_bad(look);
        if (*bad) return KV_OK;
    }
}

static int64_t segment_of(const dt_subject *s)
{
    return s->window ? s->window : s->n;
}

/* Feeds the document once without looking, so that reset has something to forget. */
static kv_status warm_up(dt_flow *f)
{
    f->begin = 0;
    f->end = segment_of(f->s);
    dt_schedule s = dt_schedule_begin(f->s->policy, f->s->q, f->begin, f->end);
    KV_TRY(reset_all(f));
    while (!f->device_failed && dt_schedule_next(&s, &f->turn))
        KV_TRY(both_step(f));
    return KV_OK;
}

kv_status dt_flow_search(dt_flow *f, int *bad, dt_look *look)
{
    *bad = 0;
    *look = (dt_look){.row = -1};
    if (f->s->warm) KV_TRY(warm_up(f));
    for (int64_t at = 0; at < f->s->n && !*bad; at += segment_of(f->s)) {
        f->begin = at;
        f->end = at + segment_of(f->s);
        KV_TRY(reset_all(f));
        f->bound = dt_bound_begin(f->bound.allowed);
        if (f->device_failed)
            *bad = 1;
        else
            KV_TRY(search_segment(f, bad, look));
    }
    return KV_OK;
}

/* The schedule behind f->turn: all steps but windows begin where the last one ended. */
kv_status dt_flow_go_on(dt_flow *f, int32_t steps, int32_t *fed, int *wrong)
{
    dt_schedule s = dt_schedule_begin(f->s->policy, f->s->q, f->begin, f->end);
    const int64_t behind = f->turn.at;
    dt_turn t;
    *fed = 0;
    *wrong = 0;
    while (dt_schedule_next(&s, &t) && *fed < steps && !*wrong) {
        if (t.at <= behind) continue;
        dt_look look = {.row = -1};
        f->turn = t;
        KV_TRY(both_step(f));
        if (f->device_failed) return KV_OK;
        look_at_rows(f, 0, &look);
        *wrong = look.row >= 0 || !dt_decisions_same(&f->events[DT_REF], &f->events[DT_GOT], 1);
        ++*fed;
    }
    return KV_OK;
}

kv_status dt_flow_round_trip(dt_flow *f, int *lost)
{
    const kv_backend *b = f->side[DT_GOT];
    kv_session *s = f->session[DT_GOT];
    void *snap = NULL;
    *lost = 0;
    if (dt_flow_export(f, DT_GOT) != KV_OK || b->snapshot(s, &snap) != KV_OK) return KV_OK;
    const uint64_t before = kv_xxh64(f->state[DT_GOT].p, f->state_bytes[DT_GOT], 0);
    f->turn = (dt_turn){.at = f->begin, .n = (int32_t)(f->end - f->begin < f->s->q ? f->end - f->begin : f->s->q)};
    /* a few steps put something else where the snapshot's rows were */
    for (int i = 0; i < 4 && f->s->policy->selection != KV_SEL_XWINDOW && !f->follows && !f->device_failed; i++)
        KV_TRY(dt_flow_step(f, DT_GOT, NULL, 0));
    f->device_failed = 0;
    *lost = b->restore(s, snap) != KV_OK || dt_flow_export(f, DT_GOT) != KV_OK ||
            kv_xxh64(f->state[DT_GOT].p, f->state_bytes[DT_GOT], 0) != before;
    b->snapshot_free(s, snap);
    return KV_OK;
}

/* ---- the way back ----------------------------------------------------------------------------------------- */

/* From the newest checkpoint to the state before the step at `until`. */
static kv_status replay(dt_flow *f, const dt_turn *until)
{
    dt_schedule s = f->back[0].next;
    const int from_start = !f->back[0].snap[DT_REF];
    f->device_failed = 0;
    if (from_start) KV_TRY(reset_all(f));
    for (int i = 0; !from_start && i < DT_SIDES; i++)
        KV_TRY(restore(f, i, f->back[0].snap));
    while (!f->device_failed && dt_schedule_next(&s, &f->turn) && f->turn.at < until->at) {
        KV_TRY(both_step(f));
        dt_look look;
        if (!f->exact && !f->device_failed) KV_TRY(dt_flow_look(f, &look)); /* ties are settled as they were */
    }
    f->turn = *until;
    return f->device_failed ? KV_OK : lock(f);
}

kv_status dt_flow_rewind(dt_flow *f)
{
    const dt_turn bad = f->turn;
    KV_TRY(replay(f, &bad));
    free_snaps(f, f->here);
    f->at_snapshot = !f->device_failed && take_snaps(f, f->here);
    return KV_OK;
}

void dt_flow_forget(dt_flow *f)
{
    free_snaps(f, f->here);
    f->at_snapshot = 0;
    for (int i = 0; i < 2; i++) /* the beginning of the segment is a checkpoint that no snapshot is needed for */
        free_snaps(f, f->back[i].snap);
    f->back[0].next = dt_schedule_begin(f->s->policy, f->s->q, f->begin, f->end);
}

kv_status dt_flow_before(dt_flow *f, int side)
{
    const dt_turn bad = f->turn;
    if (!f->at_snapshot) return replay(f, &bad);
    for (int i = 0; i < DT_SIDES; i++)
        if (side < 0 || side == i) KV_TRY(restore(f, i, f->here));
    return KV_OK;
}
