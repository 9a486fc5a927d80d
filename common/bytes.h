/* bytes.h - whole numbers in little-endian files. */
#ifndef KV_COMMON_BYTES_H
#define KV_COMMON_BYTES_H

#include <stdint.h>

static inline void kv_put_le(uint8_t *p, int bytes, uint64_t x)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(x >> 8 * i);
}

static inline uint64_t kv_get_le(const uint8_t *p, int bytes)
{
    uint64_t x = 0;
    for (int i = 0; i < bytes; i++)
        x |= (uint64_t)p[i] << 8 * i;
    return x;
}

#endif
