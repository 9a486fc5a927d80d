/* hd.h - lets one header serve gcc and clang (C11), g++ (host SIMT layer) and nvcc.
 *
 * KV_HD marks a function that runs on the host and on a device. Its attributes must not depend on
 * __CUDA_ARCH__: nvcc parses every file once for the host and once per device architecture, and
 * both passes must see the same signature. */
#ifndef KV_COMMON_HD_H
#define KV_COMMON_HD_H

#if defined(__CUDACC__)
#    define KV_HD static __host__ __device__ __forceinline__
#elif defined(KV_COUNT_BRANCHES) /* make ops-coverage: a branch belongs to the function that it is written in */
#    define KV_HD static inline __attribute__((unused))
#else
#    define KV_HD static inline __attribute__((always_inline, unused))
#endif

#ifdef __cplusplus
#    define KV_STATIC_ASSERT(cond, msg) static_assert(cond, msg)
#    define KV_EXTERN_C_BEGIN           extern "C" {
#    define KV_EXTERN_C_END             }
#else
#    define KV_STATIC_ASSERT(cond, msg) _Static_assert(cond, msg)
#    define KV_EXTERN_C_BEGIN
#    define KV_EXTERN_C_END
#endif

#if defined(__GNUC__)
#    define KV_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#    define KV_PRINTF(fmt, first)
#endif

#endif
