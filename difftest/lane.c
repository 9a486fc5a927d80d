#include "difftest/lane.h"

#include "difftest/kernel_side.h"

#include "common/state.h"
#include "common/tile.h"
#include "difftest/decisions.h"
#include "difftest/digest.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- beginning, failing, stepping -------------------------------------------------------------------- */

void dt_lane_begin(dt_lane *l, dt_engine *e, int doc, int policy, int index)
{
    *l = (dt_lane){.engine = e, .doc = doc, .policy = policy, .index = index, .first_bad = -1,
                   .status = DT_CASE_PASS, .alive = 1, .bytes_ref = -1, .bytes_got = -1, .peak_ref = -1,
                   .peak_got = -1, .bound = dt_bound_begin((double)NAN)};
    dt_acc_init(&l->acc);
    if (index < 0) {
        l->status = DT_CASE_RECORDED;
        return;
    }
    dt_opened *d = &e->devices[index];
    l->side = &e->plan->sides[index];
    l->session = d->session;
    l->bitexact = l->side->backend->contract == KV_CONTRACT_BITEXACT &&
                  e->plan->device_model == e->plan->model;
    l->free_choice = e->plan->device_model != e->plan->model && dt_decides_by_score(&e->plan->policies[policy]);
    if (!d->session)
        dt_lane_fail(l, d->status, -1, "%s", d->reason);
    else if (l->side->backend->reset(d->session) != KV_OK)
        dt_lane_fail(l, DT_CASE_ERROR, -1, "reset: %s", l->side->backend->last_error(d->session));
    l->alive = l->status == DT_CASE_PASS;
}

int dt_lane_follows(const dt_lane *l)
{
    const uint32_t caps = l->side->backend->caps;
    return (caps & KV_CAP_NEEDS_FOLLOW) ||
           (l->engine->plan->options->mode == DT_MODE_FOLLOW && (caps & KV_CAP_FOLLOW));
}

void dt_lane_fail(dt_lane *l, dt_case_status status, int64_t pos, const char *fmt, ...)
{
    if (pos >= 0 && (l->first_bad < 0 || pos < l->first_bad)) l->first_bad = pos;
    if (l->status != DT_CASE_PASS) return; /* the first reason is the cause */
    l->status = status;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(l->reason, sizeof l->reason, fmt, ap);
    va_end(ap);
}

void dt_lane_step(dt_lane *l, const kv_step *step)
{
    l->events.n = 0;
    const double t = kv_now();
    const kv_status st = l->side->backend->step(l->session, step);
    l->seconds += kv_now() - t;
    if (st == KV_OK) return;
    if (l->side->is_kernel && st == KV_ERR_CONTRACT)
        dt_lane_fail(l, DT_CASE_FAIL, dt_kernel_session_judge(l->session)->first.token, "%s", l->side->backend->last_error(l->session));
    else
        dt_lane_fail(l, DT_CASE_ERROR, -1, "step of %d tokens: %s", step->n, l->side->backend->last_error(l->session));
    l->alive = 0;
}

void dt_lane_import(dt_lane *l, const void *blob, size_t size)
{
    if (l->side->backend->import_state(l->session, blob, size) == KV_OK) return;
    dt_lane_fail(l, DT_CASE_ERROR, -1, "import of the reference's cache: %s", l->side->backend->last_error(l->session));
    l->alive = 0;
}

/* ---- comparing ------------------------------------------------------------------------------------------ */

/* Kept decisions count tokens from the document's start. */
static kv_status keep_events(kv_events *to, const kv_events *from, int64_t base)
{
    for (size_t i = 0; i < from->n; i++) {
        kv_event v = from->v[i];
        v.og += base;
        v.token += base;
        if (kv_events_push(to, v) != KV_OK) return kv_fail(KV_ERR_NOMEM, "out of memory for decisions");
    }
    return KV_OK;
}

/* "layer 3", or "layer 3, KV head 1" where heads decide for themselves. */
static void name_place(const kv_event *v, char *dst, size_t size)
{
    const int n = snprintf(dst, size, "layer %d", v->layer);
    if (v->head >= 0) snprintf(dst + n, size - (size_t)n, ", KV head %d", v->head);
}

/* "evicts 17 in slot 3"; a token that leaves in the step that brought it has no slot, and storage kivi codes V
 * rows apart from K rows. */
static void name_decision(const kv_event *v, int64_t base, char *dst, size_t size)
{
    static const char *const kinds[] = {"admits", "evicts", "moves", "seals"};
    const int value_row = v->og >= KV_KIVI_V;
    const int n = snprintf(dst, size, "%s %s%lld", kinds[v->kind & 3], value_row ? "the value row of " : "",
                           (long long)(base + v->og - (value_row ? KV_KIVI_V : 0)));
    if (v->slot >= 0)
        snprintf(dst + n, size - (size_t)n, " in slot %d", v->slot);
    else
        snprintf(dst + n, size - (size_t)n, " in no slot");
}

