#include "difftest/train.h"

#include "common/math.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDES = 2, SHOWN = 12 /* differing tensors of a step */ };

typedef struct party {
    dt_trainer_side side;
    kv_trainer *trainer;
    kv_train_step made;
    float *values; /* [parameters] */
} party;

typedef struct comparison {
    const dt_train_options *o;
    party p[SIDES]; /* the one that is believed, the one that is tested */
    corpus_shards *shards;
    corpus_loader *loader;
    kv_golf_place *places;
    int32_t n_places;
} comparison;

/* ---- what differs ---------------------------------------------------------------------------------------------------- */

static int same_double(double a, double b) { return memcmp(&a, &b, sizeof a) == 0; }

static int check_number(const comparison *c, const char *what, double a, double b)
{
    if (same_double(a, b)) return 1;
    printf("step %lld: %s differs: %s %.17g, %s %.17g\n", (long long)c->p[0].made.step + 1, what, c->p[0].side.side.name, a,
           c->p[1].side.side.name, b);
    return 0;
}

static void name_of(const comparison *c, int32_t i, char name[KV_TENSOR_NAME_MAX])
{
    kv_model_tensor_name(&c->o->config.model, c->places[i].role, c->places[i].layer, name);
}

/* The first element of a tensor that differs, and how many do; 0: none. */
static int64_t differing(const float *a, const float *b, int64_t n, int64_t *first)
{
    int64_t count = 0;
    for (int64_t i = n - 1; i >= 0; i--)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0) {
            *first = i;
            count++;
        }
    return count;
}

static void show_first(const comparison *c, const char *what, int32_t tensor, int64_t cols, int64_t at, float a, float b)
{
    char name[KV_TENSOR_NAME_MAX];
    name_of(c, tensor, name);
    printf("step %lld: %s of %s[%lld][%lld] differs: %s %.9g (%08x), %s %.9g (%08x)\n", (long long)c->p[0].made.step + 1, what,
           name, (long long)(at / cols), (long long)(at % cols), c->p[0].side.side.name, (double)a, (unsigned)kv_f2bits(a),
           c->p[1].side.side.name, (double)b, (unsigned)kv_f2bits(b));
}

/* The values of both parties, arrays of all parameters, tensor by tensor. */
static void check_values(comparison *c, const char *what, int *same)
{
    const float *a = c->p[0].values, *b = c->p[1].values;
    int shown = 0;
    for (int32_t i = 0; i < c->n_places; i++) {
        int64_t rows, cols, first;
        char name[KV_TENSOR_NAME_MAX];
        kv_model_shape(&c->o->config.model, c->places[i].role, &rows, &cols);
        const int64_t n = differing(a, b, rows * cols, &first);
        if (n && *same) show_first(c, what, i, cols, first, a[first], b[first]);
        name_of(c, i, name);
        if (n) *same = 0;
        if (n && shown++ < SHOWN) printf("    %s: %lld of %lld values\n", name, (long long)n, (long long)(rows * cols));
        a += rows * cols;
        b += rows * cols;
    }
    if (shown > SHOWN) printf("    and %d more tensors\n", shown - SHOWN);
}

static kv_status check_part(comparison *c, kv_trainer_part part, int *same)
{
    static const char *const names[KV_TRAINER_PARTS] = {"first moment", "second moment", "weight", "average"};
    for (int s = 0; s < SIDES; s++)
        KV_TRY(dt_trainer_said(c->p[s].side.api, c->p[s].side.api->read(c->p[s].trainer, part, c->p[s].values)));
    check_values(c, names[part], same);
    return KV_OK;
}

/* In the order in which a difference spreads. */
static kv_status check_update(comparison *c, int *same)
{
    const kv_train_step *a = &c->p[0].made, *b = &c->p[1].made;
    *same = check_number(c, "rate", a->used, b->used) && check_number(c, "momentum", a->momentum, b->momentum) &&
            check_number(c, "norm", a->norm, b->norm) && check_number(c, "clip", a->clip, b->clip);
    for (int part = 0; *same && part < KV_TRAINER_PARTS; part++)
        KV_TRY(check_part(c, (kv_trainer_part)part, same));
    return KV_OK;
}

static void check_gradients(comparison *c, int *same)
{
    *same = check_number(c, "loss", c->p[0].made.loss, c->p[1].made.loss);
    if (*same) check_values(c, "gradient", same);
}

