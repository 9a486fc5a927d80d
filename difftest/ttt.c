#include "difftest/ttt.h"

#include "difftest/train.h"
#include "difftest/trainer_side.h"

#include "common/hash.h"
#include "common/progress.h"
#include "corpus/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct ttt {
    dt_ttt_options o; /* with every default filled in */
    kv_train_config config;
    dt_trainer_side side;
    kv_trainer *trainer;
    kv_model *model;
    kv_tokenizer *tok; /* NULL: no bits per byte */
    corpus_shards *text;
    int64_t total;     /* tokens that are scored, a multiple of seq */
    int64_t step;      /* updates so far */
    uint16_t *windows; /* [batch][S + 1] */
    float *nll;        /* [batch][S] */
} ttt;

typedef struct score {
    double sum, began;
    uint64_t bytes;
    int64_t tokens;
} score;

/* ---- scoring ----------------------------------------------------------------------------------------------------- */

/* Places of windows in the stream; the last `rows` rows of each are new. */
typedef struct place {
    int64_t at, rows;
} place;

static kv_status score_batch(ttt *t, const place *p, int64_t n, score *out)
{
    const int64_t S = t->o.seq;
    for (int64_t i = 0; i < n; i++)
        KV_TRY(corpus_shards_stream(t->text, p[i].at, S + 1, t->windows + i * (S + 1)));
    KV_TRY(dt_trainer_said(t->side.api, t->side.api->losses(t->trainer, t->windows, n, 0, t->nll)));
    for (int64_t i = 0; i < n; i++)
        for (int64_t x = S - p[i].rows; x < S; x++) {
            const uint16_t *w = t->windows + i * (S + 1) + x;
            out->sum = out->sum + (double)t->nll[i * S + x];
            out->tokens++;
            if (t->tok) out->bytes += kv_tokenizer_bytes_of(t->tok, w[0], w[1]);
        }
    return KV_OK;
}

/* Tokens from..to-1 (multiples of seq), each once, in windows that begin a stride apart. */
static kv_status score_range(ttt *t, int64_t from, int64_t to, score *out)
{
    const int64_t S = t->o.seq, st = t->o.stride;
    place *p = malloc((size_t)t->o.batch * sizeof *p);
    if (!p) return kv_fail(KV_ERR_NOMEM, "out of memory");
    kv_status ok = KV_OK;
    int64_t n = 0;
    for (int64_t done = from; ok == KV_OK && done < to;) {
        const int64_t rows = done == 0 ? S : st;
        p[n++] = (place){done + rows - S, rows};
        done += rows;
        if (n < t->o.batch && done < to) continue;
        ok = score_batch(t, p, n, out);
        n = 0;
    }
    free(p);
    return ok;
}

/* SHA-256 of the tokens that windows read: those that are scored, and the one behind them. */
static kv_status hash_text(ttt *t, uint8_t sha[32])
{
    const int64_t S = t->o.seq;
    kv_sha256_ctx c;
    kv_sha256_begin(&c);
    for (int64_t at = 0; at < t->total; at += S) {
        KV_TRY(corpus_shards_stream(t->text, at, S + 1, t->windows));
        kv_sha256_add(&c, t->windows, (size_t)(at + S < t->total ? S : S + 1) * sizeof *t->windows);
    }
    kv_sha256_end(&c, sha);
    return KV_OK;
}

/* Into results.db, under a mode of its own. */
static kv_status record(ttt *t, const char *mode, const char *label, const score *s)
{
    const char *slash = strrchr(t->o.data, '/');
    char options[320];
    snprintf(options, sizeof options, "{\"trainer\":\"%.40s\",\"seq\":%lld,\"batch\":%lld,\"epochs\":%lld,\"lr\":%g,\"chunk\":%lld,\"stride\":%lld}",
             t->side.api->name, (long long)t->o.seq, (long long)t->o.batch, (long long)t->o.epochs, t->o.lr, (long long)t->o.chunk, (long long)t->o.stride);
    dt_ttt_score out = {.model = t->model, .mode = mode, .label = label, .options = options, .q = (int32_t)t->o.seq,
                        .text = slash && slash[1] ? slash + 1 : t->o.data, .tokens = s->tokens, .bytes = s->bytes, .sum = s->sum,
                        .seconds = kv_now() - s->began};
    KV_TRY(hash_text(t, out.text_sha));
    return dt_ttt_record(t->o.db, &out, t->o.argc, t->o.argv);
}

