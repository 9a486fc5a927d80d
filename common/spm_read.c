/* spm_read.c - reads such a vocabulary from a text file of pieces and scores, and from the metadata
 * of a model file. */
#include "common/bpe.h"
#include "common/spm.h"
#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name

/* ---- FILE.vocab: a piece, a tab and a score on every line
 * ---------------------------------------- */

static int span_is(kv_span s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

/* The file has no types: they follow from the names that trainers give. */
static uint8_t type_of(kv_span s)
{
    if (span_is(s, "<unk>")) return KV_TOKEN_UNKNOWN;
    if (span_is(s, "<s>") || span_is(s, "</s>") || span_is(s, "<pad>")) return KV_TOKEN_CONTROL;
    return s.n == 6 && memcmp(s.p, "<0x", 3) == 0 && s.p[5] == '>' ? KV_TOKEN_BYTE
                                                                   : KV_TOKEN_NORMAL;
}

static int read_score(const char *p, size_t n, float *out)
{
    char text[32], *end;
    if (n == 0 || n >= sizeof text || strspn(p, "+-.0123456789eE") < n) return 0;
    memcpy(text, p, n);
    text[n] = '\0';
    *out = strtof(text, &end);
    return *end == '\0';
}

static kv_status read_line(const char *p, size_t n, int64_t line, kv_spm_source *src)
{
    const char *tab = memrchr(p, '\t', n);
    float score;
    if (!tab || tab == p || !read_score(tab + 1, n - (size_t)(tab + 1 - p), &score))
        return kv_fail(KV_ERR_FORMAT,
                       "%s: line %lld is not a piece, a tab and a score; is this a .vocab file?",
                       src->where, (long long)line);
    const kv_span text = {p, (uint64_t)(tab - p)};
    return kv_spm_source_add(src, text, score, type_of(text));
}

static kv_status read_lines(const char *p, size_t n, kv_spm_source *src)
{
    int64_t line = 1;
    for (size_t at = 0; at < n; line++) {
        const char *end = memchr(p + at, '\n', n - at);
        if (!end)
            return kv_fail(KV_ERR_FORMAT, "%s: line %lld is cut off; fetch the file again",
                           src->where, (long long)line);
        KV_TRY(read_line(p + at, (size_t)(end - p) - at, line, src));
        at = (size_t)(end - p) + 1;
    }
    return KV_OK;
}

kv_status kv_spm_read_vocab(const char *p, size_t n, const char *where, kv_spm *s)
{
    kv_spm_source src = {.where = where, .byte_fallback = -1};
    kv_status st = read_lines(p, n, &src);
    if (st == KV_OK) st = kv_spm_build(&src, s);
    kv_spm_source_free(&src);
    return st;
}

/* ---- GGUF ------------------------------------------------------------------------------------ */

static kv_status fill(kv_gguf_array tokens, kv_gguf_array scores, const uint8_t *types,
                      kv_spm_source *src)
{
    kv_span text;
    for (uint64_t i = 0; kv_gguf_next_string(&tokens, &text); i++) {
        float score;
        memcpy(&score, scores.p + i * sizeof score, sizeof score);
        KV_TRY(kv_spm_source_add(src, text, score, types[i]));
    }
    return KV_OK;
}

static kv_status read_pieces(const kv_gguf *g, kv_spm_source *src)
{
    kv_gguf_array tokens, scores;
    KV_TRY(kv_gguf_array_of(g, KEY("tokens"), KV_GGUF_STRING, &tokens));
    KV_TRY(kv_gguf_array_of(g, KEY("scores"), KV_GGUF_F32, &scores));
    if (scores.n != tokens.n)
        return kv_fail(KV_ERR_FORMAT,
                       "%s: %s has %llu entries for %llu tokens; convert the model again",
                       kv_gguf_where(g), KEY("scores"), (unsigned long long)scores.n,
                       (unsigned long long)tokens.n);
    uint8_t *types = malloc(tokens.n + 1);
    if (!types)
        return kv_fail(KV_ERR_NOMEM, "%s: out of memory while reading the tokenizer",
                       kv_gguf_where(g));
    kv_status st = kv_gguf_token_types(g, tokens.n, types);
    if (st == KV_OK) st = fill(tokens, scores, types, src);
    free(types);
    return st;
}

/* Converters write the map only where a text would be rewritten. */
static kv_status read_norm(const kv_gguf *g, kv_spm_norm *norm)
{
    if (kv_gguf_has(g, KEY("precompiled_charsmap")))
        return kv_fail(KV_ERR_UNSUPPORTED,
                       "%s: the model file has a normaliser's map (%s); use its SentencePiece file",
                       kv_gguf_where(g), KEY("precompiled_charsmap"));
    KV_TRY(kv_gguf_bool_or(g, KEY("add_space_prefix"), 1, &norm->dummy_prefix));
    return kv_gguf_bool_or(g, KEY("remove_extra_whitespaces"), 0, &norm->remove_extra);
}

kv_status kv_spm_read_gguf(const kv_gguf *g, kv_spm *s)
{
    kv_spm_source src = {.where = kv_gguf_where(g), .byte_fallback = -1};
    kv_status st = read_pieces(g, &src);
    if (st == KV_OK) st = kv_spm_build(&src, s);
    if (st == KV_OK) st = kv_gguf_check_token_ids(g, s->vocab.n);
    if (st == KV_OK) st = read_norm(g, &s->norm);
    kv_spm_source_free(&src);
    return st;
}
