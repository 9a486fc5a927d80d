/* door.cu - who this side is to include/kvdiff_kernel.h, and how tensors come in and out. */
#include "gpu/door/door.cuh"

#include "gpu/machine.cuh"

enum { THREADS = 128 };

/* ---- who it is ---- */

static void (*say)(const char *line);

uint32_t kvdk_abi_version(void) { return KVDK_ABI; }

void kvdk_describe(kvdk_info *info)
{
    info->name = GPU_SIDE;
    info->contract = KVDK_BITEXACT;
    info->determinism = KVDK_SAME_ROW;
#ifdef GPU_SIMT
    info->memory = KVDK_HOST;
#else
    info->memory = KVDK_CUDA;
#endif
}

static kv_status begin(int device)
{
    KV_TRY(gpu_check_machine());
#ifdef GPU_SIMT
    (void)device;
#else
    GPU_TRY(cudaSetDevice(device));
#endif
    return KV_OK;
}

int kvdk_init(const kvdk_host *host)
{
    say = host->log;
    return door_answer(begin(host->device));
}

void kvdk_shutdown(void) { say = nullptr; }

int door_answer(kv_status st)
{
    if (st != KV_OK && say) say(kv_message());
    return st == KV_ERR_UNSUPPORTED ? -1 : (int)st;
}

/* ---- tensors ---- */

kv_status door_refuse(const char *why) { return kv_fail(KV_ERR_UNSUPPORTED, "%s: %s", GPU_SIDE, why); }

kv_status door_extents(std::initializer_list<int64_t> extents)
{
    for (const int64_t n : extents)
        if (n < 1 || n > INT32_MAX) return door_refuse("kernels take extents from 1 to 2^31 - 1");
    return KV_OK;
}

size_t door_bytes(int32_t dtype)
{
    switch (dtype) {
    case KVDK_U8:
        return 1;
    case KVDK_F16:
    case KVDK_BF16:
        return 2;
    case KVDK_I64:
        return 8;
    default:
        return 4;
    }
}

kv_status door_expect(const kvdk_tensor &t, int32_t dtype, door_shape shape)
{
    size_t i = 0;
    if (!t.data) return kv_fail(KV_ERR_MISMATCH, "a tensor of the call is missing");
    if (t.dtype != dtype) return kv_fail(KV_ERR_MISMATCH, "a tensor of the call has type %d, not %d", t.dtype, dtype);
    for (const int64_t n : shape) {
        if (t.dim[i] != n)
            return kv_fail(KV_ERR_MISMATCH, "dimension %zu of a tensor is %lld where the call says %lld", i,
                           (long long)t.dim[i], (long long)n);
        i++;
    }
    return KV_OK;
}

kvdk_tensor door_tensor(const void *p, int32_t dtype, door_shape shape, std::initializer_list<int64_t> strides)
{
    kvdk_tensor t = {};
    size_t i = 0;
    t.data = const_cast<void *>(p);
    t.dtype = dtype;
    for (size_t d = 0; d < 4; d++) t.dim[d] = t.stride[d] = 1;
    for (const int64_t n : shape) t.dim[i++] = n;
    i = 0;
    for (const int64_t n : strides) t.stride[i++] = n;
    return t;
}

kvdk_tensor door_packed(const void *p, int32_t dtype, door_shape shape)
{
    kvdk_tensor t = door_tensor(p, dtype, shape, {});
    for (int d = 2; d >= 0; d--) t.stride[d] = t.stride[d + 1] * t.dim[d + 1];
    return t;
}

static int64_t count(const kvdk_tensor &t) { return t.dim[0] * t.dim[1] * t.dim[2] * t.dim[3]; }

/* Where a stride leads nowhere it may have any value. */
static bool has_gaps(const kvdk_tensor &t)
{
    int64_t expected = 1;
    for (int d = 3; d >= 0; d--) {
        if (t.dim[d] > 1 && t.stride[d] != expected) return true;
        expected *= t.dim[d];
    }
    return false;
}

/* ---- moving ---- */

/* One thread per element; whole numbers of the same size, so that no bit changes. */
template <class T> __global__ void gpu_k_door_copy(kvdk_tensor to, kvdk_tensor from, int64_t n)
{
    const int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (e >= n) return;
    int64_t rest = e, dst = 0, src = 0;
    GPU_UNROLL
    for (int d = 3; d >= 0; d--) {
        const int64_t i = rest % to.dim[d];
        rest /= to.dim[d];
        dst += i * to.stride[d];
        src += i * from.stride[d];
    }
    static_cast<T *>(to.data)[dst] = static_cast<const T *>(from.data)[src];
}

kv_status door::copy(const kvdk_tensor &to, const kvdk_tensor &from)
{
    const int64_t n = count(to);
    const dim3 grid(gpu_blocks(n, THREADS)), block(THREADS);
    if (n == 0) return KV_OK;
    switch (door_bytes(to.dtype)) {
    case 1:
        return GPU_LAUNCH_NOSYNC((gpu_k_door_copy<uint8_t>), grid, block, stream, to, from, n);
    case 2:
        return GPU_LAUNCH_NOSYNC((gpu_k_door_copy<uint16_t>), grid, block, stream, to, from, n);
    case 4:
        return GPU_LAUNCH_NOSYNC((gpu_k_door_copy<uint32_t>), grid, block, stream, to, from, n);
    default:
        return GPU_LAUNCH_NOSYNC((gpu_k_door_copy<uint64_t>), grid, block, stream, to, from, n);
    }
}

kv_status door::open()
{
    if (stream) return KV_OK;
    KV_TRY(gpu_stream_open(&own_.s, 0, 1));
    stream = own_.s;
    return KV_OK;
}

kv_status door::close()
{
    for (const result &r : results_) KV_TRY(copy(r.to, r.from));
    return gpu_stream_finish(stream);
}

kv_status door::allocate(size_t bytes, void **p)
{
    gpu_buffer<unsigned char> b;
    KV_TRY(b.reserve(bytes ? bytes : 1));
    *p = b.p;
    memory_.push_back(std::move(b));
    GPU_TRY(cudaMemsetAsync(*p, 0xff, bytes, stream));
    return KV_OK;
}

kv_status door::pack(const kvdk_tensor &t, int32_t dtype, door_shape shape, int how, void **p)
{
    KV_TRY(door_expect(t, dtype, shape));
    *p = t.data;
    if (!has_gaps(t)) return KV_OK;
    KV_TRY(allocate((size_t)count(t) * door_bytes(dtype), p));
    const kvdk_tensor own = door_packed(*p, dtype, {t.dim[0], t.dim[1], t.dim[2], t.dim[3]});
    if (how & READ) KV_TRY(copy(own, t));
    if (how & WRITE) results_.push_back({t, own});
    return KV_OK;
}
