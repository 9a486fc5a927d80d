/* machine.cu - whether this side can run here, and its options. */
#include "gpu/machine.cuh"

#include <algorithm>
#include <stdlib.h>
#include <string.h>
#include <string>

#ifdef GPU_SIMT
namespace
{
kv_status read_option(const char *word, gpu_options *out, bool *)
{
    char *end = nullptr;
    if (strncmp(word, "seed=", 5) == 0 && word[5] >= '0' && word[5] <= '9')
        out->seed = strtoull(word + 5, &end, 10);
    if (!end || *end)
        return kv_fail(KV_ERR_USAGE, "emu: unknown option '%.60s'; it knows seed=N", word);
    return KV_OK;
}

} // namespace

kv_status gpu_check_machine()
{
#    if defined(__AVX2__) && defined(__FMA__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return kv_fail(KV_ERR_DEVICE, "emu was built for processors with AVX2 and FMA; build it with "
                       "EMU_ISA= on this one");
#    endif
    return KV_OK;
}

static const bool NEEDS_MODE = false;
#else
namespace
{
kv_status read_option(const char *word, gpu_options *, bool *mode)
{
    if (strcmp(word, "exact") != 0)
        return kv_fail(KV_ERR_USAGE, "cuda: unknown option '%.60s'; it knows the mode exact", word);
    *mode = true;
    return KV_OK;
}

/* A device, and code for it: a kernel's attributes can only be had where its code runs. */
__global__ void gpu_k_probe() {}

} // namespace

kv_status gpu_check_machine()
{
    int n = 0;
    const cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n == 0) {
        (void)cudaGetLastError();
        return kv_fail(KV_ERR_DEVICE, "no CUDA device: %s",
                       e == cudaSuccess ? "the driver lists none" : cudaGetErrorString(e));
    }
    cudaFuncAttributes attributes;
    const cudaError_t code = cudaFuncGetAttributes(&attributes, gpu_k_probe);
    if (code != cudaSuccess) {
        (void)cudaGetLastError();
        return kv_fail(KV_ERR_DEVICE, "the CUDA device cannot run this build: %s; build for it with "
                       "CUDA_ARCH=sm_XY", cudaGetErrorString(code));
    }
    return KV_OK;
}

static const bool NEEDS_MODE = true;
#endif

kv_status gpu_read_options(const char *text, gpu_options *out)
{
    const std::string all = text ? text : "";
    bool mode = false;
    for (size_t at = 0; at < all.size();) {
        const size_t comma = std::min(all.find(',', at), all.size());
        KV_TRY(read_option(all.substr(at, comma - at).c_str(), out, &mode));
        at = comma + 1;
    }
    if (NEEDS_MODE && !mode) return kv_fail(KV_ERR_USAGE, "%s needs a mode: %s:exact", GPU_SIDE, GPU_SIDE);
    return KV_OK;
}
