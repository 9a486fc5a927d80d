/* backend.c - the reference behind the door of common/backend.h. */
#include "ref/backend.h"

#include "ref/golf_forward.h"
#include "ref/hooked.h"
#include "ref/session.h"
#include "ref/storage.h"
#include "ref/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening and closing -------------------------------------------------------------------------- */

static kv_status parse_options(const char *options, const ref_kernels **kernels)
{
    const char *isa = NULL;
    if (options && options[0]) {
        if (strncmp(options, "isa=", 4) != 0)
            return kv_fail(KV_ERR_USAGE, "option '%s' is unknown; the reference has isa=scalar|avx2|avx512", options);
        isa = options + 4;
    }
    return REF(kernels_find)(isa, kernels);
}

static kv_status available(const char *options, char *why, size_t why_size)
{
    const ref_kernels *k;
    const kv_status st = parse_options(options, &k);
    if (st != KV_OK) snprintf(why, why_size, "%s", kv_message());
    return st;
}

/* The length that the base of RoPE stands for, 0 where it does not depend on one; -1: nothing says it. */
static int64_t base_length(const kv_config *cfg, const kv_policy *p)
{
    if (cfg->rope_scaling != KV_ROPE_SCALING_NTK_BY_LENGTH || cfg->rope_base_len > 0) return cfg->rope_base_len;
    return p->selection == KV_SEL_XWINDOW ? p->xwindow.window : -1;
}

static kv_status refuse(const kv_open_args *a)
{
    const char *feature = kv_config_beyond_golf(&a->model->cfg);
    if (feature)
        return kv_fail(KV_ERR_UNSUPPORTED, "model '%s' needs %s, which the reference does not have",
                       a->model->name, feature);
    if (!REF(storage_find)(a->policy->storage))
        return kv_fail(KV_ERR_UNSUPPORTED, "the reference does not have storage '%s'",
                       kv_storage_name(a->policy->storage));
    if (!REF(policy_find)(a->policy->selection))
        return kv_fail(KV_ERR_UNSUPPORTED, "the reference does not have selection '%s'",
                       kv_selection_name(a->policy->selection));
    if (a->threads < 1) return kv_fail(KV_ERR_USAGE, "threads=%d: at least 1", a->threads);
    KV_TRY(kv_policy_check(a->policy));
    KV_TRY(kv_policy_fit(a->policy, &a->model->cfg));
    return base_length(&a->model->cfg, a->policy) >= 0 ? KV_OK : kv_fail(
        KV_ERR_UNSUPPORTED, "model '%s' takes its RoPE base from the length of the call (rope_base_len=0), which a cache does not "
                            "have; only xwindow can run it", a->model->name);
}

static void close_session(kv_session *handle)
{
    ref_session *s = (ref_session *)handle;
    if (!s) return;
    const int threads = kv_pool_threads(s->pool);
    for (int i = 0; s->scratch && i < threads; i++)
        kv_buffer_free(&s->scratch[i]);
    free(s->scratch);
    kv_buffer_free(&s->work.memory);
    kv_buffer_free(&s->rotated);
    kv_buffer_free(&s->rows);
    kv_buffer_free(&s->columns);
    kv_buffer_free(&s->embed_row);
    kv_buffer_free(&s->head_out);
    REF(rope_table_free)(&s->own_table);
    REF(rope_table_free)(&s->view_table);
    REF(cache_free)(&s->cache);
    REF(carry_free)(&s->carries);
    REF(golf_free)(&s->golf);
    REF(hooked_free)(s);
    ref_weights_release(s->weights);
    kv_pool_destroy(s->pool);
    free(s);
}

static kv_status fill_session(ref_session *s, const kv_open_args *a)
{
    KV_TRY(parse_options(a->options, &s->kernels));
    KV_TRY(refuse(a));
    KV_TRY(kv_pool_create(a->threads, &s->pool));
    s->scratch = calloc((size_t)a->threads, sizeof *s->scratch);
    if (!s->scratch) return kv_fail(KV_ERR_NOMEM, "out of memory");
    s->model = a->model;
    const kv_config *cfg = &a->model->cfg;
    REF(rope_init)(&s->rope, cfg, REF(rope_base)(cfg, base_length(cfg, a->policy)));
    s->scale = cfg->softmax_scale != 0 ? (real)cfg->softmax_scale
                                       : (real)(1.0 / kv_dsqrt((double)cfg->head_dim));
    const int64_t widest = ref_max(cfg->d_model, cfg->bigram_dim);
    KV_TRY(kv_buffer_reserve(&s->embed_row, (size_t)widest * sizeof(float)));
    KV_TRY(REF(golf_init)(&s->golf, a->model));
    KV_TRY(REF(carry_init)(&s->carries, cfg));
    KV_TRY(REF(cache_init)(&s->cache, cfg, a->policy));
    return ref_weights_acquire(a->model, s->pool, &s->weights);
}

