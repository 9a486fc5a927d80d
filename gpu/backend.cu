/* backend.cu - the door of this side: checks what comes in, runs steps piece by piece, keeps failures.
 *
 * Compiled by nvcc it is the side `cuda`, through the host SIMT layer the side `emu`; the kernels and all
 * host code are the same text. */
#include "gpu/machine.cuh"
#include "gpu/session.cuh"

#include "common/backend.h"

#include <algorithm>
#include <new>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace
{
/* ---- what a step may ask for ---- */

kv_status check_tokens(const kv_session *s, const kv_step &step)
{
    const int32_t vocab = s->model.cfg.vocab_size;
    if (step.n < 1 || !step.tokens) return kv_fail(KV_ERR_USAGE, "step: it has no tokens; feed at least one");
    for (int32_t i = 0; i < step.n; i++)
        if (step.tokens[i] < 0 || step.tokens[i] >= vocab)
            return kv_fail(KV_ERR_USAGE, "step: token %d is %d; the vocabulary goes from 0 to %d", i,
                           step.tokens[i], vocab - 1);
    if (step.rows < KV_ROWS_NONE || step.rows > KV_ROWS_ALL)
        return kv_fail(KV_ERR_USAGE, "step: rows is %d; use KV_ROWS_NONE, _LAST or _ALL", step.rows);
    const int32_t rows = step.rows == KV_ROWS_ALL ? step.n : step.rows == KV_ROWS_LAST ? 1 : 0;
    if (!step.nll || rows == 0) return KV_OK;
    if (!step.targets) return kv_fail(KV_ERR_USAGE, "step: nll without targets; give one per row");
    for (int32_t r = 0; r < rows; r++)
        if (step.targets[r] < 0 || step.targets[r] >= vocab)
            return kv_fail(KV_ERR_USAGE, "step: target %d is %d; the vocabulary goes from 0 to %d", r,
                           step.targets[r], vocab - 1);
    return KV_OK;
}

kv_status check_taps(const kv_session *s, const kv_step &step)
{
    for (int32_t i = 0; i < step.n_taps; i++) {
        const kv_tap &t = step.taps[i];
        const int32_t width = gpu_tap_width(s->model.cfg, t.point);
        const bool layerwise = t.point != KV_TAP_EMBED && t.point != KV_TAP_FINAL_NORM;
        if (width == 0 || t.width != width || !t.dst)
            return kv_fail(KV_ERR_USAGE, "step: tap %d wants point %d with %d floats; that point has %d", i,
                           t.point, t.width, width);
        if (t.row < 0 || t.row >= step.n || (layerwise && (t.layer < 0 || t.layer >= s->model.cfg.n_layers)))
            return kv_fail(KV_ERR_USAGE, "step: tap %d wants row %d of layer %d; there are %d rows and %d "
                           "layers", i, t.row, t.layer, step.n, s->model.cfg.n_layers);
    }
    return KV_OK;
}

kv_status check_step(const kv_session *s, const kv_step &step)
{
    if (s->broken)
        return kv_fail(KV_ERR_STATE, "step: an earlier call failed half-way; reset or restore the session");
    if (step.flags & ~(uint32_t)KV_STEP_RECOMPUTE)
        return kv_fail(KV_ERR_USAGE, "step: unknown flags %#x", step.flags);
    KV_TRY(check_tokens(s, step));
    KV_TRY(check_taps(s, step));
    KV_TRY(s->cache.policy->check(s->cache.seen, step));
    return s->cache.carry.check(step.flags & KV_STEP_RECOMPUTE ? step.pos0 : s->cache.seen);
}

/* ---- a step ---- */

/* Decisions as the policy notes them. */
struct decisions {
    kv_events list = {};

    decisions() = default;
    decisions(const decisions &) = delete;
    decisions &operator=(const decisions &) = delete;
    ~decisions() { free(list.v); }
};

kv_status run_piece(kv_session *s, const gpu_piece &piece, kv_events *events)
{
    gpu_policy &policy = *s->cache.policy;
    const int64_t seen = piece.token;
    gpu_view view;
    KV_TRY(policy.begin(seen, piece.m, &view, events));
    KV_TRY(gpu_cache_make_room(s));
    KV_TRY(gpu_forward(s, piece, view));
    KV_TRY(policy.finish(seen, piece.m, events));
    s->cache.seen = seen + piece.m;
    return KV_OK;
}

kv_status append_events(const kv_events &from, kv_events *to)
{
    for (size_t i = 0; i < from.n; i++) KV_TRY(gpu_note(to, from.v[i]));
    return KV_OK;
}

kv_status run_step(kv_session *s, const kv_step &step)
{
    KV_TRY(check_step(s, step));
    gpu_policy &policy = *s->cache.policy;
    const int64_t seen = step.flags & KV_STEP_RECOMPUTE ? step.pos0 : s->cache.seen;
    if (step.follow) KV_TRY(policy.follow(seen, step.n, *step.follow));
    decisions made;
    kv_events *const events = step.events && !step.follow ? &made.list : nullptr;
    s->broken = true; /* unless all of it succeeds */
    for (int32_t first = 0, n; first < step.n; first += n) {
        n = policy.piece(seen, step.n, first);
        KV_TRY(run_piece(s, {&step, first, n, seen + first}, events));
    }
    if (events) KV_TRY(policy.publish(made.list, step.events));
    if (step.events && step.follow) KV_TRY(append_events(*step.follow, step.events));
    s->broken = false;
    return KV_OK;
}

/* NULL for storages that keep numbers. */
std::unique_ptr<gpu_coded> make_coded(const kv_policy &p, const kv_config &cfg)
{
    const int64_t cap = p.selection == KV_SEL_SLIDING ? p.sliding.cap : INT64_MAX;
    if (p.storage == KV_STORE_KVARN) return gpu_coded_kvarn(p.kvarn, cfg, cap);
    if (p.storage == KV_STORE_KIVI) return gpu_coded_kivi(p.kivi, cfg, cap);
    return nullptr;
}

/* coded: how K and V are kept, where that is in codes. */
kv_status make_policy(const kv_policy &p, const kv_config &cfg, const gpu_coded *coded, cudaStream_t stream,
                      std::unique_ptr<gpu_policy> *out)
{
    const gpu_site site = {cfg.n_layers, cfg.n_heads, cfg.n_kv_heads, stream};
    switch (p.selection) {
    case KV_SEL_FULL:
        *out = gpu_policy_full(cfg.n_layers, coded);
        return KV_OK;
    case KV_SEL_SLIDING:
        *out = gpu_policy_sliding(p.sliding, cfg.n_layers, coded);
        return KV_OK;
    case KV_SEL_SINK:
        *out = gpu_policy_sink(p.sink, cfg.n_layers);
        return KV_OK;
    case KV_SEL_CASCADE:
        *out = gpu_policy_cascade(p.cascade, site);
        return KV_OK;
    case KV_SEL_XWINDOW:
        *out = gpu_policy_xwindow(p.xwindow, cfg.n_layers);
        return KV_OK;
    case KV_SEL_DILATED:
        *out = gpu_policy_dilated(p.dilated, cfg.n_layers);
        return KV_OK;
    case KV_SEL_H2O:
        *out = gpu_policy_h2o(p.h2o, site);
        return KV_OK;
    case KV_SEL_TOVA:
        *out = gpu_policy_tova(p.tova, site);
        return KV_OK;
    case KV_SEL_SNAPKV:
        *out = gpu_policy_snapkv(p.snapkv, site);
        return KV_OK;
    case KV_SEL_PYRAMID:
        *out = gpu_policy_pyramid(p.snapkv, site);
        return KV_OK;
    default:
        return kv_fail(KV_ERR_UNSUPPORTED, "%s does not have the policy %s", GPU_SIDE,
                       kv_selection_name(p.selection));
    }
}

kv_status fill_session(const kv_open_args &args, kv_session *s)
{
    gpu_options o;
    KV_TRY(gpu_read_options(args.options, &o));
    KV_TRY(gpu_check_machine());
    KV_TRY(kv_policy_check(args.policy));
    KV_TRY(kv_policy_fit(args.policy, &args.model->cfg));
    KV_TRY(gpu_model_supported(args.model));
    KV_TRY(gpu_rope_length(*args.model, *args.policy, &s->rope_length, &s->rope_by_call));
    KV_TRY(gpu_stream_open(&s->stream.s, o.seed, args.threads));
    s->coded = make_coded(*args.policy, args.model->cfg);
    KV_TRY(make_policy(*args.policy, args.model->cfg, s->coded.get(), s->stream.s, &s->cache.policy));
    s->cache.storage = args.policy->storage;
    KV_TRY(s->cache.carry.open(args.model->cfg, s->cache.policy->memory(), s->stream.s));
    s->cache.layers.resize(s->coded ? 0 : (size_t)args.model->cfg.n_layers);
    s->cache.coded.resize(s->coded ? (size_t)args.model->cfg.n_layers : 0);
    return gpu_model_upload(args.model, &s->model, s->stream.s);
}

kv_status read_table(kv_session *s, kv_table which, int64_t first, int64_t n, float *dst)
{
    if ((which != KV_TABLE_ROPE_COS && which != KV_TABLE_ROPE_SIN) || first < 0 || n < 0 || !dst)
        return kv_fail(KV_ERR_USAGE, "table %d from %lld, %lld rows: no such table", (int)which,
                       (long long)first, (long long)n);
    const size_t half = (size_t)s->model.cfg.rope_dims / 2;
    int64_t at;
    KV_TRY(gpu_table_cover(s, first, n, s->rope_length, &at));
    const float *const src = which == KV_TABLE_ROPE_COS ? s->table.cos.p : s->table.sin.p;
    KV_TRY(gpu_copy_down(dst, src + (size_t)at * half, (size_t)n * half * sizeof(float), s->stream.s));
    return gpu_stream_finish(s->stream.s);
}

/* ---- the door ---- */

/* Runs a call: no exception leaves this side, and the session keeps the message of a failure. */
template <class F> kv_status guarded(kv_session *s, F call)
{
    kv_status st;
    try {
        st = call();
        if (st != KV_OK && s) s->error = kv_message();
    } catch (const std::bad_alloc &) {
        st = kv_fail(KV_ERR_NOMEM, "%s: out of memory", GPU_SIDE);
        if (s) s->broken = true;
    }
    return st;
}

kv_status door_available(const char *text, char *why, size_t why_size)
{
    const kv_status st = guarded(nullptr, [&] {
        gpu_options o;
        KV_TRY(gpu_read_options(text, &o));
        return gpu_check_machine();
    });
    if (st != KV_OK && why_size > 0) snprintf(why, why_size, "%s", kv_message());
    return st;
}

kv_status door_open(const kv_open_args *args, kv_session **out)
{
    *out = nullptr;
    return guarded(nullptr, [&] {
        std::unique_ptr<kv_session> s = std::make_unique<kv_session>();
        KV_TRY(fill_session(*args, s.get()));
        *out = s.release();
        return KV_OK;
    });
}

void door_close(kv_session *s) { delete s; }

const char *door_last_error(const kv_session *s)
{
    return s && !s->error.empty() ? s->error.c_str() : kv_message();
}

kv_status door_reset(kv_session *s)
{
    return guarded(s, [&] {
        KV_TRY(gpu_cache_reset(&s->cache));
        s->broken = false;
        return KV_OK;
    });
}

kv_status door_step(kv_session *s, const kv_step *step)
{
    return guarded(s, [&] { return run_step(s, *step); });
}

/* Whether the cache can be looked at or copied. */
kv_status check_whole(const kv_session *s, const char *call)
{
    if (!s->broken) return KV_OK;
    return kv_fail(KV_ERR_STATE, "%s: an earlier call failed half-way; reset or restore the session", call);
}

kv_status door_export(kv_session *s, int32_t layer, uint32_t what, void *dst, size_t cap, size_t *need)
{
    return guarded(s, [&] {
        KV_TRY(check_whole(s, "export_state"));
        return gpu_state_export(s, layer, what, dst, cap, need);
    });
}

kv_status door_import(kv_session *s, const void *src, size_t size)
{
    return guarded(s, [&] { return gpu_state_import(s, src, size); });
}

kv_status door_snapshot(kv_session *s, void **out)
{
    *out = nullptr;
    return guarded(s, [&] {
        KV_TRY(check_whole(s, "snapshot"));
        std::unique_ptr<gpu_cache> copy = std::make_unique<gpu_cache>();
        KV_TRY(gpu_cache_save(s, copy.get()));
        *out = copy.release();
        return KV_OK;
    });
}

kv_status door_restore(kv_session *s, const void *snap)
{
    return guarded(s, [&] { return gpu_cache_load(s, *static_cast<const gpu_cache *>(snap)); });
}

void door_snapshot_free(kv_session *, void *snap) { delete static_cast<gpu_cache *>(snap); }

kv_status door_table(kv_session *s, kv_table which, int64_t first, int64_t n, float *dst)
{
    return guarded(s, [&] { return read_table(s, which, first, n, dst); });
}

kv_status door_trace(const kv_trace *t)
{
    return guarded(nullptr, [&] {
        KV_TRY(gpu_check_machine());
        return gpu_trace(*t);
    });
}

const kv_backend backend = {
    KV_BACKEND_ABI,
    KV_CAP_DETERMINISTIC | KV_CAP_FOLLOW | KV_CAP_TAPS,
    KV_CONTRACT_BITEXACT,
    0,
    GPU_SIDE,
    door_available,
    door_open,
    door_close,
    door_last_error,
    door_reset,
    door_step,
    door_export,
    door_import,
    door_snapshot,
    door_restore,
    door_snapshot_free,
    nullptr, /* digest: the tester computes them from an export */
    door_table,
    door_trace,
};
} // namespace

extern "C" __attribute__((visibility("default"))) const kv_backend *kv_side_entry(uint32_t abi)
{
    return abi == KV_BACKEND_ABI ? &backend : nullptr;
}
