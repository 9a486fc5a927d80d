/* params.cuh - the parameters of a model as one array in device memory, in the order of common/golf.h, every tensor at a
 * multiple of 16 bytes; gradients, moments and averages are arrays of the same shape. On the host the tensors follow each
 * other without gaps. */
#ifndef GPU_TRAIN_PARAMS_CUH
#define GPU_TRAIN_PARAMS_CUH

#include "common/golf.h"
#include "gpu/kvdev.cuh"

#include <vector>

struct gpu_param {
    kv_role role;
    int32_t layer;
    kv_golf_group group;
    int64_t rows, cols;
    int64_t at;      /* in device arrays */
    int64_t host_at; /* in host arrays */

    int64_t n() const { return rows * cols; }
};

class gpu_params
{
public:
    void open(const kv_config &cfg);

    const std::vector<gpu_param> &all() const { return list_; }
    int64_t padded() const { return padded_; } /* numbers in a device array */
    int64_t total() const { return total_; }   /* numbers in a host array */

    /* A tensor's place in a device array; NULL where the model does not have it. */
    template <class T> T *in(T *array, kv_role role, int32_t layer = 0) const
    {
        const int32_t i = index_[(size_t)slot(role, layer)];
        return i < 0 ? nullptr : array + list_[(size_t)i].at;
    }

    kv_status up(float *device, const float *host, cudaStream_t stream) const;
    kv_status down(float *host, const float *device, cudaStream_t stream) const;

private:
    static int32_t slot(kv_role role, int32_t layer)
    {
        const int32_t first = KV_ROLE_GLOBAL_COUNT;
        return (int32_t)role < first ? (int32_t)role : first + layer * KV_ROLE_PER_LAYER + (int32_t)role - first;
    }

    std::vector<gpu_param> list_;
    std::vector<int32_t> index_; /* of a tensor by slot; -1: none */
    int64_t padded_ = 0, total_ = 0;
};

#endif
