/* Any bytes as a model file: refused in one line, or safe to walk: every pair, every string, the
 * first and the last block of every tensor, and the tokenizer inside. */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/gguf_build.h"

#include "common/gguf.h"
#include "common/tokenizer.h"

#include <string.h>

static volatile uint64_t touched; /* keeps reads that only sanitizers look at */

/* A file with a key of every kind, without a model. */
static void small_file(gguf_build *b)
{
    static const uint64_t dims[] = {32, 2};
    static const uint8_t data[68] = {1, 2, 3};
    b->version = 2;
    gb_u32(b, "general.alignment", 32);
    gb_f32(b, "f", 1.5f);
    gb_bool(b, "b", 1);
    gb_string(b, "s", "text");
    gb_strings(b, "words", (const char *const[]){"one", "two"}, 2);
    gb_array(b, "n", 5, 2, "\1\0\0\0\2\0\0\0", 8);
    gb_tensor(b, "w", 2, dims, 8, data, sizeof data);
    gb_finish(b);
}

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    gguf_build b = {0};
    if (i >= 2) return NULL;
    if (i == 1)
        gb_llama(&b, NULL);
    else
        small_file(&b);
    uint8_t *p = b.p;
    *size = b.n;
    b.p = NULL;
    gb_free(&b);
    return p;
}

static void walk_values(const kv_gguf *g)
{
    char text[256], name[256];
    kv_span key, s;
    for (uint64_t i = 0; kv_gguf_describe(g, i, &key, text, sizeof text); i++) {
        if (key.n >= sizeof name) continue;
        memcpy(name, key.p, key.n);
        name[key.n] = '\0';
        kv_gguf_array a;
        if (kv_gguf_array_of(g, name, KV_GGUF_STRING, &a) == KV_OK)
            while (kv_gguf_next_string(&a, &s))
                touched += s.n ? (uint8_t)s.p[s.n - 1] : 0;
        uint32_t u;
        float f;
        int flag;
        (void)kv_gguf_u32(g, name, &u);
        (void)kv_gguf_f32(g, name, &f);
        (void)kv_gguf_bool_or(g, name, 0, &flag);
    }
}

static void walk_tensors(const kv_gguf *g)
{
    float w[256];
    for (uint64_t i = 0; i < kv_gguf_n_tensors(g); i++) {
        const kv_gguf_tensor *t = kv_gguf_tensor_at(g, i);
        const int dtype = kv_dtype_from_gguf(t->gguf_type);
        if (dtype < 0) continue;
        const uint64_t n = t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        const uint64_t last = n / (uint64_t)kv_dtype_block_weights(dtype) - 1;
        kv_dequant(dtype, t->data, kv_dtype_block_weights(dtype), w);
        kv_dequant(dtype, (const uint8_t *)t->data + last * (uint64_t)kv_dtype_block_bytes(dtype),
                   kv_dtype_block_weights(dtype), w);
    }
}

static void refused(kv_status st)
{
    FUZZ_DEMAND(st == KV_ERR_FORMAT || st == KV_ERR_UNSUPPORTED || st == KV_ERR_NOMEM);
    FUZZ_DEMAND(kv_message()[0] != '\0' && !strchr(kv_message(), '\n'));
}

static void use_tokenizer(const kv_gguf *g)
{
    static const char text[] = "ab abba \xc3\xa9 12 <|e|>";
    kv_tokenizer *tok;
    const kv_status st = kv_tokenizer_from_gguf(g, &tok);
    if (st != KV_OK) {
        refused(st);
        return;
    }
    kv_tokens ids = {NULL, 0, 0};
    FUZZ_DEMAND(kv_tokenizer_encode(tok, text, sizeof text - 1, 1, &ids, NULL) == KV_OK);
    for (int64_t i = 0; i < ids.n; i++)
        FUZZ_DEMAND(ids.v[i] >= 0 && ids.v[i] < kv_tokenizer_vocab(tok));
    kv_tokens_free(&ids);
    kv_tokenizer_free(tok);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kv_gguf *g;
    const kv_status st = kv_gguf_parse(data, size, "input", &g);
    if (st != KV_OK) {
        refused(st);
        return 0;
    }
    walk_values(g);
    walk_tensors(g);
    use_tokenizer(g);
    kv_gguf_close(g);
    return 0;
}
