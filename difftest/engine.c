#include "difftest/engine.h"

#include "common/state.h"
#include "difftest/digest.h"
#include "difftest/lane.h"
#include "difftest/retrieval.h"
#include "difftest/schedule.h"
#include "ref/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ------------------------------------------------------------------------------------------- */

/* For whole rows of logits: not of a single kernel, another model or another policy. */
static int promises_bound(const dt_plan *p, int side)
{
    const dt_side *s = &p->sides[side];
    return s->backend->contract == KV_CONTRACT_BOUNDED && !s->is_kernel && !s->is_policy && p->device_model == p->model;
}

kv_status dt_engine_open(dt_engine *e)
{
    const dt_plan *p = e->plan;
    e->policy = -1;
    e->ref_backend = ref_backend();
    e->devices = calloc((size_t)p->n_sides + 1, sizeof *e->devices);
    if (!e->devices) return kv_fail(KV_ERR_NOMEM, "out of memory");
    KV_TRY(kv_pool_create(p->options->threads, &e->pool));
    KV_TRY(dt_budget_init(&e->budget, p->model, p->n_docs, p->options->threads));
    KV_TRY(dt_own_error_init(&e->own, p->model, p->n_docs, p->n_sides, p->options->threads));
    for (int i = 0; i < p->n_sides; i++)
        if (promises_bound(p, i)) dt_own_error_device(&e->own, i, p->sides[i].backend, p->sides[i].options);
    return KV_OK;
}

static void close_sessions(dt_engine *e)
{
    e->ref_backend->close(e->ref);
    e->ref = NULL;
    for (int i = 0; e->devices && i < e->plan->n_sides; i++) {
        if (e->devices[i].session) e->plan->sides[i].backend->close(e->devices[i].session);
        e->devices[i].session = NULL;
    }
    e->policy = -1;
}

void dt_engine_close(dt_engine *e)
{
    if (e->devices) close_sessions(e);
    dt_budget_free(&e->budget);
    dt_own_error_free(&e->own);
    kv_pool_destroy(e->pool);
    free(e->devices);
    free(e->ref_events.v);
    kv_buffer *const buffers[] = {&e->ref_logits, &e->got_logits, &e->ref_nll, &e->got_nll, &e->targets,
                                  &e->metrics, &e->blob, &e->state};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        kv_buffer_free(buffers[i]);
}

kv_status dt_engine_measure(dt_engine *e, int doc)
{
    const kv_tokens *t = &e->plan->docs[doc].stream.tokens;
    int needed = 0;
    for (int i = 0; i < e->plan->n_sides; i++)
        needed |= promises_bound(e->plan, i);
    return needed ? dt_own_error_measure(&e->own, doc, t->v, t->n) : KV_OK;
}

/* Both sides build their RoPE tables by themselves: a disagreement shows before the first token. */
static kv_status compare_tables(dt_engine *e, const dt_side *side, kv_session *got, int64_t n)
{
    const int64_t pairs = e->plan->model->cfg.rope_dims / 2;
    KV_TRY(kv_buffer_reserve(&e->state, (size_t)(2 * pairs * n) * sizeof(float)));
    float *a = e->state.p, *b = a + pairs * n;
    for (int which = KV_TABLE_ROPE_COS; which <= KV_TABLE_ROPE_SIN; which++) {
        if (side->backend->table(got, (kv_table)which, 0, n, b) != KV_OK)
            return kv_fail(KV_ERR_INTERNAL, "table: %s", side->backend->last_error(got));
        KV_TRY(e->ref_backend->table(e->ref, (kv_table)which, 0, n, a));
        for (int64_t i = 0; i < n * pairs; i++)
            if (memcmp(&a[i], &b[i], sizeof *a) != 0)
                return kv_fail(KV_ERR_MISMATCH, "RoPE tables differ at position %lld, pair %lld: reference %a, "
                                                "device %a", (long long)(i / pairs), (long long)(i % pairs),
                               (double)a[i], (double)b[i]);
    }
    return KV_OK;
}

