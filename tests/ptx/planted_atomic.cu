/* Control of ptx_lint.sh: float atomics have no order. */
__global__ void planted_atomic(float *x) { atomicAdd(x, 1.0f); }
