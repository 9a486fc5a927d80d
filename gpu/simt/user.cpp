/* user.cpp - the stream of a candidate, and the first error of its call. */
#include "gpu/simt/user.h"

namespace simt
{
namespace
{
struct Noted {
    bool is_set;
    char text[500], told[500];
};
Noted noted;

/* A schedule that is not the plain one unless somebody asks for it: races show in few orders only. */
uint64_t seed()
{
    const char *const text = getenv("KVDK_SIMT_SEED");
    return text && *text ? strtoull(text, nullptr, 0) : 1;
}
} // namespace

cudaError_t user_note(cudaError_t error, const char *file, int line)
{
    if (error == cudaSuccess || noted.is_set) return error;
    noted.is_set = true;
    if (file)
        snprintf(noted.text, sizeof noted.text, "%s:%d: %s", file, line, cudaGetErrorString(error));
    else
        snprintf(noted.text, sizeof noted.text, "%s", cudaGetErrorString(error));
    return error;
}

cudaError_t user_stream_open(cudaStream_t *stream, unsigned flags)
{
    const cudaError_t e = (cudaStreamCreateWithFlags)(stream, flags);
    return e == cudaSuccess ? configure(*stream, seed(), 1) : e;
}

cudaStream_t user_stream()
{
    static cudaStream_t stream = nullptr;
    if (!stream) (void)user_stream_open(&stream, cudaStreamNonBlocking);
    return stream;
}

const char *user_finish()
{
    user_note(cudaStreamSynchronize(user_stream()), nullptr, 0);
    (void)cudaGetLastError();
    if (!noted.is_set) return nullptr;
    noted.is_set = false;
    memcpy(noted.told, noted.text, sizeof noted.told);
    return noted.told;
}

cudaError_t user_refuse(const char *what, const char *file, int line)
{
    return user_note(fail(cudaErrorInvalidResourceHandle, "%s: it works on the default stream; the work of a call belongs on the "
                          "stream that was passed to it", what), file, line);
}

cudaError_t user_copy(void *dst, const void *src, size_t bytes, cudaStream_t stream, const char *file, int line)
{
    if (!stream) return user_refuse("cudaMemcpyAsync without a stream", file, line);
    if (bytes) memmove(dst, src, bytes);
    return cudaSuccess;
}

cudaError_t user_set(void *dst, int byte, size_t bytes, cudaStream_t stream, const char *file, int line)
{
    if (!stream) return user_refuse("cudaMemsetAsync without a stream", file, line);
    if (bytes) memset(dst, byte, bytes);
    return cudaSuccess;
}
} // namespace simt
