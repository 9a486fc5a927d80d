/* backend.c - the blas side behind the door of common/backend.h. */
#include "gpu/blas/blas.h"

#include "common/math.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening and closing -------------------------------------------------------------------- */

static kv_status available(const char *options, char *why, size_t why_size)
{
    if (!options || !*options) return KV_OK;
    snprintf(why, why_size, "option '%s' is unknown; blas has no options", options);
    return kv_fail(KV_ERR_USAGE, "option '%s' is unknown; blas has no options", options);
}

static kv_status refuse(const kv_open_args *a)
{
    const char *feature = kv_config_beyond_golf(&a->model->cfg);
    if (feature)
        return kv_fail(KV_ERR_UNSUPPORTED, "model '%s' needs %s, which the blas side does not have",
                       a->model->name, feature);
    if (a->threads < 1) return kv_fail(KV_ERR_USAGE, "threads=%d: at least 1", a->threads);
    KV_TRY(kv_policy_check(a->policy));
    KV_TRY(kv_policy_fit(a->policy, &a->model->cfg));
    if (blas_rope_length(&a->model->cfg, a->policy) >= 0) return KV_OK;
    return kv_fail(KV_ERR_UNSUPPORTED, "model '%s': rope_base_len=0 lets the base of RoPE follow each call, which only xwindow can do",
                   a->model->name);
}

static void close_session(kv_session *handle)
{
    blas_session *s = (blas_session *)handle;
    if (!s) return;
    for (int i = 0; s->scratch && i < kv_pool_threads(s->pool); i++)
        kv_buffer_free(&s->scratch[i]);
    free(s->scratch);
    free(s->lists);
    free(s->views);
    free(s->odd);
    kv_buffer_free(&s->work.memory);
    kv_buffer_free(&s->keys);
    kv_buffer_free(&s->values);
    kv_buffer_free(&s->logits);
    kv_buffer_free(&s->rope.memory);
    blas_index_free(&s->rehearsal);
    blas_carry_free(&s->carry);
    blas_cache_free(&s->cache);
    blas_weights_release(s->weights);
    kv_pool_destroy(s->pool);
    free(s);
}

static kv_status fill_session(blas_session *s, const kv_open_args *a)
{
    char why[KV_MESSAGE_MAX];
    const kv_config *cfg = &a->model->cfg;
    KV_TRY(available(a->options, why, sizeof why));
    KV_TRY(refuse(a));
    KV_TRY(kv_pool_create(a->threads, &s->pool));
    s->model = a->model;
    s->vec = blas_vector_find();
    s->scratch = calloc((size_t)a->threads, sizeof *s->scratch);
    s->odd = calloc((size_t)cfg->n_kv_heads, sizeof *s->odd);
    s->views = calloc((size_t)cfg->n_kv_heads, sizeof *s->views);
    s->lists = calloc((size_t)(cfg->n_layers * cfg->n_kv_heads), sizeof *s->lists);
    if (!s->scratch || !s->odd || !s->views || !s->lists) return kv_fail(KV_ERR_NOMEM, "out of memory");
    s->scale = cfg->softmax_scale != 0 ? cfg->softmax_scale
                                       : (float)(1.0 / kv_dsqrt((double)cfg->head_dim));
    blas_rope_init(&s->rope, cfg, blas_rope_length(cfg, a->policy));
    KV_TRY(blas_carry_init(&s->carry, cfg));
    KV_TRY(blas_index_init(&s->rehearsal, a->policy));
    KV_TRY(blas_cache_init(&s->cache, cfg, a->policy));
    return blas_weights_acquire(a->model, s->pool, &s->weights);
}

static kv_status open_session(const kv_open_args *a, kv_session **out)
{
    *out = NULL;
    blas_session *s = calloc(1, sizeof *s);
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
    return s ? ((const blas_session *)s)->error : kv_message();
}

static kv_status reset(kv_session *handle)
{
    blas_session *s = (blas_session *)handle;
    blas_cache_reset(&s->cache);
    s->seen = s->window = s->carry.n = 0;
    s->broken = 0;
    return KV_OK;
}

/* ---- what a step may ask for ---------------------------------------------------------------- */

/* Original index of a step's first token. */
static int64_t first_token(const blas_session *s, const kv_step *step)
{
    return step->flags & KV_STEP_RECOMPUTE ? step->pos0 : s->seen;
}

/* Tokens of the piece that begins with token `at` of the step. */
static int64_t piece(const blas_session *s, const kv_step *step, int64_t at)
{
    return blas_piece(&s->cache.policy, first_token(s, step), step->n, at);
}

