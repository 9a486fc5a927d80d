#include "common/tile.h"

/* The member of {32, 64, 128} that divides D and is nearest to min(128, max(32, D)). */
static int32_t value_group(int32_t D) { return D < 128 ? (D % 64 == 0 ? 64 : 32) : 128; }

kv_kvarn_layout kv_kvarn_layout_of(const kv_kvarn_params *p, int32_t D)
{
    kv_kvarn_layout l = {.T = p->tile, .D = D};
    l.v_group = value_group(D);
    l.v_groups = D / l.v_group;
    l.k_row = p->tile * p->kbits / 8;
    l.v_row = D * p->vbits / 8;
    int32_t at = D * l.k_row;
    l.k_scale = at;
    l.k_zero = at += 2 * D;
    l.k_col = at += 2 * D;
    l.v_codes = at += 2 * p->tile;
    l.v_col = at += p->tile * l.v_row;
    l.v_scale = at += 2 * D;
    l.v_zero = at += 2 * p->tile * l.v_groups;
    l.bytes = at + 2 * p->tile * l.v_groups;
    return l;
}

kv_kivi_layout kv_kivi_layout_of(const kv_kivi_params *p, int32_t D)
{
    kv_kivi_layout l = {.R = p->residual, .D = D, .G = p->group};
    l.k_row = p->residual * p->bits / 8;
    l.k_scale = (D * l.k_row + 3) / 4 * 4;
    l.k_min = l.k_scale + 4 * D * (p->residual / p->group);
    l.k_bytes = l.k_min + 4 * D * (p->residual / p->group);
    l.v_scale = (D * p->bits / 8 + 3) / 4 * 4;
    l.v_min = l.v_scale + 4 * (D / p->group);
    l.v_bytes = l.v_min + 4 * (D / p->group);
    return l;
}

int32_t kv_storage_value_bytes(int32_t storage)
{
    return storage == KV_STORE_F16 || storage == KV_STORE_BF16 ? 2 : 4;
}
