/* init.cuh - first weights from a seed (docs/training.md, "First weights"). */
#ifndef GPU_TRAIN_INIT_CUH
#define GPU_TRAIN_INIT_CUH

#include "gpu/train/params.cuh"

/* w: gpu_params::total numbers on the host. */
void gpu_first_weights(const kv_config &cfg, const gpu_params &params, uint64_t seed, float *w);

#endif
