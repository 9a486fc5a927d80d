#include "gpu/weights.cuh"

kv_status gpu_model_supported(const kv_model *model)
{
    KV_TRY(kv_model_check(model));
    const char *const beyond = kv_config_beyond_golf(&model->cfg);
    if (beyond)
        return kv_fail(KV_ERR_UNSUPPORTED, "model '%s' uses %s; this side has the Llama and golf families only",
                       model->name, beyond);
    if (model->cfg.head_dim % 4 != 0)
        return kv_fail(KV_ERR_UNSUPPORTED, "model '%s' has heads of %d values; this side needs a multiple "
                       "of 4", model->name, model->cfg.head_dim);
    return KV_OK;
}

kv_status gpu_rope_length(const kv_model &model, const kv_policy &policy, int64_t *length, bool *by_call)
{
    const kv_config &cfg = model.cfg;
    const bool windows = policy.selection == KV_SEL_XWINDOW;
    *length = 1;
    *by_call = false;
    if (cfg.rope_scaling != KV_ROPE_SCALING_NTK_BY_LENGTH) return KV_OK;
    *length = cfg.rope_base_len ? cfg.rope_base_len : policy.xwindow.window;
    *by_call = windows && policy.xwindow.ver == KV_XW_PUBLISHED;
    if (windows || cfg.rope_base_len) return KV_OK;
    return kv_fail(KV_ERR_UNSUPPORTED, "model '%s' chooses the base of RoPE by the length of a call (rope_base_len 0), which "
                   "only the policy xwindow has", model.name);
}

/* docs/numerics.md, section 3, with the base of docs/golf.md: in double, the power and its reciprocal rounded. */
std::vector<float> gpu_inverse_frequencies(const kv_config &cfg, int64_t length)
{
    double base = cfg.rope_theta;
    if (cfg.rope_scaling == KV_ROPE_SCALING_NTK_BY_LENGTH && length > cfg.rope_train_len) {
        const double dims = (double)cfg.rope_dims, exponent = kv_ddiv(dims, kv_dsub(dims, 2.0));
        const double stretch = kv_ddiv((double)length, (double)cfg.rope_train_len);
        base = kv_dmul(base, kv_exp_core(kv_dmul(exponent, kv_log_core(stretch))));
    }
    std::vector<float> v;
    const double log_base = kv_log_core(base);
    for (int32_t i = 0; i < cfg.rope_dims / 2; i++) {
        const double exponent = kv_ddiv((double)(2 * i), (double)cfg.rope_dims);
        v.push_back(kv_div(1.0f, kv_d2f(kv_exp_core(kv_dmul(exponent, log_base)))));
    }
    return v;
}

float gpu_softmax_scale(const kv_config &cfg)
{
    if (cfg.softmax_scale != 0.0f) return cfg.softmax_scale;
    return kv_d2f(kv_ddiv(1.0, kv_dsqrt((double)cfg.head_dim)));
}

