#include "difftest/train.h"

#include "difftest/artifact.h"
#include "difftest/cmd_tokenizer.h"

#include "common/file.h"
#include "common/hash.h"
#include "common/progress.h"
#include "common/safetensors.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- validation ----------------------------------------------------------------------------------------------- */

/* Sums over n windows; nll: [n][S]. */
static void count(const uint16_t *windows, const float *nll, int64_t n, int64_t S, const kv_tokenizer *tok, double *sum, uint64_t *bytes)
{
    for (int64_t w = 0; w < n; w++)
        for (int64_t i = 0; i < S; i++) {
            const uint16_t *at = windows + w * (S + 1) + i;
            *sum = *sum + (double)nll[w * S + i];
            if (tok) *bytes += kv_tokenizer_bytes_of(tok, at[0], at[1]);
        }
}

kv_status dt_validate(const kv_trainer_api *api, kv_trainer *t, const corpus_shards *val, const kv_tokenizer *tok,
                      const kv_train_config *c, int64_t max_tokens, int averaged, dt_validation *out)
{
    const int64_t S = c->seq, batch = c->batch_tokens / S, total = corpus_shards_usable(corpus_shards_total(val), S);
    const int64_t windows = (total < max_tokens ? total : max_tokens) / S;
    uint16_t *tokens = malloc((size_t)(batch * (S + 1)) * sizeof *tokens);
    float *nll = malloc((size_t)(batch * S) * sizeof *nll);
    double sum = 0;
    uint64_t bytes = 0;
    kv_status st = KV_OK;
    *out = (dt_validation){.tokens = windows * S, .bits = -1};
    if (!tokens || !nll) st = kv_fail(KV_ERR_NOMEM, "out of memory for the validation");
    if (st == KV_OK && windows < 1)
        st = kv_fail(KV_ERR_USAGE, "validation: there is no window of %lld tokens; give more text or --val-tokens", (long long)S);
    for (int64_t w = 0, n; st == KV_OK && w < windows; w += n) {
        n = windows - w < batch ? windows - w : batch;
        for (int64_t i = 0; st == KV_OK && i < n; i++)
            st = corpus_shards_stream(val, (w + i) * S, S + 1, tokens + i * (S + 1));
        if (st == KV_OK) st = dt_trainer_said(api, api->losses(t, tokens, n, averaged, nll));
        if (st == KV_OK) count(tokens, nll, n, S, tok, &sum, &bytes);
    }
    free(tokens);
    free(nll);
    if (st != KV_OK) return st;
    out->loss = sum / (double)out->tokens;
    if (bytes) out->bits = sum / (0.6931471805599453 * (double)bytes);
    return KV_OK;
}

kv_status dt_train_tokenizer(const char *name, const kv_config *model, kv_tokenizer **out)
{
    KV_TRY(dt_open_tokenizer(name, out));
    const int32_t n = kv_tokenizer_vocab(*out);
    if (n == model->vocab_size) return KV_OK;
    kv_tokenizer_free(*out);
    *out = NULL;
    return kv_fail(KV_ERR_MISMATCH, "%s: the tokenizer has %d tokens, the model %d; use the one that the shards were made with", name, n,
                   model->vocab_size);
}

/* ---- a run ------------------------------------------------------------------------------------------------------- */

typedef struct run {
    const dt_train_options *o;
    dt_trainer_side side;
    const kv_trainer_api *api;
    kv_trainer *trainer;
    corpus_shards *train, *val; /* val: NULL where the data has none */
    corpus_loader *loader;
    kv_tokenizer *tok;
    char checkpoint[4096];
    int64_t saved;     /* step of the last checkpoint; -1: none */
    double seconds;    /* spent in steps */
    int64_t first;     /* step of this call's first */
} run;

static kv_status open_data(run *r)
{
    const kv_train_config *c = &r->o->config;
    struct stat s;
    corpus_loader_args a = corpus_loader_defaults();
    if (r->o->tokenizer) KV_TRY(dt_train_tokenizer(r->o->tokenizer, &c->model, &r->tok));
    KV_TRY(corpus_shards_open(r->o->data, "train", c->model.vocab_size, &r->train));
    if (stat(r->o->data, &s) == 0 && S_ISDIR(s.st_mode) && corpus_shards_open(r->o->data, "val", c->model.vocab_size, &r->val) != KV_OK)
        fprintf(stderr, "kvdiff: no validation: %s\n", kv_message());
    a.shards = r->train;
    a.seq = (int32_t)c->seq;
    a.windows = (int32_t)(c->batch_tokens / c->seq);
    a.seed = c->seed;
    return corpus_loader_open(&a, &r->loader);
}

