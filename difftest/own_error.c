#include "difftest/own_error.h"

#include "common/math.h"
#include "ref/backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static dt_full_side side_of(const dt_own_error *b, const kv_backend *backend, const char *options)
{
    return (dt_full_side){.backend = backend, .options = options, .storage = KV_STORE_F32, .step = DT_OWN_ROWS, .follow = &b->follow};
}

kv_status dt_own_error_init(dt_own_error *b, const kv_model *m, int n_docs, int n_devices, int32_t threads)
{
    *b = (dt_own_error){.model = m, .threads = threads, .n_devices = n_devices};
    b->ref = side_of(b, ref_backend(), NULL);
    b->ref64 = side_of(b, ref64_backend(), NULL);
    const size_t n = (size_t)n_docs * (size_t)n_devices;
    b->devices = calloc((size_t)n_devices + 1, sizeof *b->devices);
    b->ratio = calloc(n + 1, sizeof *b->ratio);
    if (!b->devices || !b->ratio) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        b->ratio[i] = (double)NAN;
    return KV_OK;
}

void dt_own_error_device(dt_own_error *b, int device, const kv_backend *backend, const char *options)
{
    b->devices[device].side = side_of(b, backend, options);
}

void dt_own_error_done(dt_own_error *b)
{
    dt_full_close(&b->ref);
    dt_full_close(&b->ref64);
    for (int i = 0; b->devices && i < b->n_devices; i++)
        dt_full_close(&b->devices[i].side);
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
    const int64_t values = (int64_t)n * b->model->cfg.vocab_size;
    if (!d->side.backend || d->failed != KV_OK) return;
    memset(b->mine.p, 0xff, (size_t)values * sizeof(float)); /* the reference's rows */
    d->failed = dt_full_rows(&d->side, b->model, b->threads, tokens, n, b->mine.p);
    if (d->failed != KV_OK)
        snprintf(d->why, sizeof d->why, "%s", kv_message());
    else
        b->ratio[doc * b->n_devices + device] = dt_rms(b->mine.p, b->truth.p, values) / (DT_OWN_FACTOR * e_ref);
}

kv_status dt_own_error_measure(dt_own_error *b, int doc, const int32_t *tokens, int64_t n)
{
    const int32_t rows = (int32_t)(n < DT_OWN_ROWS ? n : DT_OWN_ROWS);
    const int64_t values = (int64_t)rows * b->model->cfg.vocab_size;
    KV_TRY(kv_buffer_reserve(&b->truth, (size_t)values * sizeof(float)));
    KV_TRY(kv_buffer_reserve(&b->mine, (size_t)values * sizeof(float)));
    KV_TRY(full_events(b, rows));
    KV_TRY(dt_full_rows(&b->ref64, b->model, b->threads, tokens, rows, b->truth.p));
    KV_TRY(dt_full_rows(&b->ref, b->model, b->threads, tokens, rows, b->mine.p));
    const double e_ref = dt_rms(b->mine.p, b->truth.p, values);
    for (int i = 0; i < b->n_devices; i++)
        measure_device(b, doc, i, tokens, rows, e_ref);
    return KV_OK;
}

double dt_own_error_ratio(const dt_own_error *b, int doc, int device, const char **why)
{
    *why = b->devices[device].failed != KV_OK ? b->devices[device].why : "it was not measured";
    return b->ratio[doc * b->n_devices + device];
}