namespace
{
/* Weights pass through this much memory at a time. */
enum { STAGING_FLOATS = 1 << 22 };

struct uploader {
    std::vector<float> host;
    gpu_buffer<float> staging;
    cudaStream_t stream;
};

/* One stored matrix [rows][cols] becomes columns column0 .. of m. */
kv_status upload_part(uploader *u, const kv_tensor *t, gpu_matrix *m, int64_t column0)
{
    const int64_t at_once = STAGING_FLOATS / t->cols > 0 ? STAGING_FLOATS / t->cols : 1;
    u->host.resize((size_t)(at_once * t->cols));
    KV_TRY(u->staging.reserve(u->host.size()));
    for (int64_t r = 0; r < t->rows; r += at_once) {
        const int64_t n = t->rows - r < at_once ? t->rows - r : at_once;
        kv_tensor_rows_f32(t, r, n, u->host.data());
        KV_TRY(gpu_copy_up(u->staging.p, u->host.data(), (size_t)(n * t->cols) * sizeof(float), u->stream));
        KV_TRY(gpu_transpose(u->staging.p, (int32_t)n, m->k, m->data.p, m->ld, column0 + r, u->stream));
        KV_TRY(gpu_stream_finish(u->stream)); /* the staging buffers are used again */
    }
    return KV_OK;
}

/* The matrices of the given roles side by side. */
kv_status upload_matrix(uploader *u, const kv_model *model, std::initializer_list<kv_role> roles,
                        int32_t layer, gpu_matrix *m)
{
    int64_t n = 0;
    for (const kv_role role : roles) n += kv_model_tensor(model, role, layer)->rows;
    m->n = (int32_t)n;
    m->k = (int32_t)kv_model_tensor(model, *roles.begin(), layer)->cols;
    m->ld = (int32_t)gpu_blocks(n, GPU_LD) * GPU_LD;
    const size_t count = (size_t)m->k * (size_t)m->ld;
    KV_TRY(m->data.reserve(count));
    GPU_TRY(cudaMemsetAsync(m->data.p, 0, count * sizeof(float), u->stream));
    int64_t column = 0;
    for (const kv_role role : roles) {
        const kv_tensor *const t = kv_model_tensor(model, role, layer);
        KV_TRY(upload_part(u, t, m, column));
        column += t->rows;
    }
    return KV_OK;
}

kv_status upload_floats(uploader *u, const float *src, size_t n, gpu_buffer<float> *dst)
{
    KV_TRY(dst->reserve(n));
    KV_TRY(gpu_copy_up(dst->p, src, n * sizeof(float), u->stream));
    return gpu_stream_finish(u->stream);
}

/* Rows as they are stored. */
kv_status upload_rows(uploader *u, const kv_tensor *t, gpu_buffer<float> *dst)
{
    u->host.resize((size_t)(t->rows * t->cols));
    kv_tensor_rows_f32(t, 0, t->rows, u->host.data());
    return upload_floats(u, u->host.data(), u->host.size(), dst);
}

/* Rows of a tensor that the config may switch off. */
kv_status upload_option(uploader *u, const kv_model *model, kv_role role, int32_t layer, gpu_buffer<float> *dst)
{
    int64_t rows, cols;
    kv_model_shape(&model->cfg, role, &rows, &cols);
    return rows > 0 ? upload_rows(u, kv_model_tensor(model, role, layer), dst) : KV_OK;
}

bool layer_in(uint64_t mask, int32_t l) { return l < 64 && (mask >> l & 1); }

/* Number of the layer's site: of the sites below it. */
int32_t site_of(uint64_t mask, int32_t l)
{
    if (!layer_in(mask, l)) return -1;
    int32_t site = 0;
    for (int32_t below = 0; below < l; below++) site += layer_in(mask, below);
    return site;
}

kv_status upload_layer_options(uploader *u, const kv_model *model, int32_t l, gpu_layer *layer)
{
    const struct {
        kv_role role;
        gpu_buffer<float> *to;
    } options[] = {{KV_ROLE_ATTN_NORM, &layer->attn_norm}, {KV_ROLE_FFN_NORM, &layer->ffn_norm},
                   {KV_ROLE_RESID_MIX, &layer->resid_mix}, {KV_ROLE_ATTN_SCALE, &layer->attn_scale},
                   {KV_ROLE_FFN_SCALE, &layer->ffn_scale}, {KV_ROLE_Q_GAIN, &layer->q_gain},
                   {KV_ROLE_K_GAIN, &layer->k_gain},       {KV_ROLE_K_SHIFT, &layer->k_shift},
                   {KV_ROLE_V_SHIFT, &layer->v_shift},     {KV_ROLE_LOCAL_V, &layer->local_v}};
    for (const auto &o : options) KV_TRY(upload_option(u, model, o.role, l, o.to));
    const kv_config &cfg = model->cfg;
    layer->norm_scale = cfg.ln_scale_inv_sqrt ? kv_d2f(kv_ddiv(1.0, kv_dsqrt((double)(l + 1)))) : 1.0f;
    layer->excludes_own = layer_in(cfg.xsa_layer_mask, l);
    layer->site = site_of(cfg.sidecar_layer_mask, l);
    return KV_OK;
}

kv_status upload_layer(uploader *u, const kv_model *model, int32_t l, gpu_layer *layer)
{
    KV_TRY(upload_layer_options(u, model, l, layer));
    KV_TRY(upload_matrix(u, model, {KV_ROLE_ATTN_Q, KV_ROLE_ATTN_K, KV_ROLE_ATTN_V}, l, &layer->qkv));
    KV_TRY(upload_matrix(u, model, {KV_ROLE_ATTN_OUTPUT}, l, &layer->attn_output));
    KV_TRY(model->cfg.ffn_kind == KV_FFN_SWIGLU
               ? upload_matrix(u, model, {KV_ROLE_FFN_GATE, KV_ROLE_FFN_UP}, l, &layer->gate_up)
               : upload_matrix(u, model, {KV_ROLE_FFN_UP}, l, &layer->gate_up));
    return upload_matrix(u, model, {KV_ROLE_FFN_DOWN}, l, &layer->ffn_down);
}

kv_status upload_bigram(uploader *u, const kv_model *model, gpu_model *out)
{
    float scale;
    KV_TRY(upload_rows(u, kv_model_tensor(model, KV_ROLE_BIGRAM_EMBED, 0), &out->bigram_embed));
    KV_TRY(upload_matrix(u, model, {KV_ROLE_BIGRAM_PROJ}, 0, &out->bigram_proj));
    kv_tensor_rows_f32(kv_model_tensor(model, KV_ROLE_BIGRAM_SCALE, 0), 0, 1, &scale);
    const std::vector<float> all((size_t)model->cfg.d_model, scale);
    return upload_floats(u, all.data(), all.size(), &out->bigram_scale);
}

kv_status upload_sidecar(uploader *u, const kv_model *model, gpu_sidecar_weights *out)
{
    KV_TRY(upload_matrix(u, model, {KV_ROLE_SIDECAR_GATE, KV_ROLE_SIDECAR_VALUE}, 0, &out->gate_value));
    KV_TRY(upload_matrix(u, model, {KV_ROLE_SIDECAR_PROJ}, 0, &out->proj));
    KV_TRY(upload_rows(u, kv_model_tensor(model, KV_ROLE_SIDECAR_CONV, 0), &out->conv));
    KV_TRY(upload_rows(u, kv_model_tensor(model, KV_ROLE_SIDECAR_SITE_GATE, 0), &out->site_gate));
    return upload_rows(u, kv_model_tensor(model, KV_ROLE_SIDECAR_SCALE, 0), &out->scale);
}
} // namespace

