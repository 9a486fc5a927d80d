/* user_math.h - part of user.h: vectors, functions and atomics of CUDA's device code.
 *
 * Fast intrinsics have the results of libm here, which are more exact than a GPU's. Atomics need no lock: the threads of a
 * launch run in turn; the order in which they come is that of the schedule. */
#ifndef GPU_SIMT_USER_MATH_H
#define GPU_SIMT_USER_MATH_H

/* ---- vectors ---------------------------------------------------------------------------------------------------------- */

#define SIMT_VECTORS(T, name, align2, align4)                                                                          \
    struct name##1 { T x; };                                                                                           \
    struct name##3 { T x, y, z; };                                                                                     \
    inline name##1 make_##name##1(T x) { return {x}; }                                                                 \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }
#define SIMT_VECTORS_EVEN(T, name, align2, align4)                                                                     \
    struct alignas(align2) name##2 { T x, y; };                                                                        \
    struct alignas(align4) name##4 { T x, y, z, w; };
#define SIMT_MAKE_EVEN(T, name)                                                                                        \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                         \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define SIMT_ALL_VECTORS(T, name, align2, align4)                                                                      \
    SIMT_VECTORS(T, name, align2, align4)                                                                              \
    SIMT_VECTORS_EVEN(T, name, align2, align4)                                                                         \
    SIMT_MAKE_EVEN(T, name)

SIMT_VECTORS(float, float, 8, 16)
SIMT_MAKE_EVEN(float, float)
SIMT_ALL_VECTORS(int, int, 8, 16)
SIMT_ALL_VECTORS(unsigned, uint, 8, 16)
SIMT_ALL_VECTORS(short, short, 4, 8)
SIMT_ALL_VECTORS(unsigned short, ushort, 4, 8)
SIMT_ALL_VECTORS(signed char, char, 2, 4)
SIMT_ALL_VECTORS(unsigned char, uchar, 2, 4)
SIMT_ALL_VECTORS(double, double, 16, 16)
SIMT_ALL_VECTORS(long long, longlong, 16, 16)
SIMT_ALL_VECTORS(unsigned long long, ulonglong, 16, 16)

/* ---- functions ---------------------------------------------------------------------------------------------------------- */

namespace simt
{
template <class A, class B> using common_number = typename std::common_type<A, B>::type;
}

/* As in CUDA: of a number and a NaN the number. */
template <class A, class B> constexpr simt::common_number<A, B> max(A a, B b)
{
    typedef simt::common_number<A, B> T;
    return (T)a != (T)a ? (T)b : (T)b > (T)a ? (T)b : (T)a;
}
template <class A, class B> constexpr simt::common_number<A, B> min(A a, B b)
{
    typedef simt::common_number<A, B> T;
    return (T)a != (T)a ? (T)b : (T)b < (T)a ? (T)b : (T)a;
}

inline float simt_rsqrtf(float x) { return 1.0f / sqrtf(x); }
#define rsqrtf(x) simt_rsqrtf(x) /* newer C libraries have it */
inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

/* The C library has these names declared for itself. */
#define __expf(x)    expf(x)
#define __exp10f(x)  powf(10.0f, (x))
#define __logf(x)    logf(x)
#define __log2f(x)   log2f(x)
#define __log10f(x)  log10f(x)
#define __powf(x, y) powf((x), (y))
#define __sinf(x)    sinf(x)
#define __cosf(x)    cosf(x)
#define __tanf(x)    tanf(x)

template <class To, class From> To simt_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline int __float_as_int(float x) { return simt_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return simt_bits<unsigned>(x); }
inline float __int_as_float(int x) { return simt_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return simt_bits<float>(x); }
inline long long __double_as_longlong(double x) { return simt_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return simt_bits<double>(x); }
inline int __float2int_rn(float x) { return (int)lrintf(x); }
inline int __float2int_rz(float x) { return (int)x; }
inline float __int2float_rn(int x) { return (float)x; }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
inline int __mul24(int a, int b) { return a * b; }

template <class T> T __ldg(const T *p) { return *p; }
template <class T> T __ldca(const T *p) { return *p; }
template <class T> T __ldcg(const T *p) { return *p; }
template <class T> T __ldcs(const T *p) { return *p; }
template <class T> void __stcg(T *p, T v) { *p = v; }
template <class T> void __stcs(T *p, T v) { *p = v; }

inline void __threadfence() {}
inline void __threadfence_block() {}

/* ---- atomics ------------------------------------------------------------------------------------------------------------- */

namespace simt
{
template <class T, class F> T exchange(T *p, F next)
{
    const T old = *p;
    *p = next(old);
    return old;
}
} // namespace simt

#define SIMT_ATOMIC(name, T, expression)                                                                               \
    inline T name(T *p, T v)                                                                                           \
    {                                                                                                                  \
        return simt::exchange(p, [v](T old) -> T { return expression; });                                              \
    }
#define SIMT_ATOMICS_WHOLE(T)                                                                                          \
    SIMT_ATOMIC(atomicSub, T, old - v)                                                                                 \
    SIMT_ATOMIC(atomicExch, T, ((void)old, v))                                                                         \
    SIMT_ATOMIC(atomicMin, T, v < old ? v : old)                                                                       \
    SIMT_ATOMIC(atomicAnd, T, old & v)                                                                                 \
    SIMT_ATOMIC(atomicOr, T, old | v)                                                                                  \
    SIMT_ATOMIC(atomicXor, T, old ^ v)
#define SIMT_ATOMICS_MORE(T)                                                                                           \
    SIMT_ATOMIC(atomicAdd, T, old + v)                                                                                 \
    SIMT_ATOMIC(atomicMax, T, v > old ? v : old)                                                                       \
    inline T atomicCAS(T *p, T expected, T desired)                                                                    \
    {                                                                                                                  \
        return simt::exchange(p, [=](T old) -> T { return old == expected ? desired : old; });                         \
    }

SIMT_ATOMICS_WHOLE(int)
SIMT_ATOMICS_WHOLE(unsigned)
SIMT_ATOMICS_MORE(unsigned)
SIMT_ATOMICS_WHOLE(unsigned long long)
SIMT_ATOMICS_MORE(unsigned long long)
SIMT_ATOMIC(atomicAdd, float, old + v)
SIMT_ATOMIC(atomicExch, float, ((void)old, v))
SIMT_ATOMIC(atomicAdd, double, old + v)

#endif