enum { TABLE_POSITIONS = 16384 }; /* compared at most */

static void open_device(dt_engine *e, int i, const kv_open_args *ref_args, int64_t positions)
{
    const dt_side *side = &e->plan->sides[i];
    dt_opened *d = &e->devices[i];
    kv_open_args a = *ref_args;
    if (e->plan->options->mode == DT_MODE_FOLLOW && !(side->backend->caps & KV_CAP_FOLLOW)) {
        d->status = DT_CASE_UNSUPPORTED;
        snprintf(d->reason, sizeof d->reason, "it cannot replay the reference's decisions; use --mode=free or locked");
        return;
    }
    a.model = e->plan->device_model;
    a.options = side->options;
    kv_status st = side->backend->open(&a, &d->session);
    d->status = st == KV_ERR_UNSUPPORTED ? DT_CASE_UNSUPPORTED : DT_CASE_ERROR;
    if (st != KV_OK) {
        snprintf(d->reason, sizeof d->reason, "%s", side->backend->last_error(NULL));
        d->session = NULL;
        return;
    }
    if (side->backend->contract != KV_CONTRACT_BITEXACT || a.model != e->plan->model) return;
    st = compare_tables(e, side, d->session, positions < TABLE_POSITIONS ? positions : TABLE_POSITIONS);
    if (st == KV_OK) return;
    d->status = st == KV_ERR_MISMATCH ? DT_CASE_FAIL : DT_CASE_ERROR;
    snprintf(d->reason, sizeof d->reason, "%s", kv_message());
    side->backend->close(d->session);
    d->session = NULL;
}

static kv_status open_sessions(dt_engine *e, int policy)
{
    const dt_plan *p = e->plan;
    if (e->policy == policy) return KV_OK;
    close_sessions(e);
    int64_t longest = 1;
    for (int d = 0; d < p->n_docs; d++)
        if (p->docs[d].stream.tokens.n > longest) longest = p->docs[d].stream.tokens.n;
    const kv_policy *const chosen = &p->policies[policy];
    const kv_open_args a = {.model = p->model, .policy = chosen, .threads = p->options->threads,
                            .max_step = dt_schedule_longest(chosen, p->options->q, longest)};
    KV_TRY(e->ref_backend->open(&a, &e->ref));
    for (int i = 0; i < p->n_sides; i++)
        open_device(e, i, &a, kv_policy_max_position(a.policy, longest, p->options->q) + 1);
    e->policy = policy;
    return KV_OK;
}

/* ---- one step -------------------------------------------------------------------------------------------- */

/* A document under a policy on its way. */
typedef struct flow {
    dt_engine *e;
    int doc;
    const kv_policy *policy;
    dt_lane lanes[DT_MAX_LANES];
    int n_lanes;
    const int32_t *tokens; /* of the document */
    int64_t begin, end;    /* the current segment: what is fed from an empty cache */
    int64_t score_from;    /* first position of the segment that is scored */
    int64_t checked;       /* position behind which no digest was taken yet */
    int32_t resident;
} flow;

/* Room for n rows of both sides. */
static kv_status reserve(dt_engine *e, int32_t n)
{
    const size_t rows = (size_t)n * (size_t)e->plan->model->cfg.vocab_size * sizeof(float);
    KV_TRY(kv_buffer_reserve(&e->ref_logits, rows));
    /* without a device one row: what the reference says to a passkey question */
    KV_TRY(kv_buffer_reserve(&e->got_logits, e->plan->n_sides ? rows : rows / (size_t)n));
    KV_TRY(kv_buffer_reserve(&e->ref_nll, (size_t)n * sizeof(float)));
    KV_TRY(kv_buffer_reserve(&e->got_nll, (size_t)n * sizeof(float)));
    return kv_buffer_reserve(&e->targets, (size_t)n * sizeof(int32_t));
}