static kv_status check_step(const blas_session *s, const kv_step *step)
{
    if (s->broken)
        return kv_fail(KV_ERR_STATE,
                       "an earlier step failed half-way; reset or restore the session first");
    KV_TRY(kv_step_check(&s->model->cfg, step));
    const int32_t prompt = kv_policy_first_step(&s->cache.policy);
    if (s->seen == 0 && step->n < prompt)
        return kv_fail(KV_ERR_USAGE, "the first step brings %d tokens, but the policy's prompt has %d; feed all of it "
                                     "at once", step->n, prompt);
    return blas_window_check(s, step);
}

/* What a piece may leave in a set whose index is ix. */
static blas_arrival arrival(const blas_session *s, int32_t layer, const blas_index *ix, int64_t first, int64_t m)
{
    const kv_policy *p = &s->cache.policy;
    if (p->selection == KV_SEL_XWINDOW) return blas_window_arrival(s, layer, first, m);
    return (blas_arrival){first, m, blas_base(p, ix, first), first + m - 1};
}

/* Goes through a set's decisions on a copy of its index, so that a list which cannot be obeyed is
 * refused before anything has changed. */
static kv_status rehearse(blas_session *s, int32_t layer, int32_t set, const kv_step *step)
{
    const blas_cache *c = &s->cache;
    blas_index *ix = &s->rehearsal;
    blas_list list = s->lists[layer * c->n_sets + set];
    const blas_index *now = &blas_set_at(c, layer, set)->index;
    KV_TRY(blas_index_reserve(ix, now->n + step->n));
    blas_index_copy(ix, now);
    for (int64_t at = 0, m; at < step->n; at += m) {
        const int64_t first = first_token(s, step) + at;
        m = piece(s, step, at);
        KV_TRY(blas_list_before(c, ix, &list, first));
        blas_remove_dead(c, ix, NULL);
        const blas_arrival a = arrival(s, layer, ix, first, m);
        KV_TRY(blas_list_after(c, ix, &list, &a));
        blas_remove_dead(c, ix, NULL);
        if (ix->n > kv_policy_max_entries(&c->policy))
            return kv_fail(KV_ERR_USAGE, "the list of decisions cannot be obeyed: it leaves %lld entries in layer %d, "
                                         "the policy holds %lld", (long long)ix->n, layer,
                           (long long)kv_policy_max_entries(&c->policy));
    }
    if (list.done == list.n) return KV_OK;
    return blas_list_bad(list.v + list.done, "more than the step has to decide");
}

static kv_status take_list(blas_session *s, const kv_events *follow, const kv_step *step)
{
    const blas_cache *c = &s->cache;
    KV_TRY(blas_lists_cut(c, follow, s->lists));
    for (int32_t i = 0; i < c->n_layers * c->n_sets; i++)
        KV_TRY(rehearse(s, i / c->n_sets, i % c->n_sets, step));
    return KV_OK;
}

/* ---- the step ------------------------------------------------------------------------------- */

static int64_t padded(int64_t n)
{
    return (n + 15) / 16 * 16;
}

static kv_status reserve_work(blas_session *s, int64_t m)
{
    blas_work *w = &s->work;
    if (m <= w->m) return KV_OK;
    const kv_config *cfg = &s->model->cfg;
    const int64_t d = cfg->d_model, qw = (int64_t)cfg->n_heads * cfg->head_dim;
    const struct {
        float **p;
        int64_t n;
    } parts[] = {
        {&w->x, m * d},
        {&w->xn, m * d},
        {&w->qkv, m * s->weights->layers[0].qkv.n},
        {&w->att, m * qw},
        {&w->gate_up, 2 * m * cfg->ffn_dim},
        {&w->act, m * cfg->ffn_dim},
        {&w->x0, cfg->resid_mix_x0 ? m * d : 0},
        {&w->pairs, cfg->bigram_rows ? m * cfg->bigram_dim : 0},
        {&w->skips, kv_config_skips(cfg) * m * d},
        {&w->raw, cfg->k_shift || cfg->v_shift || cfg->qk_norm ? 2 * m * cfg->n_kv_heads * cfg->head_dim : 0},
        {&w->side_gate, m * cfg->sidecar_hidden},
        {&w->side_value, m * cfg->sidecar_hidden},
    };
    int64_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        total += padded(parts[i].n);
    w->m = 0;
    KV_TRY(kv_buffer_reserve(&w->memory, (size_t)total * sizeof(float)));
    float *next = w->memory.p;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].p = next;
        next += padded(parts[i].n);
    }
    w->m = m;
    return KV_OK;
}

