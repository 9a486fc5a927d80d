#include "difftest/locate.h"
#include "difftest/locate_kernel.h"

#include "difftest/locate_calc.h"
#include "difftest/locate_state.h"
#include "difftest/locate_study.h"
#include "difftest/options.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const dt_op_names[] = {
#define OP(name, about) #name,
#include "difftest/op_names.def"
#undef OP
    NULL,
};

static const struct dt_finding nothing = {.pos = -1,
                                          .step_at = -1,
                                          .layer = -1,
                                          .head = -1,
                                          .slot = -1,
                                          .slot_token = -1,
                                          .elem = -1,
                                          .klass = "unknown",
                                          .ulp = -1};

void dt_finding_free(dt_finding *f)
{
    kv_buffer_free(&f->state);
    *f = nothing;
}

/* ---- the device's own failures ---------------------------------------------------------------------------- */

static int mentions(const char *text, const char *word)
{
    const size_t n = strlen(word);
    for (; *text; text++) {
        size_t i = 0;
        while (i < n && tolower((unsigned char)text[i]) == word[i])
            i++;
        if (i == n) return 1;
    }
    return 0;
}

/* Kernels name what they do; the first word that is in the text decides. */
static const char *op_of_text(const char *text)
{
    static const struct {
        const char *word, *op;
    } words[] = {{"import", "state"},   {"restore", "state"}, {"reset", "state"},
                 {"snapshot", "state"}, {"export", "state"},  {"kvarn", "quant"},
                 {"kivi", "quant"},     {"quant", "quant"},   {"attend_codes", "attn_quant"},
                 {"attn", "attn"},      {"attend", "attn"},   {"attention", "attn"},
                 {"rope", "rope"},      {"rotate", "rope"},   {"column", "colsum"},
                 {"score", "colsum"},   {"norm", "rmsnorm"},  {"gemm", "gemm"},
                 {"gemv", "gemm"},      {"matmul", "gemm"},   {"swiglu", "swiglu"},
                 {"embed", "embed"},    {"nll", "nll"},       {"insert", "policy"},
                 {"evict", "policy"},   {"select", "policy"}, {"policy", "policy"},
                 {"store", "store"},    {"append", "store"},  {"carry", "carry"},
                 {"follow", "follow"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (mentions(text, words[i].word)) return words[i].op;
    return NULL;
}

static void report_failure(dt_finding *o, const dt_flow *f)
{
    static const char *const outside[] = {"red zone", "out of bounds", "outside", "beyond", "overrun", "memcheck"};
    if (dt_locate_kernel(f, o)) return;
    o->found = DT_FOUND_ERROR;
    o->pos = f->turn.at;
    o->step_at = f->turn.at;
    o->step_n = f->turn.n;
    o->op = op_of_text(f->why);
    o->klass = mentions(f->why, "nan") || mentions(f->why, "finite") ? "nonfinite" : "unknown";
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        if (mentions(f->why, outside[i])) o->klass = "oob";
    if (mentions(f->why, "deadlock") || mentions(f->why, "barrier")) o->klass = "bug-race";
    if (f->follows && mentions(f->why, "decisions")) {
        o->op = "follow";
        o->klass = "bug-policy";
    }
    snprintf(o->hypothesis, sizeof o->hypothesis, "%s", f->why);
}

/* ---- before the first step -------------------------------------------------------------------------------- */

enum { TABLE_POSITIONS = 16384 }; /* compared at most */

static int64_t at_most(int64_t n)
{
    return n < TABLE_POSITIONS ? n : TABLE_POSITIONS;
}

/* Positions that the case uses, and those of all its tokens: a wrong key may have any of them. */
static int64_t positions_of(const dt_subject *s)
{
    return at_most(kv_policy_max_position(s->policy, s->window ? s->window : s->n, s->q) + 1);
}

static int64_t all_positions(const dt_subject *s)
{
    const int64_t n = at_most((s->window ? s->window : s->n) + s->q + 2), used = positions_of(s);
    return n > used ? n : used;
}

/* The device's table is the reference's, some positions away. */
static int64_t table_shift(const dt_rotation *ref, const dt_rotation *got)
{
    for (int64_t by = 1; by <= 8; by++)
        if (by + got->n <= ref->n &&
            memcmp(ref->cos + by * ref->pairs, got->cos, (size_t)(got->n * got->pairs) * sizeof *got->cos) == 0)
            return by;
    return 0;
}

static void report_table(dt_study *s, const dt_rotation *theirs, int sine, int64_t at, float a, float b)
{
    dt_finding *o = s->out;
    const int64_t by = table_shift(&s->rotation, theirs);
    o->found = DT_FOUND_VALUE;
    o->op = "rope";
    o->klass = by ? "bug-index" : dt_klass_of(&a, &b, 1, 0, "bug-numeric");
    o->elem = at % theirs->pairs;
    o->pos = at / theirs->pairs;
    dt_finding_values(o, sine ? "table of sines" : "table of cosines", a, b);
    if (by)
        snprintf(o->hypothesis, sizeof o->hypothesis, "the table begins at position %lld", (long long)by);
    else
        snprintf(o->hypothesis, sizeof o->hypothesis,
                 "the table of position %lld, pair %lld is wrong before the first step", (long long)o->pos,
                 (long long)o->elem);
}

/* Tables that differ: 1. */
static kv_status compare_tables(dt_study *s, int *differ)
{
    dt_flow *f = s->flow;
    const int64_t n = positions_of(f->s);
    dt_rotation theirs = {0};
    KV_TRY(dt_rotation_make(f->side[DT_REF], f->session[DT_REF], &f->s->model->cfg, all_positions(f->s), &s->rotation));
    *differ = 0;
    if (!f->exact) return KV_OK;
    kv_status st = dt_rotation_make(f->side[DT_GOT], f->session[DT_GOT], &f->s->model->cfg, n, &theirs);
    for (int64_t i = 0; st == KV_OK && i < 2 * n * theirs.pairs && !*differ; i++) {
        const int64_t at = i / 2;
        const float a = i % 2 ? s->rotation.sin[at] : s->rotation.cos[at], b = i % 2 ? theirs.sin[at] : theirs.cos[at];
        *differ = memcmp(&a, &b, sizeof a) != 0;
        if (*differ) report_table(s, &theirs, i % 2, at, a, b);
    }
    dt_rotation_free(&theirs);
    return st == KV_OK ? KV_OK
                       : kv_fail(st, "table of the device: %s", f->side[DT_GOT]->last_error(f->session[DT_GOT]));
}

/* ---- the state before the step ---------------------------------------------------------------------------- */

static kv_status keep_state(dt_study *s)
{
    dt_flow *f = s->flow;
    KV_TRY(dt_flow_export(f, DT_REF));
    KV_TRY(kv_buffer_reserve(&s->out->state, f->state_bytes[DT_REF]));
    memcpy(s->out->state.p, f->state[DT_REF].p, f->state_bytes[DT_REF]);
    s->out->state_bytes = f->state_bytes[DT_REF];
    return KV_OK;
}

/* A state that is wrong before the step although the steps before were right: reset, import or a digest. */
static kv_status compare_before(dt_study *s, int *differ)
{
    dt_flow *f = s->flow;
    *differ = 0;
    KV_TRY(keep_state(s));
    if (!f->exact) return KV_OK;
    if (dt_flow_export(f, DT_GOT) != KV_OK) return KV_OK;
    dt_state_diff d;
    dt_state_compare(s->out->state.p, f->state[DT_GOT].p, &d);
    if (d.part == DT_PART_NONE) return KV_OK;
    dt_finding *o = s->out;
    *differ = 1;
    o->op = "state";
    o->klass = d.part == DT_PART_TOKEN || d.part == DT_PART_SCORE ? "bug-policy"
               : d.part == DT_PART_SHAPE || d.part == DT_PART_POS ? "bug-index"
                                                                  : "stale-read";
    o->layer = d.layer;
    o->head = d.head;
    o->slot = d.entry;
    o->elem = d.elem;
    o->pos = f->turn.at;
    if (d.has_values) dt_finding_values(o, dt_part_names[d.part], d.ref, d.got);
    snprintf(o->hypothesis, sizeof o->hypothesis, "%s differ before the step: %s", dt_part_names[d.part],
             f->turn.at == f->begin ? "reset leaves something behind"
                                    : "import or restore does not give back what was exported");
    return KV_OK;
}

/* ---- second thoughts -------------------------------------------------------------------------------------- */

/* Puts a text in front of the hypothesis. */
static void explain(dt_finding *o, const char *op, const char *text)
{
    char was[sizeof o->hypothesis];
    snprintf(was, sizeof was, "%s", o->hypothesis);
    o->op = op;
    snprintf(o->hypothesis, sizeof o->hypothesis, "%s; %.300s", text, was);
}

/* An export that is wrong while everything that follows is right: the export itself is at fault, not the cache. */
static kv_status check_export(dt_study *s)
{
    dt_flow *f = s->flow;
    const dt_turn bad = f->turn;
    int32_t fed;
    int wrong;
    if (!s->by_export) return KV_OK;
    KV_TRY(dt_flow_before(f, -1));
    KV_TRY(dt_flow_step(f, DT_REF, NULL, 0));
    KV_TRY(dt_flow_step(f, DT_GOT, NULL, 0));
    KV_TRY(dt_flow_export(f, DT_REF));
    if (f->device_failed || dt_flow_export(f, DT_GOT) != KV_OK) return KV_OK;
    dt_state_diff again;
    dt_state_compare(f->state[DT_REF].p, f->state[DT_GOT].p, &again);
    if (again.part == DT_PART_NONE) return KV_OK; /* it does not happen every time */
    KV_TRY(dt_flow_go_on(f, 4, &fed, &wrong));
    f->turn = bad;
    if (f->device_failed || wrong || fed == 0) return KV_OK;
    explain(s->out, "state", "the export is wrong, the cache is right: the steps behind agree");
    s->out->klass = "bug-index";
    return KV_OK;
}

/* Locked mode: what does not fail without imports is the import's fault. */
static kv_status check_import(dt_study *s)
{
    dt_finding free_run = {0};
    dt_subject free_case = *s->flow->s;
    if (free_case.mode != DT_MODE_LOCKED || strcmp(s->out->op ? s->out->op : "", "state") == 0) return KV_OK;
    free_case.mode = DT_MODE_FREE;
    free_case.quick = 1;
    if (!free_case.window) free_case.n = s->out->step_at + s->out->step_n;
    KV_TRY(dt_locate(&free_case, &free_run));
    if (free_run.found == DT_FOUND_NOTHING)
        explain(s->out, "state", "only behind an import, which does not restore everything");
    dt_finding_free(&free_run);
    return KV_OK;
}

/* ---- the bad step ----------------------------------------------------------------------------------------- */

/* Sliding drops in front of the forward pass: a wrong drop is the cause of a wrong row. */
static int decided_before(const dt_study *s, const dt_look *look)
{
    return look->events && s->flow->s->policy->selection == KV_SEL_SLIDING && s->point >= KV_TAP_Q;
}

/* What the last replay has left: rows, decisions, both states. */
static kv_status look_again(dt_study *s, dt_look *look, dt_state_diff *after)
{
    dt_flow *f = s->flow;
    KV_TRY(dt_flow_look(f, look));
    *after = (dt_state_diff){.part = DT_PART_NONE};
    if (!f->exact || f->device_failed) return KV_OK;
    KV_TRY(dt_flow_export(f, DT_REF));
    if (dt_flow_export(f, DT_GOT) != KV_OK) return KV_OK;
    dt_state_compare(f->state[DT_REF].p, f->state[DT_GOT].p, after);
    return KV_OK;
}

static kv_status judge(dt_study *s, const dt_look *look, const dt_state_diff *after)
{
    dt_flow *f = s->flow;
    dt_finding *o = s->out;
    if (look->events)
        o->n_diffs = dt_evict_diffs(&f->events[DT_REF], &f->events[DT_GOT], o->state.p, f->begin, 0, o->diffs,
                                    DT_EVICT_DIFF_MAX);
    if (s->row >= 0 && (look->row < 0 || s->row <= look->row) && !decided_before(s, look))
        return dt_verdict_tap(s, after);
    if (look->row >= 0 && !decided_before(s, look)) return dt_verdict_logits(s, look);
    if (look->events)
        dt_verdict_events(s);
    else if (after->part != DT_PART_NONE)
        dt_verdict_state(s, after);
    else if (look->digest_lies) {
        o->op = "state";
        o->klass = "bug-numeric";
        o->pos = f->turn.at + f->turn.n - 1;
        snprintf(o->hypothesis, sizeof o->hypothesis, "the side's own digest is not that of its export");
    } else
        o->found = DT_FOUND_NOTHING;
    return KV_OK;
}

static kv_status study_once(dt_study *s)
{
    dt_flow *f = s->flow;
    int differ, race = 0;
    dt_look look;
    dt_state_diff after;
    s->out->found = DT_FOUND_VALUE;
    s->out->step_at = f->turn.at;
    s->out->step_n = f->turn.n;
    KV_TRY(dt_flow_before(f, -1));
    KV_TRY(compare_before(s, &differ));
    if (differ) return KV_OK;
    if (f->side[DT_GOT]->caps & KV_CAP_TAPS)
        KV_TRY(dt_study_all(s));
    else {
        KV_TRY(dt_flow_step(f, DT_REF, NULL, 0));
        KV_TRY(dt_flow_step(f, DT_GOT, NULL, 0));
    }
    if (!f->device_failed) KV_TRY(look_again(s, &look, &after));
    if (!f->device_failed) KV_TRY(judge(s, &look, &after));
    if (!f->device_failed && s->out->op && strcmp(s->out->op, "colsum") == 0) KV_TRY(dt_study_scores(s));
    if (!f->device_failed) KV_TRY(check_export(s));
    if (!f->device_failed && !f->s->quick) KV_TRY(check_import(s));
    if (!f->device_failed && !f->s->quick) KV_TRY(dt_study_repeat(s, &race));
    if (f->device_failed) {
        report_failure(s->out, f);
        return KV_OK;
    }
    if (race && s->out->found == DT_FOUND_VALUE) s->out->klass = "bug-race";
    return KV_OK;
}

/* What a snapshot does not hold goes away with it: then the way from the beginning is taken every time. */
static kv_status study_step(dt_study *s)
{
    KV_TRY(study_once(s));
    if (s->out->found != DT_FOUND_NOTHING || !s->flow->at_snapshot) return KV_OK;
    dt_flow_forget(s->flow);
    return study_once(s);
}

/* Both sides agree to the end: does a snapshot hold what it was taken of? */
static kv_status check_snapshot(dt_study *s)
{
    int lost;
    KV_TRY(dt_flow_round_trip(s->flow, &lost));
    if (!lost) return KV_OK;
    dt_finding *o = s->out;
    o->found = DT_FOUND_VALUE;
    o->op = "state";
    o->klass = "stale-read";
    o->pos = s->flow->s->n - 1;
    snprintf(o->hypothesis, sizeof o->hypothesis,
             "the sides agree, but a snapshot does not give back the state that it was taken of");
    return KV_OK;
}

static kv_status search(dt_study *s)
{
    dt_flow *f = s->flow;
    int bad, differ;
    dt_look look;
    KV_TRY(compare_tables(s, &differ));
    if (differ) return KV_OK;
    KV_TRY(dt_flow_search(f, &bad, &look));
    if (!bad) return f->s->quick ? KV_OK : check_snapshot(s);
    if (f->device_failed) {
        report_failure(s->out, f);
        return KV_OK;
    }
    KV_TRY(dt_flow_rewind(f));
    if (!f->device_failed) return study_step(s);
    report_failure(s->out, f);
    return KV_OK;
}

dt_subject dt_subject_of(const dt_plan *p, int doc, int policy, int side)
{
    const corpus_stream *d = &p->docs[doc].stream;
    return (dt_subject){.model = p->model,
                        .policy = &p->policies[policy],
                        .device = p->sides[side].backend,
                        .options = p->sides[side].options,
                        .tokens = d->tokens.v,
                        .n = dt_plan_tokens(p, doc),
                        .after = d->is_passkey ? d->answer.v[0] : 0,
                        .window = dt_plan_window(p, doc),
                        .q = p->options->q,
                        .mode = p->options->mode,
                        .threads = p->options->threads};
}

kv_status dt_locate(const dt_subject *subject, dt_finding *out)
{
    dt_flow flow;
    kv_status device;
    dt_finding_free(out);
    kv_status st = dt_flow_open(&flow, subject, &device);
    dt_study s = {.flow = &flow, .out = out, .row = -1, .layer = -1, .elem = -1};
    if (st == KV_OK && device != KV_OK) {
        report_failure(out, &flow);
        out->pos = out->step_at = -1;
        if (device == KV_ERR_UNSUPPORTED) out->found = DT_FOUND_REFUSED;
    } else if (st == KV_OK)
        st = search(&s);
    dt_study_free(&s);
    dt_flow_close(&flow);
    return st;
}
