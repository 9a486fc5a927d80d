/* trainer.c - the reference's trainer behind the door of common/trainer.h. */
#include "ref/train/door.h"
#include "ref/train/graph.h"
#include "ref/train/optim.h"

#include "common/hash.h"

#include <stdlib.h>
#include <string.h>

enum { ARRAYS = 5 }; /* weights, gradients, two moments, average */

struct kv_trainer {
    kv_train_config config;
    ref_params params;
    ref_graph graph;
    ref_optim optim; /* owns its arrays, one behind the other */
    kv_pool *pool;
    size_t bytes;      /* of the arrays */
    kv_buffer *scratch; /* [threads] of the optimiser */
    int32_t *tokens;   /* [2][T] inputs, targets */
    int64_t step;
};

/* ---- open, close ------------------------------------------------------------------------------------------------ */

static void trainer_close(kv_trainer *t)
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

static kv_status allocate(kv_trainer *t)
{
    const int64_t n = ref_round_up(t->params.total, 16);
    t->bytes = (size_t)(n * ARRAYS) * sizeof(real);
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

static kv_status first_weights(kv_trainer *t, const kv_model *start)
{
    if (start)
        KV_TRY(REF(params_read)(&t->params, start, t->optim.w));
    else
        KV_TRY(REF(params_init)(&t->params, t->config.seed, t->optim.w));
    memcpy(t->optim.ema, t->optim.w, (size_t)t->params.total * sizeof(real));
    return KV_OK;
}

/* Nothing, or isa=NAME. */
static kv_status read_options(const char *options, const char **isa)
{
    *isa = NULL;
    if (!options || !*options) return KV_OK;
    if (strncmp(options, "isa=", 4) != 0)
        return kv_fail(KV_ERR_USAGE, "the reference's trainer: unknown option '%.60s'; it knows isa=NAME", options);
    *isa = options + 4;
    return KV_OK;
}

static kv_status open_parts(kv_trainer *t, const kv_trainer_args *a)
{
    const kv_train_config *c = &t->config;
    const char *isa;
    KV_TRY(read_options(a->options, &isa));
    KV_TRY(REF(kernels_find)(isa, &t->optim.kernels));
    KV_TRY(kv_pool_create(a->threads, &t->pool));
    KV_TRY(REF(params_open)(&t->params, &c->model));
    KV_TRY(allocate(t));
    KV_TRY(first_weights(t, a->start));
    return REF(graph_open)(&t->graph, &t->params, t->optim.kernels, t->pool, c->seq, c->batch_tokens / c->seq, t->optim.w, t->optim.g);
}

static kv_status trainer_open(const kv_trainer_args *a, kv_trainer **out)
{
    kv_trainer *t = calloc(1, sizeof *t);
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

static int64_t trainer_steps(const kv_trainer *t) { return t->step; }

/* ---- batches ------------------------------------------------------------------------------------------------------ */

/* Inputs and targets of n windows become the graph's batch. ERR_FORMAT for a token that the model does not have. */
static kv_status take_batch(kv_trainer *t, const uint16_t *windows, int64_t n)
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

/* Loss and gradients; s->used becomes the multiplier. */
static kv_status find_gradients(kv_trainer *t, kv_train_step *s)
{
    const kv_train_config *c = &t->config;
    s->step = t->step;
    s->used = s->multiplier < 0 ? REF(lr_multiplier)(t->step, c->iterations, c->warmdown) : s->multiplier;
    t->graph.round_matrices = s->used < c->qat_below;
    return REF(graph_gradients)(&t->graph, t->tokens, t->tokens + t->graph.T, &s->loss);
}

static kv_status update(kv_trainer *t, kv_train_step *s)
{
    const kv_train_config *c = &t->config;
    KV_TRY(find_gradients(t, s));
    ref_step_info info = {.step = t->step, .multiplier = s->used,
                          .momentum = REF(muon_momentum)(t->step, c->momentum_from, c->momentum_to, c->momentum_steps)};
    KV_TRY(REF(optim_step)(&t->optim, c, &info));
    t->step++;
    s->momentum = info.momentum;
    s->norm = info.norm;
    s->clip = info.clip;
    return KV_OK;
}

static kv_status trainer_step(kv_trainer *t, kv_train_step *s)
{
    KV_TRY(take_batch(t, s->windows, s->n));
    const kv_status st = update(t, s);
    if (st != KV_OK) kv_prefix_message("step %lld", (long long)t->step);
    return st;
}

static kv_status trainer_gradients(kv_trainer *t, kv_train_step *s, float *dst)
{
    KV_TRY(take_batch(t, s->windows, s->n));
    KV_TRY(find_gradients(t, s));
    for (int64_t i = 0; i < t->params.total; i++)
        dst[i] = (float)t->optim.g[i];
    return KV_OK;
}

static kv_status trainer_losses(kv_trainer *t, const uint16_t *windows, int64_t n, int averaged, float *nll)
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

static kv_status trainer_hash(const kv_trainer *t, uint8_t sha[32])
{
    const size_t n = (size_t)t->params.total * sizeof(real);
    kv_sha256_ctx c;
    kv_sha256_begin(&c);
    kv_sha256_add(&c, t->optim.w, n);
    kv_sha256_add(&c, t->optim.ema, n);
    kv_sha256_end(&c, sha);
    return KV_OK;
}

static kv_status trainer_model(const kv_trainer *t, int averaged, kv_model **out)
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

static kv_status trainer_read(const kv_trainer *t, kv_trainer_part part, float *dst)
{
    const real *const from[KV_TRAINER_PARTS] = {t->optim.m, t->optim.v, t->optim.w, t->optim.ema};
    for (int64_t i = 0; i < t->params.total; i++)
        dst[i] = (float)from[part][i];
    return KV_OK;
}

static kv_checkpoint_run run_of(const kv_trainer *t)
{
    return (kv_checkpoint_run){.config = &t->config, .step = t->step, .parameters = t->params.total, .real_bytes = sizeof(real),
                               .arrays = {t->optim.w, t->optim.m, t->optim.v, t->optim.ema}};
}

static kv_status trainer_save(const kv_trainer *t, const kv_checkpoint *c)
{
    const kv_checkpoint_run run = run_of(t);
    return kv_checkpoint_write(c, &run);
}

static kv_status trainer_load(kv_trainer *t, kv_checkpoint *c)
{
    kv_checkpoint_run run = run_of(t);
    KV_TRY(kv_checkpoint_read(c, &run));
    t->step = run.step;
    return KV_OK;
}

const kv_trainer_api *REF(trainer_door)(void)
{
    static const kv_trainer_api api = {
        .abi = KV_TRAINER_ABI, .name = REF_BITS == 32 ? "fp32" : "double", .open = trainer_open, .close = trainer_close,
        .last_error = kv_message, .steps = trainer_steps, .step = trainer_step, .gradients = trainer_gradients, .losses = trainer_losses,
        .ttt_multiplier = REF(ttt_multiplier), .hash = trainer_hash, .read = trainer_read, .model = trainer_model,
        .save = trainer_save, .load = trainer_load,
    };
    return &api;
}
