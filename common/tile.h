/* tile.h - layouts of coded K and V: the records of storages kvarn and kivi (docs/policy/kvarn.md, kivi.md).
 *
 * Codes of b bits stand in rows, one bit stream per row, lowest bits first: code k of a row begins at bit k * b.
 * Every row fills whole bytes. Numbers are little endian. Layouts are shared by all sides; codes and scales
 * are each side's own work. */
#ifndef KV_COMMON_TILE_H
#define KV_COMMON_TILE_H

#include "common/mutant.h"
#include "common/policy.h"

#include <stdint.h>

/* Byte offsets inside the record of one kvarn tile of one KV head, T tokens by D channels. */
typedef struct kv_kvarn_layout {
    int32_t T, D;
    int32_t v_group, v_groups; /* channels that share scale and zero of a token; D / v_group */
    int32_t k_row, v_row;      /* bytes of a row of codes: K per channel, V per token */
    int32_t k_codes;           /* [D][k_row] */
    int32_t k_scale, k_zero;   /* [D] fp16 */
    int32_t k_col;             /* [T] fp16, scale of a token */
    int32_t v_codes;           /* [T][v_row] */
    int32_t v_col;             /* [D] fp16, scale of a channel */
    int32_t v_scale, v_zero;   /* [T][v_groups] fp16 */
    int32_t bytes;
} kv_kvarn_layout;

/* Byte offsets inside the two kinds of kivi records of one KV head. */
typedef struct kv_kivi_layout {
    int32_t R, D, G;
    int32_t k_row;             /* bytes of the R codes of a channel */
    int32_t k_scale, k_min;    /* [D][R / G] fp32; codes [D][k_row] at 0 */
    int32_t k_bytes;           /* of a block of R tokens */
    int32_t v_scale, v_min;    /* [D / G] fp32; D codes at 0, padded to 4 bytes */
    int32_t v_bytes;           /* of one token */
} kv_kivi_layout;

/* kivi's V rows are cache entries of their own: original index + this. */
#define KV_KIVI_V (INT64_C(1) << 62)

KV_HD uint32_t kv_code_get(const uint8_t *row, int32_t k, int32_t bits)
{
    const int32_t at = k * bits, shift = KV_MUT(M26, bits == 4 ? at % 8 ^ 4 : at % 8, at % 8);
    uint32_t v = row[at / 8];
    if (shift + bits > 8) v |= (uint32_t)row[at / 8 + 1] << 8;
    return v >> shift & ((1u << bits) - 1);
}

/* The row must be zero where the code goes. */
KV_HD void kv_code_put(uint8_t *row, int32_t k, int32_t bits, uint32_t code)
{
    const int32_t at = k * bits, shift = at % 8;
    const uint32_t v = code << shift;
    row[at / 8] = (uint8_t)(row[at / 8] | v);
    if (shift + bits > 8) row[at / 8 + 1] = (uint8_t)(row[at / 8 + 1] | v >> 8);
}

KV_EXTERN_C_BEGIN

kv_kvarn_layout kv_kvarn_layout_of(const kv_kvarn_params *p, int32_t head_dim);
kv_kivi_layout kv_kivi_layout_of(const kv_kivi_params *p, int32_t head_dim);

/* Bytes of one value outside tiles: 2 for f16 and bf16, else 4. */
int32_t kv_storage_value_bytes(int32_t storage);

KV_EXTERN_C_END

#endif
