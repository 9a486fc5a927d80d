/* kvdiff_kernel.h - the interface of a candidate: single operations of a transformer with a KV cache, written by
 * you, verified by kvdiff. docs/verify-your-kernel.md goes through it in five steps.
 *
 * A candidate defines the functions of the operations that it has, and says who it is:
 *
 *     #include "kvdiff_kernel.h"
 *     KVDK_CANDIDATE("my-attention", KVDK_BOUNDED)
 *     int kvdk_attn_decode(const kvdk_attn_args *a, kvdk_stream stream) { ... return 0; }
 *
 * built with `cc -shared -fPIC -Wl,-Bsymbolic`. C++ and CUDA sources include the same header. PTX and cubins have no
 * such functions: a NAME.kernel.json says how they are launched (docs/candidates.md), in the names of this header. An
 * operation that has no function is UNSUPPORTED, which is never a pass.
 *
 * Every function returns 0 when it has done its work, a negative number when it does not support these arguments
 * (recorded as UNSUPPORTED), a positive one for an error. All memory is the tester's: inputs, outputs, workspace;
 * nothing is kept from one call to the next. Tensors that are not marked "in/out" or "out" below must not be written;
 * outputs are written in full. What the bits of an operation are stands in docs/numerics.md; KVDK_BITEXACT
 * candidates are held to them, KVDK_BOUNDED ones to an error bound derived from the inputs (docs/ops.md). */