kv_status gpu_model_upload(const kv_model *model, gpu_model *out, cudaStream_t stream)
{
    const kv_config &cfg = model->cfg;
    uploader u;
    u.stream = stream;
    out->cfg = cfg;
    const kv_role head = cfg.tied_head ? KV_ROLE_TOKEN_EMBD : KV_ROLE_OUTPUT;
    KV_TRY(upload_matrix(&u, model, {head}, 0, &out->head));
    if (!cfg.tied_head) KV_TRY(upload_rows(&u, kv_model_tensor(model, KV_ROLE_TOKEN_EMBD, 0), &out->embedding));
    KV_TRY(upload_option(&u, model, KV_ROLE_OUTPUT_NORM, 0, &out->output_norm));
    KV_TRY(upload_option(&u, model, KV_ROLE_SMEAR_GATE, 0, &out->smear_gate));
    KV_TRY(upload_option(&u, model, KV_ROLE_SKIP_WEIGHTS, 0, &out->skip_weights));
    if (cfg.bigram_rows) KV_TRY(upload_bigram(&u, model, out));
    if (cfg.sidecar_layer_mask) KV_TRY(upload_sidecar(&u, model, &out->sidecar));
    out->layers = std::vector<gpu_layer>((size_t)cfg.n_layers);
    for (int32_t l = 0; l < cfg.n_layers; l++) KV_TRY(upload_layer(&u, model, l, &out->layers[(size_t)l]));
    return KV_OK;
}
