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

static const char *const tap_names[] = {
#define X(name, layerwise, width, what) #name,
    KV_TAP_LIST(X)
#undef X
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

/* ---- writing down ------------------------------------------------------------------------------------------ */

static void set_values(dt_finding *o, const char *where, float ref, float got)
{
    o->has_values = 1;
    snprintf(o->where, sizeof o->where, "%s", where);
    memcpy(&o->ref_bits, &ref, sizeof ref);
    memcpy(&o->got_bits, &got, sizeof got);
    o->ref_value = (double)ref;
    o->got_value = (double)got;
    o->ulp = ref == ref && got == got ? dt_ulps(ref, got) : -1;
}

static void take_verdict(dt_finding *o, const dt_verdict *v)
{
    o->op = v->op;
    o->klass = v->klass;
    snprintf(o->hypothesis, sizeof o->hypothesis, "%s", v->text);
}

/* ---- the device's own failures --------------------------------------------------------------------------------- */

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

/* ---- before the first step ------------------------------------------------------------------------------------------
 */

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
    set_values(o, sine ? "table of sines" : "table of cosines", a, b);
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

/* ---- the state before the step
 * --------------------------------------------------------------------------------------- */

static kv_status keep_state(dt_study *s)
{
    dt_flow *f = s->flow;
    KV_TRY(dt_flow_export(f, DT_REF));
    KV_TRY(kv_buffer_reserve(&s->out->state, f->state_bytes[DT_REF]));
    memcpy(s->out->state.p, f->state[DT_REF].p, f->state_bytes[DT_REF]);
    s->out->state_bytes = f->state_bytes[DT_REF];
    return KV_OK;
}

static const char *const part_names[] = {"", "shape of the state", "tokens", "positions", "scores", "K and V", "carry"};

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
    if (d.has_values) set_values(o, part_names[d.part], d.ref, d.got);
    snprintf(o->hypothesis, sizeof o->hypothesis, "%s differ before the step: %s", part_names[d.part],
             f->turn.at == f->begin ? "reset leaves something behind"
                                    : "import or restore does not give back what was exported");
    return KV_OK;
}

/* ---- verdicts
 * --------------------------------------------------------------------------------------------------------- */

static void focus_on(const dt_study *s, dt_focus *f)
{
    const kv_config *cfg = &s->flow->s->model->cfg;
    const int32_t layer = s->layer < 0 ? 0 : s->layer;
    *f = (dt_focus){.model = s->flow->s->model,
                    .policy = s->flow->s->policy,
                    .layer = layer,
                    .row = (int32_t)s->row,
                    .pos = -1,
                    .rotation = &s->rotation};
    for (int side = DT_REF; side <= DT_GOT; side++) {
        for (int32_t p = 0; p < KV_TAP_COUNT; p++) {
            f->width[p] = kv_tap_width(cfg, p);
            f->tap[side][p] = dt_study_row(s, side, p, layer, 0);
        }
        f->before[side] = layer ? dt_study_row(s, side, KV_TAP_RESID, layer - 1, 0) : f->tap[side][KV_TAP_EMBED];
    }
    dt_row_view view;
    const int64_t first = s->flow->turn.at - s->flow->begin;
    f->first_of_stream = first == 0;
    if (dt_row_view_make(s->flow->s->policy, s->out->state.p, &s->flow->events[DT_REF], first, s->flow->turn.n, f->row,
                         layer, 0, &view) == KV_OK)
        f->pos = view.pos;
    else
        f->pos = first + s->row; /* coded storages keep original positions */
    dt_row_view_free(&view);
}

static int32_t head_of(const kv_config *cfg, int32_t point, int64_t elem)
{
    const int per_head = point == KV_TAP_Q || point == KV_TAP_K || point == KV_TAP_V || point == KV_TAP_ATTN;
    return per_head ? (int32_t)(elem / cfg->head_dim) : -1;
}

/* Attention reads what the step itself has stored: a record of the layer that is wrong after the step, of a token that
 * the row sees, is the cause. K and V of the layer are right by their taps. */