#ifndef KVDIFF_KERNEL_H
#define KVDIFF_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#    define KVDK_API extern "C" __attribute__((visibility("default")))
extern "C" {
#else
#    define KVDK_API __attribute__((visibility("default")))
#endif

#define KVDK_ABI 1u

typedef enum kvdk_contract {
    KVDK_BITEXACT,   /* the bits of docs/numerics.md */
    KVDK_BOUNDED,    /* any order of summation; within the derived bound */
    KVDK_STATISTICAL /* neither: distributions only. Single operations cannot be judged then */
} kvdk_contract;

typedef enum kvdk_determinism {
    KVDK_NO_PROMISE,
    KVDK_SAME_CALL, /* the same call gives the same bits */
    KVDK_SAME_ROW   /* so does the same row in another batch, at other strides and addresses */
} kvdk_determinism;

typedef enum kvdk_dtype { KVDK_F32, KVDK_F16, KVDK_BF16, KVDK_I32, KVDK_I64, KVDK_U8, KVDK_DTYPES } kvdk_dtype;

typedef enum kvdk_memory {
    KVDK_HOST, /* pointers are host memory; stream is NULL */
    KVDK_CUDA  /* pointers are device memory; work belongs on `stream`, a non-blocking CUstream */
} kvdk_memory;

typedef void *kvdk_stream;

/* Precision of intermediate values, where it is less than fp32: widens the bound, and is printed with the verdict. */
typedef struct kvdk_precision {
    int32_t scores, probabilities, accumulators; /* kvdk_dtype; 0 = KVDK_F32 */
} kvdk_precision;

typedef struct kvdk_info {
    uint32_t size;       /* sizeof(kvdk_info) of the header that you compiled against */
    const char *name;    /* up to 60 printable characters without '|' */
    int32_t contract;    /* kvdk_contract */
    int32_t determinism; /* kvdk_determinism */
    int32_t memory;      /* kvdk_memory */
    kvdk_precision precision;
    int32_t fast_math; /* 1: built with relaxed arithmetic; a note for the report */
} kvdk_info;

/* An array of up to four dimensions; element (i, j, ..) is data[i * stride[0] + j * stride[1] + ..], the last stride
 * is 1. Dimensions that an operation does not have are 1. data = NULL: an optional tensor that is absent. */
typedef struct kvdk_tensor {
    void *data;
    int32_t dtype;     /* kvdk_dtype; KVDK_F32 unless the operation says more */
    int32_t read_only; /* 1: writing is an offence */
    int64_t dim[4], stride[4];
} kvdk_tensor;

/* First member of all arguments. */
typedef struct kvdk_call {
    uint32_t size;   /* of the arguments */
    uint32_t op;     /* kvdk_op */
    void *workspace; /* as many bytes as kvdk_workspace asked for, aligned to 256; contents undefined */
    uint64_t workspace_bytes;
} kvdk_call;

/* X(name, arguments) */
#define KVDK_OP_LIST(X)                 \
    X(rmsnorm, kvdk_rmsnorm_args)       \
    X(gemm, kvdk_gemm_args)             \
    X(rope, kvdk_rope_args)             \
    X(attn_prefill, kvdk_attn_args)     \
    X(attn_decode, kvdk_attn_args)      \
    X(attn_colsum, kvdk_colsum_args)    \
    X(window_append, kvdk_append_args)  \
    X(cascade_plan, kvdk_plan_args)     \
    X(cascade_move, kvdk_move_args)     \
    X(kv_quant_tile, kvdk_tile_args)    \
    X(attn_quant, kvdk_attn_quant_args) \
    X(logits_nll, kvdk_nll_args)        \
    X(topk, kvdk_topk_args)

typedef enum kvdk_op {
#define X(name, args) KVDK_OP_##name,
    KVDK_OP_LIST(X)
#undef X
        KVDK_OP_COUNT
} kvdk_op;

/* ---- operations: T rows or tokens, D model width, Hq query and Hk KV heads of hd values, V vocabulary ----------- */

/* y = x / sqrt(mean of squares + eps) * weight, row by row. With a residual: residual = residual + x first, and y of
 * that. */
typedef struct kvdk_rmsnorm_args {
    kvdk_call call;
    int64_t T, D;
    double eps;           /* an fp32 number */
    kvdk_tensor x;        /* [T][D] */
    kvdk_tensor residual; /* [T][D] in/out, or absent */
    kvdk_tensor weight;   /* [D] */
    kvdk_tensor y;        /* [T][D] out */
} kvdk_rmsnorm_args;

typedef enum kvdk_epilogue {
    KVDK_STORE,    /* c = product */
    KVDK_ADD,      /* c = c + product */
    KVDK_SILU_MUL, /* c = silu(g) * u; rows 0 .. N/2-1 of w give g, the others u */
    KVDK_RELU2     /* c = max(product, 0) squared */
} kvdk_epilogue;

/* product[m][n] = sum over k of a[m][k] * w[n][k], + bias[n] */
typedef struct kvdk_gemm_args {
    kvdk_call call;
    int64_t M, N, K;
    int64_t epilogue; /* kvdk_epilogue */
    kvdk_tensor a;    /* [M][K] */
    kvdk_tensor w;    /* [N][K] */
    kvdk_tensor bias; /* [N], or absent */
    kvdk_tensor c;    /* [M][N], of KVDK_SILU_MUL [M][N/2]; out, of KVDK_ADD in/out */
} kvdk_gemm_args;

typedef enum kvdk_pairing {
    KVDK_ADJACENT, /* pair i is (2i, 2i+1) */
    KVDK_HALF      /* pair i is (i, i + rd/2) */
} kvdk_pairing;

/* Rotates the first rd values of every head by row pos[t] of the tables; the others stay. */
typedef struct kvdk_rope_args {
    kvdk_call call;
    int64_t T, H, hd, rd, P;
    int64_t pairing;      /* kvdk_pairing */
    kvdk_tensor x;        /* [T][H][hd] in/out */
    kvdk_tensor pos;      /* int32 [T], 0 .. P-1 */
    kvdk_tensor cos, sin; /* [P][rd/2] */
} kvdk_rope_args;

typedef enum kvdk_segment_kind { KVDK_SINK, KVDK_CACHE, KVDK_SELF } kvdk_segment_kind;

/* A run of entries of the view. */
typedef struct kvdk_segment {
    int64_t kind;      /* kvdk_segment_kind */
    kvdk_tensor k, v;  /* [n][Hk][hd], fp32, f16 or bf16; n may be 0 */
    kvdk_tensor valid; /* u8 [n]: entries with 0 are dead, their K and V may hold NaN; absent: all are valid */
} kvdk_segment;

/* Attention of T new tokens. The view is the valid entries of the segments in order. The segment KVDK_SELF, if there
 * is one the last, holds the T tokens themselves: token t sees its entries 0 .. t. Query head h reads KV head
 * h / (Hq / Hk). attn_decode is attn_prefill with T <= 4. A row that sees nothing gives o = 0, row_max = -inf, row_sum
 * = 0. */
typedef struct kvdk_attn_args {
    kvdk_call call;
    int64_t T, Hq, Hk, hd;
    int64_t n_segments; /* 1 .. 3 */
    double scale;       /* of the scores; an fp32 number */
    kvdk_tensor q;      /* [T][Hq][hd] */
    kvdk_segment segment[3];
    kvdk_tensor o;       /* [T][Hq][hd] out */
    kvdk_tensor row_max; /* [Hq][T] out: largest score, or absent */
    kvdk_tensor row_sum; /* [Hq][T] out: sum of exp(score - row_max), or absent */
} kvdk_attn_args;

/* What every entry received: sum over the tokens that see it of weights[t] * p, p = exp(score - row_max) / row_sum.
 * Entries are numbered through all segments, dead ones included; these receive 0. */
typedef struct kvdk_colsum_args {
    kvdk_call call;
    int64_t T, Hq, Hk, hd;
    int64_t n_segments;
    double scale;
    kvdk_tensor q;
    kvdk_segment segment[3];      /* v is not given */
    kvdk_tensor row_max, row_sum; /* [Hq][T], of the attention that has run */
    kvdk_tensor weights;          /* [T], or absent: all count once */
    kvdk_tensor colsum;           /* [Hq][entries] out */
} kvdk_colsum_args;

/* n tokens into a ring of cap slots, one after the other: while count < cap into slot (start + count) % cap, count
 * grows; then over the oldest, slot start, and start moves on by one, round. */
typedef struct kvdk_append_args {
    kvdk_call call;
    int64_t n, cap, Hk, hd;
    kvdk_tensor k, v;             /* [n][Hk][hd] */
    kvdk_tensor k_cache, v_cache; /* [cap][Hk][hd] in/out */
    kvdk_tensor ring;             /* int64 [2] in/out: start, count */
} kvdk_append_args;

/* Where the tokens of a step go in a cascade of rings (docs/policy/cascade.md, accept=pow2). Canonical slots: sinks,
 * then ring 0, ring 1, ... of W each. */
typedef struct kvdk_plan_args {
    kvdk_call call;
    int64_t G, T; /* lists; new tokens */
    int64_t sinks, W, levels;
    int64_t eager;         /* 0, 1 */
    int64_t seen;          /* original index of the first new token */
    kvdk_tensor score;     /* [G][S], S = sinks + levels * W */
    kvdk_tensor new_score; /* [G][T] */
    kvdk_tensor og;        /* int64 [G][S]: original indices; -1: empty */
    kvdk_tensor rings;     /* int32 [1 + 2 * levels] in/out: sinks stored, then count and start of each ring */
    kvdk_tensor src;       /* int32 [G][S] out: the slot that it came from, or -1 - t for new token t; empty: its own */
    kvdk_tensor dropped;   /* int64 [G][T] out: original index of the token that left when token t came; -1: none */
} kvdk_plan_args;

/* Slot s of list g becomes slot src[g][s], or new token -1 - src[g][s]; as if all were read before one is written. */
typedef struct kvdk_move_args {
    kvdk_call call;
    int64_t G, S, T, hd;
    kvdk_tensor src;              /* int32 [G][S] */
    kvdk_tensor k, v;             /* [T][G][hd] */
    kvdk_tensor k_cache, v_cache; /* [S][G][hd] in/out */
} kvdk_move_args;

typedef enum kvdk_tile_format {
    KVDK_KVARN, /* docs/policy/kvarn.md: "Coding a tile", and its record; K and V are rotated already */
    KVDK_KIVI   /* docs/policy/kivi.md: the record of the K block of `tile` tokens, then those of their V rows */
} kvdk_tile_format;

/* Codes one tile of K and V. */
typedef struct kvdk_tile_args {
    kvdk_call call;
    int64_t tile, hd, kbits, vbits;
    int64_t iters;      /* KVDK_KVARN: rounds of balancing */
    kvdk_tensor k, v;   /* [tile][hd] */
    kvdk_tensor record; /* u8 [bytes] out */
    int64_t format;     /* kvdk_tile_format; a candidate refuses what it does not have */
    int64_t group;      /* KVDK_KIVI: numbers that share a scale, tokens of K, channels of V; kbits = vbits */
} kvdk_tile_args;

/* Attention of one token over n coded tiles and then `tail` rows (already rotated by H), all of which it sees. q and o
 * are not rotated. */
typedef struct kvdk_attn_quant_args {
    kvdk_call call;
    int64_t Hq, Hk, hd;
    int64_t tiles, tail;
    int64_t tile, kbits, vbits;
    double scale;
    kvdk_tensor q;              /* [Hq][hd] */
    kvdk_tensor records;        /* u8 [tiles][Hk][bytes] */
    kvdk_tensor tail_k, tail_v; /* [tail][Hk][hd] */
    kvdk_tensor o;              /* [Hq][hd] out */
} kvdk_attn_quant_args;

/* z = w h, with softcap c > 0: z = c * tanh(z / c); nll = log(sum of exp(z - max)) - (z[target] - max) */
typedef struct kvdk_nll_args {
    kvdk_call call;
    int64_t T, D, V;
    double softcap;      /* an fp32 number; 0: none */
    kvdk_tensor h;       /* [T][D] */
    kvdk_tensor w;       /* [V][D] */
    kvdk_tensor target;  /* int32 [T] */
    kvdk_tensor nll;     /* [T] out */
    kvdk_tensor row_max; /* [T] out */
    kvdk_tensor row_sum; /* [T] out */
} kvdk_nll_args;

/* The k largest of every row in ascending order of their index; of equal ones the lower index, NaN below all numbers.
 */
typedef struct kvdk_topk_args {
    kvdk_call call;
    int64_t R, V, k;
    kvdk_tensor z;     /* [R][V] */
    kvdk_tensor index; /* int32 [R][k] out */
    kvdk_tensor value; /* [R][k] out */
} kvdk_topk_args;

/* ---- what a candidate exports ---------------------------------------------------------------------------------- */

/* What the tester offers. */
typedef struct kvdk_host {
    uint32_t size;
    int32_t device;                /* number of the CUDA device; 0 on the host */
    void (*log)(const char *line); /* shown with --verbose */
} kvdk_host;

KVDK_API uint32_t kvdk_abi_version(void);     /* KVDK_ABI */
KVDK_API void kvdk_describe(kvdk_info *info); /* fills what it knows of info; size says how much there is */

/* Optional. init: before the first call; not 0: the candidate cannot run here. workspace: bytes that a call needs; its
 * pointers are not valid yet. */
KVDK_API int kvdk_init(const kvdk_host *host);
KVDK_API uint64_t kvdk_workspace(const kvdk_call *args);
KVDK_API void kvdk_shutdown(void);

/* The operations, each optional. */
#define X(name, args) KVDK_API int kvdk_##name(const args *a, kvdk_stream stream);
KVDK_OP_LIST(X)
#undef X

/* The two functions that every candidate has. */
#define KVDK_CANDIDATE_FULL(its_name, its_contract, its_determinism, its_memory) \
    KVDK_API uint32_t kvdk_abi_version(void)                                     \
    {                                                                            \
        return KVDK_ABI;                                                         \
    }                                                                            \
    KVDK_API void kvdk_describe(kvdk_info *info)                                 \
    {                                                                            \
        info->name = its_name;                                                   \
        info->contract = its_contract;                                           \
        info->determinism = its_determinism;                                     \
        info->memory = its_memory;                                               \
    }
#define KVDK_CANDIDATE(its_name, its_contract) KVDK_CANDIDATE_FULL(its_name, its_contract, KVDK_SAME_CALL, KVDK_HOST)

#ifdef __cplusplus
}
#endif
#endif
