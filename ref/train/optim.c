#include "ref/train/optim.h"

enum { SLICE = 1 << 14 }; /* values of a task */

/* ---- clipping ------------------------------------------------------------------------------------------- */

/* One chain over all gradients: order of tensors, order of elements. */
static kv_status norm_of(const ref_optim *o, double *norm)
{
    double acc = 0;
    for (int32_t i = 0; i < o->params->n; i++) {
        const ref_param *p = &o->params->p[i];
        const double next = o->kernels->train->squares(o->g + p->at, p->n, acc);
        if (!(next - acc < (double)kv_inf())) {
            char name[KV_TENSOR_NAME_MAX];
            REF(param_name)(o->params, p, name);
            return kv_fail(KV_ERR_NONFINITE, "the gradient of '%s' is not finite", name);
        }
        acc = next;
    }
    *norm = (double)(real)kv_dsqrt(acc);
    return KV_OK;
}

/* ---- AdamW ------------------------------------------------------------------------------------------------ */

/* Every constant is made in double and rounded once. */
typedef struct adam {
    real keep, beta1, rest1, beta2, rest2, step, root, eps;
} adam;

static adam adam_of(const kv_train_config *c, kv_golf_group group, const ref_step_info *s)
{
    const double rate = c->lr[group] * s->multiplier;
    return (adam){.keep = 1 - (real)(rate * c->weight_decay[group]),
                  .beta1 = (real)c->beta1,
                  .rest1 = (real)(1 - c->beta1),
                  .beta2 = (real)c->beta2,
                  .rest2 = (real)(1 - c->beta2),
                  .step = (real)(rate / (1 - REF(power)(c->beta1, s->step + 1))),
                  .root = (real)kv_dsqrt(1 - REF(power)(c->beta2, s->step + 1)),
                  .eps = (real)c->eps};
}

static void adam_slice(const adam *a, int64_t n, const real *g, real *w, real *m, real *v)
{
    for (int64_t i = 0; i < n; i++) {
        m[i] = a->beta1 * m[i] + a->rest1 * g[i];
        v[i] = a->beta2 * v[i] + a->rest2 * g[i] * g[i];
        w[i] = w[i] * a->keep - a->step * m[i] / (r_sqrt(v[i]) / a->root + a->eps);
    }
}

void REF(adamw)(const kv_train_config *c, kv_golf_group group, const ref_step_info *s, int64_t n, const real *g,
                real *w, real *m, real *v)
{
    const adam a = adam_of(c, group, s);
    adam_slice(&a, n, g, w, m, v);
}

/* ---- gradient descent with momentum ---------------------------------------------------------------------------- */

static void descend(const kv_train_config *c, kv_golf_group group, const ref_step_info *s, int64_t n, const real *g, real *w,
                    real *m)
{
    const double rate = c->lr[group] * s->multiplier;
    const real mu = (real)s->momentum, lr = (real)rate, keep = 1 - (real)(rate * c->weight_decay[group]);
    for (int64_t i = 0; i < n; i++) {
        m[i] = mu * m[i] + g[i];
        w[i] = w[i] * keep - lr * m[i];
    }
}

/* ---- a step --------------------------------------------------------------------------------------------------- */

typedef struct step_job {
    ref_optim *o;
    const kv_train_config *c;
    const ref_step_info *s;
    real clip, keep, rest;
} step_job;

static void update_task(void *arg, int64_t i, int worker)
{
    const step_job *j = arg;
    const ref_optim *o = j->o;
    const ref_param *p = &o->params->p[i];
    real *g = o->g + p->at;
    if (j->clip != 1)
        for (int64_t e = 0; e < p->n; e++)
            g[e] = g[e] * j->clip;
    if (j->c->optimizer == KV_TRAIN_SGD)
        descend(j->c, p->group, j->s, p->n, g, o->w + p->at, o->m + p->at);
    else if (p->group == KV_GOLF_MUON && j->c->optimizer == KV_TRAIN_GOLF)
        REF(muon)(o->kernels, j->c, j->s, p, g, o->w + p->at, o->m + p->at, o->scratch[worker].p, NULL);
    else
        REF(adamw)(j->c, p->group, j->s, p->n, g, o->w + p->at, o->m + p->at, o->v + p->at);
}

static void average_task(void *arg, int64_t i, int worker)
{
    (void)worker;
    const step_job *j = arg;
    const int64_t end = ref_min((i + 1) * SLICE, j->o->params->total);
    const real *w = j->o->w;
    real *e = j->o->ema;
    for (int64_t x = i * SLICE; x < end; x++)
        e[x] = j->keep * e[x] + j->rest * w[x];
}

static kv_status reserve(ref_optim *o)
{
    int64_t need = 1;
    for (int32_t i = 0; i < o->params->n; i++)
        if (o->params->p[i].group == KV_GOLF_MUON)
            need = ref_max(need, REF(muon_scratch)(o->params->p[i].rows, o->params->p[i].cols));
    for (int t = 0; t < kv_pool_threads(o->pool); t++)
        KV_TRY(kv_buffer_reserve(&o->scratch[t], (size_t)need * sizeof(real)));
    return KV_OK;
}

kv_status REF(optim_step)(ref_optim *o, const kv_train_config *c, ref_step_info *s)
{
    KV_TRY(reserve(o));
    KV_TRY(norm_of(o, &s->norm));
    step_job j = {.o = o, .c = c, .s = s, .clip = 1, .keep = (real)c->ema, .rest = (real)(1 - c->ema)};
    if (c->clip > 0) {
        const real k = (real)c->clip / ((real)s->norm + (real)1e-6);
        j.clip = k < 1 ? k : 1;
    }
    s->clip = (double)j.clip;
    kv_pool_run(o->pool, o->params->n, update_task, &j);
    kv_pool_run(o->pool, (o->params->total + SLICE - 1) / SLICE, average_task, &j);
    return KV_OK;
}
