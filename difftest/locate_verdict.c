/* locate_verdict.c - from what differs in the bad step to the finding. */
#include "difftest/locate_calc.h"
#include "difftest/locate_state.h"
#include "difftest/locate_study.h"

#include <stdio.h>
#include <string.h>

static const char *const tap_names[] = {
#define X(name, layerwise, width, what) #name,
    KV_TAP_LIST(X)
#undef X
};

const char *const dt_part_names[] = {"", "shape of the state", "tokens", "positions", "scores", "K and V", "carry"};

void dt_finding_values(dt_finding *o, const char *where, float ref, float got)
{
    o->has_values = 1;
    snprintf(o->where, sizeof o->where, "%s", where);
    memcpy(&o->ref_bits, &ref, sizeof ref);
    memcpy(&o->got_bits, &got, sizeof got);
    o->ref_value = (double)ref;
    o->got_value = (double)got;
    o->ulp = ref == ref && got == got ? dt_ulps(ref, got) : -1;
}

void dt_finding_take(dt_finding *o, const dt_verdict *v)
{
    o->op = v->op;
    o->klass = v->klass;
    snprintf(o->hypothesis, sizeof o->hypothesis, "%s", v->text);
}

/* ---- verdicts --------------------------------------------------------------------------------------------- */

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
    dt_finding_take(s->out, &v);
    s->out->slot = d->entry;
    s->out->slot_token = dt_flow_pos(f, og);
    return 1;
}

/* A window of xwindow takes its positions from the rows in its view: another position is another view. */
static void suspect_policy(dt_study *s)
{
    const kv_policy *p = s->flow->s->policy;
    dt_finding *o = s->out;
    if (p->selection != KV_SEL_XWINDOW || p->xwindow.ver != KV_XW_FIXED) return;
    o->op = "policy";
    o->klass = "bug-policy";
    strncat(o->hypothesis, "; the window's view holds other rows", sizeof o->hypothesis - strlen(o->hypothesis) - 1);
}

/* The first wrong value is in a tapped row. */
kv_status dt_verdict_tap(dt_study *s, const dt_state_diff *after)
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
    dt_finding_values(o, tap_names[s->point], dt_study_row(s, DT_REF, s->point, s->layer, s->row)[s->elem],
                      dt_study_row(s, DT_GOT, s->point, s->layer, s->row)[s->elem]);
    if (s->point == KV_TAP_ATTN) return blame_stored(s, after) ? KV_OK : dt_study_attention(s);
    dt_focus focus;
    dt_verdict v = {0};
    focus_on(s, &focus);
    KV_TRY(dt_blame(&focus, s->point, &v));
    dt_finding_take(o, &v);
    if (strcmp(o->op, "rope") == 0 && strcmp(o->klass, "bug-index") == 0) suspect_policy(s);
    return KV_OK;
}

/* All taps agree: the head, or the NLL behind it. */
kv_status dt_verdict_logits(dt_study *s, const dt_look *look)
{
    dt_flow *f = s->flow;
    dt_finding *o = s->out;
    const int64_t V = f->s->model->cfg.vocab_size, r = look->row;
    const float *ref = (float *)f->logits[DT_REF].p + r * V, *got = (float *)f->logits[DT_GOT].p + r * V;
    o->pos = f->turn.at + r;
    if (!look->logits) {
        const float *a = (float *)f->nll[DT_REF].p + r, *b = (float *)f->nll[DT_GOT].p + r;
        o->op = "nll";
        o->klass = dt_klass_of(a, b, 1, 1, "bug-numeric");
        dt_finding_values(o, "NLL", *a, *b);
        snprintf(o->hypothesis, sizeof o->hypothesis, "the logits are right, their NLL is not");
        return KV_OK;
    }
    if (f->exact) {
        o->elem = dt_row_wrong(ref, got, NULL, V, 1, &o->bound);
    } else {
        o->elem = dt_row_beyond(ref, got, V, look->bound);
        o->bound = look->bound;
    }
    dt_finding_values(o, "logits", ref[o->elem], got[o->elem]);
    const kv_model *m = f->s->model;
    const float *in = dt_study_row(s, DT_REF, KV_TAP_FINAL_NORM, -1, r);
    dt_verdict v = {0};
    if (m->cfg.logit_softcap != 0 || !in)
        dt_verdict_set(&v, "head", dt_klass_of(ref, got, V, 1, "bug-numeric"), "%lld of %lld logits differ",
                       (long long)dt_row_differing(ref, got, V), (long long)V);
    else
        KV_TRY(dt_blame_product(m, m->cfg.tied_head ? KV_ROLE_TOKEN_EMBD : KV_ROLE_OUTPUT, 0, "head", in, ref, got, V,
                                r ? ref - V : NULL, &v));
    dt_finding_take(o, &v);
    return KV_OK;
}

