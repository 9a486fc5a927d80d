/* Control of ptx_lint.sh: CUDA's expf contains ex2.approx whatever the flags say. */
__global__ void planted_expf(float *x) { x[0] = expf(x[1]); }