/* ---- the run --------------------------------------------------------------------------------------------------------- */

static kv_status open_party(const comparison *c, const char *spec, const char *isa, party *p)
{
    const kv_train_config *config = &c->o->config;
    const kv_trainer_args a = {.config = config, .threads = c->o->threads};
    KV_TRY(dt_trainer_side_open(spec, &p->side));
    KV_TRY(dt_trainer_open(&p->side, &a, isa, &p->trainer));
    p->values = malloc((size_t)kv_golf_parameters(&config->model) * sizeof *p->values);
    return p->values ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
}

static kv_status open_all(comparison *c)
{
    const kv_train_config *config = &c->o->config;
    corpus_loader_args a = corpus_loader_defaults();
    KV_TRY(open_party(c, c->o->side, c->o->isa, &c->p[0]));
    KV_TRY(open_party(c, c->o->compare, NULL, &c->p[1]));
    KV_TRY(corpus_shards_open(c->o->data, "train", config->model.vocab_size, &c->shards));
    a.shards = c->shards;
    a.seq = (int32_t)config->seq;
    a.windows = (int32_t)(config->batch_tokens / config->seq);
    a.seed = config->seed;
    KV_TRY(corpus_loader_open(&a, &c->loader));
    c->n_places = kv_golf_order(&config->model, NULL);
    c->places = malloc((size_t)c->n_places * sizeof *c->places);
    if (!c->places) return kv_fail(KV_ERR_NOMEM, "out of memory");
    kv_golf_order(&config->model, c->places);
    return KV_OK;
}

/* A call of both trainers. */
static kv_status both(comparison *c, int update)
{
    for (int s = 0; s < SIDES; s++) {
        party *p = &c->p[s];
        const kv_trainer_api *api = p->side.api;
        KV_TRY(dt_trainer_said(api, update ? api->step(p->trainer, &p->made) : api->gradients(p->trainer, &p->made, p->values)));
    }
    return KV_OK;
}

static kv_status one_step(comparison *c, int *same)
{
    const uint16_t *windows;
    KV_TRY(corpus_loader_next(c->loader, &windows));
    for (int s = 0; s < SIDES; s++)
        c->p[s].made = (kv_train_step){.windows = windows, .n = c->o->config.batch_tokens / c->o->config.seq, .multiplier = -1};
    for (int s = 0; s < SIDES; s++)
        KV_TRY(dt_train_prefetch(c->p[s].side.api, c->p[s].trainer, c->loader, c->p[s].made.n));
    KV_TRY(both(c, 0));
    check_gradients(c, same);
    if (!*same) return KV_OK;
    KV_TRY(both(c, 1));
    return check_update(c, same);
}

static kv_status compare(comparison *c, int *same)
{
    const dt_train_options *o = c->o;
    const int64_t last = o->stop_at && o->stop_at < o->config.iterations ? o->stop_at : o->config.iterations;
    KV_TRY(open_all(c));
    printf("%s  %lld parameters  %lld tokens a step  %s beside %s\n", o->config.name, (long long)kv_golf_parameters(&o->config.model),
           (long long)o->config.batch_tokens, c->p[1].side.side.name, c->p[0].side.side.name);
    c->p[0].made.step = -1;
    KV_TRY(check_part(c, KV_TRAINER_WEIGHTS, same));
    for (int64_t step = 0; *same && step < last; step++) {
        if (o->stop && *o->stop)
            return kv_fail(KV_ERR_INTERRUPTED, "interrupted behind step %lld; there was no difference", (long long)step);
        KV_TRY(one_step(c, same));
        if (*same && o->log_every > 0 && ((step + 1) % o->log_every == 0 || step + 1 == last))
            printf("step %lld  loss %.6f  the same bits\n", (long long)step + 1, c->p[0].made.loss);
        fflush(stdout);
    }
    return KV_OK;
}

kv_status dt_train_compare(const dt_train_options *o, int *same)
{
    comparison c = {.o = o};
    *same = 1;
    const kv_status st = compare(&c, same);
    for (int s = 0; s < SIDES; s++) {
        if (c.p[s].trainer) c.p[s].side.api->close(c.p[s].trainer);
        free(c.p[s].values);
    }
    corpus_loader_close(c.loader);
    corpus_shards_close(c.shards);
    free(c.places);
    return st;
}
