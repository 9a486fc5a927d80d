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

static uint64_t slots_for(uint64_t n)
{
    uint64_t slots = 16;
    while (slots < 2 * n)
        slots *= 2;
    return slots;
}

/* ---- vocabulary ------------------------------------------------------------------------------ */

static uint64_t text_hash(const char *p, size_t n)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a, spread by one more product below */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)p[i]) * UINT64_C(0x100000001b3);
    return h * UINT64_C(0x9E3779B97F4A7C15) >> 20;
}

static kv_span string_at(const kv_strings *s, int32_t i)
{
    return (kv_span){s->bytes + s->at[i], s->at[i + 1] - s->at[i]};
}

/* The slot that holds the text, or the free one where it belongs. */
static int32_t *slot_of(const kv_vocab *v, const char *p, size_t n)
{
    for (uint64_t i = text_hash(p, n);; i++) {
        int32_t *slot = &v->slots[i & v->mask];
        if (*slot < 0) return slot;
        const kv_span s = string_at(&v->text, *slot);
        if (s.n == n && memcmp(s.p, p, n) == 0) return slot;
    }
}

int32_t kv_vocab_find(const kv_vocab *v, const char *p, size_t n)
{
    return *slot_of(v, p, n);
}

/* Bytes that a normal token stands for; a token outside the alphabet stands for its own text. */
static size_t decode(const char *p, size_t n, char *out)
{
    size_t used = 0, step;
    for (size_t at = 0; at < n; at += step) {
        uint32_t cp = 0;
        step = kv_utf8_next(p + at, n - at, &cp);
        const int b = step > 0 ? kv_bpe_char_byte(cp) : -1;
        if (b < 0) {
            memcpy(out, p, n);
            return n;
        }
        out[used++] = (char)b;
    }
    return used;
}

static kv_status reserve_vocab(const kv_gguf *g, kv_gguf_array tokens, kv_vocab *v)
{
    const uint64_t n = tokens.n, slots = slots_for(n);
    uint64_t bytes = 0;
    for (kv_span s; kv_gguf_next_string(&tokens, &s);)
        bytes += s.n;
    v->n = (int32_t)n;
    v->mask = slots - 1;
    v->text = (kv_strings){malloc(bytes + 1), malloc((n + 1) * sizeof *v->text.at)};
    v->piece = (kv_strings){malloc(bytes + 1), malloc((n + 1) * sizeof *v->piece.at)};
    v->type = malloc(n);
    v->slots = malloc(slots * sizeof *v->slots);
    if (!v->text.bytes || !v->text.at || !v->piece.bytes || !v->piece.at || !v->type || !v->slots)
        return no_memory(g);
    memset(v->slots, 0xff, slots * sizeof *v->slots);
    return KV_OK;
}

static kv_status read_types(const kv_gguf *g, kv_vocab *v)
{
    if (!kv_gguf_has(g, KEY("token_type"))) { /* optional: all tokens are plain text then */
        memset(v->type, KV_TOKEN_NORMAL, (size_t)v->n);
        return KV_OK;
    }
    kv_gguf_array types;
    KV_TRY(kv_gguf_array_of(g, KEY("token_type"), KV_GGUF_I32, &types));
    if (types.n != (uint64_t)v->n)
        return kv_fail(KV_ERR_FORMAT,
                       "%s: %s has %llu entries for %d tokens; convert the model again",
                       kv_gguf_where(g), KEY("token_type"), (unsigned long long)types.n, v->n);
    for (int32_t i = 0; i < v->n; i++) {
        int32_t type;
        memcpy(&type, types.p + (size_t)i * sizeof type, sizeof type);
        if (type < KV_TOKEN_NORMAL || type > KV_TOKEN_BYTE)
            return kv_fail(KV_ERR_FORMAT,
                           "%s: token %d has type %d, known are %d to %d; convert "
                           "the model again",
                           kv_gguf_where(g), i, type, KV_TOKEN_NORMAL, KV_TOKEN_BYTE);
        v->type[i] = (uint8_t)type;
    }
    return KV_OK;
}

