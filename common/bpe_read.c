/* bpe_read.c - builds the BPE tables from the metadata of a model file, which nobody vouches for:
 * every index is checked, every refusal names the key and the entry. */
#include "common/bpe.h"
#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name

enum { SHOWN = 48 }; /* bytes of a token in a message */

static kv_status no_memory(const kv_gguf *g)
{
    return kv_fail(KV_ERR_NOMEM, "%s: out of memory while reading the tokenizer", kv_gguf_where(g));
}

/* ---- vocabulary ------------------------------------------------------------------------------ */

/* A normal token stands for the bytes that its characters name; one with a character outside the
 * alphabet, like all others, for its own text. */
static size_t decode(uint8_t type, const char *p, size_t n, char *out)
{
    size_t used = 0, step;
    for (size_t at = 0; at < n; at += step) {
        uint32_t cp = 0;
        step = kv_utf8_next(p + at, n - at, &cp);
        const int b = type == KV_TOKEN_NORMAL && step > 0 ? kv_bpe_char_byte(cp) : -1;
        if (b < 0) {
            memcpy(out, p, n);
            return n;
        }
        out[used++] = (char)b;
    }
    return used;
}

kv_status kv_gguf_token_types(const kv_gguf *g, uint64_t n, uint8_t *out)
{
    if (!kv_gguf_has(g, KEY("token_type"))) { /* optional: all tokens are plain text then */
        memset(out, KV_TOKEN_NORMAL, n);
        return KV_OK;
    }
    kv_gguf_array types;
    KV_TRY(kv_gguf_array_of(g, KEY("token_type"), KV_GGUF_I32, &types));
    if (types.n != n)
        return kv_fail(KV_ERR_FORMAT,
                       "%s: %s has %llu entries for %llu tokens; convert the model again",
                       kv_gguf_where(g), KEY("token_type"), (unsigned long long)types.n,
                       (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++) {
        int32_t type;
        memcpy(&type, types.p + i * sizeof type, sizeof type);
        if (type < KV_TOKEN_NORMAL || type > KV_TOKEN_BYTE)
            return kv_fail(KV_ERR_FORMAT,
                           "%s: token %llu has type %d, known are %d to %d; convert "
                           "the model again",
                           kv_gguf_where(g), (unsigned long long)i, type, KV_TOKEN_NORMAL,
                           KV_TOKEN_BYTE);
        out[i] = (uint8_t)type;
    }
    return KV_OK;
}

static kv_status add_tokens(const kv_gguf *g, kv_gguf_array tokens, const uint8_t *types,
                            kv_vocab *v)
{
    kv_span s;
    for (uint64_t id = 0; kv_gguf_next_string(&tokens, &s); id++)
        KV_TRY(kv_vocab_add(v, s.p, s.n, types[id], decode, kv_gguf_where(g)));
    return KV_OK;
}

static kv_status read_vocab(const kv_gguf *g, kv_vocab *v)
{
    kv_gguf_array tokens;
    KV_TRY(kv_gguf_array_of(g, KEY("tokens"), KV_GGUF_STRING, &tokens));
    uint64_t bytes = 0;
    kv_span s;
    for (kv_gguf_array rest = tokens; kv_gguf_next_string(&rest, &s);)
        bytes += s.n;
    KV_TRY(kv_vocab_reserve(v, tokens.n, bytes, kv_gguf_where(g)));
    uint8_t *types = malloc(tokens.n);
    if (!types) return no_memory(g);
    kv_status st = kv_gguf_token_types(g, tokens.n, types);
    if (st == KV_OK) st = add_tokens(g, tokens, types, v);
    free(types);
    return st;
}

/* ---- merges ---------------------------------------------------------------------------------- */

static kv_status bad_merge(const kv_gguf *g, uint64_t rank, kv_span s, const char *why)
{
    char shown[2 * SHOWN];
    return kv_fail(KV_ERR_FORMAT, "%s: merge %llu '%s' %s; convert the model again",
                   kv_gguf_where(g), (unsigned long long)rank,
                   kv_printable(s.p, s.n, shown, sizeof shown), why);
}

/* "left right" with exactly one space; joined has room for the text without it. */
static kv_status add_merge(const kv_gguf *g, kv_bpe *b, uint64_t rank, kv_span s, char *joined)
{
    const char *space = memchr(s.p, ' ', s.n);
    const size_t left_n = space ? (size_t)(space - s.p) : 0;
    const size_t right_n = space ? s.n - left_n - 1 : 0;
    if (left_n == 0 || right_n == 0 || memchr(space + 1, ' ', right_n))
        return bad_merge(g, rank, s, "is not two tokens with one space between them");
    memcpy(joined, s.p, left_n);
    memcpy(joined + left_n, space + 1, right_n);
    const int32_t left = kv_vocab_find(&b->vocab, joined, left_n);
    const int32_t right = kv_vocab_find(&b->vocab, joined + left_n, right_n);
    const int32_t id = kv_vocab_find(&b->vocab, joined, left_n + right_n);
    if (left < 0) return bad_merge(g, rank, s, "starts with a token that the vocabulary lacks");
    if (right < 0) return bad_merge(g, rank, s, "ends with a token that the vocabulary lacks");
    if (id < 0) return bad_merge(g, rank, s, "makes a token that the vocabulary lacks");
    kv_merge *m = kv_merges_slot(&b->merges, left, right);
    if (m->rank >= 0) return bad_merge(g, rank, s, "is there twice");
    *m = (kv_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, (int32_t)rank, id};
    return KV_OK;
}

static kv_status fill_merges(const kv_gguf *g, kv_gguf_array merges, kv_bpe *b)
{
    size_t longest = 0;
    kv_span s;
    for (kv_gguf_array rest = merges; kv_gguf_next_string(&rest, &s);)
        if (s.n > longest) longest = s.n;
    char *joined = malloc(longest + 1);
    if (!joined) return no_memory(g);
    kv_status st = KV_OK;
    for (uint64_t rank = 0; st == KV_OK && kv_gguf_next_string(&merges, &s); rank++)
        st = add_merge(g, b, rank, s, joined);
    free(joined);
    return st;
}

static kv_status read_merges(const kv_gguf *g, kv_bpe *b)
{
    kv_gguf_array merges;
    KV_TRY(kv_gguf_array_of(g, KEY("merges"), KV_GGUF_STRING, &merges));
    if (merges.n > INT32_MAX / 4)
        return kv_fail(KV_ERR_FORMAT, "%s: %s has %llu entries, at most %d are possible",
                       kv_gguf_where(g), KEY("merges"), (unsigned long long)merges.n,
                       INT32_MAX / 4);
    KV_TRY(kv_merges_reserve(&b->merges, merges.n));
    return fill_merges(g, merges, b);
}

/* ---- the rest -------------------------------------------------------------------------------- */

static int span_is(kv_span s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

static kv_status read_kind(const kv_gguf *g, kv_bpe *b)
{
    char shown[SHOWN];
    kv_span model, pre;
    KV_TRY(kv_gguf_string(g, KEY("model"), &model));
    if (!span_is(model, "gpt2"))
        return kv_fail(KV_ERR_UNSUPPORTED,
                       "%s: tokenizer model '%s' is not supported; gpt2 (byte-level BPE) and llama "
                       "(SentencePiece) are",
                       kv_gguf_where(g), kv_printable(model.p, model.n, shown, sizeof shown));
    KV_TRY(kv_gguf_string(g, KEY("pre"), &pre));
    if (span_is(pre, "smollm"))
        b->pretok = KV_PRETOK_SMOLLM;
    else if (span_is(pre, "gpt2") || span_is(pre, "gpt-2"))
        b->pretok = KV_PRETOK_GPT2;
    else
        return kv_fail(KV_ERR_UNSUPPORTED,
                       "%s: pre-tokenizer '%s' is not supported; smollm and gpt-2 are",
                       kv_gguf_where(g), kv_printable(pre.p, pre.n, shown, sizeof shown));
    return KV_OK;
}

kv_status kv_gguf_check_token_ids(const kv_gguf *g, int32_t vocab)
{
    static const char *const keys[] = {KEY("bos_token_id"), KEY("eos_token_id"),
                                       KEY("unknown_token_id"), KEY("padding_token_id")};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        uint32_t id;
        KV_TRY(kv_gguf_u32_or(g, keys[i], 0, &id));
        if (id >= (uint32_t)vocab)
            return kv_fail(KV_ERR_FORMAT,
                           "%s: %s is %u, but there are %d tokens; convert the model again",
                           kv_gguf_where(g), keys[i], id, vocab);
    }
    return KV_OK;
}

static void find_byte_tokens(kv_bpe *b)
{
    for (int i = 0; i < 256; i++) {
        char text[4];
        const size_t n = kv_utf8_put(kv_bpe_byte_char((uint8_t)i), text);
        b->byte_id[i] = kv_vocab_find(&b->vocab, text, n);
    }
}

kv_status kv_bpe_read(const kv_gguf *g, kv_bpe *b)
{
    KV_TRY(read_kind(g, b));
    KV_TRY(read_vocab(g, &b->vocab));
    KV_TRY(kv_gguf_check_token_ids(g, b->vocab.n));
    KV_TRY(read_merges(g, b));
    find_byte_tokens(b);
    return kv_marks_build(&b->vocab, &b->marks);
}

void kv_bpe_free(kv_bpe *b)
{
    kv_vocab_free(&b->vocab);
    kv_merges_free(&b->merges);
    kv_marks_free(&b->marks);
    *b = (kv_bpe){0};
}