/* Windows in the published form take the base of RoPE from the length of their call. */
static void set_base(blas_session *s, int64_t m)
{
    const kv_config *cfg = &s->model->cfg;
    const kv_policy *p = &s->cache.policy;
    if (p->selection != KV_SEL_XWINDOW || p->xwindow.ver != KV_XW_PUBLISHED ||
        cfg->rope_scaling != KV_ROPE_SCALING_NTK_BY_LENGTH)
        return;
    const int64_t offset = s->seen < p->xwindow.cache ? s->seen : p->xwindow.cache;
    blas_rope_init(&s->rope, cfg, offset + m);
}

static kv_status run_pieces(blas_session *s, const kv_step *step)
{
    const int64_t first = first_token(s, step);
    for (int64_t at = 0, m; at < step->n; at += m) {
        m = piece(s, step, at);
        KV_TRY(reserve_work(s, m));
        const blas_piece_info p = {step, at, m, first + at};
        set_base(s, m);
        KV_TRY(blas_carry_begin(s, &p));
        KV_TRY(blas_forward(s, &p));
        blas_carry_end(s);
    }
    s->seen = first + step->n;
    s->window = step->flags & KV_STEP_RECOMPUTE ? first : 0;
    return KV_OK;
}

static kv_status append_events(const kv_events *from, kv_events *to)
{
    for (size_t i = 0; i < from->n; i++)
        if (kv_events_push(to, from->v[i]) != KV_OK)
            return kv_fail(KV_ERR_NOMEM, "out of memory for the decisions of a step");
    return KV_OK;
}

/* The step's decisions: the given ones, or for `full` its only possible ones, in *own. */
static kv_status decisions(blas_session *s, const kv_step *step, kv_events *own,
                           const kv_events **out)
{
    *out = step->follow;
    if (step->follow) return KV_OK;
    if (s->cache.policy.selection != KV_SEL_FULL)
        return kv_fail(KV_ERR_USAGE,
                       "the blas side has no policy of its own: a step under '%s' needs the "
                       "decisions of another side",
                       kv_selection_name(s->cache.policy.selection));
    *out = own;
    return blas_full_events(&s->cache, s->seen, step->n, own);
}

static kv_status run_step(blas_session *s, const kv_step *step, kv_events *own)
{
    const kv_events *list;
    KV_TRY(check_step(s, step));
    KV_TRY(decisions(s, step, own, &list));
    KV_TRY(take_list(s, list, step));
    openblas_set_num_threads(1); /* work is shared out by the session's pool, see forward.c */
    s->broken = 1;
    KV_TRY(run_pieces(s, step));
    if (step->events) KV_TRY(append_events(list, step->events));
    s->broken = 0;
    return KV_OK;
}

static kv_status step_session(kv_session *handle, const kv_step *step)
{
    blas_session *s = (blas_session *)handle;
    kv_events own = {0};
    const kv_status st = run_step(s, step, &own);
    free(own.v);
    return blas_keep_error(s, st);
}

/* ---- tables and the door -------------------------------------------------------------------- */

static kv_status table(kv_session *handle, kv_table which, int64_t first, int64_t n, float *dst)
{
    const blas_session *s = (const blas_session *)handle;
    float cos[KV_MAX_HEAD_DIM / 2], sin[KV_MAX_HEAD_DIM / 2];
    for (int64_t x = 0; x < n; x++) {
        blas_rope_at(&s->rope, first + x, cos, sin);
        memcpy(dst + x * s->rope.pairs, which == KV_TABLE_ROPE_COS ? cos : sin,
               (size_t)s->rope.pairs * sizeof *dst);
    }
    return KV_OK;
}

static const kv_backend side = {
    .abi = KV_BACKEND_ABI,
    .caps = KV_CAP_DETERMINISTIC | KV_CAP_FOLLOW | KV_CAP_NEEDS_FOLLOW | KV_CAP_TAPS,
    .contract = KV_CONTRACT_BOUNDED,
    .name = "blas",
    .available = available,
    .open = open_session,
    .close = close_session,
    .last_error = last_error,
    .reset = reset,
    .step = step_session,
    .export_state = blas_export_state,
    .import_state = blas_import_state,
    .snapshot = blas_snapshot,
    .restore = blas_restore,
    .snapshot_free = blas_snapshot_free,
    .table = table,
};

__attribute__((visibility("default"))) const kv_backend *kv_side_entry(uint32_t abi);
const kv_backend *kv_side_entry(uint32_t abi)
{
    return abi == KV_BACKEND_ABI ? &side : NULL;
}