static void show(const char *what, const score *s)
{
    printf("%s  loss %.6f", what, s->sum / (double)s->tokens);
    if (s->bytes) printf("  bits per byte %.6f", s->sum / (0.6931471805599453 * (double)s->bytes));
    printf("  tokens %lld\n", (long long)s->tokens);
    fflush(stdout);
}

/* ---- training ------------------------------------------------------------------------------------------------------ */

static int64_t steps_of(const ttt *t, int64_t tokens)
{
    const int64_t windows = tokens / t->o.seq;
    return (windows + t->o.batch - 1) / t->o.batch;
}

/* One pass over tokens from..to-1 in their order; a short last batch is averaged over its own tokens. */
static kv_status epoch(ttt *t, int64_t from, int64_t to, double multiplier, double *loss)
{
    const int64_t S = t->o.seq, per_epoch = steps_of(t, to - from), windows = (to - from) / S;
    double sum = 0;
    for (int64_t w = 0, n; w < windows; w += n) {
        n = windows - w < t->o.batch ? windows - w : t->o.batch;
        for (int64_t i = 0; i < n; i++)
            KV_TRY(corpus_shards_stream(t->text, from + (w + i) * S, S + 1, t->windows + i * (S + 1)));
        kv_train_step s = {.windows = t->windows, .n = n, .multiplier = multiplier};
        if (multiplier < 0) s.multiplier = t->side.api->ttt_multiplier(t->step, per_epoch, per_epoch * t->o.epochs, 0.04);
        KV_TRY(dt_trainer_said(t->side.api, t->side.api->step(t->trainer, &s)));
        sum = sum + s.loss * (double)n;
        t->step++;
    }
    *loss = sum / (double)windows;
    return KV_OK;
}

static kv_status full(ttt *t)
{
    score before = {.began = kv_now()}, after = {.began = before.began};
    double loss;
    printf("test-time training, full: ADAPTED ON THE EVALUATED DATA. The scores behind the training say how well this text was "
           "learned, not how well the model predicts text.\n");
    KV_TRY(score_range(t, 0, t->total, &before));
    show("before, not adapted           ", &before);
    KV_TRY(record(t, DT_TTT_PLAIN_NAME, "not adapted", &before));
    for (int64_t e = 0; e < t->o.epochs; e++) {
        KV_TRY(epoch(t, 0, t->total, -1, &loss));
        printf("epoch %lld  training loss %.6f\n", (long long)e + 1, loss);
        fflush(stdout);
    }
    KV_TRY(score_range(t, 0, t->total, &after));
    show("ADAPTED ON THE EVALUATED DATA ", &after);
    return record(t, DT_TTT_FULL_NAME, "ADAPTED ON THE EVALUATED DATA", &after);
}

static kv_status score_first(ttt *t)
{
    const int64_t chunks = (t->total + t->o.chunk - 1) / t->o.chunk;
    score plain = {.began = kv_now()}, adapted = {.began = plain.began};
    double loss;
    printf("test-time training, score-first: every token is scored before the weights have seen it.\n");
    KV_TRY(score_range(t, 0, t->total, &plain));
    show("not adapted       ", &plain);
    KV_TRY(record(t, DT_TTT_PLAIN_NAME, "not adapted", &plain));
    for (int64_t c = 0; c < chunks; c++) {
        const int64_t from = c * t->o.chunk, to = from + t->o.chunk < t->total ? from + t->o.chunk : t->total;
        KV_TRY(score_range(t, from, to, &adapted));
        if (c == chunks - 1) break; /* nothing is left to be scored */
        for (int64_t e = 0; e < t->o.epochs; e++)
            KV_TRY(epoch(t, from, to, t->side.api->ttt_multiplier(c, 0, chunks, 0), &loss));
        printf("chunk %lld of %lld  loss so far %.6f  training loss %.6f\n", (long long)c + 1, (long long)chunks,
               adapted.sum / (double)adapted.tokens, loss);
        fflush(stdout);
    }
    show("scored first      ", &adapted);
    return record(t, DT_TTT_FIRST_NAME, "scored before training on it", &adapted);
}