/* Locked mode: every device starts the step from the reference's cache. */
static kv_status lock(flow *f)
{
    dt_engine *e = f->e;
    size_t size;
    KV_TRY(dt_export(e->ref_backend, e->ref, -1, KV_STATE_KV | KV_STATE_SCORE, &e->blob, &size));
    for (int i = 0; i < f->n_lanes; i++)
        if (f->lanes[i].alive && f->lanes[i].side) dt_lane_import(&f->lanes[i], e->blob.p, size);
    return KV_OK;
}

/* Tokens in layer 0, KV head 0. One that left in the step that brought it was admitted and evicted; moves and
 * codes change no number. */
static void count_resident(flow *f)
{
    const kv_events *v = &f->e->ref_events;
    for (size_t i = 0; i < v->n && v->v[i].layer == 0; i++)
        if (v->v[i].head <= 0)
            f->resident += (v->v[i].kind == KV_EVENT_ADMIT) - (v->v[i].kind == KV_EVENT_EVICT);
}

static kv_status step_reference(flow *f, const kv_step *step)
{
    dt_engine *e = f->e;
    e->ref_events.n = 0;
    const double t = kv_now();
    const kv_status st = e->ref_backend->step(e->ref, step);
    e->ref_seconds += kv_now() - t;
    if (st != KV_OK) return kv_fail(st, "reference: %s", e->ref_backend->last_error(e->ref));
    count_resident(f);
    dt_coverage_step(&e->coverage, step, &e->ref_events);
    return KV_OK;
}

/* Rows whose prediction is scored: the next token is in the segment, the position is late enough and no earlier
 * step had it. */
static void choose_rows(const flow *f, const dt_turn *t, dt_seen *s)
{
    const int64_t last = f->end - 1 - t->at, from = (f->score_from > t->fresh ? f->score_from : t->fresh) - t->at;
    s->from = (int32_t)(from < t->n ? from : t->n);
    s->to = (int32_t)(last < t->n ? last : t->n);
}

static void set_targets(const flow *f, int64_t at, int32_t n, int32_t *targets)
{
    const corpus_stream *d = &f->e->plan->docs[f->doc].stream;
    const int32_t after = d->is_passkey ? d->answer.v[0] : 0; /* behind a text's end nothing is scored */
    for (int32_t i = 0; i < n; i++)
        targets[i] = at + i + 1 < f->end ? f->tokens[at + i + 1] : after;
}

/* The row behind the prompt of a passkey document: where the answer starts. */
static void take_question(const flow *f, dt_lane *l, const dt_seen *s, const float *got)
{
    const corpus_stream *d = &f->e->plan->docs[f->doc].stream;
    const int64_t V = f->e->plan->model->cfg.vocab_size, at = (int64_t)(s->n - 1) * V;
    if (!d->is_passkey || s->pos0 + s->n != f->end) return;
    dt_metrics_row(s->logits + at, got ? got + at : NULL, V, d->answer.v[0], &l->last);
    if (got && (l->last.flags & DT_ROW_NONFINITE))
        dt_lane_fail(l, DT_CASE_FAIL, f->end - 1, "NaN or infinity in the logits of the question's last token");
    if (l->bitexact && (l->last.flags & DT_ROW_DIFFERS))
        dt_lane_fail(l, DT_CASE_FAIL, f->end - 1, "logits of the question's last token differ by up to %lld ulp",
                     (long long)l->last.max_ulp);
    if (got && l->holds) dt_lane_judge_bound(l, f->end - 1, &l->last);
}

/* The buffers hold what another side wrote: a row that is not written must not pass for that. */
static void poison(dt_engine *e, const kv_step *step)
{
    const size_t n = (size_t)step->n;
    if (step->logits) memset(step->logits, 0xff, n * (size_t)e->plan->model->cfg.vocab_size * sizeof(float));
    if (step->nll) memset(step->nll, 0xff, n * sizeof(float));
}

