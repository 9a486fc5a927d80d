#include "difftest/own_error.h"

#include "common/math.h"
#include "ref/backend.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

kv_status dt_own_error_init(dt_own_error *b, const kv_model *m, int n_docs, int n_devices, int32_t threads)
{
    *b = (dt_own_error){.model = m, .threads = threads, .n_docs = n_docs, .n_devices = n_devices};
    const size_t n = (size_t)n_docs * (size_t)n_devices;
    b->devices = calloc((size_t)n_devices + 1, sizeof *b->devices);
    b->ratio = calloc(n + 1, sizeof *b->ratio);
    if (!b->devices || !b->ratio) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        b->ratio[i] = (double)NAN;
    return KV_OK;
}

void dt_own_error_done(dt_own_error *b)
{
    ref_backend()->close(b->ref);
    ref64_backend()->close(b->ref64);
    b->ref = b->ref64 = NULL;
    for (int i = 0; b->devices && i < b->n_devices; i++) {
        if (b->devices[i].session) b->devices[i].backend->close(b->devices[i].session);
        b->devices[i].session = NULL;
    }
    kv_buffer_free(&b->truth);
    kv_buffer_free(&b->mine);
}

void dt_own_error_free(dt_own_error *b)
{
    dt_own_error_done(b);
    free(b->devices);
    free(b->ratio);
    free(b->follow.v);
    *b = (dt_own_error){0};
}

static kv_status open_full(const dt_own_error *b, const kv_backend *side, const char *options, kv_session **s)
{
    const kv_policy full = {.selection = KV_SEL_FULL, .storage = KV_STORE_F32};
    const kv_open_args args = {.model = b->model, .policy = &full, .options = options,
                               .threads = b->threads, .max_step = DT_OWN_ROWS};
    return *s ? side->reset(*s) : side->open(&args, s);
}

/* Logits of all rows of one step from an empty cache. */
static kv_status measure(const dt_own_error *b, const kv_backend *side, const char *options, kv_session **s,
                         const int32_t *tokens, int32_t n, float *logits)
{
    const kv_step step = {.tokens = tokens, .n = n, .rows = KV_ROWS_ALL, .logits = logits,
                          .follow = side->caps & KV_CAP_NEEDS_FOLLOW ? &b->follow : NULL};
    kv_status st = open_full(b, side, options, s);
    if (st == KV_OK) st = side->step(*s, &step);
    return st == KV_OK ? KV_OK : kv_fail(st, "%s: %s", side->name, side->last_error(*s));
}

static double rms(const float *x, const float *truth, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)x[i] - (double)truth[i];
        sum += d * d;
    }
    return sqrt(sum / (double)n);
}

/* The decisions of policy full, which a follower needs: every token is admitted. */
static kv_status full_events(dt_own_error *b, int32_t n)
{
    b->follow.n = 0;
    for (int32_t l = 0; l < b->model->cfg.n_layers; l++)
        for (int32_t i = 0; i < n; i++)
            KV_TRY(kv_events_push(&b->follow, (kv_event){.og = i, .token = i, .layer = l, .head = -1,
                                                         .kind = KV_EVENT_ADMIT, .slot = i,
                                                         .margin = kv_inf()}));
    return KV_OK;
}

static void measure_device(dt_own_error *b, int doc, int device, const int32_t *tokens, int32_t n, double e_ref)
{
    dt_own_device *d = &b->devices[device];
    if (!d->backend || d->failed != KV_OK) return;
    memset(b->mine.p, 0xff, (size_t)n * (size_t)b->model->cfg.vocab_size * sizeof(float)); /* the reference's rows */
    d->failed = measure(b, d->backend, d->options, &d->session, tokens, n, b->mine.p);
    if (d->failed != KV_OK) {
        snprintf(d->why, sizeof d->why, "%s", kv_message());
        return;
    }
    const double e = rms(b->mine.p, b->truth.p, (int64_t)n * b->model->cfg.vocab_size);
    b->ratio[doc * b->n_devices + device] = e / (DT_OWN_FACTOR * e_ref);
}

kv_status dt_own_error_measure(dt_own_error *b, int doc, const int32_t *tokens, int64_t n)
{
    const int32_t rows = (int32_t)(n < DT_OWN_ROWS ? n : DT_OWN_ROWS);
    const size_t bytes = (size_t)rows * (size_t)b->model->cfg.vocab_size * sizeof(float);
    KV_TRY(kv_buffer_reserve(&b->truth, bytes));
    KV_TRY(kv_buffer_reserve(&b->mine, bytes));
    KV_TRY(full_events(b, rows));
    KV_TRY(measure(b, ref64_backend(), NULL, &b->ref64, tokens, rows, b->truth.p));
    KV_TRY(measure(b, ref_backend(), NULL, &b->ref, tokens, rows, b->mine.p));
    const double e_ref = rms(b->mine.p, b->truth.p, (int64_t)rows * b->model->cfg.vocab_size);
    for (int i = 0; i < b->n_devices; i++)
        measure_device(b, doc, i, tokens, rows, e_ref);
    return KV_OK;
}

double dt_own_error_ratio(const dt_own_error *b, int doc, int device, const char **why)
{
    *why = b->devices[device].failed != KV_OK ? b->devices[device].why : "it was not measured";
    return b->ratio[doc * b->n_devices + device];
}
