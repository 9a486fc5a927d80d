/* passkey.c - retrieval documents: a key of five digits stands somewhere in a long text that does
 * not matter, and the last line asks for it.
 *
 *     opening | filler[0..p) | key block | filler[p..) | question
 *
 * The parts are tokenised separately and put together; the sum is exactly `len` tokens. The filler
 * is cut where a word ends and completed by line feeds; p is the wanted share of it, moved back to
 * where a word ends, so that no character is torn. The key block names the key six times. The shape
 * is that of the passkey task of cascading caches (Willette et al., ICLR 2025), the wording is our
 * own. Key and filler depend on the seed only: documents of one seed differ in nothing but length
 * and depth. */
#include "corpus/internal.h"

#include "common/hash.h"
#include "common/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIGITS = 5, STREAM_KEY = 3, MARGIN = 64, DEPTH_UNITS = 10000 /* ppm per per cent */ };

static const char opening[] =
    "A pass key of five digits is hidden somewhere in the long text below. The rest of the text "
    "does not matter. Find the pass key and remember it; you will be asked for it at the end.\n\n";

#define KEY_LINE \
    "The pass key is %s. Remember it: %s is the pass key, and the pass key is **%s**.\n"
static const char key_block[] =
    "\n\n*** THE PASS KEY ***\n" KEY_LINE
    "You will have to repeat it, so here it is again.\n" KEY_LINE "*** END OF THE PASS KEY ***\n\n";

static const char question[] =
    "\n\nHere the text ends. What is the pass key of five digits that was hidden in it?\n"
    "The pass key is ";

/* ---- parts ----------------------------------------------------------------------------------- */

void corpus_passkey_words(const char *digits, corpus_words *out)
{
    out->opening = opening;
    snprintf(out->key, sizeof out->key, key_block, digits, digits, digits, digits, digits, digits);
    snprintf(out->question, sizeof out->question, "%s%s", question, digits);
}

static void make_key(int64_t seed, char digits[DIGITS + 1])
{
    const uint32_t key = 10000 + kv_philox_below((uint64_t)seed, STREAM_KEY, 0, 90000);
    snprintf(digits, DIGITS + 1, "%05u", key % 100000);
}

static kv_status encode(const kv_tokenizer *tok, const char *text, size_t n, corpus_stream *s,
                        kv_tokens *out)
{
    return kv_tokenizer_encode(tok, text, n, 0, out, &s->dropped_bytes);
}

static int has_digit(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] >= '0' && p[i] <= '9') return 1;
    return 0;
}

/* The question and the answer are one text; the answer starts with the first token that shows a
 * digit. A tokenizer that joins the space to the number has it in the answer, another has it in
 * the question. */
static kv_status encode_question(const kv_tokenizer *tok, corpus_stream *s, kv_tokens *ask)
{
    corpus_words words;
    corpus_passkey_words(s->passkey.digits, &words);
    KV_TRY(encode(tok, words.question, strlen(words.question), s, ask));
    int64_t at = 0;
    for (; at < ask->n; at++) {
        size_t n;
        const char *p = kv_tokenizer_piece(tok, ask->v[at], &n);
        if (has_digit(p, n)) break;
    }
    if (at == ask->n)
        return kv_fail(KV_ERR_UNSUPPORTED,
                       "passkey: tokenizer %s has no tokens for digits; use another model",
                       kv_tokenizer_kind(tok));
    KV_TRY(kv_tokens_append(&s->answer, ask->v + at, ask->n - at));
    ask->n = at;
    return KV_OK;
}

static kv_status encode_key(const kv_tokenizer *tok, corpus_stream *s, kv_tokens *out)
{
    corpus_words words;
    corpus_passkey_words(s->passkey.digits, &words);
    return encode(tok, words.key, strlen(words.key), s, out);
}

/* ---- filler ---------------------------------------------------------------------------------- */

static int is_space(char c)
{
    return c == ' ' || c == '\n';
}

/* Whether a word ends before token i; it does at both ends of the list. */
static int between_words(const kv_tokenizer *tok, const kv_tokens *t, int64_t i)
{
    size_t n;
    if (i == 0 || i == t->n) return 1;
    const char *p = kv_tokenizer_piece(tok, t->v[i - 1], &n);
    if (n > 0 && is_space(p[n - 1])) return 1;
    p = kv_tokenizer_piece(tok, t->v[i], &n);
    return n > 0 && is_space(p[0]);
}

static int64_t back_to_word(const kv_tokenizer *tok, const kv_tokens *t, int64_t i)
{
    while (!between_words(tok, t, i))
        i--;
    return i;
}