static int blame_stored(dt_study *s, const dt_state_diff *d)
{
    const dt_flow *f = s->flow;
    const int64_t og = d->og & (((int64_t)1 << 62) - 1), row_og = f->turn.at - f->begin + s->row;
    if (!f->exact || d->part != DT_PART_RECORD || d->layer != s->layer || og > row_og) return 0;
    if (f->s->policy->storage == KV_STORE_KIVI) return 0; /* a step reads its rows before they are coded */
    dt_verdict v = {0};
    dt_blame_record(f->s->policy, s->out->state.p, f->state[DT_REF].p, f->state[DT_GOT].p, d, &v);
    take_verdict(s->out, &v);
    s->out->slot = d->entry;
    s->out->slot_token = dt_flow_pos(f, og);
    return 1;
}

/* The first wrong value is in a tapped row. */
static kv_status blame_tap(dt_study *s, const dt_state_diff *after)
{
    const kv_config *cfg = &s->flow->s->model->cfg;
    dt_finding *o = s->out;
    const int32_t layer = s->layer < 0 ? 0 : s->layer, from = layer ? layer - 1 : 0;
    if (from < s->layer0 || layer + 1 > s->layer1)
        KV_TRY(dt_study_tap(s, from, s->point == KV_TAP_FINAL_NORM ? cfg->n_layers : layer + 1));
    o->pos = s->flow->turn.at + s->row;
    o->layer = s->layer;
    o->head = head_of(cfg, s->point, s->elem);
    o->elem = o->head < 0 ? s->elem : s->elem % cfg->head_dim;
    o->bound = s->bound;
    set_values(o, tap_names[s->point], dt_study_row(s, DT_REF, s->point, s->layer, s->row)[s->elem],
               dt_study_row(s, DT_GOT, s->point, s->layer, s->row)[s->elem]);
    if (s->point == KV_TAP_ATTN) return blame_stored(s, after) ? KV_OK : dt_study_attention(s);
    dt_focus focus;
    dt_verdict v = {0};
    focus_on(s, &focus);
    KV_TRY(dt_blame(&focus, s->point, &v));
    take_verdict(o, &v);
    if (strcmp(o->op, "rope") == 0 && strcmp(o->klass, "bug-index") == 0 && s->flow->exact &&
        s->flow->state[DT_GOT].p && dt_positions_differ(s->flow->state[DT_REF].p, s->flow->state[DT_GOT].p) > 0) {
        o->op = "policy"; /* the cache itself counts otherwise */
        strncat(o->hypothesis, "; the cache numbers its tokens so", sizeof o->hypothesis - strlen(o->hypothesis) - 1);
    }
    return KV_OK;
}

/* All taps agree: the head, or the NLL behind it. */
static kv_status blame_logits(dt_study *s, const dt_look *look)
{
    dt_flow *f = s->flow;
    dt_finding *o = s->out;
    const int64_t V = f->s->model->cfg.vocab_size, r = look->row;
    const float *ref = (float *)f->logits[DT_REF].p + r * V, *got = (float *)f->logits[DT_GOT].p + r * V;
    const float *truth = f->session[DT_TRUTH] ? (float *)f->logits[DT_TRUTH].p + r * V : NULL;
    o->pos = f->turn.at + r;
    if (!look->logits) {
        const float *a = (float *)f->nll[DT_REF].p + r, *b = (float *)f->nll[DT_GOT].p + r;
        o->op = "nll";
        o->klass = dt_klass_of(a, b, 1, 1, "bug-numeric");
        set_values(o, "NLL", *a, *b);
        snprintf(o->hypothesis, sizeof o->hypothesis, "the logits are right, their NLL is not");
        return KV_OK;
    }
    o->elem = dt_row_wrong(ref, got, truth, V, &o->bound);
    set_values(o, "logits", ref[o->elem], got[o->elem]);
    const kv_model *m = f->s->model;
    const float *in = dt_study_row(s, DT_REF, KV_TAP_FINAL_NORM, -1, r);
    dt_verdict v = {0};
    if (m->cfg.logit_softcap != 0 || !in)
        dt_verdict_set(&v, "head", dt_klass_of(ref, got, V, 1, "bug-numeric"), "%lld of %lld logits differ",
                       (long long)dt_row_differing(ref, got, V), (long long)V);
    else
        KV_TRY(dt_blame_product(m, m->cfg.tied_head ? KV_ROLE_TOKEN_EMBD : KV_ROLE_OUTPUT, 0, "head", in, ref, got, V,
                                r ? ref - V : NULL, &v));
    take_verdict(o, &v);
    return KV_OK;
}