static kv_status open_session(const kv_open_args *a, kv_session **out)
{
    *out = NULL;
    ref_session *s = calloc(1, sizeof *s);
    if (!s) return kv_fail(KV_ERR_NOMEM, "out of memory");
    const kv_status st = fill_session(s, a);
    if (st != KV_OK) {
        close_session((kv_session *)s);
        return st;
    }
    *out = (kv_session *)s;
    return KV_OK;
}

static const char *last_error(const kv_session *s)
{
    return s ? ((const ref_session *)s)->error : kv_message();
}

static kv_status reset(kv_session *handle)
{
    ref_session *s = (ref_session *)handle;
    REF(cache_reset)(&s->cache);
    REF(carry_reset)(&s->carries);
    s->seen = 0;
    s->broken = 0;
    return KV_OK;
}

/* ---- a step ------------------------------------------------------------------------------------------- */

/* Windows belong to xwindow, and xwindow takes nothing else. */
static kv_status check_window(const ref_session *s, const kv_step *step)
{
    const kv_policy *p = &s->cache.policy;
    const int recompute = (step->flags & KV_STEP_RECOMPUTE) != 0;
    if (p->selection != KV_SEL_XWINDOW) {
        if (!recompute) return KV_OK;
        return kv_fail(KV_ERR_UNSUPPORTED, "selection %s does not compute rows again; xwindow does",
                       kv_selection_name(p->selection));
    }
    if (!recompute) return kv_fail(KV_ERR_USAGE, "policy xwindow is fed windows: steps with KV_STEP_RECOMPUTE");
    const int known = s->seen == 0 || s->cache.window >= 0; /* after an import any start will do */
    const int64_t first = s->seen == 0 ? 0 : known ? s->cache.window + p->xwindow.stride : 0, last = known ? first : s->seen;
    if (step->pos0 < first || step->pos0 > last || step->n > p->xwindow.window || step->pos0 + step->n <= s->seen)
        return kv_fail(KV_ERR_USAGE, "policy xwindow: a window of %d tokens from %lld; the next one starts at %s%lld, has at most "
                                     "window=%d tokens and ends behind token %lld", step->n, (long long)step->pos0,
                       known ? "" : "most at ", (long long)last, p->xwindow.window, (long long)s->seen - 1);
    if (REF(carry_missing)(&s->carries, p, s->seen, step->pos0))
        return kv_fail(KV_ERR_USAGE, "policy xwindow with pred=carry: what the model remembers at token %lld was not imported",
                       (long long)step->pos0);
    return KV_OK;
}

static kv_status check_step(const ref_session *s, const kv_step *step)
{
    if (s->broken)
        return kv_fail(KV_ERR_STATE, "an earlier step failed half-way; reset or restore the session first");
    KV_TRY(check_window(s, step));
    if (step->follow)
        return kv_fail(KV_ERR_UNSUPPORTED, "the reference decides by itself; it follows nobody");
    const int32_t first = kv_policy_first_step(&s->cache.policy);
    if (s->seen == 0 && step->n < first)
        return kv_fail(KV_ERR_USAGE, "policy %s: the first step brings %d tokens; it must bring the whole prompt, prompt=%d",
                       kv_selection_name(s->cache.policy.selection), step->n, first);
    return kv_step_check(&s->model->cfg, step);
}

/* Room for pieces of m tokens. */
static kv_status reserve_work(ref_session *s, int64_t m)
{
    ref_work *w = &s->work;
    if (m <= w->m) return KV_OK;
    const kv_config *cfg = &s->model->cfg;
    const int64_t qw = (int64_t)cfg->n_heads * cfg->head_dim, kvw = (int64_t)cfg->n_kv_heads * cfg->head_dim;
    const int64_t rounded = ref_round_up(m, REF_PANEL);
    const struct {
        real **p;
        int64_t n;
    } parts[] = {
        {&w->x, m * cfg->d_model}, {&w->xn, m * cfg->d_model}, {&w->q, m * qw}, {&w->att, m * qw},
        {&w->k, m * kvw}, {&w->v, m * kvw}, {&w->gate, m * cfg->ffn_dim}, {&w->up, m * cfg->ffn_dim},
        {&w->own_raw, rounded * kvw}, {&w->own_k, rounded * kvw},
        {&w->own_v, m * cfg->n_kv_heads * s->cache.dv},
        {&w->x0, cfg->resid_mix_x0 ? m * cfg->d_model : 0},
        {&w->bigram, cfg->bigram_rows ? m * cfg->bigram_dim : 0},
        {&w->skips, kv_config_skips(cfg) * m * cfg->d_model},
        {&w->k_raw, cfg->k_shift ? m * kvw : 0}, {&w->v_raw, cfg->v_shift ? m * kvw : 0},
        {&w->side_gate, m * cfg->sidecar_hidden}, {&w->side_value, m * cfg->sidecar_hidden},
        {&w->side_conv, m * cfg->sidecar_hidden},
    };
    int64_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        total += ref_round_up(parts[i].n, REF_PANEL);
    w->m = 0;
    KV_TRY(kv_buffer_reserve(&w->memory, (size_t)total * sizeof(real)));
    real *next = w->memory.p;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].p = next;
        next += ref_round_up(parts[i].n, REF_PANEL);
    }
    w->m = m;
    return KV_OK;
}