/* At least `most` tokens and MARGIN more, so that where the text is cut does not show. */
static kv_status encode_filler(const kv_tokenizer *tok, int64_t seed, int64_t most, kv_tokens *out)
{
    for (size_t n = 4096 + 2 * (size_t)most;; n *= 2) {
        char *text = malloc(n);
        if (!text) return kv_fail(KV_ERR_NOMEM, "out of memory: filler of %zu bytes", n);
        kv_status st = corpus_filler((uint64_t)seed, n, text);
        out->n = 0;
        if (st == KV_OK) st = kv_tokenizer_encode(tok, text, n, 0, out, NULL);
        free(text);
        if (st != KV_OK || out->n >= most + MARGIN) return st;
        if (n > CORPUS_TEXT_MAX || (size_t)out->n < n / 256)
            return kv_fail(
                KV_ERR_UNSUPPORTED,
                "passkey: tokenizer %s makes %lld tokens of %zu bytes; use another model",
                kv_tokenizer_kind(tok), (long long)out->n, n);
    }
}

/* Exactly n tokens. */
static kv_status make_filler(const kv_tokenizer *tok, int64_t seed, int64_t n, kv_tokens *out)
{
    kv_tokens feed = {0};
    kv_status st;
    KV_TRY_GOTO(st, encode_filler(tok, seed, n, out), done);
    KV_TRY_GOTO(st, kv_tokenizer_encode(tok, "\n", 1, 0, &feed, NULL), done);
    if (feed.n != 1) {
        st = kv_fail(KV_ERR_UNSUPPORTED,
                     "passkey: tokenizer %s has no token for a line feed; use another model",
                     kv_tokenizer_kind(tok));
        goto done;
    }
    out->n = back_to_word(tok, out, n);
    while (out->n < n) /* there is room: the list was longer */
        out->v[out->n++] = feed.v[0];
done:
    kv_tokens_free(&feed);
    return st;
}

/* ---- the document ---------------------------------------------------------------------------- */

typedef struct parts {
    kv_tokens open, key, ask, filler;
} parts;

static void free_parts(parts *p)
{
    kv_tokens_free(&p->open);
    kv_tokens_free(&p->key);
    kv_tokens_free(&p->ask);
    kv_tokens_free(&p->filler);
}

static kv_status make_parts(const corpus_item *item, const kv_tokenizer *tok, corpus_stream *s,
                            parts *p)
{
    const corpus_trial *t = &item->trial;
    KV_TRY(encode(tok, opening, sizeof opening - 1, s, &p->open));
    KV_TRY(encode_key(tok, s, &p->key));
    KV_TRY(encode_question(tok, s, &p->ask));
    const int64_t frame = p->open.n + p->key.n + p->ask.n;
    if (t->len <= frame)
        return kv_fail(KV_ERR_USAGE,
                       "passkey: len=%lld is too short: key and question alone are %lld tokens "
                       "(tokenizer %s); the least is len=%lld",
                       (long long)t->len, (long long)frame, kv_tokenizer_kind(tok),
                       (long long)frame + 1);
    return make_filler(tok, t->seed, t->len - frame, &p->filler);
}

/* filler * depth, rounded to the nearest token, ties up. */
static int64_t wanted_place(int64_t filler, int32_t depth_ppm)
{
    return (filler * depth_ppm + 500000) / 1000000;
}

static kv_status join(const kv_tokenizer *tok, const parts *p, corpus_stream *s)
{
    const int64_t at =
        back_to_word(tok, &p->filler, wanted_place(p->filler.n, s->passkey.depth_ppm));
    kv_tokens *t = &s->tokens;
    KV_TRY(kv_tokens_append(t, p->open.v, p->open.n));
    KV_TRY(kv_tokens_append(t, p->filler.v, at));
    s->passkey.insert_pos = t->n;
    KV_TRY(kv_tokens_append(t, p->key.v, p->key.n));
    s->passkey.key_end = t->n;
    KV_TRY(kv_tokens_append(t, p->filler.v + at, p->filler.n - at));
    return kv_tokens_append(t, p->ask.v, p->ask.n);
}

kv_status corpus_passkey_tokens(const corpus_item *item, const kv_tokenizer *tok,
                                corpus_stream *out)
{
    parts p = {0};
    out->is_passkey = 1;
    out->passkey.n_digits = DIGITS;
    out->passkey.depth_ppm = item->trial.depth_ppm;
    make_key(item->trial.seed, out->passkey.digits);
    kv_status st = make_parts(item, tok, out, &p);
    if (st == KV_OK) st = join(tok, &p, out);
    free_parts(&p);
    return st;
}

