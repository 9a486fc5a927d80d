/* trainer.cu - the trainer of this side behind the door of common/trainer.h. */
#include "common/trainer.h"

#include "common/hash.h"
#include "gpu/machine.cuh"
#include "gpu/session.cuh"
#include "gpu/train/graph.cuh"
#include "gpu/train/init.cuh"
#include "gpu/train/optim.cuh"

#include <algorithm>
#include <memory>
#include <new>

/* Declaration order: buffers go before the stream does. */
struct kv_trainer {
    gpu_stream stream;
    kv_train_config config;
    gpu_params params;
    gpu_buffer<float> w, g, m, v, ema, rounded;
    std::unique_ptr<gpu_graph> graph;
    std::unique_ptr<gpu_optimiser> optimiser;
    int64_t step = 0;

    gpu_train_arrays arrays() const { return {w.p, g.p, m.p, v.p, ema.p}; }
};

namespace
{
/* ---- open ---- */

kv_status clear(const kv_trainer &t, gpu_buffer<float> *b)
{
    KV_TRY(b->reserve((size_t)t.params.padded()));
    GPU_TRY(cudaMemsetAsync(b->p, 0, (size_t)t.params.padded() * sizeof(float), t.stream.s));
    return KV_OK;
}

kv_status first_weights(const kv_trainer_args &a, kv_trainer *t)
{
    std::vector<float> w((size_t)t->params.total());
    if (!a.start) gpu_first_weights(t->config.model, t->params, t->config.seed, w.data());
    for (const gpu_param &p : t->params.all())
        if (a.start) kv_tensor_rows_f32(kv_model_tensor(a.start, p.role, p.layer), 0, p.rows, w.data() + p.host_at);
    KV_TRY(t->params.up(t->w.p, w.data(), t->stream.s));
    return t->params.up(t->ema.p, w.data(), t->stream.s);
}

kv_status fill(const kv_trainer_args &a, kv_trainer *t)
{
    gpu_options o;
    t->config = *a.config;
    KV_TRY(gpu_read_options(a.options, &o));
    KV_TRY(gpu_check_machine());
    if (t->config.model.head_dim % 4 != 0)
        return kv_fail(KV_ERR_UNSUPPORTED, "the model has heads of %d values; this side needs a multiple of 4",
                       t->config.model.head_dim);
    KV_TRY(gpu_stream_open(&t->stream.s, o.seed, a.threads));
    t->params.open(t->config.model);
    for (gpu_buffer<float> *b : {&t->w, &t->g, &t->m, &t->v, &t->ema}) KV_TRY(clear(*t, b));
    KV_TRY(first_weights(a, t));
    t->graph = std::make_unique<gpu_graph>(t->config, t->params, t->stream.s);
    t->optimiser = std::make_unique<gpu_optimiser>(t->config, t->params, t->stream.s);
    return t->graph->open();
}

/* ---- a step ---- */

/* The weights of forward and backward: rounded ones late in a run. */
kv_status weights_of(kv_trainer *t, double multiplier, const float **w)
{
    *w = t->w.p;
    if (multiplier >= t->config.qat_below) return KV_OK;
    KV_TRY(clear(*t, &t->rounded));
    KV_TRY(gpu_copy_across(t->rounded.p, t->w.p, (size_t)t->params.padded() * sizeof(float), t->stream.s));
    for (const gpu_param &p : t->params.all())
        if (p.group == KV_GOLF_MUON && p.role != KV_ROLE_SIDECAR_SITE_GATE)
            KV_TRY(gpu_round_rows(t->rounded.p + p.at, p.rows, (int32_t)p.cols, t->stream.s));
    *w = t->rounded.p;
    return KV_OK;
}

/* Loss and gradients; s->used becomes the multiplier. */
kv_status find_gradients(kv_trainer *t, kv_train_step *s)
{
    const float *w;
    double sum = 0.0;
    KV_TRY(t->graph->take(s->windows, s->n));
    s->step = t->step;
    s->used = s->multiplier < 0 ? t->optimiser->multiplier(t->step) : s->multiplier;
    KV_TRY(weights_of(t, s->used, &w));
    KV_TRY(t->graph->forward(w));
    KV_TRY(t->graph->backward(w, t->g.p));
    for (const float nll : t->graph->nll()) sum = kv_dadd(sum, (double)nll);
    s->loss = kv_ddiv(sum, (double)t->graph->nll().size());
    return KV_OK;
}

kv_status run_step(kv_trainer *t, kv_train_step *s)
{
    KV_TRY(find_gradients(t, s));
    gpu_step_info info = {t->step, s->used, t->optimiser->momentum(t->step), 0.0f, 0.0f};
    KV_TRY(t->optimiser->step(t->arrays(), &info));
    t->step++;
    s->momentum = info.momentum;
    s->norm = (double)info.norm;
    s->clip = (double)info.clip;
    return KV_OK;
}

/* Runs a call: no exception leaves this side. */
template <class F> kv_status guarded(F call)
{
    try {
        return call();
    } catch (const std::bad_alloc &) {
        return kv_fail(KV_ERR_NOMEM, "out of memory for training");
    }
}

/* ---- the door ---- */

kv_status door_open(const kv_trainer_args *args, kv_trainer **out)
{
    *out = nullptr;
    return guarded([&] {
        std::unique_ptr<kv_trainer> t = std::make_unique<kv_trainer>();
        KV_TRY(fill(*args, t.get()));
        *out = t.release();
        return KV_OK;
    });
}

void door_close(kv_trainer *t) { delete t; }

int64_t door_steps(const kv_trainer *t) { return t->step; }

kv_status door_step(kv_trainer *t, kv_train_step *s)
{
    return guarded([&] {
        const kv_status st = run_step(t, s);
        if (st == KV_ERR_NONFINITE) kv_prefix_message("step %lld", (long long)t->step);
        return st;
    });
}

kv_status door_prefetch(kv_trainer *t, const uint16_t *windows, int64_t n)
{
    return guarded([&] { return t->graph->prefetch(windows, n); });
}

kv_status door_gradients(kv_trainer *t, kv_train_step *s, float *dst)
{
    return guarded([&] {
        KV_TRY(find_gradients(t, s));
        return t->params.down(dst, t->g.p, t->stream.s);
    });
}

kv_status door_losses(kv_trainer *t, const uint16_t *windows, int64_t n, int averaged, float *nll)
{
    return guarded([&] {
        KV_TRY(t->graph->take(windows, n));
        KV_TRY(t->graph->forward(averaged ? t->ema.p : t->w.p));
        std::copy(t->graph->nll().begin(), t->graph->nll().end(), nll);
        return KV_OK;
    });
}

double door_ttt_multiplier(int64_t step, int64_t warm, int64_t total, double floor)
{
    if (step < warm) return std::max(0.1, kv_ddiv((double)step, (double)warm));
    const double turn = kv_ddiv(kv_dmul(0x1.921fb54442d18p+1, (double)(step - warm)), (double)(total - warm));
    double sine, cosine;
    kv_sincos_core(turn, &sine, &cosine);
    return kv_dadd(floor, kv_ddiv(kv_dmul(kv_dsub(1.0, floor), kv_dadd(1.0, cosine)), 2.0));
}

kv_status door_read(const kv_trainer *t, kv_trainer_part part, float *dst)
{
    const float *const from[KV_TRAINER_PARTS] = {t->m.p, t->v.p, t->w.p, t->ema.p};
    return guarded([&] { return t->params.down(dst, from[part], t->stream.s); });
}

kv_status door_hash(const kv_trainer *t, uint8_t sha[32])
{
    return guarded([&] {
        std::vector<float> all((size_t)t->params.total() * 2);
        KV_TRY(t->params.down(all.data(), t->w.p, t->stream.s));
        KV_TRY(t->params.down(all.data() + t->params.total(), t->ema.p, t->stream.s));
        kv_sha256(all.data(), all.size() * sizeof(float), sha);
        return KV_OK;
    });
}

kv_status door_model(const kv_trainer *t, int averaged, kv_model **out)
{
    return guarded([&] {
        std::vector<float> w((size_t)t->params.total());
        KV_TRY(t->params.down(w.data(), averaged ? t->ema.p : t->w.p, t->stream.s));
        return kv_golf_model(t->config.name, &t->config.model, w.data(), out);
    });
}

/* Weights, moments and averages on the host, in the order of a checkpoint. */
struct host_arrays {
    explicit host_arrays(const kv_trainer *t)
        : from{t->w.p, t->m.p, t->v.p, t->ema.p}, n((size_t)t->params.total()), all(n * KV_CHECKPOINT_ARRAYS)
    {
        run.config = &t->config;
        run.step = t->step;
        run.parameters = t->params.total();
        run.real_bytes = sizeof(float);
        for (size_t i = 0; i < KV_CHECKPOINT_ARRAYS; i++) run.arrays[i] = all.data() + i * n;
    }

