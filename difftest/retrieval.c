/* retrieval.c - greedy and teacher-forced answers.
 *
 * Lane -1 stands for the reference everywhere below. All sides answer in lockstep, so that a device which
 * replays the reference's decisions finds them: the reference is fed its own answer, the device its own. */
#include "difftest/retrieval.h"

#include "difftest/digest.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* One side's progress through its answer. */
typedef struct speaker {
    const kv_backend *backend;
    kv_session *session;
    dt_lane *lane; /* NULL: the reference */
    void *snapshot;
    int32_t next;  /* token it would say now */
    char text[256];
    size_t n;
    int32_t digits;
    double nll;    /* of the expected answer */
    int ok;
} speaker;

static void not_finite(speaker *s, int64_t pos)
{
    s->ok = 0;
    if (s->lane) dt_lane_fail(s->lane, DT_CASE_FAIL, pos, "NaN or infinity in the logits of the answer");
}

static void give_up(speaker *s, const char *what)
{
    s->ok = 0;
    if (!s->lane) return;
    dt_lane_fail(s->lane, DT_CASE_ERROR, -1, "%s while answering: %s", what,
                 s->backend->last_error(s->session));
}

static void say(const dt_engine *e, speaker *s)
{
    size_t n;
    const char *piece = kv_tokenizer_piece(e->plan->tokenizer, s->next, &n);
    for (size_t i = 0; i < n; i++) {
        if (s->n + 1 < sizeof s->text) s->text[s->n++] = piece[i];
        s->digits += piece[i] >= '0' && piece[i] <= '9';
    }
}

/* Feeds n tokens; follow: the reference's decisions for this step. */
static void feed(dt_engine *e, speaker *s, const int32_t *tokens, int32_t n, int rows, const int32_t *targets,
                 float *logits, float *nll, kv_events *events)
{
    const int follower = s->lane && s->lane->side && dt_lane_follows(s->lane);
    const kv_step step = {.tokens = tokens, .n = n, .rows = rows, .logits = logits, .targets = targets,
                          .nll = nll, .events = events, .follow = follower ? &e->ref_events : NULL};
    /* what the speaker before wrote must not pass for this one's */
    if (logits) memset(logits, 0xff, (size_t)e->plan->model->cfg.vocab_size * sizeof *logits);
    if (nll) memset(nll, 0xff, (size_t)n * sizeof *nll);
    const double t = kv_now();
    if (s->backend->step(s->session, &step) != KV_OK) give_up(s, "step");
    *(s->lane ? &s->lane->seconds : &e->ref_seconds) += kv_now() - t;
}

static int finished(const speaker *s, int32_t digits)
{
    return !s->ok || s->digits >= digits;
}

static void answer_greedily(dt_engine *e, const corpus_stream *d, speaker *s, int n)
{
    const int32_t digits = d->passkey.n_digits;
    const int64_t V = e->plan->model->cfg.vocab_size;
    for (int said = 0; said < DT_ANSWER_TOKENS; said++) {
        int left = 0;
        for (int i = 0; i < n; i++) {
            if (!finished(&s[i], digits)) say(e, &s[i]);
            left += !finished(&s[i], digits);
        }
        if (!left) return;
        e->ref_events.n = 0;
        for (int i = 0; i < n; i++) {
            kv_events own = {0};
            if (!s[i].ok) continue;
            feed(e, &s[i], &s[i].next, 1, KV_ROWS_LAST, NULL, e->got_logits.p, NULL,
                 s[i].lane ? &own : &e->ref_events);
            free(own.v);
            if (!s[i].ok) continue;
            dt_row_metrics m;
            dt_metrics_row(e->got_logits.p, NULL, V, 0, &m);
            if (m.top1_ref < 0)
                not_finite(&s[i], d->tokens.n + said);
            else
                s[i].next = m.top1_ref;
        }
    }
}

/* Adds the NLL of answer tokens 1.. to what the prompt's last row gave for token 0. */
static kv_status answer_as_expected(dt_engine *e, const corpus_stream *d, speaker *s, int n)
{
    const kv_tokens *answer = &d->answer;
    const int64_t after = d->tokens.n;
    const int32_t k = (int32_t)answer->n - 1;
    if (k < 1) return KV_OK;
    KV_TRY(kv_buffer_reserve(&e->got_nll, (size_t)k * sizeof(float)));
    e->ref_events.n = 0;
    for (int i = 0; i < n; i++) {
        kv_events own = {0};
        float *nll = e->got_nll.p;
        if (!s[i].ok) continue;
        feed(e, &s[i], answer->v, k, KV_ROWS_ALL, answer->v + 1, NULL, nll,
             s[i].lane ? &own : &e->ref_events);
        free(own.v);
        for (int32_t r = 0; s[i].ok && r < k; r++)
            s[i].nll += (double)nll[r];
        if (s[i].ok && !isfinite(s[i].nll)) not_finite(&s[i], after);
    }
    return KV_OK;
}