int32_t corpus_passkey_score(const corpus_passkey *k, const char *text, size_t n, char *found)
{
    int32_t used = 0, right = 0;
    for (size_t i = 0; i < n && used < k->n_digits; i++)
        if (text[i] >= '0' && text[i] <= '9') found[used++] = text[i];
    for (int32_t i = 0; i < used; i++)
        right += found[i] == k->digits[i];
    while (used < k->n_digits)
        found[used++] = '-';
    found[used] = '\0';
    return right;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* "50", "12.5": per cent of a depth in parts per million. */
static const char *per_cent(int64_t ppm, char out[16])
{
    int n = snprintf(out, 16, "%d.%04d", (int)(ppm / DEPTH_UNITS), (int)(ppm % DEPTH_UNITS));
    while (out[n - 1] == '0')
        out[--n] = '\0';
    if (out[n - 1] == '.') out[n - 1] = '\0';
    return out;
}

static kv_status set_name(corpus *c, const corpus_values *len, const corpus_values *depth,
                          const corpus_values *seeds)
{
    char name[2 * CORPUS_LIST_MAX * 24 + 64], number[16];
    size_t used = (size_t)snprintf(name, sizeof name, "passkey:len=");
    for (int32_t i = 0; i < len->n; i++)
        used += (size_t)snprintf(name + used, sizeof name - used, "%s%lld", i ? "/" : "",
                                 (long long)len->v[i]);
    used += (size_t)snprintf(name + used, sizeof name - used, ",depth=");
    for (int32_t i = 0; i < depth->n; i++)
        used += (size_t)snprintf(name + used, sizeof name - used, "%s%s", i ? "/" : "",
                                 per_cent(depth->v[i], number));
    snprintf(name + used, sizeof name - used, ",seeds=%lld", (long long)seeds->v[0]);
    return corpus_set_name(c, name);
}

/* Stands for the SHA-256 of a text, which these documents lack: all that decides the tokens but for
 * the tokenizer. */
static void sign_trial(corpus_item *item)
{
    uint8_t book[32];
    kv_sha256_ctx h;
    kv_sha256_begin(&h);
    kv_sha256_add(&h, opening, sizeof opening);
    kv_sha256_add(&h, key_block, sizeof key_block);
    kv_sha256_add(&h, question, sizeof question);
    kv_sha256_add(&h, corpus_book_sha(book), sizeof book);
    kv_sha256_add(&h, item->name, strlen(item->name) + 1);
    kv_sha256_end(&h, item->doc.text_sha);
}

static kv_status add_trial(corpus *c, corpus_trial t)
{
    char name[80], number[16];
    corpus_item *item;
    snprintf(name, sizeof name, "len%lld-depth%s-seed%lld", (long long)t.len,
             per_cent(t.depth_ppm, number), (long long)t.seed);
    KV_TRY(corpus_add(c, name, NULL, &item));
    item->trial = t;
    item->doc.n_words = -1;
    sign_trial(item);
    return KV_OK;
}

static kv_status add_trials(corpus *c, const corpus_values *len, const corpus_values *depth,
                            int64_t seeds)
{
    for (int32_t l = 0; l < len->n; l++)
        for (int32_t d = 0; d < depth->n; d++)
            for (int64_t s = 0; s < seeds; s++)
                KV_TRY(add_trial(c, (corpus_trial){len->v[l], (int32_t)depth->v[d], s}));
    return KV_OK;
}

kv_status corpus_open_passkey(corpus *c, const char *spec, const char *params)
{
    enum { MOST = 16384 };
    static const corpus_param known[] = {
        {"len", "tokens of a document", 1, 0, 64, 1 << 26, -1},
        {"depth", "place of the key in per cent of the filler", 1, 4, 0, 100 * DEPTH_UNITS,
         50 * DEPTH_UNITS},
        {"seeds", "number of keys", 0, 0, 1, MOST, 1},
    };
    corpus_values v[3];
    KV_TRY(corpus_parse(spec, params, known, 3, v));
    const int64_t docs = (int64_t)v[0].n * v[1].n * v[2].v[0];
    if (docs > MOST)
        return kv_fail(KV_ERR_USAGE,
                       "corpus '%s': %lld documents; %d are possible, use fewer seeds", spec,
                       (long long)docs, MOST);
    KV_TRY(set_name(c, &v[0], &v[1], &v[2]));
    c->info.generator = "passkey";
    char wording[sizeof opening + sizeof key_block + sizeof question];
    snprintf(wording, sizeof wording, "%s%s%s", opening, key_block, question);
    corpus_sign_generator(c, wording);
    return add_trials(c, &v[0], &v[1], v[2].v[0]);
}
