#include "difftest/ops/cu_refused.h"

#include <string.h>

#define HALVES   "16-bit types of CUDA are not modelled; widen the bits with integer code (examples/cuda/attention.cu)"
#define PTX      "inline PTX cannot run on a CPU; put it under #ifndef KVDK_SIMT, with C++ in the #else"
#define TEXTURES "textures are not modelled; read through pointers"
#define SURFACES "surfaces are not modelled; read and write through pointers"
#define GROUPS   "cooperative groups are not modelled; use __syncthreads, __syncwarp and shuffles"

static const struct {
    const char *word, *why;
    int is_beginning;
} refused[] = {
    {"asm", PTX, 0},
    {"__asm", PTX, 1},
    {"cooperative_groups", GROUPS, 0},
    {"nvcuda", "tensor cores (wmma) are not modelled", 0},
    {"wmma", "tensor cores (wmma) are not modelled", 0},
    {"cudaTextureObject_t", TEXTURES, 0},
    {"cudaSurfaceObject_t", SURFACES, 0},
    {"tex1D", TEXTURES, 1},
    {"tex2D", TEXTURES, 1},
    {"tex3D", TEXTURES, 1},
    {"surf2D", SURFACES, 1},
    {"__constant__", "__constant__ variables are not modelled; pass the values as an argument of the kernel", 0},
    {"__managed__", "__managed__ variables are not modelled; use the workspace of the call", 0},
    {"__half", HALVES, 1},
    {"__nv_bfloat16", HALVES, 1},
    {"nv_bfloat16", HALVES, 1},
    {"__activemask", "__activemask is not modelled; name the lanes that take part", 0},
    {"cudaLaunchKernel", "a launch by call is not modelled; write kernel<<<grid, block, shared, stream>>>(..)", 1},
    {"cudaLaunchCooperativeKernel", "cooperative launches are not modelled", 0},
    {"__cluster_dims__", "clusters of blocks are not modelled", 0},
};

const char *dt_cu_refused_word(const char *text, size_t at, size_t n)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const size_t m = strlen(refused[i].word);
        if (m <= n && memcmp(text + at, refused[i].word, m) == 0 && (m == n || refused[i].is_beginning))
            return refused[i].why;
    }
    return NULL;
}

static const struct {
    const char *path, *why;
} refused_headers[] = {
    {"cooperative_groups", GROUPS},
    {"mma.h", "tensor cores (wmma) are not modelled"},
    {"cuda_fp16", HALVES},
    {"cuda_bf16", HALVES},
    {"cuda_fp8", "8-bit types of CUDA are not modelled; widen the bits with integer code"},
    {"cuda_pipeline", "asynchronous copies to shared memory are not modelled"},
    {"cub/", "CUB is not modelled; write the loop"},
    {"thrust/", "Thrust is not modelled; write the loop"},
    {"cuda/", "libcu++ is not modelled"},
    {"cute/", "CuTe is not modelled"},
    {"cutlass/", "CUTLASS is not modelled"},
    {"cublas", "cuBLAS is not there on a CPU"},
    {"cudnn", "cuDNN is not there on a CPU"},
};

const char *dt_cu_refused_header(const char *text, size_t at, size_t end)
{
    for (size_t i = 0; i < sizeof refused_headers / sizeof *refused_headers; i++) {
        const size_t m = strlen(refused_headers[i].path);
        if (m <= end - at && memcmp(text + at, refused_headers[i].path, m) == 0) return refused_headers[i].why;
    }
    return NULL;
}
