#include "gpu/train/params.cuh"

void gpu_params::open(const kv_config &cfg)
{
    std::vector<kv_golf_place> places((size_t)kv_golf_order(&cfg, nullptr));
    kv_golf_order(&cfg, places.data());
    index_.assign((size_t)(KV_ROLE_GLOBAL_COUNT + cfg.n_layers * KV_ROLE_PER_LAYER), -1);
    for (const kv_golf_place &p : places) {
        gpu_param t = {};
        t.role = p.role;
        t.layer = p.layer;
        t.group = kv_golf_group_of(p.role);
        kv_model_shape(&cfg, p.role, &t.rows, &t.cols);
        t.at = padded_;
        t.host_at = total_;
        index_[(size_t)slot(p.role, p.layer)] = (int32_t)list_.size();
        list_.push_back(t);
        padded_ += (t.n() + 3) / 4 * 4;
        total_ += t.n();
    }
}

kv_status gpu_params::up(float *device, const float *host, cudaStream_t stream) const
{
    for (const gpu_param &t : list_)
        KV_TRY(gpu_copy_up(device + t.at, host + t.host_at, (size_t)t.n() * sizeof(float), stream));
    return gpu_stream_finish(stream);
}

kv_status gpu_params::down(float *host, const float *device, cudaStream_t stream) const
{
    for (const gpu_param &t : list_)
        KV_TRY(gpu_copy_down(host + t.host_at, device + t.at, (size_t)t.n() * sizeof(float), stream));
    return gpu_stream_finish(stream);
}