static kv_status make_folder(run *r)
{
    KV_TRY(kv_file_folder(r->o->out));
    if (snprintf(r->checkpoint, sizeof r->checkpoint, "%s/checkpoint.kvt", r->o->out) >= (int)sizeof r->checkpoint)
        return kv_fail(KV_ERR_USAGE, "--out: the path is too long");
    return KV_OK;
}

static kv_status save(run *r)
{
    const size_t n = corpus_loader_state_size(r->loader);
    uint8_t *state = malloc(n + 1);
    if (!state) return kv_fail(KV_ERR_NOMEM, "out of memory for a checkpoint");
    corpus_loader_save(r->loader, state);
    const kv_checkpoint c = {.path = r->checkpoint, .extra = state, .extra_bytes = n};
    const kv_status st = dt_trainer_said(r->api, r->api->save(r->trainer, &c));
    free(state);
    if (st == KV_OK) r->saved = r->api->steps(r->trainer);
    return st;
}

static kv_status restore(run *r)
{
    kv_checkpoint c = {.path = r->checkpoint};
    if (access(r->checkpoint, F_OK) != 0) return KV_OK;
    if (!r->o->resume)
        return kv_fail(KV_ERR_USAGE, "'%s' is there already; --resume goes on from it, or name another folder with --out", r->checkpoint);
    KV_TRY(dt_trainer_said(r->api, r->api->load(r->trainer, &c)));
    const kv_status st = corpus_loader_restore(r->loader, c.extra, c.extra_bytes);
    free((void *)(uintptr_t)c.extra);
    if (st != KV_OK) kv_prefix_message("checkpoint '%s'", r->checkpoint);
    r->saved = r->api->steps(r->trainer);
    return st;
}

static kv_status show_validation(run *r, int averaged)
{
    dt_validation v;
    if (!r->val) return KV_OK;
    KV_TRY(dt_validate(r->api, r->trainer, r->val, r->tok, &r->o->config, r->o->val_tokens, averaged, &v));
    printf("step %lld  validation%s  loss %.6f", (long long)r->api->steps(r->trainer), averaged ? " of the average" : "", v.loss);
    if (v.bits >= 0) printf("  bits per byte %.6f", v.bits);
    printf("  tokens %lld\n", (long long)v.tokens);
    fflush(stdout);
    return KV_OK;
}

/* What a failed step leaves: the last checkpoint. */
static kv_status failed(const run *r, kv_status st)
{
    char text[KV_MESSAGE_MAX];
    if (st != KV_ERR_NONFINITE) return st;
    snprintf(text, sizeof text, "%s", kv_message());
    if (r->saved >= 0)
        return kv_fail(st, "%s; training stops, the checkpoint of step %lld is kept", text, (long long)r->saved);
    return kv_fail(st, "%s; training stops, there is no checkpoint yet", text);
}

kv_status dt_train_prefetch(const kv_trainer_api *api, kv_trainer *t, corpus_loader *l, int64_t n)
{
    const uint16_t *coming = api->prefetch ? corpus_loader_peek(l) : NULL;
    return coming ? dt_trainer_said(api, api->prefetch(t, coming, n)) : KV_OK;
}

static kv_status one_step(run *r, kv_train_step *s)
{
    const double t0 = kv_now();
    s->multiplier = -1;
    s->n = r->o->config.batch_tokens / r->o->config.seq;
    KV_TRY(corpus_loader_next(r->loader, &s->windows));
    KV_TRY(dt_train_prefetch(r->api, r->trainer, r->loader, s->n));
    const kv_status st = dt_trainer_said(r->api, r->api->step(r->trainer, s));
    r->seconds += kv_now() - t0;
    return st == KV_OK ? KV_OK : failed(r, st);
}

static int due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

static kv_status after_step(run *r, const kv_train_step *s, int64_t last)
{
    const int64_t done = s->step + 1;
    if (due(done, r->o->log_every) || done == last) {
        printf("step %lld  loss %.6f  rate %.6f  norm %.6f  clip %.6f\n", (long long)done, s->loss, s->used, s->norm, s->clip);
        fflush(stdout);
    }
    if (due(done, r->o->validate_every) && done < last) KV_TRY(show_validation(r, 0));
    if (due(done, r->o->save_every)) KV_TRY(save(r));
    return KV_OK;
}

static kv_status interrupted(run *r)
{
    KV_TRY(save(r));
    return kv_fail(KV_ERR_INTERRUPTED, "interrupted at step %lld; a checkpoint is written, the same command with --resume goes on",
                   (long long)r->saved);
}