/* ---- setting up ------------------------------------------------------------------------------------------------------ */

static void set_defaults(ttt *t)
{
    const kv_config *m = &t->model->cfg;
    dt_ttt_options *o = &t->o;
    const int first = o->mode == DT_TTT_SCORE_FIRST;
    if (!o->seq) o->seq = m->rope_base_len ? m->rope_base_len : 1024;
    if (!o->stride) o->stride = o->seq;
    if (!o->epochs) o->epochs = first ? 3 : 20;
    if (o->lr == 0) o->lr = first ? 2e-3 : 5e-4;
    t->config = (kv_train_config){.model = *m, .seed = 1, .seq = o->seq, .batch_tokens = o->seq * o->batch, .iterations = 1,
                                  .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .momentum_from = 0.9, .momentum_to = 0.9, .clip = 1,
                                  .optimizer = first ? KV_TRAIN_SGD : KV_TRAIN_ADAMW};
    snprintf(t->config.name, sizeof t->config.name, "ttt");
    for (int g = 0; g < KV_TRAIN_GROUPS; g++) {
        t->config.lr[g] = o->lr;
        t->config.weight_decay[g] = first ? 0 : 0.01;
    }
}

static kv_status check(const ttt *t)
{
    const dt_ttt_options *o = &t->o;
    KV_TRY(kv_train_check(&t->config));
    if (o->seq % o->stride != 0)
        return kv_fail(KV_ERR_USAGE, "--stride=%lld must divide the sequence of %lld tokens", (long long)o->stride, (long long)o->seq);
    if (o->mode == DT_TTT_SCORE_FIRST && o->chunk % o->seq != 0)
        return kv_fail(KV_ERR_USAGE, "--chunk=%lld must be a multiple of the sequence of %lld tokens", (long long)o->chunk, (long long)o->seq);
    if (t->total < o->seq)
        return kv_fail(KV_ERR_USAGE, "'%s' has no window of %lld tokens; give more text or a smaller --seq", o->data, (long long)o->seq);
    return KV_OK;
}

static kv_status open_all(ttt *t)
{
    const char *name = t->o.tokenizer;
    KV_TRY(kv_model_open(t->o.model, NULL, &t->model, name ? NULL : &t->tok));
    if (name) KV_TRY(dt_train_tokenizer(name, &t->model->cfg, &t->tok));
    set_defaults(t);
    KV_TRY(corpus_shards_open(t->o.data, "val", t->model->cfg.vocab_size, &t->text));
    t->total = corpus_shards_usable(corpus_shards_total(t->text), t->o.seq);
    if (t->o.tokens && t->o.tokens < t->total) t->total = t->o.tokens / t->o.seq * t->o.seq;
    KV_TRY(check(t));
    const kv_trainer_args a = {.config = &t->config, .start = t->model, .threads = t->o.threads};
    KV_TRY(dt_trainer_open(&t->side, &a, t->o.isa, &t->trainer));
    t->windows = malloc((size_t)(t->o.batch * (t->o.seq + 1)) * sizeof *t->windows);
    t->nll = malloc((size_t)(t->o.batch * t->o.seq) * sizeof *t->nll);
    return t->windows && t->nll ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
}

static kv_status show_hash(const ttt *t)
{
    uint8_t sha[32];
    char hex[65];
    KV_TRY(dt_trainer_said(t->side.api, t->side.api->hash(t->trainer, sha)));
    kv_hex32(sha, hex);
    printf("weights %s after %lld steps\n", hex, (long long)t->side.api->steps(t->trainer));
    return KV_OK;
}

kv_status dt_ttt_run(const dt_ttt_options *o)
{
    ttt t = {.o = *o};
    kv_status st = dt_trainer_side_open(o->side, &t.side);
    if (st == KV_OK) st = open_all(&t);
    if (st == KV_OK) st = o->mode == DT_TTT_FULL ? full(&t) : score_first(&t);
    if (st == KV_OK) st = show_hash(&t);
    if (t.side.api) t.side.api->close(t.trainer);
    free(t.windows);
    free(t.nll);
    corpus_shards_close(t.text);
    kv_tokenizer_free(t.tok);
    kv_model_close(t.model);
    return st;
}