void dt_verdict_events(dt_study *s)
{
    dt_flow *f = s->flow;
    dt_event_diff d;
    dt_verdict v = {0};
    dt_blame_events(f->s->policy, &f->events[DT_REF], &f->events[DT_GOT], f->exact ? f->state[DT_REF].p : NULL,
                    f->exact ? f->state[DT_GOT].p : NULL, &d, &v);
    const kv_event *e = d.ref ? d.ref : d.got;
    dt_finding *o = s->out;
    dt_finding_take(o, &v);
    if (f->follows) o->op = "follow";
    o->pos = dt_flow_pos(f, e->token);
    o->layer = e->layer;
    o->head = e->head;
    o->slot = e->slot;
    if (e->og < ((int64_t)1 << 62)) o->slot_token = dt_flow_pos(f, e->og);
    if (d.ref && d.got && d.only_margin) dt_finding_values(o, "margin", d.ref->margin, d.got->margin);
}

/* Which part of the state is wrong says who made it. og: the token concerned. */
static void judge_part(const dt_study *s, const dt_state_diff *d, int64_t og, dt_verdict *v)
{
    const dt_flow *f = s->flow;
    switch (d->part) {
    case DT_PART_RECORD:
        dt_blame_record(f->s->policy, s->out->state.p, f->state[DT_REF].p, f->state[DT_GOT].p, d, v);
        break;
    case DT_PART_SCORE:
        dt_verdict_set(v, "colsum", dt_klass_of(&d->ref, &d->got, 1, 1, "bug-numeric"),
                       "the score of token %lld is %.9g, expected %.9g", (long long)og, (double)d->got, (double)d->ref);
        break;
    case DT_PART_CARRY:
        dt_verdict_set(v, "carry", dt_same_carry(s->out->state.p, f->state[DT_GOT].p) ? "stale-read" : "bug-index",
                       "what the model remembers of the newest tokens differs, at byte %lld", (long long)d->byte);
        break;
    case DT_PART_POS:
        dt_verdict_set(v, "policy", "bug-policy", "token %lld stands at position %d, expected %d", (long long)og,
                       (int)d->got, (int)d->ref);
        break;
    case DT_PART_TOKEN:
        if (dt_same_tokens(f->state[DT_REF].p, f->state[DT_GOT].p, d->layer, d->head))
            dt_verdict_set(v, "policy", "bug-index", "the right tokens are in the cache, in another order of the view");
        else
            dt_verdict_set(v, "policy", "bug-policy",
                           "the same decisions were reported, but other tokens are in the cache");
        break;
    default:
        dt_verdict_set(v, "policy", "bug-policy", "the same decisions were reported, but the %s differs",
                       dt_part_names[d->part]);
    }
    /* Whoever is given the decisions and does not do as they say has no policy to blame. */
    if (f->follows && v->op && strcmp(v->op, "policy") == 0) v->op = "follow";
}

void dt_verdict_state(dt_study *s, const dt_state_diff *d)
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
        dt_finding_values(o, d->part == DT_PART_RECORD ? d->value ? "V record" : "K record" : dt_part_names[d->part],
                          d->ref, d->got);
    s->by_export = d->part == DT_PART_RECORD ||
                   (d->part == DT_PART_POS && dt_positions_differ(f->state[DT_REF].p, f->state[DT_GOT].p) == 1);
    /* a record of the step's own token was wrong from that token on */
    if (d->part == DT_PART_RECORD && dt_flow_pos(f, og) >= f->turn.at) o->pos = dt_flow_pos(f, og);
    judge_part(s, d, og, &v);
    dt_finding_take(o, &v);
}