/* The first decision in which the lists differ and no tie explains it. */
static void name_difference(dt_lane *l, const dt_seen *s, const dt_decisions *d)
{
    char place[64], ref[96], got[96];
    const kv_events *theirs = s->events, *own = &l->events;
    const int64_t pos = d->ref_at < theirs->n ? s->base + theirs->v[d->ref_at].token : s->pos0 + s->n - 1;
    if (d->ref_at == theirs->n || d->got_at == own->n) {
        dt_lane_fail(l, DT_CASE_FAIL, pos, "%zu decisions instead of %zu in the step at token %lld", own->n, theirs->n,
                     (long long)s->pos0);
        return;
    }
    const kv_event *r = &theirs->v[d->ref_at], *g = &own->v[d->got_at];
    name_place(r, place, sizeof place);
    if (r->kind == g->kind && r->og == g->og && r->slot == g->slot) {
        dt_lane_fail(l, DT_CASE_FAIL, pos, "decision at token %lld, %s: equal but for cause, layer, head or margin (%a in "
                                           "the reference, %a in the device)",
                     (long long)pos, place, (double)r->margin, (double)g->margin);
        return;
    }
    name_decision(r, s->base, ref, sizeof ref);
    name_decision(g, s->base, got, sizeof got);
    if (isfinite(r->margin))
        dt_lane_fail(l, DT_CASE_FAIL, pos, "decision at token %lld, %s: reference %s with margin %.3g, device %s",
                     (long long)pos, place, ref, (double)r->margin, got);
    else
        dt_lane_fail(l, DT_CASE_FAIL, pos, "decision at token %lld, %s: reference %s, device %s", (long long)pos, place,
                     ref, got);
}

/* What the reference keeps after the step: scores to judge ties by, and the cache from which the device goes on. */
static kv_status judge_decisions(dt_lane *l, const dt_seen *s, int exact)
{
    dt_engine *e = l->engine;
    size_t size = 0;
    if (!exact) {
        KV_TRY(dt_export(e->ref_backend, e->ref, -1, KV_STATE_KV | KV_STATE_SCORE, &e->blob, &size));
        KV_TRY(kv_state_check(e->blob.p, size));
    }
    const dt_decisions d = dt_decisions_judge(&e->plan->policies[l->policy], s->events, &l->events,
                                              exact ? NULL : e->blob.p);
    l->n_ties += d.ties;
    if (d.broken) name_difference(l, s, &d);
    else dt_lane_import(l, e->blob.p, size);
    return KV_OK;
}

/* *flags receives DT_TOK_EVICT and DT_TOK_TIE as they apply. */
static kv_status compare_events(dt_lane *l, const dt_seen *s, uint32_t *flags)
{
    const int exact = l->bitexact || dt_lane_follows(l), differ = !dt_decisions_same(s->events, &l->events, exact);
    const int64_t ties = l->n_ties;
    if (differ && !l->free_choice) KV_TRY(judge_decisions(l, s, exact));
    *flags = (differ ? (uint32_t)DT_TOK_EVICT : 0) | (l->n_ties > ties ? (uint32_t)DT_TOK_TIE : 0);
    if (!differ && !l->engine->plan->options->all_events) return KV_OK;
    KV_TRY(keep_events(&l->kept_ref, s->events, s->base));
    return keep_events(&l->kept_got, &l->events, s->base);
}

static kv_status keep_row(dt_lane *l, const dt_seen *s, int32_t r, const dt_row_metrics *m, uint32_t flags)
{
    dt_engine *e = l->engine;
    const int keep = e->rows_kept >= DT_ROWS_MAX && e->plan->options->keep == DT_KEEP_ALL
                         ? DT_KEEP_DIFF
                         : e->plan->options->keep;
    if (keep == DT_KEEP_NONE || (keep == DT_KEEP_DIFF && !(m->flags & DT_ROW_DIFFERS) && !flags)) return KV_OK;
    if (l->n_rows == l->cap_rows) {
        const int64_t cap = l->cap_rows ? 2 * l->cap_rows : 1024;
        dt_tok_row *rows = realloc(l->rows, (size_t)cap * sizeof *rows);
        if (!rows) return kv_fail(KV_ERR_NOMEM, "out of memory for token rows");
        l->rows = rows;
        l->cap_rows = cap;
    }
    if (m->flags & DT_ROW_TOP1) flags |= DT_TOK_TOP1;
    if (m->flags & DT_ROW_TOP5) flags |= DT_TOK_TOP5;
    if (m->flags & DT_ROW_NONFINITE) flags |= DT_TOK_NONFINITE;
    l->rows[l->n_rows++] = (dt_tok_row){.pos = s->pos0 + r,
                                        .tok = s->targets[r],
                                        .flags = flags,
                                        .nll_ref = m->nll_ref,
                                        .nll_got = l->side ? m->nll_got : (double)NAN,
                                        .kl = m->kl,
                                        .margin_ref = m->margin_ref,
                                        .n_resident = s->resident,
                                        .max_ulp = m->max_ulp};
    e->rows_kept++;
    return KV_OK;
}

