#include "common/tokenizer.h"

#include "common/bpe.h"
#include "common/hash.h"

#include <stdlib.h>
#include <string.h>

enum { BYTES_SPECIALS = 4, BYTES_VOCAB = BYTES_SPECIALS + 256 };

struct kv_tokenizer {
    const char *kind;
    int is_bytes;
    kv_bpe bpe; /* of the bytes kind: bpe.vocab.piece only */
    uint8_t fingerprint[32];
};

/* ---- token lists ----------------------------------------------------------------------------- */

kv_status kv_tokens_reserve(kv_tokens *t, int64_t more)
{
    if (more <= t->cap - t->n) return KV_OK;
    const int64_t most = INT64_MAX / (4 * (int64_t)sizeof *t->v);
    if (more > most - t->n) return kv_fail(KV_ERR_NOMEM, "out of memory: too many tokens");
    int64_t cap = t->cap + t->cap / 2;
    if (cap < t->n + more) cap = t->n + more;
    if (cap < 64) cap = 64;
    int32_t *v = realloc(t->v, (size_t)cap * sizeof *v);
    if (!v) return kv_fail(KV_ERR_NOMEM, "out of memory: %lld tokens", (long long)cap);
    t->v = v;
    t->cap = cap;
    return KV_OK;
}

kv_status kv_tokens_append(kv_tokens *t, const int32_t *ids, int64_t n)
{
    if (n == 0) return KV_OK;
    KV_TRY(kv_tokens_reserve(t, n));
    memcpy(t->v + t->n, ids, (size_t)n * sizeof *ids);
    t->n += n;
    return KV_OK;
}

void kv_tokens_free(kv_tokens *t)
{
    free(t->v);
    *t = (kv_tokens){0};
}

/* ---- making ---------------------------------------------------------------------------------- */

static void add_u64(kv_sha256_ctx *c, uint64_t x)
{
    uint8_t le[8];
    for (int i = 0; i < 8; i++)
        le[i] = (uint8_t)(x >> 8 * i);
    kv_sha256_add(c, le, sizeof le);
}

/* Kind, number of tokens, then type, length and text of each. */
static void add_tokens(kv_sha256_ctx *c, const kv_tokenizer *t)
{
    const kv_vocab *v = &t->bpe.vocab;
    kv_sha256_add(c, t->kind, strlen(t->kind) + 1);
    add_u64(c, (uint64_t)v->n);
    for (int32_t id = 0; id < v->n; id++) {
        const uint64_t n = v->text.at[id + 1] - v->text.at[id];
        add_u64(c, v->type[id]);
        add_u64(c, n);
        kv_sha256_add(c, v->text.bytes + v->text.at[id], n);
    }
}

/* Number of merges, then length and text of each, as the file has them. */
static kv_status add_merges(kv_sha256_ctx *c, const kv_gguf *g)
{
    kv_gguf_array merges;
    KV_TRY(kv_gguf_array_of(g, "tokenizer.ggml.merges", KV_GGUF_STRING, &merges));
    add_u64(c, merges.n);
    for (kv_span s; kv_gguf_next_string(&merges, &s);) {
        add_u64(c, s.n);
        kv_sha256_add(c, s.p, s.n);
    }
    return KV_OK;
}

static kv_status fill_bytes_vocab(kv_vocab *v)
{
    static const char *const names[BYTES_SPECIALS] = {"<pad>", "<bos>", "<eos>", "<unk>"};
    v->n = BYTES_VOCAB;
    v->piece = (kv_strings){malloc(BYTES_VOCAB * 5), malloc((BYTES_VOCAB + 1) * sizeof(uint64_t))};
    if (!v->piece.bytes || !v->piece.at) return kv_fail(KV_ERR_NOMEM, "out of memory: tokenizer");
    uint64_t at = 0;
    for (int32_t id = 0; id < BYTES_VOCAB; id++) {
        v->piece.at[id] = at;
        if (id < BYTES_SPECIALS) {
            memcpy(v->piece.bytes + at, names[id], 5);
            at += 5;
        } else {
            v->piece.bytes[at++] = (char)(id - BYTES_SPECIALS);
        }
    }
    v->piece.at[BYTES_VOCAB] = at;
    return KV_OK;
}

kv_status kv_tokenizer_bytes(kv_tokenizer **out)
{
    kv_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return kv_fail(KV_ERR_NOMEM, "out of memory: tokenizer");
    t->kind = "bytes";
    t->is_bytes = 1;
    const kv_status st = fill_bytes_vocab(&t->bpe.vocab);
    if (st != KV_OK) {
        kv_tokenizer_free(t);
        return st;
    }
    kv_sha256(t->kind, strlen(t->kind) + 1, t->fingerprint);
    *out = t;
    return KV_OK;
}

static kv_status fingerprint(const kv_gguf *g, kv_tokenizer *t)
{
    kv_sha256_ctx c;
    kv_sha256_begin(&c);
    add_tokens(&c, t);
    const kv_status st = add_merges(&c, g);
    kv_sha256_end(&c, t->fingerprint);
    return st;
}

