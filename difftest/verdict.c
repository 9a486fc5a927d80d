/* verdict.c - from what a lane has seen to the case that the database keeps. */
#include "difftest/lane.h"

#include "difftest/kernel_side.h"

#include "common/math.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the rows' allowance, made of worst cases, has room for: a device that computes in less than fp32. */
static double judge_own_error(dt_lane *l)
{
    const char *why;
    const double ratio = dt_own_error_ratio(&l->engine->own, l->doc, l->index, &why);
    if (isnan(ratio))
        dt_lane_fail(l, DT_CASE_UNTRUSTED, -1, "its error under policy full is not known: %s", why);
    else if (ratio > 1)
        dt_lane_fail(l, DT_CASE_UNTRUSTED, -1, "error under policy full is %.3g times the reference's own against ref64; right "
                                               "fp32 programs stay below %d", ratio * DT_OWN_FACTOR, DT_OWN_FACTOR);
    return ratio;
}

/* Where codes may flip, the case as a whole decides; a locked one starts every step from the reference's codes and needs no
 * such allowance. Returns the used part of the allowance, NaN: there is none. */
static double judge_codes(dt_lane *l)
{
    const dt_plan *p = l->engine->plan;
    const dt_code_allowance most = dt_budget_codes(&p->policies[l->policy]);
    const double n = (double)l->acc.n_tok;
    if (isnan(most.kl) || p->options->mode == DT_MODE_LOCKED) return (double)NAN;
    const double kl = l->acc.sum_kl / n, nll = fabs(l->acc.sum_nll_got - l->acc.sum_nll_ref) / n;
    if (!(kl <= most.kl && nll <= most.nll))
        dt_lane_fail(l, DT_CASE_UNTRUSTED, -1, "mean KL %.3g and mean NLL difference %.3g nats; flipped codes explain up to "
                                               "%g and %g", kl, nll, most.kl, most.nll);
    return fmax(kl / most.kl, nll / most.nll);
}

/* Rows have been judged as they came. The largest used share of anything allowed; a NaN loses. */
static double judge_bounded(dt_lane *l)
{
    const double own = judge_own_error(l), codes = judge_codes(l);
    return fmax(l->worst, fmax(own, codes));
}

/* Every call was judged against the bound of its own; what is left to see is that there were any. */
static double judge_kernel(dt_lane *l)
{
    const dt_kernel_judge *j = dt_kernel_session_judge(l->session);
    if (j->n_judged == 0)
        dt_lane_fail(l, DT_CASE_UNTRUSTED, -1, "the candidate was never called: this model and policy use none of its operations");
    return j->n_judged ? j->worst_ratio : (double)NAN;
}

static double judge(dt_lane *l)
{
    if (!l->side || l->status != DT_CASE_PASS) return l->worst > 0 ? l->worst : (double)NAN;
    if (l->acc.n_tok == 0) {
        dt_lane_fail(l, DT_CASE_INCONCLUSIVE, -1, "nothing was scored: the document has fewer than two tokens");
        return (double)NAN;
    }
    if (l->engine->plan->device_model != l->engine->plan->model) {
        l->status = DT_CASE_RECORDED;
        snprintf(l->reason, sizeof l->reason, "two different models: there is no contract to hold");
        return (double)NAN;
    }
    if (l->side->is_policy) {
        l->status = DT_CASE_RECORDED;
        snprintf(l->reason, sizeof l->reason, "another policy: a measurement, there is no contract to hold");
        return (double)NAN;
    }
    if (l->side->is_kernel && l->side->backend->contract != KV_CONTRACT_STATISTICAL) return judge_kernel(l);
    switch (l->side->backend->contract) {
    case KV_CONTRACT_BITEXACT:
        return (double)NAN;
    case KV_CONTRACT_BOUNDED:
        return judge_bounded(l);
    default:
        dt_lane_fail(l, DT_CASE_INCONCLUSIVE, -1, "a statistical contract needs a baseline to be compared with");
        return (double)NAN;
    }
}