int dt_lane_judge_bound(dt_lane *l, int64_t pos, const dt_row_metrics *m)
{
    const double off = sqrt(m->sum_sq / (double)l->engine->plan->model->cfg.vocab_size), allowed = l->bound.allowed;
    if (off > l->worst * allowed) l->worst = off / allowed;
    if (off <= allowed) return 0;
    dt_lane_fail(l, DT_CASE_FAIL, pos, "logits of token %lld are off by %.3g (root mean square); operations that use all of "
                                       "their bounds are by up to %.3g", (long long)pos, off, allowed);
    return 1;
}

/* Flags of the row that follow from the verdict. */
static uint32_t judge_row(dt_lane *l, int64_t pos, const dt_row_metrics *m)
{
    if (m->flags & DT_ROW_NONFINITE)
        dt_lane_fail(l, DT_CASE_FAIL, pos, "NaN or infinity in the logits of token %lld", (long long)pos);
    if (l->bitexact && (m->flags & DT_ROW_DIFFERS))
        dt_lane_fail(l, DT_CASE_FAIL, pos, "logits of token %lld differ by up to %lld ulp; the contract is 0",
                     (long long)pos, (long long)m->max_ulp);
    const int beyond = l->holds && dt_lane_judge_bound(l, pos, m);
    return beyond || (l->bitexact && (m->flags & DT_ROW_DIFFERS)) ? DT_TOK_BOUND : 0;
}

kv_status dt_lane_compare(dt_lane *l, const dt_seen *s, const float *got, const float *got_nll)
{
    dt_engine *e = l->engine;
    const int64_t V = e->plan->model->cfg.vocab_size;
    uint32_t decisions = 0;
    if (l->side && !l->side->is_policy) KV_TRY(compare_events(l, s, &decisions));
    l->holds = dt_bound_holds(&l->bound, s->pos0, s->events, (decisions & DT_TOK_TIE) != 0,
                              e->plan->options->mode == DT_MODE_LOCKED);
    const int32_t n = s->to - s->from;
    if (n <= 0) return KV_OK;
    KV_TRY(kv_buffer_reserve(&e->metrics, (size_t)n * sizeof(dt_row_metrics)));
    dt_row_metrics *m = e->metrics.p;
    if (e->observer && got) {
        const dt_observed o = {s->logits + s->from * V, got + s->from * V, n, V, s->targets + s->from};
        e->observer->rows(e->observer->arg, &o);
    }
    dt_metrics_rows(e->pool, s->logits + s->from * V, got ? got + s->from * V : NULL, n, V,
                    s->targets + s->from, m);
    for (int32_t i = 0; i < n; i++) {
        const int32_t r = s->from + i;
        const int64_t pos = s->pos0 + r;
        dt_acc_add(&l->acc, pos, V, &m[i]);
        uint32_t flags = r == s->to - 1 ? decisions : 0;
        if (l->side) flags |= judge_row(l, pos, &m[i]);
        if (l->bitexact && memcmp(&s->nll[r], &got_nll[r], sizeof *got_nll) != 0)
            dt_lane_fail(l, DT_CASE_FAIL, pos, "canonical NLL of token %lld differs although its logits do not: "
                                               "reference %a, device %a", (long long)pos, (double)s->nll[r],
                         (double)got_nll[r]);
        KV_TRY(keep_row(l, s, r, &m[i], flags));
    }
    return KV_OK;
}

/* ---- state --------------------------------------------------------------------------------------------------- */

static kv_status keep_hash(dt_lane *l, int64_t pos, int32_t layer, uint64_t ref, uint64_t got)
{
    if (l->n_hashes == l->cap_hashes) {
        const int64_t cap = l->cap_hashes ? 2 * l->cap_hashes : 64;
        dt_hash_row *h = realloc(l->hashes, (size_t)cap * sizeof *h);
        if (!h) return kv_fail(KV_ERR_NOMEM, "out of memory for digests");
        l->hashes = h;
        l->cap_hashes = cap;
    }
    l->hashes[l->n_hashes++] = (dt_hash_row){.pos = pos, .layer = layer, .h_ref = ref, .h_got = got};
    return KV_OK;
}