static kv_status step_lane(flow *f, dt_lane *l, const kv_step *ref_step, const dt_seen *seen)
{
    dt_engine *e = f->e;
    if (!l->alive) return KV_OK;
    float *got = NULL;
    if (l->side) {
        kv_step step = *ref_step;
        step.events = &l->events;
        step.follow = dt_lane_follows(l) ? &e->ref_events : NULL;
        step.nll = l->bitexact && step.nll ? e->got_nll.p : NULL;
        step.logits = step.logits ? e->got_logits.p : NULL;
        poison(e, &step);
        dt_lane_step(l, &step);
        if (!l->alive) return KV_OK;
        got = step.logits;
    }
    KV_TRY(dt_lane_compare(l, seen, got, e->got_nll.p));
    if (seen->logits) take_question(f, l, seen, got);
    return KV_OK;
}

static kv_status check_state(flow *f, int64_t pos)
{
    dt_engine *e = f->e;
    kv_digest ref;
    int64_t bytes;
    int exact = 0, any = 0;
    f->checked = pos + 1;
    KV_TRY(dt_cache_bytes(e->ref_backend, e->ref, &e->state, &bytes));
    for (int i = 0; i < f->n_lanes; i++) {
        dt_lane_note_bytes(&f->lanes[i], bytes);
        any |= f->lanes[i].alive && f->lanes[i].side;
        exact |= f->lanes[i].alive && f->lanes[i].bitexact;
    }
    if (!any) return KV_OK;
    KV_TRY(dt_digest(e->ref_backend, e->ref, -1, exact, &e->state, &ref));
    for (int i = 0; i < f->n_lanes; i++)
        if (f->lanes[i].alive && f->lanes[i].side)
            KV_TRY(dt_lane_check_state(&f->lanes[i], pos, &ref, pos + 1 == f->end));
    return KV_OK;
}

/* In locked mode after every step: the next one overwrites what this one did to the device's cache. */
static int state_is_due(const flow *f, int64_t next)
{
    const dt_options *o = f->e->plan->options;
    if (next == f->end || o->mode == DT_MODE_LOCKED) return 1;
    return o->digest_every && next - f->checked >= o->digest_every;
}

static kv_status step(flow *f, const dt_turn *t)
{
    dt_engine *e = f->e;
    const int64_t end = t->at + t->n;
    dt_seen seen = {.pos0 = t->at, .base = f->begin, .n = t->n, .targets = e->targets.p, .nll = e->ref_nll.p,
                    .events = &e->ref_events};
    choose_rows(f, t, &seen);
    set_targets(f, t->at, t->n, e->targets.p);
    const int wanted = seen.from < seen.to || (end == f->end && e->plan->docs[f->doc].stream.is_passkey);
    const kv_step s = {.tokens = f->tokens + t->at, .n = t->n, .rows = wanted ? KV_ROWS_ALL : KV_ROWS_NONE,
                       .flags = t->flags, .pos0 = t->pos0, .logits = wanted ? e->ref_logits.p : NULL,
                       .targets = e->targets.p, .nll = wanted ? e->ref_nll.p : NULL, .events = &e->ref_events};
    seen.logits = s.logits;
    if (e->plan->options->mode == DT_MODE_LOCKED) KV_TRY(lock(f));
    KV_TRY(step_reference(f, &s));
    seen.resident = f->resident;
    for (int i = 0; i < f->n_lanes; i++)
        KV_TRY(step_lane(f, &f->lanes[i], &s, &seen));
    return state_is_due(f, end) ? check_state(f, end - 1) : KV_OK;
}

/* ---- a document -------------------------------------------------------------------------------------------- */

static kv_status interrupted(void)
{
    return kv_fail(KV_ERR_INTERRUPTED, "interrupted; finished cases are kept, the same command goes on from there");
}

static kv_status run_segment(flow *f, const char *label)
{
    dt_schedule s = dt_schedule_begin(f->policy, f->e->plan->options->q, f->begin, f->end);
    dt_turn t;
    f->checked = f->begin;
    while (dt_schedule_next(&s, &t)) {
        if (*f->e->stop) return interrupted();
        KV_TRY(step(f, &t));
        kv_progress_add(f->e->progress, t.at + t.n - t.fresh, label);
    }
    return KV_OK;
}

