#include "tests/unit/gguf_build.h"

#include "common/bpe.h"
#include "common/rng.h"
#include "common/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { U32 = 4, F32 = 6, BOOL = 7, STRING = 8, ARRAY = 9 }; /* value types */
enum { TENSOR_F32 = 0, TENSOR_Q8_0 = 8, D = 32, FFN = 32, HEAD = 16, VOCAB = 258 };

void gb_append(gb_bytes *b, const void *p, size_t n)
{
    if (b->n + n > b->cap) {
        b->cap = 2 * (b->n + n) + 64;
        b->p = realloc(b->p, b->cap);
        if (!b->p) abort();
    }
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void put_u32(gb_bytes *b, uint32_t v)
{
    gb_append(b, &v, sizeof v);
}
static void put_u64(gb_bytes *b, uint64_t v)
{
    gb_append(b, &v, sizeof v);
}

static void put_text(gb_bytes *b, const char *s)
{
    put_u64(b, strlen(s));
    gb_append(b, s, strlen(s));
}

static void pad(gb_bytes *b, size_t alignment)
{
    static const uint8_t zero[64];
    while (b->n % alignment) {
        const size_t left = alignment - b->n % alignment;
        gb_append(b, zero, left < sizeof zero ? left : sizeof zero);
    }
}

/* ---- key/value pairs ------------------------------------------------------------------------ */

void gb_raw(gguf_build *b, const char *key, uint32_t type, const void *p, size_t n)
{
    put_text(&b->values, key);
    put_u32(&b->values, type);
    gb_append(&b->values, p, n);
    b->n_values++;
}

void gb_u32(gguf_build *b, const char *key, uint32_t v)
{
    gb_raw(b, key, U32, &v, sizeof v);
}
void gb_f32(gguf_build *b, const char *key, float v)
{
    gb_raw(b, key, F32, &v, sizeof v);
}

void gb_bool(gguf_build *b, const char *key, int v)
{
    const uint8_t byte = (uint8_t)v;
    gb_raw(b, key, BOOL, &byte, 1);
}

void gb_string(gguf_build *b, const char *key, const char *v)
{
    gb_bytes text = {NULL, 0, 0};
    put_text(&text, v);
    gb_raw(b, key, STRING, text.p, text.n);
    free(text.p);
}

void gb_array(gguf_build *b, const char *key, uint32_t type, uint64_t n, const void *p,
              size_t bytes)
{
    gb_bytes body = {NULL, 0, 0};
    put_u32(&body, type);
    put_u64(&body, n);
    gb_append(&body, p, bytes);
    gb_raw(b, key, ARRAY, body.p, body.n);
    free(body.p);
}

void gb_strings(gguf_build *b, const char *key, const char *const *v, uint64_t n)
{
    gb_bytes body = {NULL, 0, 0};
    for (uint64_t i = 0; i < n; i++)
        put_text(&body, v[i]);
    gb_array(b, key, STRING, n, body.p, body.n);
    free(body.p);
}

/* ---- tensors and the whole file -------------------------------------------------------------- */

void gb_tensor(gguf_build *b, const char *name, uint32_t n_dims, const uint64_t *dims,
               uint32_t type, const void *p, size_t bytes)
{
    pad(&b->data, b->alignment ? b->alignment : 32);
    put_text(&b->infos, name);
    put_u32(&b->infos, n_dims);
    for (uint32_t d = 0; d < n_dims; d++)
        put_u64(&b->infos, dims[d]);
    put_u32(&b->infos, type);
    put_u64(&b->infos, b->data.n);
    gb_append(&b->data, p, bytes);
    b->n_tensors++;
}

void gb_finish(gguf_build *b)
{
    gb_bytes file = {NULL, 0, 0};
    gb_append(&file, "GGUF", 4);
    put_u32(&file, b->version ? b->version : 3);
    put_u64(&file, b->n_tensors);
    put_u64(&file, b->n_values);
    gb_append(&file, b->values.p, b->values.n);
    gb_append(&file, b->infos.p, b->infos.n);
    pad(&file, b->alignment ? b->alignment : 32);
    gb_append(&file, b->data.p, b->data.n);
    b->p = file.p;
    b->n = file.n;
}

void gb_free(gguf_build *b)
{
    free(b->p);
    free(b->values.p);
    free(b->infos.p);
    free(b->data.p);
    memset(b, 0, sizeof *b);
}

/* ---- a tiny Llama ---------------------------------------------------------------------------- */

static int is(const char *a, const char *b)
{
    return a && strcmp(a, b) == 0;
}

static void model_u32(gguf_build *b, const gb_llama_flaw *f, const char *key, uint32_t v)
{
    if (!is(f->without_key, key)) gb_u32(b, key, v);
}

static void llama_keys(gguf_build *b, const gb_llama_flaw *f)
{
    if (!is(f->without_key, "general.architecture"))
        gb_string(b, "general.architecture", f->architecture ? f->architecture : "llama");
    model_u32(b, f, "llama.block_count", 1);
    model_u32(b, f, "llama.embedding_length", D);
    model_u32(b, f, "llama.feed_forward_length", FFN);
    model_u32(b, f, "llama.attention.head_count", 2);
    model_u32(b, f, "llama.attention.head_count_kv", f->kv_heads ? (uint32_t)f->kv_heads : 1);
    model_u32(b, f, "llama.context_length", 128);
    if (!is(f->without_key, "llama.attention.layer_norm_rms_epsilon"))
        gb_f32(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (f->extra_key) gb_u32(b, f->extra_key, 1);
}

static void llama_tokenizer(gguf_build *b, const gb_llama_flaw *f)
{
    static const char *const merge[] = {"a b"}, *const broken[] = {"a nowhere"};
    char text[VOCAB + 16][8];
    const char *tokens[VOCAB + 16];
    int32_t types[VOCAB + 16];
    const int n = VOCAB + f->extra_tokens;
    for (int i = 0; i < n; i++) {
        if (i < 256)
            text[i][kv_utf8_put(kv_bpe_byte_char((uint8_t)i), text[i])] = '\0';
        else if (i < VOCAB)
            strcpy(text[i], i == 256 ? "ab" : "<|e|>");
        else
            snprintf(text[i], sizeof text[i], "x%d", i);
        tokens[i] = text[i];
        types[i] = i == 257 ? 3 : 1; /* control : normal */
    }
    if (!is(f->without_key, "tokenizer.ggml.model"))
        gb_string(b, "tokenizer.ggml.model", f->tokenizer ? f->tokenizer : "gpt2");
    gb_string(b, "tokenizer.ggml.pre", f->pre ? f->pre : "smollm");
    gb_strings(b, "tokenizer.ggml.tokens", tokens, (uint64_t)n);
    gb_array(b, "tokenizer.ggml.token_type", 5, (uint64_t)n, types, (size_t)n * sizeof *types);
    if (!is(f->without_key, "tokenizer.ggml.merges"))
        gb_strings(b, "tokenizer.ggml.merges", f->bad_merge ? broken : merge,
                   f->without_merges_content ? 0 : 1);
    gb_u32(b, "tokenizer.ggml.bos_token_id", f->bos_id ? f->bos_id : 257);
}

/* A matrix in Q8_0 or a vector in F32, filled from the generator by its name. */
static void llama_tensor(gguf_build *b, const gb_llama_flaw *f, const char *name, uint64_t cols,
                         uint64_t rows)
{
    if (is(f->without_tensor, name)) return;
    if (is(f->wide_tensor, name)) rows++;
    const int vector = rows == 1;
    const uint64_t dims[2] = {cols, rows};
    const size_t bytes = vector ? cols * 4 : cols / 32 * 34 * rows;
    uint8_t *p = malloc(bytes);
    if (!p) abort();
    for (size_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)kv_philox_word(b->n_tensors, 0, i);
    for (size_t i = 0; vector && i < cols; i++) {
        const float one = 1.0f;
        memcpy(p + 4 * i, &one, 4);
    }
    for (size_t i = 0; !vector && i < bytes; i += 34)
        memcpy(p + i, "\x00\x20", 2); /* scale 2^-7 as fp16 */
    const uint32_t type = vector ? TENSOR_F32 : TENSOR_Q8_0;
    gb_tensor(b, name, vector ? 1 : 2, dims, is(f->odd_tensor, name) ? f->odd_type : type, p,
              bytes);
    free(p);
}

void gb_llama(gguf_build *b, const gb_llama_flaw *flaw)
{
    static const gb_llama_flaw none;
    const gb_llama_flaw *f = flaw ? flaw : &none;
    llama_keys(b, f);
    llama_tokenizer(b, f);
    llama_tensor(b, f, "token_embd.weight", D, VOCAB);
    llama_tensor(b, f, "output_norm.weight", D, 1);
    llama_tensor(b, f, "blk.0.attn_norm.weight", D, 1);
    llama_tensor(b, f, "blk.0.attn_q.weight", D, 2 * HEAD);
    llama_tensor(b, f, "blk.0.attn_k.weight", D, HEAD);
    llama_tensor(b, f, "blk.0.attn_v.weight", D, HEAD);
    llama_tensor(b, f, "blk.0.attn_output.weight", 2 * HEAD, D);
    llama_tensor(b, f, "blk.0.ffn_norm.weight", D, 1);
    llama_tensor(b, f, "blk.0.ffn_gate.weight", D, FFN);
    llama_tensor(b, f, "blk.0.ffn_up.weight", D, FFN);
    llama_tensor(b, f, "blk.0.ffn_down.weight", FFN, D);
    if (f->extra_tensor) llama_tensor(b, f, f->extra_tensor, D, 1);
    gb_finish(b);
}