static void blame_events(dt_study *s)
{
    dt_flow *f = s->flow;
    dt_event_diff d;
    dt_verdict v = {0};
    dt_blame_events(f->s->policy, &f->events[DT_REF], &f->events[DT_GOT], s->out->state.p,
                    f->exact ? f->state[DT_REF].p : NULL, f->exact ? f->state[DT_GOT].p : NULL, &d, &v);
    const kv_event *e = d.ref ? d.ref : d.got;
    dt_finding *o = s->out;
    take_verdict(o, &v);
    if (f->follows) o->op = "follow";
    o->pos = dt_flow_pos(f, e->token);
    o->layer = e->layer;
    o->head = e->head;
    o->slot = e->slot;
    if (e->og < ((int64_t)1 << 62)) o->slot_token = dt_flow_pos(f, e->og);
    if (d.ref && d.got && d.only_margin) set_values(o, "margin", d.ref->margin, d.got->margin);
}

static void blame_state(dt_study *s, const dt_state_diff *d)
{
    dt_flow *f = s->flow;
    dt_finding *o = s->out;
    dt_verdict v = {0};
    o->layer = d->layer;
    o->head = d->head;
    o->slot = d->entry;
    o->elem = d->elem;
    o->pos = f->turn.at + f->turn.n - 1;
    const int64_t og = d->og & (((int64_t)1 << 62) - 1);
    if (d->og >= 0) o->slot_token = dt_flow_pos(f, og);
    if (d->has_values)
        set_values(o, d->part == DT_PART_RECORD ? d->value ? "V record" : "K record" : part_names[d->part], d->ref,
                   d->got);
    s->by_export = d->part == DT_PART_RECORD ||
                   (d->part == DT_PART_POS && dt_positions_differ(f->state[DT_REF].p, f->state[DT_GOT].p) == 1);
    switch (d->part) {
    case DT_PART_RECORD:
        if (dt_flow_pos(f, og) >= f->turn.at) o->pos = dt_flow_pos(f, og);
        dt_blame_record(f->s->policy, s->out->state.p, f->state[DT_REF].p, f->state[DT_GOT].p, d, &v);
        break;
    case DT_PART_SCORE:
        dt_verdict_set(&v, "colsum", dt_klass_of(&d->ref, &d->got, 1, 1, "bug-numeric"),
                       "the score of token %lld is %.9g, expected %.9g", (long long)og, (double)d->got, (double)d->ref);
        break;
    case DT_PART_CARRY:
        dt_verdict_set(&v, "carry", dt_same_carry(s->out->state.p, f->state[DT_GOT].p) ? "stale-read" : "bug-index",
                       "what the model remembers of the newest tokens differs, at byte %lld", (long long)d->byte);
        break;
    case DT_PART_POS:
        dt_verdict_set(&v, "policy", "bug-policy", "token %lld stands at position %d, expected %d", (long long)og,
                       (int)d->got, (int)d->ref);
        break;
    case DT_PART_TOKEN:
        if (dt_same_tokens(f->state[DT_REF].p, f->state[DT_GOT].p, d->layer, d->head))
            dt_verdict_set(&v, "policy", "bug-index",
                           "the right tokens are in the cache, in another order of the view");
        else
            dt_verdict_set(&v, "policy", "bug-policy",
                           "the same decisions were reported, but other tokens are in the cache");
        break;
    default:
        dt_verdict_set(&v, "policy", "bug-policy", "the same decisions were reported, but the %s differs",
                       part_names[d->part]);
    }
    take_verdict(o, &v);
}

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

/* ---- the bad step
 * -------------------------------------------------------------------------------------------------------- */

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
    if (s->row >= 0 && (look->row < 0 || s->row <= look->row) && !decided_before(s, look)) return blame_tap(s, after);
    if (look->row >= 0 && !decided_before(s, look)) return blame_logits(s, look);
    if (look->events)
        blame_events(s);
    else if (after->part != DT_PART_NONE)
        blame_state(s, after);
    else if (look->digest_lies) {
        o->op = "state";
        o->klass = "bug-numeric";
        o->pos = f->turn.at + f->turn.n - 1;
        snprintf(o->hypothesis, sizeof o->hypothesis, "the side's own digest is not that of its export");
    } else
        o->found = DT_FOUND_NOTHING;
    return KV_OK;
}

static kv_status study_step(dt_study *s)
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