kv_status kv_tokenizer_from_gguf(const kv_gguf *g, kv_tokenizer **out)
{
    kv_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return kv_fail(KV_ERR_NOMEM, "out of memory: tokenizer");
    kv_status st;
    KV_TRY_GOTO(st, kv_bpe_read(g, &t->bpe), fail);
    t->kind = t->bpe.pretok == KV_PRETOK_SMOLLM ? "bpe/smollm" : "bpe/gpt-2";
    KV_TRY_GOTO(st, fingerprint(g, t), fail);
    *out = t;
    return KV_OK;
fail:
    kv_tokenizer_free(t);
    return st;
}

void kv_tokenizer_free(kv_tokenizer *t)
{
    if (!t) return;
    kv_bpe_free(&t->bpe);
    free(t);
}

/* ---- asking ---------------------------------------------------------------------------------- */

const char *kv_tokenizer_kind(const kv_tokenizer *t)
{
    return t->kind;
}

int32_t kv_tokenizer_vocab(const kv_tokenizer *t)
{
    return t->bpe.vocab.n;
}

const uint8_t *kv_tokenizer_fingerprint(const kv_tokenizer *t)
{
    return t->fingerprint;
}

const char *kv_tokenizer_piece(const kv_tokenizer *t, int32_t id, size_t *n)
{
    const kv_vocab *v = &t->bpe.vocab;
    *n = 0;
    if (id < 0 || id >= v->n) return NULL;
    *n = (size_t)(v->piece.at[id + 1] - v->piece.at[id]);
    return v->piece.bytes + v->piece.at[id];
}

/* Byte-level tokens carry their spaces themselves: none leads. */
kv_token_bytes kv_tokenizer_token_bytes(const kv_tokenizer *t, int32_t id)
{
    const kv_vocab *v = &t->bpe.vocab;
    const kv_token_bytes none = {0, 0, 1};
    if (id < 0 || id >= v->n) return none;
    if (t->is_bytes) return id < BYTES_SPECIALS ? none : (kv_token_bytes){1, 0, 0};
    if (v->type[id] == KV_TOKEN_CONTROL || v->type[id] == KV_TOKEN_UNKNOWN ||
        v->type[id] == KV_TOKEN_UNUSED)
        return none;
    return (kv_token_bytes){(uint32_t)(v->piece.at[id + 1] - v->piece.at[id]), 0, 0};
}

uint32_t kv_tokenizer_bytes_of(const kv_tokenizer *t, int32_t x, int32_t y)
{
    const kv_token_bytes b = kv_tokenizer_token_bytes(t, y);
    return b.base + (b.lead && !kv_tokenizer_token_bytes(t, x).boundary);
}

/* ---- encoding -------------------------------------------------------------------------------- */

static kv_status encode_bytes(const char *text, size_t n, kv_tokens *out)
{
    if (n > INT64_MAX / 16) return kv_fail(KV_ERR_NOMEM, "out of memory: %zu bytes of text", n);
    KV_TRY(kv_tokens_reserve(out, (int64_t)n));
    for (size_t i = 0; i < n; i++)
        out->v[out->n++] = BYTES_SPECIALS + (uint8_t)text[i];
    return KV_OK;
}

typedef struct mark {
    size_t at, n; /* where a token written out in the text stands; at = end of the text: none */
    int32_t id;
} mark;

static int is_mark(const kv_vocab *v, int32_t id, int special)
{
    return id >= 0 &&
           (v->type[id] == KV_TOKEN_USER || (special && v->type[id] == KV_TOKEN_CONTROL));
}

/* The first mark at or after `at`, the longest if several start there. */
static mark next_mark(const kv_bpe *b, const char *text, size_t n, size_t at, int special)
{
    const uint8_t wanted = special ? 3 : 2;
    for (; b->n_lengths > 0 && at < n; at++) {
        if (!(b->first[(uint8_t)text[at]] & wanted)) continue;
        for (uint32_t i = 0; i < b->n_lengths; i++) {
            const size_t length = b->lengths[i];
            if (length > n - at) continue;
            const int32_t id = kv_vocab_find(&b->vocab, text + at, length);
            if (is_mark(&b->vocab, id, special)) return (mark){at, length, id};
        }
    }
    return (mark){n, 0, -1};
}

static kv_status encode_bpe(const kv_bpe *b, const char *text, size_t n, int special,
                            kv_bpe_scratch *scratch, kv_tokens *out, uint64_t *dropped)
{
    for (size_t at = 0; at < n;) {
        const mark m = next_mark(b, text, n, at, special);
        while (at < m.at) {
            const size_t step = kv_pretok_next(b->pretok, text + at, m.at - at);
            KV_TRY(kv_bpe_word(b, text + at, step, scratch, out, dropped));
            at += step;
        }
        if (m.id >= 0) KV_TRY(kv_tokens_append(out, &m.id, 1));
        at += m.n;
    }
    return KV_OK;
}

kv_status kv_tokenizer_encode(const kv_tokenizer *t, const char *text, size_t n, int special,
                              kv_tokens *out, uint64_t *dropped)
{
    if (t->is_bytes) return encode_bytes(text, n, out);
    kv_bpe_scratch scratch = {0};
    uint64_t lost = 0;
    const kv_status st = encode_bpe(&t->bpe, text, n, special, &scratch, out, &lost);
    kv_bpe_scratch_free(&scratch);
    if (dropped) *dropped += lost;
    return st;
}