/* The first token in which any bit differed, in logits or decisions. */
static int64_t first_difference(const dt_lane *l)
{
    if (l->acc.first_diff_pos < 0) return l->first_bad;
    if (l->first_bad < 0) return l->acc.first_diff_pos;
    return l->first_bad < l->acc.first_diff_pos ? l->first_bad : l->acc.first_diff_pos;
}

static void give_lists(dt_lane *l, dt_case *c)
{
    c->rows = l->rows;
    c->n_rows = l->n_rows;
    c->hashes = l->hashes;
    c->n_hashes = l->n_hashes;
    l->rows = NULL;
    l->hashes = NULL;
    c->n_events_got = (int64_t)l->kept_got.n;
    for (size_t i = 0; i < l->kept_got.n; i++)
        if (kv_events_push(&l->kept_ref, l->kept_got.v[i]) != KV_OK) c->n_events_got--;
    c->events = l->kept_ref.v;
    c->n_events = (int64_t)l->kept_ref.n;
    l->kept_ref = (kv_events){0};
}

kv_status dt_lane_finish(dt_lane *l, double wall_seconds, double ref_seconds)
{
    dt_engine *e = l->engine;
    const dt_plan *p = e->plan;
    const dt_document *d = &p->docs[l->doc];
    char key[DT_KEY_MAX], repro[DT_REPRO_MAX];
    const char *device = l->side ? l->side->name : "none";
    dt_plan_key(p, l->doc, l->policy, device, key, sizeof key);
    dt_plan_repro(p, l->doc, l->policy, p->options->devices.v[l->index < 0 ? 0 : l->index], repro,
                  sizeof repro);
    const double ratio = judge(l);
    dt_case c = {.run_id = e->run_id,
                 .model_id = e->model_id,
                 .policy_id = e->policy_ids ? e->policy_ids[l->policy] : 0,
                 .kernel_set_id = l->side && e->kernel_set_ids ? e->kernel_set_ids[l->index] : 0,
                 .doc_id = e->doc_ids ? e->doc_ids[l->doc] : 0,
                 .key = key,
                 .device = device,
                 .mode = dt_mode_name(p->options->mode),
                 .q = p->options->q,
                 .contract = l->side ? l->side->backend->contract : KV_CONTRACT_BITEXACT,
                 .contract_version = KV_NUMERIC_CONTRACT_VERSION,
                 .status = l->status,
                 .reason = l->reason[0] ? l->reason : NULL,
                 .repro = repro,
                 .wall_ms = 1e3 * wall_seconds,
                 .ref_ms = 1e3 * ref_seconds,
                 .got_ms = 1e3 * l->seconds,
                 .n_tok = l->acc.n_tok,
                 .sum_nll_ref = l->acc.sum_nll_ref,
                 .sum_nll_got = l->acc.sum_nll_got,
                 .sum_kl = l->acc.sum_kl,
                 .max_kl = l->acc.max_kl,
                 .n_top1_same = l->acc.n_top1_same,
                 .n_bitexact = l->acc.n_bitexact,
                 .max_ulp = l->acc.max_ulp,
                 .max_abs = l->acc.max_abs,
                 .max_ratio = ratio,
                 .first_bad_pos = l->first_bad,
                 .first_diff_pos = l->side ? first_difference(l) : -1,
                 .n_words = d->n_words,
                 .n_text_bytes = d->n_text_bytes,
                 .dropped_bytes = d->stream.dropped_bytes,
                 .n_ties = l->n_ties,
                 .bytes_ref = l->bytes_ref,
                 .bytes_got = l->bytes_got,
                 .peak_ref = l->peak_ref,
                 .peak_got = l->peak_got,
                 .has_digests = l->has_digest,
                 .digest_ref = l->ref_digest,
                 .digest_got = l->digest,
                 .retrieval = d->stream.is_passkey && l->retrieval.expected ? &l->retrieval : NULL};
    if (l->side && !l->side->is_policy && l->alive) memcpy(c.cells, e->coverage.n, sizeof c.cells);
    if (e->observer) e->observer->finished(e->observer->arg, &c);
    if (!e->writer) return KV_OK;
    give_lists(l, &c);
    return dt_writer_push(e->writer, &c);
}
