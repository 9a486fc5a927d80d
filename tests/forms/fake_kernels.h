/* fake_kernels.h - kernels of modules as host functions, for fake_cuda.c: what a launch of them does, block by block. They take
 * their parameters as a driver does, and only as much of the block's threads and of its shared memory as the launch gave. */
#include "kvdiff_kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 32, ILLEGAL_ADDRESS = 700 };

typedef struct block {
    unsigned x, y, rows_y; /* blockIdx, gridDim.y */
    unsigned threads;
    float *shared;
    size_t shared_bytes;
    void **p; /* the parameters */
} block;

#define ARG(type, i) (*(type *)b->p[i])

static int has_lane(const block *b, long long i) { return i % LANES < b->threads; }

static float load(const void *p, long long i, int type)
{
    const unsigned h = type == KVDK_F32 ? 0 : ((const uint16_t *)p)[i], sign = h << 16 & 0x80000000u, exponent = h >> 10 & 31;
    unsigned bits = h << 16;
    float value;
    if (type == KVDK_F32) return ((const float *)p)[i];
    if (type == KVDK_F16 && exponent == 0) return ldexpf((float)(h & 1023), -24) * (sign ? -1.0f : 1.0f);
    if (type == KVDK_F16) bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | (h & 1023) << 13;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- examples/ptx/attention.cu ------------------------------------------------------------------------------------- */

static int attend_begin(const block *b)
{
    float *o = ARG(float *, 0) + b->x * ARG(long long, 1) + b->y * ARG(long long, 2);
    for (int d = 0; d < ARG(int, 3); d++)
        if (has_lane(b, d)) o[d] = 0;
    ARG(float *, 4)[b->x * b->rows_y + b->y] = -INFINITY;
    ARG(float *, 5)[b->x * b->rows_y + b->y] = 0;
    return 0;
}

static float score_of(const block *b, long long i, long long head)
{
    const unsigned char *valid = ARG(const unsigned char *, 11);
    float sum = 0;
    if (!has_lane(b, i) || (valid && !valid[i])) return -INFINITY;
    for (int d = 0; d < ARG(int, 14); d++)
        sum += b->shared[d] * load(ARG(void *, 3), i * ARG(long long, 4) + head * ARG(long long, 5) + d, ARG(int, 9));
    return sum * ARG(float, 16);
}

/* lost: how many entries of a last tile that holds only so many are not seen. */
static int attend_entries(const block *b, int lost)
{
    const int hd = ARG(int, 14);
    const long long head = b->y / (unsigned)ARG(int, 15), n = ARG(int, 13) ? (long long)b->x + 1 : ARG(int, 12);
    const float *q = ARG(const float *, 0) + b->x * ARG(long long, 1) + b->y * ARG(long long, 2);
    float *o = ARG(float *, 17) + b->x * ARG(long long, 18) + b->y * ARG(long long, 19);
    float *max = ARG(float *, 20) + b->x * b->rows_y + b->y, *sum = ARG(float *, 21) + b->x * b->rows_y + b->y;
    if ((size_t)hd * sizeof(float) > b->shared_bytes) return ILLEGAL_ADDRESS;
    memcpy(b->shared, q, (size_t)hd * sizeof(float));
    const long long end = n > LANES && n % LANES <= lost && n % LANES > 0 ? n - n % LANES : n;
    for (long long i = 0; i < end; i++) {
        const float score = score_of(b, i, head), most = fmaxf(*max, score);
        if (most == -INFINITY) continue;
        const float weight = expf(score - most), shrink = expf(*max - most);
        for (int d = 0; d < hd; d++)
            if (has_lane(b, d))
                o[d] = o[d] * shrink +
                       (weight > 0 ? weight * load(ARG(void *, 6), i * ARG(long long, 7) + head * ARG(long long, 8) + d, ARG(int, 10)) : 0);
        *sum = *sum * shrink + weight;
        *max = most;
    }
    return 0;
}

static int attend(const block *b) { return attend_entries(b, 0); }
static int attend_wrong(const block *b) { return attend_entries(b, 1); }

static int attend_end(const block *b)
{
    float *o = ARG(float *, 0) + b->x * ARG(long long, 1) + b->y * ARG(long long, 2);
    const float sum = ARG(float *, 5)[b->x * b->rows_y + b->y];
    for (int d = 0; d < ARG(int, 3); d++)
        if (has_lane(b, d)) o[d] = sum > 0 ? o[d] / sum : 0;
    if (ARG(float *, 6)) ARG(float *, 6)[b->y * ARG(long long, 7) + b->x] = ARG(float *, 4)[b->x * b->rows_y + b->y];
    if (ARG(float *, 8)) ARG(float *, 8)[b->y * ARG(long long, 9) + b->x] = sum;
    return 0;
}

/* ---- tests/forms/rmsnorm.kernel.json: the struct of the operation by value, then names ------------------------------- */

static int squares(const block *b)
{
    const kvdk_rmsnorm_args *a = (const kvdk_rmsnorm_args *)b->p[0];
    const float *x = (const float *)a->x.data + b->x * a->x.stride[0];
    float sum = 0;
    for (long long d = 0; d < a->D; d++)
        sum += x[d] * x[d];
    ARG(float *, 1)[b->x] = sum;
    return 0;
}

static int scale_rows(const block *b)
{
    const float *x = ARG(const float *, 0) + b->x * ARG(long long, 1), *weight = ARG(const float *, 2);
    float *y = ARG(float *, 3) + b->x * ARG(long long, 4);
    const float r = 1.0f / sqrtf(ARG(float *, 8)[b->x] / ARG(float, 6) + (float)ARG(double, 7));
    for (unsigned d = 0; d < ARG(unsigned, 5); d++)
        y[d] = x[d] * r * weight[d];
    return 0;
}

/* Whoever launches it has an error that sticks. */
static int crash(const block *b) { return (void)b, ILLEGAL_ADDRESS; }

typedef struct kernel {
    const char *name;
    int (*run)(const block *b); /* the error of the device, or 0 */
    int n;
    size_t bytes[24]; /* of the parameters */
    int fixed;        /* bytes of its own shared memory */
    int most;         /* of dynamic shared memory, as it was asked for */
} kernel;

#define ATTEND {8, 8, 8, 8, 8, 8, 8, 8, 8, 4, 4, 8, 4, 4, 4, 4, 4, 8, 8, 8, 8, 8}
static kernel kernels[] = {
    {"attend_begin", attend_begin, 6, {8, 8, 8, 4, 8, 8}, 0, 0},
    {"attend", attend, 22, ATTEND, 0, 0},
    {"attend_wrong", attend_wrong, 22, ATTEND, 0, 0},
    {"attend_end", attend_end, 10, {8, 8, 8, 4, 8, 8, 8, 8, 8, 8}, 0, 0},
    {"squares", squares, 2, {sizeof(kvdk_rmsnorm_args), 8}, 0, 0},
    {"scale_rows", scale_rows, 9, {8, 8, 8, 8, 8, 4, 4, 8, 8}, 1024, 0},
    {"crash", crash, 0, {0}, 0, 0},
};
