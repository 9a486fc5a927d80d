/* model_gguf.c - a Llama from a GGUF file: metadata to kv_config, tensors by name to roles. Whatever
 * the file has and this program does not compute (experts, rotary factors, another architecture) is
 * refused by name: silently ignoring it would make every result wrong. */
#include "common/hash.h"
#include "common/model_private.h"
#include "common/utf8.h"

#include <stdio.h>
#include <string.h>

static kv_status refuse_key(const kv_gguf *g, const char *key)
{
    return kv_fail(KV_ERR_UNSUPPORTED, "%s: key '%s' asks for a feature that kvdiff does not compute; "
                                       "use a model without it", kv_gguf_where(g), key);
}

static kv_status check_architecture(const kv_gguf *g)
{
    kv_span arch;
    char shown[40];
    KV_TRY(kv_gguf_string(g, "general.architecture", &arch));
    if (arch.n != 5 || memcmp(arch.p, "llama", 5) != 0)
        return kv_fail(KV_ERR_UNSUPPORTED, "%s: architecture '%s' is not supported; kvdiff reads "
                                           "'llama' models", kv_gguf_where(g),
                       kv_printable(arch.p, arch.n, shown, sizeof shown));
    static const char *const refused[] = {"llama.expert_count", "llama.attention.sliding_window",
                                          "llama.attention.clamp_kqv", "llama.attention.scale",
                                          "llama.logit_scale", "llama.embedding_scale",
                                          "llama.residual_scale", "llama.attn_logit_softcapping"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (kv_gguf_has(g, refused[i])) return refuse_key(g, refused[i]);
    if (kv_gguf_has(g, "llama.rope.scaling.type")) {
        kv_span type;
        KV_TRY(kv_gguf_string(g, "llama.rope.scaling.type", &type));
        if (type.n != 4 || memcmp(type.p, "none", 4) != 0)
            return refuse_key(g, "llama.rope.scaling.type");
    }
    return KV_OK;
}

/* Reads a u32 key into an int32_t field, with an upper limit against absurd values. */
static kv_status read_i32(const kv_gguf *g, const char *key, int32_t *out)
{
    uint32_t v;
    KV_TRY(kv_gguf_u32(g, key, &v));
    if (v > INT32_MAX)
        return kv_fail(KV_ERR_FORMAT, "%s: key '%s' is %u, out of range", kv_gguf_where(g), key, v);
    *out = (int32_t)v;
    return KV_OK;
}

static kv_status read_i32_or(const kv_gguf *g, const char *key, int32_t def, int32_t *out)
{
    *out = def;
    return kv_gguf_has(g, key) ? read_i32(g, key, out) : KV_OK;
}

static kv_status read_config(const kv_gguf *g, kv_config *c)
{
    memset(c, 0, sizeof *c);
    c->embed_scale = 1.0f;
    c->norm_weight = 1;
    c->rope_sign = 1;
    c->rope_pairing = KV_ROPE_INTERLEAVED;
    KV_TRY(read_i32(g, "llama.block_count", &c->n_layers));
    KV_TRY(read_i32(g, "llama.embedding_length", &c->d_model));
    KV_TRY(read_i32(g, "llama.feed_forward_length", &c->ffn_dim));
    KV_TRY(read_i32(g, "llama.attention.head_count", &c->n_heads));
    KV_TRY(read_i32_or(g, "llama.attention.head_count_kv", c->n_heads, &c->n_kv_heads));
    if (c->n_heads < 1)
        return kv_fail(KV_ERR_FORMAT, "%s: llama.attention.head_count is 0", kv_gguf_where(g));
    KV_TRY(read_i32_or(g, "llama.attention.key_length", c->d_model / c->n_heads, &c->head_dim));
    int32_t value_length;
    KV_TRY(read_i32_or(g, "llama.attention.value_length", c->head_dim, &value_length));
    if (value_length != c->head_dim) return refuse_key(g, "llama.attention.value_length");
    KV_TRY(read_i32_or(g, "llama.rope.dimension_count", c->head_dim, &c->rope_dims));
    KV_TRY(read_i32(g, "llama.context_length", &c->max_pos));
    KV_TRY(kv_gguf_f32(g, "llama.attention.layer_norm_rms_epsilon", &c->norm_eps));
    float theta;
    KV_TRY(kv_gguf_f32_or(g, "llama.rope.freq_base", 10000.0f, &theta));
    c->rope_theta = (double)theta;
    KV_TRY(read_i32_or(g, "tokenizer.ggml.bos_token_id", -1, &c->bos_id));
    KV_TRY(read_i32_or(g, "tokenizer.ggml.eos_token_id", -1, &c->eos_id));
    KV_TRY(read_i32_or(g, "tokenizer.ggml.padding_token_id", -1, &c->pad_id));
    const kv_gguf_tensor *embd = kv_gguf_find_tensor(g, "token_embd.weight");
    if (!embd)
        return kv_fail(KV_ERR_FORMAT, "%s: tensor 'token_embd.weight' is missing; the file is "
                                      "incomplete", kv_gguf_where(g));
    if (embd->dims[1] > INT32_MAX)
        return kv_fail(KV_ERR_FORMAT, "%s: the vocabulary is impossibly large", kv_gguf_where(g));
    KV_TRY(read_i32_or(g, "llama.vocab_size", (int32_t)embd->dims[1], &c->vocab_size));
    c->tied_head = kv_gguf_find_tensor(g, "output.weight") == NULL;
    return kv_config_check(c);
}

/* Parses "blk.N.suffix"; returns the suffix, or NULL. */
static const char *layer_suffix(kv_span name, int32_t n_layers, int32_t *layer, size_t *n)
{
    if (name.n < 6 || memcmp(name.p, "blk.", 4) != 0) return NULL;
    int64_t v = 0;
    uint64_t i = 4;
    for (; i < name.n && name.p[i] >= '0' && name.p[i] <= '9' && v < n_layers; i++)
        v = 10 * v + (name.p[i] - '0');
    if (i == 4 || i >= name.n || name.p[i] != '.' || v >= n_layers) return NULL;
    *layer = (int32_t)v;
    *n = (size_t)(name.n - i - 1);
    return name.p + i + 1;
}

static int find_role(kv_span name, int32_t n_layers, kv_role *role, int32_t *layer)
{
    size_t n = (size_t)name.n;
    const char *p = layer_suffix(name, n_layers, layer, &n);
    if (p) {
#define X(r, text, golf)                                                                           \
    if (n > 0 && n == sizeof text - 1 && memcmp(p, text, n) == 0) {                                         \
        *role = KV_ROLE_##r;                                                                       \
        return 1;                                                                                  \
    }
        KV_LAYER_ROLE_LIST(X)
        return 0;
    }
    p = name.p;
    *layer = 0;
    KV_GLOBAL_ROLE_LIST(X)
#undef X
    return 0;
}

static kv_status bind_tensor(kv_model *m, const kv_gguf *g, const kv_gguf_tensor *t)
{
    kv_role role;
    int32_t layer;
    char name[80];
    kv_printable(t->name.p, t->name.n, name, sizeof name);
    if (!find_role(t->name, m->cfg.n_layers, &role, &layer))
        return kv_fail(KV_ERR_UNSUPPORTED, "%s: tensor '%s' has no place in the models that kvdiff "
                                           "computes; use a plain Llama", kv_gguf_where(g), name);
    const int dtype = kv_dtype_from_gguf(t->gguf_type);
    if (dtype < 0)
        return kv_fail(KV_ERR_UNSUPPORTED, "%s: tensor '%s' has type %u, which kvdiff cannot widen; "
                                           "re-quantise to F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K "
                                           "or Q6_K", kv_gguf_where(g), name, t->gguf_type);
    kv_tensor *slot = kv_model_slot(m, role, layer);
    if (slot->data)
        return kv_fail(KV_ERR_FORMAT, "%s: tensor '%s' appears twice", kv_gguf_where(g), name);
    slot->data = t->data;
    slot->dtype = dtype;
    slot->cols = (int64_t)t->dims[0];
    slot->rows = (int64_t)(t->dims[1] * t->dims[2] * t->dims[3]);
    const int64_t row_bytes = kv_dtype_row_bytes(dtype, slot->cols);
    slot->n_bytes = (uint64_t)row_bytes * (uint64_t)slot->rows;
    return KV_OK;
}

static kv_status bind_all(kv_model *m, const kv_gguf *g)
{
    for (uint64_t i = 0; i < kv_gguf_n_tensors(g); i++)
        KV_TRY(bind_tensor(m, g, kv_gguf_tensor_at(g, i)));
    return kv_model_check(m);
}

static kv_status load(kv_gguf *g, const char *name, kv_model **out, kv_tokenizer **tok)
{
    kv_config cfg;
    KV_TRY(check_architecture(g));
    KV_TRY(read_config(g, &cfg));
    KV_TRY(kv_model_new(name, &cfg, out));
    KV_TRY(bind_all(*out, g));
    KV_TRY(kv_tokenizer_from_gguf(g, tok));
    if (kv_tokenizer_vocab(*tok) > cfg.vocab_size)
        return kv_fail(KV_ERR_MISMATCH, "%s: the tokenizer has %d tokens but the model only %d",
                       kv_gguf_where(g), kv_tokenizer_vocab(*tok), cfg.vocab_size);
    size_t size;
    const void *bytes = kv_gguf_bytes(g, &size);
    kv_sha256(bytes, size, (*out)->sha256);
    return KV_OK;
}

kv_status kv_model_from_gguf(const char *path, const char *name, kv_model **out,
                             kv_tokenizer **tok)
{
    kv_gguf *g;
    *out = NULL;
    *tok = NULL;
    KV_TRY(kv_gguf_open(path, &g));
    const kv_status st = load(g, name, out, tok);
    if (*out) ((kv_model_owner *)(*out)->owner)->gguf = g;
    if (st == KV_OK) return KV_OK;
    if (!*out) kv_gguf_close(g);
    kv_model_close(*out);
    kv_tokenizer_free(*tok);
    *out = NULL;
    *tok = NULL;
    return st;
}