    float *from[KV_CHECKPOINT_ARRAYS];
    size_t n;
    std::vector<float> all;
    kv_checkpoint_run run;
};

kv_status door_save(const kv_trainer *t, const kv_checkpoint *c)
{
    return guarded([&] {
        host_arrays h(t);
        for (size_t i = 0; i < KV_CHECKPOINT_ARRAYS; i++) KV_TRY(t->params.down(h.all.data() + i * h.n, h.from[i], t->stream.s));
        return kv_checkpoint_write(c, &h.run);
    });
}

kv_status door_load(kv_trainer *t, kv_checkpoint *c)
{
    return guarded([&] {
        host_arrays h(t);
        KV_TRY(kv_checkpoint_read(c, &h.run));
        for (size_t i = 0; i < KV_CHECKPOINT_ARRAYS; i++) KV_TRY(t->params.up(h.from[i], h.all.data() + i * h.n, t->stream.s));
        t->step = h.run.step;
        return KV_OK;
    });
}

const kv_trainer_api trainer = {
    KV_TRAINER_ABI,
    GPU_SIDE,
    door_open,
    door_close,
    kv_message,
    door_steps,
    door_step,
    door_prefetch,
    door_gradients,
    door_losses,
    door_ttt_multiplier,
    door_hash,
    door_read,
    door_model,
    door_save,
    door_load,
};
} // namespace

extern "C" __attribute__((visibility("default"))) const kv_trainer_api *kv_trainer_entry(uint32_t abi)
{
    return abi == KV_TRAINER_ABI ? &trainer : nullptr;
}