/* Every segment but the first starts from an empty cache again. */
static kv_status reset_all(flow *f)
{
    KV_TRY(f->e->ref_backend->reset(f->e->ref));
    f->resident = 0;
    dt_coverage_reset(&f->e->coverage);
    for (int i = 0; i < f->n_lanes; i++) {
        dt_lane *l = &f->lanes[i];
        l->bound = dt_bound_begin(l->bound.allowed);
        if (!l->alive || !l->side || l->side->backend->reset(l->session) == KV_OK) continue;
        dt_lane_fail(l, DT_CASE_ERROR, -1, "reset: %s", l->side->backend->last_error(l->session));
        l->alive = 0;
    }
    return KV_OK;
}

static kv_status run_segments(flow *f, const char *label)
{
    const dt_plan *p = f->e->plan;
    const int64_t n = dt_plan_tokens(p, f->doc), w = dt_plan_window(p, f->doc), segment = w ? w : n;
    const int32_t longest = dt_schedule_longest(f->policy, p->options->q, segment);
    KV_TRY(reserve(f->e, longest > 1 ? longest : 1));
    for (int64_t at = 0; at < n; at += segment) {
        KV_TRY(reset_all(f));
        f->begin = at;
        f->end = at + segment;
        f->score_from = at + w / 2;
        KV_TRY(run_segment(f, label));
    }
    if (!p->docs[f->doc].stream.is_passkey) return KV_OK;
    if (f->policy->selection == KV_SEL_XWINDOW) {
        dt_retrieval_refuse(f->lanes, f->n_lanes);
        return KV_OK;
    }
    return dt_retrieval_run(f->e, f->doc, f->lanes, f->n_lanes);
}

/* What the rows of the document are granted, for the devices that need it. */
static kv_status grant(flow *f)
{
    const dt_plan *p = f->e->plan;
    for (int i = 0; i < f->n_lanes; i++) {
        dt_lane *l = &f->lanes[i];
        if (!l->alive || !l->side || !promises_bound(p, l->index)) continue;
        if (*f->e->stop) return interrupted();
        const kv_status st = dt_budget_rows(&f->e->budget, f->doc, f->policy->storage, p->docs[f->doc].stream.tokens.v,
                                            dt_plan_tokens(p, f->doc), &l->bound.allowed);
        if (st == KV_ERR_UNSUPPORTED || st == KV_ERR_NONFINITE)
            dt_lane_fail(l, DT_CASE_UNTRUSTED, -1, "what its rows may be off by cannot be measured: %s", kv_message());
        else if (st != KV_OK)
            return st;
    }
    return KV_OK;
}

kv_status dt_engine_run(dt_engine *e, int doc, int policy, const int *todo)
{
    const dt_plan *p = e->plan;
    KV_TRY(open_sessions(e, policy));
    flow f = {.e = e, .doc = doc, .policy = &p->policies[policy], .tokens = p->docs[doc].stream.tokens.v};
    dt_coverage_begin(&e->coverage, f.policy, p->model->cfg.n_layers);
    char label[KV_POLICY_TEXT_MAX + 80], text[KV_POLICY_TEXT_MAX];
    kv_policy_format(&p->policies[policy], text);
    snprintf(label, sizeof label, "%.60s  %s", p->docs[doc].doc->name, text);
    for (int i = 0; i < p->n_sides; i++)
        if (todo[i]) dt_lane_begin(&f.lanes[f.n_lanes++], e, doc, policy, i);
    if (p->n_sides == 0) dt_lane_begin(&f.lanes[f.n_lanes++], e, doc, policy, -1);
    kv_status st = grant(&f);
    const double t0 = kv_now(), ref0 = e->ref_seconds;
    if (st == KV_OK) st = run_segments(&f, label);
    const double wall = kv_now() - t0;
    e->wall_seconds += wall;
    for (int i = 0; i < f.n_lanes; i++) {
        e->got_seconds += f.lanes[i].seconds;
        if (st == KV_OK) st = dt_lane_finish(&f.lanes[i], wall, e->ref_seconds - ref0);
        dt_lane_free(&f.lanes[i]);
    }
    return st;
}
