/* model_synth.c - models made from a counter-based generator: always there, the same everywhere.
 *
 * Every weight is an exact fp32 number. With u = 24 random bits and a per-tensor log2 amplitude a:
 *   matrix element  (u - 2^23) * 2^(a - 23)                 uniform in [-2^a, 2^a)
 *   norm gain       1 + (floor(u / 16) - 2^19) * 2^(a - 19)  uniform in [1 - 2^a, 1 + 2^a)
 * Amplitudes are chosen so that attention is lively: peaked in some rows, flat in others.
 *
 *   nano  4 layers, d_model 128, 4 query heads and 2 KV heads of 32, ffn 256, vocabulary 260 (bytes),
 *         RoPE over 32 dims with theta 10000, tied head, no context limit; u = the top 24 bits of word i
 *         of the Philox stream (seed 0x6B766469, tensor number)
 *   sharp nano, but queries 256 times as large: nearly every probability of attention underflows to 0, so that the
 *         scores of policies tie
 *   tiny  2 layers, d_model 64, 4 and 2 heads of 32, ffn 96, vocabulary 64; u = the top 24 bits of
 *         splitmix64(((41 * 256 + tensor number) << 32) + i). The golden policy values of
 *         tests/golden/policies were made with it.
 * Tensors that the model has are numbered in the order of the role lists: token_embd, output_norm, then nine per layer. */
#include "common/model_private.h"
#include "common/rng.h"

#include <string.h>

enum { NANO_SEED = 0x6B766469, TINY_SEED = 41 };

typedef struct recipe {
    const char *name;
    kv_config cfg;
    int8_t amplitude[KV_ROLE_COUNT]; /* log2 */
    uint32_t (*bits24)(uint32_t tensor, uint64_t i);
    int has_bytes_tokenizer;
} recipe;

static uint32_t nano_bits(uint32_t tensor, uint64_t i)
{
    return kv_philox_word(NANO_SEED, tensor, i) >> 8;
}

static uint32_t tiny_bits(uint32_t tensor, uint64_t i)
{
    return (uint32_t)(kv_splitmix64(((uint64_t)TINY_SEED * 256 + tensor) << 32 | i) >> 40);
}

#define LLAMA_DEFAULTS                                                                             \
    .norm_eps = 1e-5f, .embed_scale = 1.0f, .norm_weight = 1, .tied_head = 1, .rope_sign = 1,      \
    .rope_theta = 10000.0, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32, .rope_dims = 32

#define NANO_SHAPE                                                                                 \
    LLAMA_DEFAULTS, .vocab_size = 260, .n_layers = 4, .d_model = 128, .ffn_dim = 256, .bos_id = 1, \
    .eos_id = 2, .pad_id = 0
#define NANO_AMPLITUDES                                                                            \
    [KV_ROLE_TOKEN_EMBD] = -2, [KV_ROLE_OUTPUT_NORM] = -2, [KV_ROLE_ATTN_NORM] = -2,               \
    [KV_ROLE_ATTN_K] = -2, [KV_ROLE_ATTN_V] = -2, [KV_ROLE_ATTN_OUTPUT] = -3,                      \
    [KV_ROLE_FFN_NORM] = -2, [KV_ROLE_FFN_GATE] = -2, [KV_ROLE_FFN_UP] = -2, [KV_ROLE_FFN_DOWN] = -3

static const recipe recipes[] = {
    {.name = "nano",
     .cfg = {NANO_SHAPE},
     .amplitude = {NANO_AMPLITUDES, [KV_ROLE_ATTN_Q] = -2},
     .bits24 = nano_bits,
     .has_bytes_tokenizer = 1},
    {.name = "sharp",
     .cfg = {NANO_SHAPE},
     .amplitude = {NANO_AMPLITUDES, [KV_ROLE_ATTN_Q] = 6},
     .bits24 = nano_bits,
     .has_bytes_tokenizer = 1},
    {.name = "tiny",
     .cfg = {LLAMA_DEFAULTS, .vocab_size = 64, .n_layers = 2, .d_model = 64, .ffn_dim = 96,
             .bos_id = -1, .eos_id = -1, .pad_id = -1},
     .amplitude = {[KV_ROLE_TOKEN_EMBD] = -1, [KV_ROLE_OUTPUT_NORM] = -2, [KV_ROLE_ATTN_NORM] = -2,
                   [KV_ROLE_ATTN_Q] = -1, [KV_ROLE_ATTN_K] = -2, [KV_ROLE_ATTN_V] = -2,
                   [KV_ROLE_ATTN_OUTPUT] = -3, [KV_ROLE_FFN_NORM] = -2, [KV_ROLE_FFN_GATE] = -2,
                   [KV_ROLE_FFN_UP] = -2, [KV_ROLE_FFN_DOWN] = -3},
     .bits24 = tiny_bits,
     .has_bytes_tokenizer = 0},
};

static int is_norm(kv_role role)
{
    return role == KV_ROLE_OUTPUT_NORM || role == KV_ROLE_ATTN_NORM || role == KV_ROLE_FFN_NORM;
}

/* Exact powers of two keep every product below exact. */
static float weight(uint32_t u, int norm, int amplitude)
{
    const double scale = 1.0 / (double)(UINT64_C(1) << ((norm ? 19 : 23) - amplitude));
    if (norm) return (float)(1.0 + (double)((int32_t)(u >> 4) - (1 << 19)) * scale);
    return (float)((double)((int32_t)u - (1 << 23)) * scale);
}

static void fill(kv_model *m, const recipe *r, kv_role role, int32_t layer, uint32_t *number)
{
    kv_tensor *t = kv_model_slot(m, role, layer);
    if (!t->data) return;
    float *w = (float *)(uintptr_t)t->data;
    for (int64_t i = 0; i < t->rows * t->cols; i++)
        w[i] = weight(r->bits24(*number, (uint64_t)i), is_norm(role), r->amplitude[role]);
    ++*number;
}

static kv_status generate(kv_model *m, const recipe *r)
{
    KV_TRY(kv_model_allocate(m));
    uint32_t number = 0;
    for (int role = 0; role < KV_ROLE_GLOBAL_COUNT; role++)
        fill(m, r, (kv_role)role, 0, &number);
    for (int32_t l = 0; l < m->cfg.n_layers; l++)
        for (int role = KV_ROLE_GLOBAL_COUNT; role < KV_ROLE_COUNT; role++)
            fill(m, r, (kv_role)role, l, &number);
    kv_model_fingerprint(m);
    return kv_model_check(m);
}

kv_status kv_model_synth(const char *name, kv_model **out, kv_tokenizer **tok)
{
    const recipe *r = recipes;
    while (strcmp(r->name, name) != 0)
        r++; /* the caller took the name from the catalogue */
    kv_model *m;
    KV_TRY(kv_model_new(name, &r->cfg, &m));
    kv_status st = generate(m, r);
    if (st == KV_OK && r->has_bytes_tokenizer) st = kv_tokenizer_bytes(tok);
    if (st != KV_OK) {
        kv_model_close(m);
        return st;
    }
    *out = m;
    return KV_OK;
}