static kv_status add_token(const kv_gguf *g, kv_vocab *v, int32_t id, kv_span s)
{
    char shown[SHOWN];
    if (s.n == 0)
        return kv_fail(KV_ERR_FORMAT, "%s: token %d is empty; convert the model again",
                       kv_gguf_where(g), id);
    memcpy(v->text.bytes + v->text.at[id], s.p, s.n);
    v->text.at[id + 1] = v->text.at[id] + s.n;
    int32_t *slot = slot_of(v, s.p, s.n);
    if (*slot >= 0)
        return kv_fail(KV_ERR_FORMAT, "%s: tokens %d and %d are both '%s'; convert the model again",
                       kv_gguf_where(g), *slot, id, kv_printable(s.p, s.n, shown, sizeof shown));
    *slot = id;
    char *piece = v->piece.bytes + v->piece.at[id];
    size_t n = s.n;
    if (v->type[id] == KV_TOKEN_NORMAL)
        n = decode(s.p, s.n, piece);
    else
        memcpy(piece, s.p, s.n);
    v->piece.at[id + 1] = v->piece.at[id] + n;
    return KV_OK;
}

static kv_status read_vocab(const kv_gguf *g, kv_vocab *v)
{
    kv_gguf_array tokens;
    KV_TRY(kv_gguf_array_of(g, KEY("tokens"), KV_GGUF_STRING, &tokens));
    if (tokens.n == 0 || tokens.n > INT32_MAX / 4)
        return kv_fail(KV_ERR_FORMAT, "%s: %s has %llu entries; 1 to %d are possible",
                       kv_gguf_where(g), KEY("tokens"), (unsigned long long)tokens.n,
                       INT32_MAX / 4);
    KV_TRY(reserve_vocab(g, tokens, v));
    KV_TRY(read_types(g, v));
    v->text.at[0] = v->piece.at[0] = 0;
    kv_span s;
    for (int32_t id = 0; kv_gguf_next_string(&tokens, &s); id++)
        KV_TRY(add_token(g, v, id, s));
    return KV_OK;
}

void kv_vocab_free(kv_vocab *v)
{
    free(v->text.bytes);
    free(v->text.at);
    free(v->piece.bytes);
    free(v->piece.at);
    free(v->type);
    free(v->slots);
    *v = (kv_vocab){0};
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
    kv_merge *m = kv_bpe_merge_slot(b, left, right);
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
    const uint64_t slots = slots_for(merges.n);
    b->mask = slots - 1;
    b->merges = malloc(slots * sizeof *b->merges);
    if (!b->merges) return no_memory(g);
    for (uint64_t i = 0; i < slots; i++)
        b->merges[i] = (kv_merge){0, -1, -1};
    b->n_merges = (int32_t)merges.n;
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
                       "%s: tokenizer model '%s' is not supported; byte-level BPE (gpt2) is",
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

static kv_status check_ids(const kv_gguf *g, int32_t vocab)
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

static int longer_first(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x < y) - (x > y);
}

/* Control and user tokens are looked for at every byte of a text: which bytes can start one, and
 * which lengths they have. */
static kv_status find_marks(const kv_gguf *g, kv_bpe *b)
{
    const kv_vocab *v = &b->vocab;
    uint32_t count = 0;
    for (int32_t id = 0; id < v->n; id++)
        count += v->type[id] == KV_TOKEN_CONTROL || v->type[id] == KV_TOKEN_USER;
    b->lengths = malloc((count + 1) * sizeof *b->lengths);
    if (!b->lengths) return no_memory(g);
    count = 0;
    for (int32_t id = 0; id < v->n; id++) {
        if (v->type[id] != KV_TOKEN_CONTROL && v->type[id] != KV_TOKEN_USER) continue;
        const kv_span s = string_at(&v->text, id);
        b->first[(uint8_t)s.p[0]] |= v->type[id] == KV_TOKEN_USER ? 2 : 1;
        b->lengths[count++] = (uint32_t)s.n;
    }
    qsort(b->lengths, count, sizeof *b->lengths, longer_first);
    for (uint32_t i = 0; i < count; i++)
        if (i == 0 || b->lengths[i] != b->lengths[b->n_lengths - 1])
            b->lengths[b->n_lengths++] = b->lengths[i];
    return KV_OK;
}

kv_status kv_bpe_read(const kv_gguf *g, kv_bpe *b)
{
    KV_TRY(read_kind(g, b));
    KV_TRY(read_vocab(g, &b->vocab));
    KV_TRY(check_ids(g, b->vocab.n));
    KV_TRY(read_merges(g, b));
    find_byte_tokens(b);
    return find_marks(g, b);
}

void kv_bpe_free(kv_bpe *b)
{
    kv_vocab_free(&b->vocab);
    free(b->merges);
    free(b->lengths);
    *b = (kv_bpe){0};
}
