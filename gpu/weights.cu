#include "gpu/weights.cuh"

kv_status gpu_model_supported(const kv_model *model)
{
    KV_TRY(kv_model_check(model));
    const char *const beyond = kv_config_beyond_llama(&model->cfg);
    if (beyond)
        return kv_fail(KV_ERR_UNSUPPORTED, "model '%s' uses %s; this side has the Llama family only",
                       model->name, beyond);
    if (model->cfg.head_dim % 4 != 0)
        return kv_fail(KV_ERR_UNSUPPORTED, "model '%s' has heads of %d values; this side needs a multiple "
                       "of 4", model->name, model->cfg.head_dim);
    return KV_OK;
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

kv_status upload_gains(uploader *u, const kv_model *model, kv_role role, int32_t layer,
                       gpu_buffer<float> *dst)
{
    return model->cfg.norm_weight ? upload_rows(u, kv_model_tensor(model, role, layer), dst) : KV_OK;
}

kv_status upload_layer(uploader *u, const kv_model *model, int32_t l, gpu_layer *layer)
{
    KV_TRY(upload_gains(u, model, KV_ROLE_ATTN_NORM, l, &layer->attn_norm));
    KV_TRY(upload_gains(u, model, KV_ROLE_FFN_NORM, l, &layer->ffn_norm));
    KV_TRY(upload_matrix(u, model, {KV_ROLE_ATTN_Q, KV_ROLE_ATTN_K, KV_ROLE_ATTN_V}, l, &layer->qkv));
    KV_TRY(upload_matrix(u, model, {KV_ROLE_ATTN_OUTPUT}, l, &layer->attn_output));
    KV_TRY(upload_matrix(u, model, {KV_ROLE_FFN_GATE, KV_ROLE_FFN_UP}, l, &layer->gate_up));
    return upload_matrix(u, model, {KV_ROLE_FFN_DOWN}, l, &layer->ffn_down);
}

/* docs/numerics.md, section 3: all in double, rounded once. */
std::vector<float> inverse_frequencies(const kv_config &cfg)
{
    std::vector<float> v;
    const double log_theta = kv_log_core(cfg.rope_theta);
    for (int32_t i = 0; i < cfg.rope_dims / 2; i++) {
        const double exponent = kv_ddiv((double)(2 * i), (double)cfg.rope_dims);
        v.push_back(kv_div(1.0f, kv_d2f(kv_exp_core(kv_dmul(exponent, log_theta)))));
    }
    return v;
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
    KV_TRY(upload_gains(&u, model, KV_ROLE_OUTPUT_NORM, 0, &out->output_norm));
    const std::vector<float> inv_freq = inverse_frequencies(cfg);
    KV_TRY(upload_floats(&u, inv_freq.data(), inv_freq.size(), &out->inv_freq));
    out->layers = std::vector<gpu_layer>((size_t)cfg.n_layers);
    for (int32_t l = 0; l < cfg.n_layers; l++) KV_TRY(upload_layer(&u, model, l, &out->layers[(size_t)l]));
    return KV_OK;
}