static kv_status steps(run *r, int64_t last)
{
    const kv_train_config *c = &r->o->config;
    kv_progress p;
    kv_status st = KV_OK;
    kv_progress_begin(&p, "tok", (last - r->first) * c->batch_tokens, !r->o->quiet);
    while (st == KV_OK && r->api->steps(r->trainer) < last) {
        kv_train_step s = {0};
        char label[64];
        if (r->o->stop && *r->o->stop) {
            st = interrupted(r);
            break;
        }
        st = one_step(r, &s);
        if (st != KV_OK) break;
        kv_progress_end(&p);
        st = after_step(r, &s, last);
        snprintf(label, sizeof label, "step %lld  loss %.4f", (long long)s.step + 1, s.loss);
        kv_progress_add(&p, c->batch_tokens, label);
    }
    kv_progress_end(&p);
    return st;
}

/* ---- the model ----------------------------------------------------------------------------------------------------- */

static kv_status write_file(const run *r, const char *suffix, const void *p, size_t n)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s.%s", r->o->out, r->o->config.name, suffix) >= (int)sizeof path)
        return kv_fail(KV_ERR_USAGE, "--out: the path is too long");
    return kv_file_replace(path, p, n) ? KV_OK : kv_file_error(path, "write");
}

/* The config in the words of `kvdiff pack`. */
static kv_status write_config(const run *r)
{
    json_t *root = dt_config_json(&r->o->config.model);
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    const kv_status st = text ? write_file(r, "json", text, strlen(text)) : kv_fail(KV_ERR_NOMEM, "out of memory");
    free(text);
    json_decref(root);
    return st;
}

static kv_status write_model(const run *r)
{
    kv_model *m;
    uint8_t *bytes = NULL;
    size_t n;
    char notes[256];
    snprintf(notes, sizeof notes, "trained_steps=%lld\ntrained_tokens=%lld\ntrained_seed=%llu\ntrained_weights=%s\n",
             (long long)r->api->steps(r->trainer), (long long)(r->api->steps(r->trainer) * r->o->config.batch_tokens),
             (unsigned long long)r->o->config.seed, r->o->last ? "last" : "average");
    KV_TRY(dt_trainer_said(r->api, r->api->model(r->trainer, !r->o->last, &m)));
    kv_status st = kv_safetensors_pack(m, notes, &bytes, &n);
    if (st == KV_OK) st = write_file(r, "safetensors", bytes, n);
    if (st == KV_OK) st = write_config(r);
    free(bytes);
    kv_model_close(m);
    return st;
}

/* ---- all of it ------------------------------------------------------------------------------------------------------- */

static kv_status show_end(const run *r)
{
    uint8_t sha[32];
    char hex[65];
    const int64_t made = r->api->steps(r->trainer) - r->first;
    KV_TRY(dt_trainer_said(r->api, r->api->hash(r->trainer, sha)));
    kv_hex32(sha, hex);
    printf("weights %s after %lld steps\n", hex, (long long)r->api->steps(r->trainer));
    fflush(stdout);
    if (made > 0 && r->seconds > 0)
        fprintf(stderr, "%lld tokens in %.1f s: %.0f tokens/s\n", (long long)(made * r->o->config.batch_tokens), r->seconds,
                (double)(made * r->o->config.batch_tokens) / r->seconds);
    return KV_OK;
}

static kv_status train(run *r)
{
    const dt_train_options *o = r->o;
    const kv_trainer_args a = {.config = &o->config, .threads = o->threads};
    KV_TRY(dt_trainer_side_open(o->side, &r->side));
    r->api = r->side.api;
    KV_TRY(open_data(r));
    KV_TRY(dt_trainer_open(&r->side, &a, o->isa, &r->trainer));
    KV_TRY(make_folder(r));
    KV_TRY(restore(r));
    r->first = r->api->steps(r->trainer);
    const int64_t last = o->stop_at && o->stop_at < o->config.iterations ? o->stop_at : o->config.iterations;
    printf("%s  %lld parameters  %lld tokens a step  %s from step %lld to %lld\n", o->config.name,
           (long long)kv_golf_parameters(&o->config.model), (long long)o->config.batch_tokens, r->api->name, (long long)r->first,
           (long long)last);
    fflush(stdout);
    KV_TRY(steps(r, last));
    KV_TRY(save(r));
    if (last == o->config.iterations) {
        KV_TRY(show_validation(r, 0));
        KV_TRY(show_validation(r, 1));
        KV_TRY(write_model(r));
    }
    return show_end(r);
}

kv_status dt_train_run(const dt_train_options *o)
{
    run r = {.o = o, .saved = -1};
    const kv_status st = train(&r);
    if (r.api) r.api->close(r.trainer);
    corpus_loader_close(r.loader);
    corpus_shards_close(r.train);
    corpus_shards_close(r.val);
    kv_tokenizer_free(r.tok);
    return st;
}
