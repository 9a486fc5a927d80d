#include "ref/train/trainer_private.h"

#include "common/hash.h"

#include <stdlib.h>
#include <string.h>

/* ---- open, close ------------------------------------------------------------------------------------------------ */

static void trainer_close(ref_trainer *t)
{
    if (!t) return;
    for (int i = 0; t->scratch && i < kv_pool_threads(t->pool); i++)
        kv_buffer_free(&t->scratch[i]);
    free(t->scratch);
    free(t->tokens);
    kv_big_free(t->optim.w, t->bytes);
    if (t->graph.params) REF(graph_close)(&t->graph);
    REF(params_close)(&t->params);
    kv_pool_destroy(t->pool);
    free(t);
}

static kv_status allocate(ref_trainer *t)
{
    const int64_t n = ref_round_up(t->params.total, 16);
    t->bytes = (size_t)(n * REF_TRAIN_ARRAYS) * sizeof(real);
    real *p = kv_big_alloc(t->bytes);
    t->scratch = calloc((size_t)kv_pool_threads(t->pool), sizeof *t->scratch);
    t->tokens = malloc((size_t)t->config.batch_tokens * 2 * sizeof *t->tokens);
    t->optim.w = p;
    if (!p || !t->scratch || !t->tokens) return kv_fail(KV_ERR_NOMEM, "training: out of memory");
    t->optim.g = p + n;
    t->optim.m = p + 2 * n;
    t->optim.v = p + 3 * n;
    t->optim.ema = p + 4 * n;
    t->optim.params = &t->params;
    t->optim.pool = t->pool;
    t->optim.scratch = t->scratch;
    return KV_OK;
}

static kv_status first_weights(ref_trainer *t, const kv_model *start)
{
    if (start)
        KV_TRY(REF(params_read)(&t->params, start, t->optim.w));
    else
        KV_TRY(REF(params_init)(&t->params, t->config.seed, t->optim.w));
    memcpy(t->optim.ema, t->optim.w, (size_t)t->params.total * sizeof(real));
    return KV_OK;
}

static kv_status open_parts(ref_trainer *t, const ref_trainer_args *a)
{
    const kv_train_config *c = &t->config;
    KV_TRY(REF(kernels_find)(a->isa, &t->optim.kernels));
    KV_TRY(kv_pool_create(a->threads, &t->pool));
    KV_TRY(REF(params_open)(&t->params, &c->model));
    KV_TRY(allocate(t));
    KV_TRY(first_weights(t, a->start));
    return REF(graph_open)(&t->graph, &t->params, t->optim.kernels, t->pool, c->seq, c->batch_tokens / c->seq, t->optim.w, t->optim.g);
}

static kv_status trainer_open(const ref_trainer_args *a, ref_trainer **out)
{
    ref_trainer *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t) return kv_fail(KV_ERR_NOMEM, "training: out of memory");
    t->config = *a->config;
    const kv_status st = open_parts(t, a);
    if (st != KV_OK) {
        trainer_close(t);
        return st;
    }
    *out = t;
    return KV_OK;
}

static int64_t trainer_steps(const ref_trainer *t) { return t->step; }

/* ---- batches ------------------------------------------------------------------------------------------------------ */

/* Inputs and targets of n windows become the graph's batch. ERR_FORMAT for a token that the model does not have. */
static kv_status take_batch(ref_trainer *t, const uint16_t *windows, int64_t n)
{
    const int64_t S = t->config.seq, T = n * S;
    if (n < 1 || T > t->config.batch_tokens)
        return kv_fail(KV_ERR_USAGE, "training: %lld windows; a batch has 1 to %lld", (long long)n,
                       (long long)(t->config.batch_tokens / S));
    for (int64_t w = 0; w < n; w++)
        for (int64_t i = 0; i <= S; i++) {
            const int32_t token = windows[w * (S + 1) + i];
            if (token >= t->config.model.vocab_size)
                return kv_fail(KV_ERR_FORMAT, "training: token %d in the data; the model has %d", token, t->config.model.vocab_size);
            if (i < S) t->tokens[w * S + i] = token;
            if (i > 0) t->tokens[T + w * S + i - 1] = token;
        }
    t->graph.T = T;
    return KV_OK;
}

static kv_status update(ref_trainer *t, ref_train_step *s)
{
    const kv_train_config *c = &t->config;
    ref_step_info info = {.step = t->step, .multiplier = s->multiplier,
                          .momentum = REF(muon_momentum)(t->step, c->momentum_from, c->momentum_to, c->momentum_steps)};
    if (info.multiplier < 0) info.multiplier = REF(lr_multiplier)(t->step, c->iterations, c->warmdown);
    t->graph.round_matrices = info.multiplier < c->qat_below;
    KV_TRY(REF(graph_gradients)(&t->graph, t->tokens, t->tokens + t->graph.T, &s->loss));
    KV_TRY(REF(optim_step)(&t->optim, c, &info));
    s->step = t->step++;
    s->used = info.multiplier;
    s->momentum = info.momentum;
    s->norm = info.norm;
    s->clip = info.clip;
    return KV_OK;
}

static kv_status trainer_step(ref_trainer *t, ref_train_step *s)
{
    KV_TRY(take_batch(t, s->windows, s->n));
    const kv_status st = update(t, s);
    if (st != KV_OK) kv_prefix_message("step %lld", (long long)t->step);
    return st;
}

static kv_status trainer_losses(ref_trainer *t, const uint16_t *windows, int64_t n, int averaged, float *nll)
{
    double mean;
    KV_TRY(take_batch(t, windows, n));
    t->graph.round_matrices = 0;
    t->graph.w = averaged ? t->optim.ema : t->optim.w;
    const kv_status st = REF(graph_loss)(&t->graph, t->tokens, t->tokens + t->graph.T, &mean);
    t->graph.w = t->optim.w;
    for (int64_t i = 0; st == KV_OK && i < t->graph.T; i++)
        nll[i] = (float)t->graph.nll[i];
    return st;
}

/* ---- results ---------------------------------------------------------------------------------------------------------- */

static void trainer_hash(const ref_trainer *t, uint8_t sha[32])
{
    const size_t n = (size_t)t->params.total * sizeof(real);
    kv_sha256_ctx c;
    kv_sha256_begin(&c);
    kv_sha256_add(&c, t->optim.w, n);
    kv_sha256_add(&c, t->optim.ema, n);
    kv_sha256_end(&c, sha);
}

static kv_status trainer_model(const ref_trainer *t, int averaged, kv_model **out)
{
    const real *from = averaged ? t->optim.ema : t->optim.w;
    float *w = malloc((size_t)t->params.total * sizeof *w);
    if (!w) return kv_fail(KV_ERR_NOMEM, "training: out of memory");
    for (int64_t i = 0; i < t->params.total; i++)
        w[i] = (float)from[i];
    const kv_status st = kv_golf_model(t->config.name, &t->config.model, w, out);
    free(w);
    return st;
}

const ref_trainer_api *REF(trainer_door)(void)
{
    static const ref_trainer_api api = {
        .name = REF_BITS == 32 ? "fp32" : "double", .open = trainer_open, .close = trainer_close, .steps = trainer_steps,
        .step = trainer_step, .losses = trainer_losses, .ttt_multiplier = REF(ttt_multiplier), .hash = trainer_hash, .model = trainer_model,
        .save = REF(checkpoint_save), .load = REF(checkpoint_load),
    };
    return &api;
}