static void take_snapshots(speaker *s, int n)
{
    for (int i = 0; i < n; i++)
        if (s[i].ok && s[i].backend->snapshot(s[i].session, &s[i].snapshot) != KV_OK) give_up(&s[i], "snapshot");
}

static void restore_snapshots(speaker *s, int n)
{
    for (int i = 0; i < n; i++)
        if (s[i].ok && s[i].backend->restore(s[i].session, s[i].snapshot) != KV_OK) give_up(&s[i], "restore");
}

static void begin(speaker *s, int32_t top1, double nll)
{
    s->next = top1;
    s->nll = nll;
    s->ok = top1 >= 0;
}

static void score(const corpus_passkey *k, const speaker *s, char *found, int32_t *digits, int32_t *ok)
{
    *digits = corpus_passkey_score(k, s->text, s->n, found);
    *ok = *digits == k->n_digits;
}

static kv_status conclude(dt_engine *e, const corpus_stream *d, const speaker *ref, const speaker *got)
{
    const corpus_passkey *k = &d->passkey;
    dt_lane *l = got->lane;
    dt_retrieval *r = &l->retrieval;
    *r = (dt_retrieval){.ctx_len = d->tokens.n, .depth_ppm = k->depth_ppm, .insert_pos = k->insert_pos,
                        .digits = k->n_digits, .expected = k->digits, .ans_ref = l->ref_answer,
                        .nll_ref = ref->nll, .nll_got = (double)NAN};
    score(k, ref, l->ref_answer, &r->digits_ref, &r->ok_ref);
    KV_TRY(dt_count_resident(ref->backend, ref->session, k->insert_pos, k->key_end, &e->state,
                             &r->needle_resident_ref));
    if (!l->side || !got->ok) return KV_OK;
    score(k, got, l->answer, &r->digits_got, &r->ok_got);
    r->ans_got = l->answer;
    r->nll_got = got->nll;
    if (l->bitexact && (strcmp(l->ref_answer, l->answer) != 0 || ref->nll != got->nll))
        dt_lane_fail(l, DT_CASE_FAIL, d->tokens.n, "answer %s (NLL %a) where the reference says %s (NLL %a)",
                     l->answer, got->nll, l->ref_answer, ref->nll);
    if (dt_count_resident(got->backend, got->session, k->insert_pos, k->key_end, &e->state,
                          &r->needle_resident_got) != KV_OK)
        dt_lane_fail(l, DT_CASE_ERROR, -1, "cache export: %s", kv_message());
    return KV_OK;
}

kv_status dt_retrieval_run(dt_engine *e, int doc, dt_lane *lanes, int n)
{
    const corpus_stream *d = &e->plan->docs[doc].stream;
    speaker s[1 + DT_MAX_LANES] = {{.backend = e->ref_backend, .session = e->ref}};
    int speakers = 1;
    begin(&s[0], lanes[0].last.top1_ref, lanes[0].last.nll_ref);
    for (int i = 0; i < n; i++) {
        if (!lanes[i].alive || !lanes[i].side) continue;
        speaker *t = &s[speakers++];
        *t = (speaker){.backend = lanes[i].side->backend, .session = lanes[i].session, .lane = &lanes[i]};
        begin(t, lanes[i].last.top1_got, lanes[i].last.nll_got);
    }
    take_snapshots(s, speakers);
    answer_greedily(e, d, s, speakers);
    restore_snapshots(s, speakers);
    kv_status st = answer_as_expected(e, d, s, speakers);
    restore_snapshots(s, speakers); /* the cache as the question found it */
    for (int i = 1; i < speakers && st == KV_OK; i++)
        st = conclude(e, d, &s[0], &s[i]);
    if (st == KV_OK && n == 1 && !lanes[0].side) {
        speaker alone = s[0];
        alone.lane = &lanes[0];
        st = conclude(e, d, &s[0], &alone);
    }
    for (int i = 0; i < speakers; i++)
        if (s[i].snapshot) s[i].backend->snapshot_free(s[i].session, s[i].snapshot);
    if (!s[0].ok && st == KV_OK)
        return kv_fail(KV_ERR_INTERNAL, "the reference failed while answering: %s", s[0].backend->last_error(e->ref));
    return st;
}

void dt_retrieval_refuse(dt_lane *lanes, int n)
{
    for (int i = 0; i < n; i++) {
        dt_lane *l = &lanes[i];
        if (l->status != DT_CASE_PASS && l->status != DT_CASE_RECORDED) continue;
        l->status = DT_CASE_UNSUPPORTED;
        snprintf(l->reason, sizeof l->reason, "xwindow cannot answer: nothing goes on from the end of a window; only the "
                                              "rows of the prompt were compared");
    }
}
