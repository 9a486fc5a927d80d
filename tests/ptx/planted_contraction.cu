/* Control of ptx_lint.sh: bare operators, which nvcc may contract. */
__global__ void planted_contraction(float *x)
{
    x[0] = x[0] * x[1] + x[2];
    x[3] = x[3] + x[4];
}
