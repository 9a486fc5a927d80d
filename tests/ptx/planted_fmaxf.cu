/* Control of ptx_lint.sh: maxima of floats disagree about the sign of zero. */
__global__ void planted_fmaxf(float *x) { x[0] = fmaxf(x[0], x[1]); }
