/* rng.h - counter-based random numbers: the same on every machine, in any order, from any thread.
 *
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011). Known answers (Random123's kat_vectors), checked by tests/unit/test_rng.c:
 *   counter 0 0 0 0                             key 0 0               -> 6627e8d5 e169c58d bc57ac4c 9b00dbd8
 *   counter ffffffff x4                         key ffffffff ffffffff -> 408f276d 41c83b0e a20bc7c6 6d5451fd
 *   counter 243f6a88 85a308d3 13198a2e 03707344 key a4093822 299f31d0 -> d16cfe09 94fdcceb 5001e420 24126ea1
 *
 * splitmix64 (Steele, Lea, Flood, OOPSLA 2014) serves where one 64-bit word per key is enough. */
#ifndef KV_COMMON_RNG_H
#define KV_COMMON_RNG_H

#include "common/hd.h"

#include <stdint.h>

typedef struct kv_philox_block {
    uint32_t v[4];
} kv_philox_block;

KV_HD kv_philox_block kv_philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0,
                                uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const kv_philox_block out = {{c0, c1, c2, c3}};
    return out;
}

/* Word i of the stream (seed, stream): block i / 4, lane i % 4. */
KV_HD uint32_t kv_philox_word(uint64_t seed, uint64_t stream, uint64_t i)
{
    const uint64_t b = i / 4;
    const kv_philox_block w = kv_philox((uint32_t)b, (uint32_t)(b >> 32), (uint32_t)stream,
                                        (uint32_t)(stream >> 32), (uint32_t)seed,
                                        (uint32_t)(seed >> 32));
    return w.v[i % 4];
}

/* Uniform integer in [0, n) from word i, without division bias that matters (n < 2^31):
 * the high half of a 32 x 32 bit product. */
KV_HD uint32_t kv_philox_below(uint64_t seed, uint64_t stream, uint64_t i, uint32_t n)
{
    return (uint32_t)(((uint64_t)kv_philox_word(seed, stream, i) * n) >> 32);
}

/* The finalizer of splitmix64 applied to key + golden gamma. */
KV_HD uint64_t kv_splitmix64(uint64_t key)
{
    uint64_t z = key + UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

#endif