/* All layers of both sides, to say which came first; -1 when the device cannot export them one by one. */
static kv_status find_layer(dt_lane *l, int64_t pos, int32_t *first)
{
    dt_engine *e = l->engine;
    *first = -1;
    for (int32_t i = 0; i < e->plan->model->cfg.n_layers; i++) {
        kv_digest ref, got;
        KV_TRY(dt_digest(e->ref_backend, e->ref, i, l->bitexact, &e->state, &ref));
        if (dt_digest(l->side->backend, l->session, i, l->bitexact, &e->state, &got) != KV_OK) return KV_OK;
        const int same = ref.content == got.content && ref.order == got.order && ref.score == got.score;
        if (same) continue;
        if (*first < 0) *first = i;
        if (l->bitexact) KV_TRY(keep_hash(l, pos, i, ref.content, got.content));
    }
    return KV_OK;
}

static const char *what_differs(const kv_digest *a, const kv_digest *b)
{
    if (a->order != b->order) return "tokens or positions";
    if (a->content != b->content) return "K or V bytes";
    return "scores";
}

void dt_lane_note_bytes(dt_lane *l, int64_t ref)
{
    l->bytes_ref = ref;
    if (ref > l->peak_ref) l->peak_ref = ref;
}

/* Size of the device's cache and its digest; *digest is of its export where it has none of its own. */
static kv_status look_at_cache(dt_lane *l, int last, kv_digest *digest)
{
    dt_engine *e = l->engine;
    const kv_backend *side = l->side->backend;
    KV_TRY(dt_cache_bytes(side, l->session, &e->state, &l->bytes_got));
    if (l->bytes_got > l->peak_got) l->peak_got = l->bytes_got;
    KV_TRY(dt_digest(side, l->session, -1, l->bitexact, &e->state, digest));
    if (!last || !l->bitexact || !(side->caps & KV_CAP_DIGEST)) return KV_OK;
    kv_backend plain = *side;
    kv_digest exported;
    plain.caps &= ~(uint32_t)KV_CAP_DIGEST;
    KV_TRY(dt_digest(&plain, l->session, -1, 1, &e->state, &exported));
    if (digest->content == exported.content && digest->order == exported.order && digest->score == exported.score)
        return KV_OK;
    return kv_fail(KV_ERR_MISMATCH, "the side's own digest is not that of its export: %s",
                   what_differs(&exported, digest));
}

kv_status dt_lane_check_state(dt_lane *l, int64_t pos, const kv_digest *ref, int last)
{
    int32_t layer;
    const kv_status st = look_at_cache(l, last, &l->digest);
    if (st != KV_OK) {
        dt_lane_fail(l, st == KV_ERR_MISMATCH ? DT_CASE_FAIL : DT_CASE_ERROR, -1, "cache export: %s", kv_message());
        l->alive = 0;
        return KV_OK;
    }
    if (l->side->is_policy) return KV_OK; /* another policy keeps other tokens, by right */
    l->ref_digest = *ref;
    l->has_digest = 1;
    if (!l->bitexact) l->digest.content = l->ref_digest.content = 0; /* rounding differs by right */
    if (l->bitexact) KV_TRY(keep_hash(l, pos, -1, ref->content, l->digest.content));
    const int same = l->ref_digest.content == l->digest.content && ref->order == l->digest.order &&
                     (ref->score == l->digest.score || !l->bitexact);
    if (same || l->free_choice) return KV_OK;
    if (l->n_rows && l->rows[l->n_rows - 1].pos == pos) l->rows[l->n_rows - 1].flags |= DT_TOK_STATE;
    if (l->status != DT_CASE_PASS) return KV_OK;
    const char *what = what_differs(&l->ref_digest, &l->digest);
    KV_TRY(find_layer(l, pos, &layer));
    if (layer >= 0)
        dt_lane_fail(l, DT_CASE_FAIL, pos, "cache after token %lld differs from layer %d on: %s", (long long)pos,
                     layer, what);
    else if (l->bitexact && kv_carry_layout_of(&l->engine->plan->model->cfg).bytes)
        dt_lane_fail(l, DT_CASE_FAIL, pos, "the cache is the same after token %lld, but not what the model remembers of the newest "
                                           "tokens", (long long)pos);
    else
        dt_lane_fail(l, DT_CASE_FAIL, pos, "cache after token %lld differs, though no single layer says so: %s",
                     (long long)pos, what);
    return KV_OK;
}

void dt_lane_free(dt_lane *l)
{
    free(l->events.v);
    free(l->kept_ref.v);
    free(l->kept_got.v);
    free(l->rows);
    free(l->hashes);
}
