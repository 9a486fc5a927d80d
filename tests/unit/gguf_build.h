/* gguf_build.h - writes GGUF files in memory, right or wrong on purpose, for tests and fuzz
 * targets.
 *
 *     gguf_build b = {.version = 3};
 *     gb_u32(&b, "llama.block_count", 1);
 *     gb_tensor(&b, "token_embd.weight", 2, (uint64_t[]){16, 300}, KV_DTYPE_F32, data, bytes);
 *     gb_finish(&b);             b.p[0 .. b.n) is the file
 *     gb_free(&b);
 *
 * Memory running out ends the program: there is nobody to tell. */
#ifndef KV_TESTS_GGUF_BUILD_H
#define KV_TESTS_GGUF_BUILD_H

#include <stddef.h>
#include <stdint.h>

typedef struct gb_bytes {
    uint8_t *p;
    size_t n, cap;
} gb_bytes;

typedef struct gguf_build {
    uint32_t version;   /* 0 means 3 */
    uint32_t alignment; /* 0 means 32; the key general.alignment is the caller's to add */
    uint8_t *p;         /* after gb_finish: the file */
    size_t n;
    gb_bytes values, infos, data;
    uint64_t n_values, n_tensors;
} gguf_build;

/* Where parts of a tiny model differ from a good one; all zero is a good one. */
typedef struct gb_llama_flaw {
    const char *without_key, *without_tensor;   /* left out */
    const char *architecture, *tokenizer, *pre; /* instead of llama, gpt2, smollm */
    const char *extra_key;                      /* u32 1 under this name */
    const char *odd_tensor;                     /* this tensor gets type odd_type */
    uint32_t odd_type;
    const char *wide_tensor;  /* this tensor gets one row more */
    const char *extra_tensor; /* an F32 vector of d_model under this name */
    int32_t kv_heads;         /* 0 means 1 */
    uint32_t bos_id;
    int without_merges_content; /* merges is an empty array */
    int bad_merge;              /* merges name a token that is not there */
    int extra_tokens;           /* tokens beyond the rows of the embedding */
} gb_llama_flaw;

void gb_append(gb_bytes *b, const void *p, size_t n);

/* Key/value pairs. gb_raw writes any type number and bytes. */
void gb_raw(gguf_build *b, const char *key, uint32_t type, const void *p, size_t n);
void gb_u32(gguf_build *b, const char *key, uint32_t v);
void gb_f32(gguf_build *b, const char *key, float v);
void gb_bool(gguf_build *b, const char *key, int v);
void gb_string(gguf_build *b, const char *key, const char *v);
void gb_array(gguf_build *b, const char *key, uint32_t type, uint64_t n, const void *p,
              size_t bytes);
void gb_strings(gguf_build *b, const char *key, const char *const *v, uint64_t n);

/* A tensor whose data is p[0 .. bytes), placed at the next aligned offset. type = GGUF's number. */
void gb_tensor(gguf_build *b, const char *name, uint32_t n_dims, const uint64_t *dims,
               uint32_t type, const void *p, size_t bytes);

void gb_finish(gguf_build *b);
void gb_free(gguf_build *b);

/* A whole Llama: 1 layer, d_model 32, 2 query heads and 1 KV head of 16, ffn 32, a byte-level BPE
 * vocabulary of 256 bytes, one merge and one control token, matrices in Q8_0, norms in F32. */
void gb_llama(gguf_build *b, const gb_llama_flaw *flaw);

#endif
