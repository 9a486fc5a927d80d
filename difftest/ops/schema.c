#include "difftest/ops/schema.h"

#include <string.h>

#define INT(type, field)          {#field, offsetof(type, field), 0}
#define REAL(type, field)         {#field, offsetof(type, field), 1}
#define TENSOR(type, field, role) {#field, offsetof(type, field), role}

#define SEGMENT_KINDS(type)                                      \
    {"segment0.kind", offsetof(type, segment[0].kind), 0},       \
        {"segment1.kind", offsetof(type, segment[1].kind), 0},   \
        {"segment2.kind", offsetof(type, segment[2].kind), 0}
#define SEGMENT(type, i)                                         \
    {"segment" #i ".k", offsetof(type, segment[i].k), DT_IN},    \
        {"segment" #i ".v", offsetof(type, segment[i].v), DT_IN}, \
        {"segment" #i ".valid", offsetof(type, segment[i].valid), DT_IN}

static const dt_op_param rmsnorm_params[] = {
    INT(kvdk_rmsnorm_args, T),
    INT(kvdk_rmsnorm_args, D),
    REAL(kvdk_rmsnorm_args, eps),
};
static const dt_op_slot rmsnorm_tensors[] = {
    TENSOR(kvdk_rmsnorm_args, x, DT_IN),
    TENSOR(kvdk_rmsnorm_args, residual, DT_INOUT),
    TENSOR(kvdk_rmsnorm_args, weight, DT_IN),
    TENSOR(kvdk_rmsnorm_args, y, DT_OUT),
};

static const dt_op_param gemm_params[] = {
    INT(kvdk_gemm_args, M),
    INT(kvdk_gemm_args, N),
    INT(kvdk_gemm_args, K),
    INT(kvdk_gemm_args, epilogue),
};
static const dt_op_slot gemm_tensors[] = {
    TENSOR(kvdk_gemm_args, a, DT_IN),
    TENSOR(kvdk_gemm_args, w, DT_IN),
    TENSOR(kvdk_gemm_args, bias, DT_IN),
    TENSOR(kvdk_gemm_args, c, DT_INOUT), /* read by KVDK_ADD only */
};

static const dt_op_param rope_params[] = {
    INT(kvdk_rope_args, T),  INT(kvdk_rope_args, H), INT(kvdk_rope_args, hd),
    INT(kvdk_rope_args, rd), INT(kvdk_rope_args, P), INT(kvdk_rope_args, pairing),
};
static const dt_op_slot rope_tensors[] = {
    TENSOR(kvdk_rope_args, x, DT_INOUT),
    TENSOR(kvdk_rope_args, pos, DT_IN),
    TENSOR(kvdk_rope_args, cos, DT_IN),
    TENSOR(kvdk_rope_args, sin, DT_IN),
};

static const dt_op_param attn_params[] = {
    INT(kvdk_attn_args, T),
    INT(kvdk_attn_args, Hq),
    INT(kvdk_attn_args, Hk),
    INT(kvdk_attn_args, hd),
    INT(kvdk_attn_args, n_segments),
    REAL(kvdk_attn_args, scale),
    SEGMENT_KINDS(kvdk_attn_args),
};
static const dt_op_slot attn_tensors[] = {
    TENSOR(kvdk_attn_args, q, DT_IN),
    SEGMENT(kvdk_attn_args, 0),
    SEGMENT(kvdk_attn_args, 1),
    SEGMENT(kvdk_attn_args, 2),
    TENSOR(kvdk_attn_args, o, DT_OUT),
    TENSOR(kvdk_attn_args, row_max, DT_OUT),
    TENSOR(kvdk_attn_args, row_sum, DT_OUT),
};

static const dt_op_param colsum_params[] = {
    INT(kvdk_colsum_args, T),
    INT(kvdk_colsum_args, Hq),
    INT(kvdk_colsum_args, Hk),
    INT(kvdk_colsum_args, hd),
    INT(kvdk_colsum_args, n_segments),
    REAL(kvdk_colsum_args, scale),
    SEGMENT_KINDS(kvdk_colsum_args),
};
static const dt_op_slot colsum_tensors[] = {
    TENSOR(kvdk_colsum_args, q, DT_IN),
    SEGMENT(kvdk_colsum_args, 0),
    SEGMENT(kvdk_colsum_args, 1),
    SEGMENT(kvdk_colsum_args, 2),
    TENSOR(kvdk_colsum_args, row_max, DT_IN),
    TENSOR(kvdk_colsum_args, row_sum, DT_IN),
    TENSOR(kvdk_colsum_args, weights, DT_IN),
    TENSOR(kvdk_colsum_args, colsum, DT_OUT),
};

static const dt_op_param append_params[] = {
    INT(kvdk_append_args, n),
    INT(kvdk_append_args, cap),
    INT(kvdk_append_args, Hk),
    INT(kvdk_append_args, hd),
};
static const dt_op_slot append_tensors[] = {
    TENSOR(kvdk_append_args, k, DT_IN),
    TENSOR(kvdk_append_args, v, DT_IN),
    TENSOR(kvdk_append_args, k_cache, DT_INOUT),
    TENSOR(kvdk_append_args, v_cache, DT_INOUT),
    TENSOR(kvdk_append_args, ring, DT_INOUT),
};

static const dt_op_param plan_params[] = {
    INT(kvdk_plan_args, G),      INT(kvdk_plan_args, T),     INT(kvdk_plan_args, sinks), INT(kvdk_plan_args, W),
    INT(kvdk_plan_args, levels), INT(kvdk_plan_args, eager), INT(kvdk_plan_args, seen),
};
static const dt_op_slot plan_tensors[] = {
    TENSOR(kvdk_plan_args, score, DT_IN),    TENSOR(kvdk_plan_args, new_score, DT_IN),
    TENSOR(kvdk_plan_args, og, DT_IN),       TENSOR(kvdk_plan_args, rings, DT_INOUT),
    TENSOR(kvdk_plan_args, src, DT_OUT),     TENSOR(kvdk_plan_args, dropped, DT_OUT),
};

static const dt_op_param move_params[] = {
    INT(kvdk_move_args, G),
    INT(kvdk_move_args, S),
    INT(kvdk_move_args, T),
    INT(kvdk_move_args, hd),
};
static const dt_op_slot move_tensors[] = {
    TENSOR(kvdk_move_args, src, DT_IN),
    TENSOR(kvdk_move_args, k, DT_IN),
    TENSOR(kvdk_move_args, v, DT_IN),
    TENSOR(kvdk_move_args, k_cache, DT_INOUT),
    TENSOR(kvdk_move_args, v_cache, DT_INOUT),
};

static const dt_op_param tile_params[] = {
    INT(kvdk_tile_args, format), INT(kvdk_tile_args, tile),  INT(kvdk_tile_args, hd),    INT(kvdk_tile_args, kbits),
    INT(kvdk_tile_args, vbits),  INT(kvdk_tile_args, iters), INT(kvdk_tile_args, group),
};
static const dt_op_slot tile_tensors[] = {
    TENSOR(kvdk_tile_args, k, DT_IN),
    TENSOR(kvdk_tile_args, v, DT_IN),
    TENSOR(kvdk_tile_args, record, DT_OUT),
};

static const dt_op_param attn_quant_params[] = {
    INT(kvdk_attn_quant_args, Hq),    INT(kvdk_attn_quant_args, Hk),    INT(kvdk_attn_quant_args, hd),
    INT(kvdk_attn_quant_args, tiles), INT(kvdk_attn_quant_args, tail),  INT(kvdk_attn_quant_args, tile),
    INT(kvdk_attn_quant_args, kbits), INT(kvdk_attn_quant_args, vbits), REAL(kvdk_attn_quant_args, scale),
};
static const dt_op_slot attn_quant_tensors[] = {
    TENSOR(kvdk_attn_quant_args, q, DT_IN),
    TENSOR(kvdk_attn_quant_args, records, DT_IN),
    TENSOR(kvdk_attn_quant_args, tail_k, DT_IN),
    TENSOR(kvdk_attn_quant_args, tail_v, DT_IN),
    TENSOR(kvdk_attn_quant_args, o, DT_OUT),
};

static const dt_op_param nll_params[] = {
    INT(kvdk_nll_args, T),
    INT(kvdk_nll_args, D),
    INT(kvdk_nll_args, V),
    REAL(kvdk_nll_args, softcap),
};
static const dt_op_slot nll_tensors[] = {
    TENSOR(kvdk_nll_args, h, DT_IN),        TENSOR(kvdk_nll_args, w, DT_IN),
    TENSOR(kvdk_nll_args, target, DT_IN),   TENSOR(kvdk_nll_args, nll, DT_OUT),
    TENSOR(kvdk_nll_args, row_max, DT_OUT), TENSOR(kvdk_nll_args, row_sum, DT_OUT),
};

static const dt_op_param topk_params[] = {
    INT(kvdk_topk_args, R),
    INT(kvdk_topk_args, V),
    INT(kvdk_topk_args, k),
};
static const dt_op_slot topk_tensors[] = {
    TENSOR(kvdk_topk_args, z, DT_IN),
    TENSOR(kvdk_topk_args, index, DT_OUT),
    TENSOR(kvdk_topk_args, value, DT_OUT),
};

#define N(a) (int)(sizeof(a) / sizeof *(a))
#define OP(op, type, fields) \
    [KVDK_OP_##op] = {#op, sizeof(type), fields##_params, N(fields##_params), fields##_tensors, N(fields##_tensors)}

const dt_op_schema dt_op_schemas[KVDK_OP_COUNT] = {
    OP(rmsnorm, kvdk_rmsnorm_args, rmsnorm),
    OP(gemm, kvdk_gemm_args, gemm),
    OP(rope, kvdk_rope_args, rope),
    OP(attn_prefill, kvdk_attn_args, attn),
    OP(attn_decode, kvdk_attn_args, attn),
    OP(attn_colsum, kvdk_colsum_args, colsum),
    OP(window_append, kvdk_append_args, append),
    OP(cascade_plan, kvdk_plan_args, plan),
    OP(cascade_move, kvdk_move_args, move),
    OP(kv_quant_tile, kvdk_tile_args, tile),
    OP(attn_quant, kvdk_attn_quant_args, attn_quant),
    OP(logits_nll, kvdk_nll_args, nll),
    OP(topk, kvdk_topk_args, topk),
};
KV_STATIC_ASSERT(sizeof attn_tensors / sizeof *attn_tensors <= DT_OP_TENSORS &&
                     sizeof colsum_tensors / sizeof *colsum_tensors <= DT_OP_TENSORS,
                 "raise DT_OP_TENSORS");

/* FNV-1a; the sign is left out, as JSON has it signed. */
static uint64_t mix(uint64_t h, const char *name, size_t number)
{
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    return (h ^ number) * 0x100000001b3u;
}

int64_t dt_schema_print(void)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < KVDK_OP_COUNT; i++) {
        const dt_op_schema *s = &dt_op_schemas[i];
        h = mix(h, s->name, s->size);
        for (int k = 0; k < s->n_params; k++)
            h = mix(h, s->params[k].name, s->params[k].offset);
        for (int k = 0; k < s->n_tensors; k++)
            h = mix(h, s->tensors[k].name, s->tensors[k].offset);
    }
    return (int64_t)(h >> 1);
}

int dt_op_find(const char *name)
{
    for (int i = 0; i < KVDK_OP_COUNT; i++)
        if (strcmp(dt_op_schemas[i].name, name) == 0) return i;
    return -1;
}

static const struct {
    const char *name;
    size_t bytes;
} dtypes[KVDK_DTYPES] = {
    [KVDK_F32] = {"f32", 4}, [KVDK_F16] = {"f16", 2}, [KVDK_BF16] = {"bf16", 2},
    [KVDK_I32] = {"i32", 4}, [KVDK_I64] = {"i64", 8}, [KVDK_U8] = {"u8", 1},
};

size_t dt_dtype_bytes(int32_t dtype) { return dtypes[dtype].bytes; }
const char *dt_dtype_name(int32_t dtype) { return dtypes[dtype].name; }

int dt_dtype_find(const char *name)
{
    for (int i = 0; i < KVDK_DTYPES; i++)
        if (strcmp(dtypes[i].name, name) == 0) return i;
    return -1;
}

int64_t dt_tensor_count(const kvdk_tensor *t)
{
    return t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3];
}

int64_t dt_tensor_extent(const kvdk_tensor *t)
{
    int64_t last = 0;
    if (dt_tensor_count(t) == 0) return 0;
    for (int i = 0; i < 4; i++)
        last += (t->dim[i] - 1) * t->stride[i];
    return last + 1;
}