/* Windows in the published form take their base from the length of the call: list, gap and window. */
static void set_base(ref_session *s, int64_t m)
{
    const kv_policy *p = &s->cache.policy;
    const kv_config *cfg = &s->model->cfg;
    if (p->selection != KV_SEL_XWINDOW || p->xwindow.ver != KV_XW_PUBLISHED ||
        cfg->rope_scaling != KV_ROPE_SCALING_NTK_BY_LENGTH)
        return;
    const int64_t offset = s->cache.ops->begin(&s->cache, 0, m);
    REF(rope_init)(&s->rope, cfg, REF(rope_base)(cfg, offset + m));
    REF(rope_table_forget)(&s->own_table);
}

static kv_status run_pieces(ref_session *s, const kv_step *step)
{
    if (step->flags & KV_STEP_RECOMPUTE) s->seen = s->cache.window = step->pos0;
    for (int64_t at = 0, m; at < step->n; at += m) {
        m = ref_min(step->n - at, s->cache.ops->piece(&s->cache.policy, s->seen, step->n));
        KV_TRY(reserve_work(s, m));
        set_base(s, m);
        const ref_piece p = {step->tokens + at, m, at, step};
        const ref_carry_piece c = {&s->cache.policy, p.tokens, s->seen, m, s->cache.layers[0].seen};
        KV_TRY(REF(carry_begin)(&s->carries, &c));
        KV_TRY(REF(forward)(s, &p));
        REF(carry_end)(&s->carries, &c);
        s->seen += m;
    }
    return KV_OK;
}

static kv_status collect_events(ref_session *s, kv_events *out)
{
    for (int32_t l = 0; l < s->cache.n_layers; l++) {
        kv_events *from = &s->cache.layers[l].events;
        for (size_t i = 0; out && i < from->n; i++)
            if (kv_events_push(out, from->v[i]) != KV_OK)
                return kv_fail(KV_ERR_NOMEM, "out of memory for the decisions of a step");
        from->n = 0;
    }
    return KV_OK;
}

static kv_status keep_error(ref_session *s, kv_status st)
{
    if (st != KV_OK) snprintf(s->error, sizeof s->error, "%s", kv_message());
    return st;
}

static kv_status step_session(kv_session *handle, const kv_step *step)
{
    ref_session *s = (ref_session *)handle;
    kv_status st = check_step(s, step);
    if (st != KV_OK) return keep_error(s, st);
    s->cache.record_events = step->events != NULL;
    s->broken = 1;
    st = run_pieces(s, step);
    if (st == KV_OK) st = collect_events(s, step->events);
    if (st == KV_OK) s->broken = 0;
    return keep_error(s, st);
}

/* ---- tables ------------------------------------------------------------------------------------------------ */

static kv_status table(kv_session *handle, kv_table which, int64_t first, int64_t n, float *dst)
{
    ref_session *s = (ref_session *)handle;
    real cos[KV_MAX_HEAD_DIM / 2], sin[KV_MAX_HEAD_DIM / 2];
    for (int64_t x = 0; x < n; x++) {
        REF(rope_at)(&s->rope, first + x, cos, sin);
        for (int64_t i = 0; i < s->rope.pairs; i++)
            dst[x * s->rope.pairs + i] = (float)(which == KV_TABLE_ROPE_COS ? cos[i] : sin[i]);
    }
    return KV_OK;
}

#if REF_BITS == 32
void ref_session_seconds(const kv_session *handle, double seconds[REF_OP_COUNT])
{
    memcpy(seconds, ((const ref_session *)handle)->seconds, sizeof ((const ref_session *)handle)->seconds);
}
#endif

const kv_backend *REF(backend)(void)
{
    static const kv_backend side = {
        .abi = KV_BACKEND_ABI,
        .caps = KV_CAP_DETERMINISTIC | KV_CAP_TAPS | KV_CAP_DIGEST,
        .contract = REF_BITS == 32 ? KV_CONTRACT_BITEXACT : KV_CONTRACT_BOUNDED,
        .name = REF_BITS == 32 ? "ref" : "ref64",
        .available = available,
        .open = open_session,
        .close = close_session,
        .last_error = last_error,
        .reset = reset,
        .step = step_session,
        .export_state = REF(export_state),
        .import_state = REF(import_state),
        .snapshot = REF(snapshot),
        .restore = REF(restore),
        .snapshot_free = REF(snapshot_free),
        .digest = REF(digest),
        .table = table,
        .trace = REF(trace),
    };
    return &side;
}
