/* tinybpe.h - tokenizers for tests: a vocabulary in a few lines instead of a model file. */
#ifndef KV_TESTS_TINYBPE_H
#define KV_TESTS_TINYBPE_H

#include "tests/unit/gguf_build.h"
#include "tests/unit/kvtest.h"

#include "common/bpe.h"

/* Lists end with NULL; token strings are in GPT-2's printable alphabet. Zero-initialise the rest.
 */
typedef struct tinybpe {
    const char *const *tokens, *const *merges;
    const int32_t *types;    /* one for each token; NULL = no such key */
    const char *model, *pre; /* NULL = "gpt2", "smollm" */
    uint32_t eos;            /* id; 0 = no such key */
    int32_t more_types;      /* entries of types beyond the tokens, or fewer */
    int no_merges;           /* no such key */
} tinybpe;

KV_UNUSED_TEST_HELPER uint64_t tinybpe_count(const char *const *list)
{
    uint64_t n = 0;
    while (list && list[n])
        n++;
    return n;
}

/* The metadata as a file in memory; gb_free(b) afterwards. */
KV_UNUSED_TEST_HELPER void tinybpe_build(const tinybpe *t, gguf_build *b)
{
    const uint64_t n = tinybpe_count(t->tokens);
    *b = (gguf_build){0};
    gb_string(b, "tokenizer.ggml.model", t->model ? t->model : "gpt2");
    gb_string(b, "tokenizer.ggml.pre", t->pre ? t->pre : "smollm");
    gb_strings(b, "tokenizer.ggml.tokens", t->tokens, n);
    if (t->types) {
        const uint64_t types = (uint64_t)((int64_t)n + t->more_types);
        gb_array(b, "tokenizer.ggml.token_type", KV_GGUF_I32, types, t->types,
                 (size_t)types * sizeof *t->types);
    }
    if (!t->no_merges) gb_strings(b, "tokenizer.ggml.merges", t->merges, tinybpe_count(t->merges));
    if (t->eos) gb_u32(b, "tokenizer.ggml.eos_token_id", t->eos);
    gb_finish(b);
}

KV_UNUSED_TEST_HELPER kv_status tinybpe_open(const tinybpe *t, kv_tokenizer **out)
{
    gguf_build b;
    kv_gguf *g = NULL;
    tinybpe_build(t, &b);
    assert_ok(kv_gguf_parse(b.p, b.n, "tiny.gguf", &g));
    const kv_status st = kv_tokenizer_from_gguf(g, out);
    kv_gguf_close(g); /* the tokenizer keeps no pointer into the file: what follows would show it */
    memset(b.p, 0xee, b.n);
    gb_free(&b);
    return st;
}

#endif
