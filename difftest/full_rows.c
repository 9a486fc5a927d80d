#include "difftest/full_rows.h"

#include <math.h>

kv_status dt_full_open(dt_full_side *s, const kv_model *m, int32_t threads)
{
    const kv_policy full = {.selection = KV_SEL_FULL, .storage = s->storage};
    const kv_open_args args = {.model = m, .policy = &full, .options = s->options, .threads = threads, .max_step = s->step};
    if (s->session) return KV_OK;
    const kv_status st = s->backend->open(&args, &s->session);
    if (st == KV_OK) return KV_OK;
    s->session = NULL;
    return kv_fail(st, "%s: %s", s->backend->name, s->backend->last_error(NULL));
}

void dt_full_close(dt_full_side *s)
{
    if (s->session) s->backend->close(s->session);
    s->session = NULL;
}

kv_status dt_full_rows(dt_full_side *s, const kv_model *m, int32_t threads, const int32_t *tokens, int64_t n, float *logits)
{
    const int64_t vocab = m->cfg.vocab_size;
    const int used = s->session != NULL;
    KV_TRY(dt_full_open(s, m, threads));
    kv_status st = used ? s->backend->reset(s->session) : KV_OK;
    for (int64_t at = 0; at < n && st == KV_OK; at += s->step) {
        const int64_t left = n - at;
        const kv_step step = {.tokens = tokens + at, .n = left < s->step ? (int32_t)left : s->step, .rows = KV_ROWS_ALL,
                              .logits = logits + at * vocab,
                              .follow = s->backend->caps & KV_CAP_NEEDS_FOLLOW ? s->follow : NULL};
        st = s->backend->step(s->session, &step);
    }
    return st == KV_OK ? KV_OK : kv_fail(st, "%s: %s", s->backend->name, s->backend->last_error(s->session));
}

double dt_rms(const float *x, const float *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)x[i] - (double)y[i];
        sum += d * d;
    }
    return sqrt(sum / (double)n);
}
