#include "common/tokenizer.h"

#include "common/bpe.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/spm.h"

#include <stdlib.h>
#include <string.h>

enum { BYTES_SPECIALS = 4, BYTES_VOCAB = BYTES_SPECIALS + 256, FILE_MAX = 1 << 28 };

typedef enum family { FAMILY_BYTES, FAMILY_BPE, FAMILY_SPM } family;

struct kv_tokenizer {
    const char *kind;
    family family;
    kv_bpe bpe; /* FAMILY_BPE; FAMILY_BYTES: bpe.vocab.piece only */
    kv_spm spm; /* FAMILY_SPM */
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

static const kv_vocab *vocab_of(const kv_tokenizer *t)
{
    return t->family == FAMILY_SPM ? &t->spm.vocab : &t->bpe.vocab;
}

/* Kind, number of tokens, then type, length and text of each. */
static void add_tokens(kv_sha256_ctx *c, const kv_tokenizer *t)
{
    const kv_vocab *v = vocab_of(t);
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

/* Scores, then what becomes of spaces and of characters without a token, then the map. */
static void add_scores(kv_sha256_ctx *c, const kv_spm *s)
{
    for (int32_t id = 0; id < s->vocab.n; id++) {
        uint32_t bits;
        const float score = s->score[id] + 0.0f; /* -0 is 0 */
        memcpy(&bits, &score, sizeof bits);
        add_u64(c, bits);
    }
    add_u64(c,
            (uint64_t)(s->byte_fallback | s->norm.dummy_prefix << 1 | s->norm.remove_extra << 2));
    add_u64(c, s->norm.n_units);
    for (uint32_t i = 0; i < s->norm.n_units; i++)
        add_u64(c, s->norm.units[i]);
    kv_sha256_add(c, s->norm.rewritten, s->norm.n_rewritten);
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
    t->family = FAMILY_BYTES;
    const kv_status st = fill_bytes_vocab(&t->bpe.vocab);
    if (st != KV_OK) {
        kv_tokenizer_free(t);
        return st;
    }
    kv_sha256(t->kind, strlen(t->kind) + 1, t->fingerprint);
    *out = t;
    return KV_OK;
}

static kv_status fingerprint_bpe(const kv_gguf *g, kv_tokenizer *t)
{
    kv_sha256_ctx c;
    kv_sha256_begin(&c);
    add_tokens(&c, t);
    const kv_status st = add_merges(&c, g);
    kv_sha256_end(&c, t->fingerprint);
    return st;
}

static void fingerprint_spm(kv_tokenizer *t)
{
    kv_sha256_ctx c;
    kv_sha256_begin(&c);
    add_tokens(&c, t);
    add_scores(&c, &t->spm);
    kv_sha256_end(&c, t->fingerprint);
}

/* ---- from files ------------------------------------------------------------------------------ */

static kv_status fill_bpe(const kv_gguf *g, kv_tokenizer *t)
{
    t->family = FAMILY_BPE;
    KV_TRY(kv_bpe_read(g, &t->bpe));
    t->kind = t->bpe.pretok == KV_PRETOK_SMOLLM ? "bpe/smollm" : "bpe/gpt-2";
    return fingerprint_bpe(g, t);
}

typedef struct input {
    const kv_gguf *gguf; /* or */
    const char *p;
    size_t n;
    const char *where;
    int is_vocab; /* the text form */
} input;

static kv_status fill_spm(const input *in, kv_tokenizer *t)
{
    t->family = FAMILY_SPM;
    t->kind = "spm";
    KV_TRY(in->gguf       ? kv_spm_read_gguf(in->gguf, &t->spm)
           : in->is_vocab ? kv_spm_read_vocab(in->p, in->n, in->where, &t->spm)
                          : kv_spm_read_model(in->p, in->n, in->where, &t->spm));
    fingerprint_spm(t);
    return KV_OK;
}

/* "llama" is what GGUF calls a SentencePiece BPE. */
static int is_spm(const kv_gguf *g)
{
    kv_span model;
    const int known = kv_gguf_has(g, "tokenizer.ggml.model") &&
                      kv_gguf_string(g, "tokenizer.ggml.model", &model) == KV_OK;
    return known && model.n == 5 && memcmp(model.p, "llama", 5) == 0;
}

static kv_status make(const input *in, kv_tokenizer **out)
{
    kv_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return kv_fail(KV_ERR_NOMEM, "out of memory: tokenizer");
    const kv_status st = in->gguf && !is_spm(in->gguf) ? fill_bpe(in->gguf, t) : fill_spm(in, t);
    if (st == KV_OK)
        *out = t;
    else
        kv_tokenizer_free(t);
    return st;
}

kv_status kv_tokenizer_from_gguf(const kv_gguf *g, kv_tokenizer **out)
{
    return make(&(input){.gguf = g}, out);
}

kv_status kv_tokenizer_from_model(const void *p, size_t n, const char *where, kv_tokenizer **out)
{
    return make(&(input){.p = p, .n = n, .where = where}, out);
}

kv_status kv_tokenizer_from_vocab(const char *p, size_t n, const char *where, kv_tokenizer **out)
{
    return make(&(input){.p = p, .n = n, .where = where, .is_vocab = 1}, out);
}

static int ends_in(const char *path, const char *suffix)
{
    const size_t n = strlen(path), m = strlen(suffix);
    return n >= m && strcmp(path + n - m, suffix) == 0;
}

kv_status kv_tokenizer_open(const char *path, kv_tokenizer **out)
{
    if (ends_in(path, ".gguf")) {
        kv_gguf *g;
        KV_TRY(kv_gguf_open(path, &g));
        const kv_status st = kv_tokenizer_from_gguf(g, out);
        kv_gguf_close(g);
        return st;
    }
    char *p;
    size_t n;
    KV_TRY(kv_file_read(path, FILE_MAX, &p, &n));
    const kv_status st = ends_in(path, ".vocab") ? kv_tokenizer_from_vocab(p, n, path, out)
                                                 : kv_tokenizer_from_model(p, n, path, out);
    free(p);
    return st;
}

void kv_tokenizer_free(kv_tokenizer *t)
{
    if (!t) return;
    kv_bpe_free(&t->bpe);
    kv_spm_free(&t->spm);
    free(t);
}

/* ---- asking ---------------------------------------------------------------------------------- */

const char *kv_tokenizer_kind(const kv_tokenizer *t)
{
    return t->kind;
}

int32_t kv_tokenizer_vocab(const kv_tokenizer *t)
{
    return vocab_of(t)->n;
}

const uint8_t *kv_tokenizer_fingerprint(const kv_tokenizer *t)
{
    return t->fingerprint;
}

const char *kv_tokenizer_piece(const kv_tokenizer *t, int32_t id, size_t *n)
{
    const kv_vocab *v = vocab_of(t);
    *n = 0;
    if (id < 0 || id >= v->n) return NULL;
    *n = (size_t)(v->piece.at[id + 1] - v->piece.at[id]);
    return v->piece.bytes + v->piece.at[id];
}

/* Byte-level tokens carry their spaces themselves: none leads. */
kv_token_bytes kv_tokenizer_token_bytes(const kv_tokenizer *t, int32_t id)
{
    const kv_vocab *v = vocab_of(t);
    const kv_token_bytes none = {0, 0, 1};
    if (id < 0 || id >= v->n) return none;
    if (t->family == FAMILY_BYTES) return id < BYTES_SPECIALS ? none : (kv_token_bytes){1, 0, 0};
    const uint8_t type = v->type[id];
    if (type == KV_TOKEN_CONTROL || type == KV_TOKEN_UNKNOWN || type == KV_TOKEN_UNUSED)
        return none;
    const uint32_t n = (uint32_t)(v->piece.at[id + 1] - v->piece.at[id]);
    const kv_span text = kv_vocab_text(v, id);
    const uint8_t lead = t->family == FAMILY_SPM && type != KV_TOKEN_BYTE && text.n >= 3 &&
                         memcmp(text.p, KV_SPM_SPACE, 3) == 0;
    return (kv_token_bytes){n - lead, lead, 0};
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

static kv_status encode_bpe(const kv_bpe *b, const char *text, size_t n, int special,
                            kv_bpe_scratch *scratch, kv_tokens *out, uint64_t *dropped)
{
    const uint8_t wanted = special ? KV_MARK_CONTROL | KV_MARK_USER : KV_MARK_USER;
    for (size_t at = 0; at < n;) {
        const kv_mark m = kv_marks_next(&b->marks, &b->vocab, text, n, at, wanted);
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
    kv_bpe_scratch scratch = {0};
    uint64_t lost = 0;
    const kv_status st = t->family == FAMILY_BYTES ? encode_bytes(text, n, out)
                         : t->family == FAMILY_SPM
                             ? kv_spm_encode(&t->spm, text, n, special, out, &lost)
                             : encode_bpe(&t->bpe, text, n, special, &scratch, out, &lost);
    kv_bpe_scratch_free(&scratch);
    if (dropped) *dropped += lost;
    return st;
}
