/* corpus.c - opens a corpus by its spelling and hands out its documents. */
#include "corpus/internal.h"

#include "common/hash.h"
#include "common/utf8.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- building -------------------------------------------------------------------------------- */

void corpus_make_safe(char *name)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    for (char *p = name; *p; p++)
        if (!strchr(safe, *p)) *p = '_';
}

static int is_taken(const corpus *c, const char *name)
{
    for (int32_t i = 0; i < c->info.n_docs; i++)
        if (strcmp(c->items[i].name, name) == 0) return 1;
    return 0;
}

/* name, or name-2, name-3, ... The caller frees it; NULL: out of memory. */
static char *unique_name(const corpus *c, const char *name)
{
    const size_t size = strlen(name) + 16;
    char *out = malloc(size);
    if (!out) return NULL;
    snprintf(out, size, "%s", *name ? name : "_");
    corpus_make_safe(out);
    const size_t n = strlen(out);
    for (int k = 2; is_taken(c, out); k++)
        snprintf(out + n, size - n, "-%d", k);
    return out;
}

static kv_status no_memory(void)
{
    return kv_fail(KV_ERR_NOMEM, "out of memory: list of documents");
}

kv_status corpus_add(corpus *c, const char *name, const char *title, corpus_item **out)
{
    if (c->info.n_docs == c->cap) {
        const int32_t cap = c->cap ? 2 * c->cap : 16;
        corpus_item *items = realloc(c->items, (size_t)cap * sizeof *items);
        if (!items) return no_memory();
        c->items = items;
        c->cap = cap;
    }
    char *safe = unique_name(c, name);
    corpus_item *item = &c->items[c->info.n_docs];
    *item = (corpus_item){.name = safe, .title = safe ? strdup(title ? title : safe) : NULL};
    if (!item->title) {
        free(safe);
        return no_memory();
    }
    item->doc.name = item->name;
    item->doc.title = item->title;
    c->info.n_docs++;
    *out = item;
    return KV_OK;
}

kv_status corpus_set_name(corpus *c, const char *name)
{
    c->name = strdup(*name ? name : "_");
    if (!c->name) return no_memory();
    c->info.name = c->name;
    return KV_OK;
}

kv_status corpus_describe(corpus_item *item, const char *where, const char *text, size_t n)
{
    if (n == 0) return kv_fail(KV_ERR_FORMAT, "%s: empty; a document needs text, remove it", where);
    KV_TRY(kv_utf8_check(text, n, where));
    item->doc.n_bytes = (int64_t)n;
    item->doc.n_words = kv_utf8_words(text, n);
    kv_sha256(text, n, item->doc.text_sha);
    return KV_OK;
}

void corpus_sign_generator(corpus *c, const char *wording)
{
    static const char version[] = "kvdiff generator 1";
    uint8_t book[32];
    kv_sha256_ctx h;
    kv_sha256_begin(&h);
    kv_sha256_add(&h, version, sizeof version);
    kv_sha256_add(&h, c->name, strlen(c->name) + 1);
    kv_sha256_add(&h, corpus_book_sha(book), sizeof book);
    kv_sha256_add(&h, wording, strlen(wording) + 1);
    kv_sha256_end(&h, c->info.manifest_sha);
}

/* ---- opening --------------------------------------------------------------------------------- */

typedef kv_status open_fn(corpus *c, const char *spec, const char *params);

static open_fn *find_kind(const char *spec, size_t n)
{
    static const struct {
        const char *name;
        open_fn *open;
    } kinds[] = {
        {"book", corpus_open_book}, {"synth", corpus_open_synth}, {"passkey", corpus_open_passkey}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strlen(kinds[i].name) == n && memcmp(kinds[i].name, spec, n) == 0) return kinds[i].open;
    return NULL;
}

kv_status corpus_check_line(const char *name)
{
    char shown[256];
    for (const char *p = name; *p; p++)
        if ((uint8_t)*p < 0x20 || *p == 0x7f)
            return kv_fail(KV_ERR_USAGE, "corpus '%s': control characters in a name; rename it",
                           kv_printable(name, strlen(name), shown, sizeof shown));
    return KV_OK;
}

/* A word that is no kind may be meant as one, or as a path. */
static kv_status not_found(const char *spec)
{
    if (errno == ENOENT && !strchr(spec, '/'))
        return kv_fail(KV_ERR_USAGE,
                       "corpus '%s' is unknown: no file or folder has that name, and the kinds are "
                       "book, synth:bytes=N,seed=S and passkey:len=L,depth=A/B,seeds=K",
                       spec);
    return kv_fail(KV_ERR_IO, "corpus '%s': %s; check the path", spec, strerror(errno));
}

static kv_status open_into(corpus *c, const char *spec)
{
    const size_t n = strcspn(spec, ":");
    open_fn *open_kind = find_kind(spec, n);
    if (open_kind) return open_kind(c, spec, spec[n] ? spec + n + 1 : NULL);
    struct stat s;
    if (stat(spec, &s) != 0) return not_found(spec);
    return corpus_open_path(c, spec);
}

kv_status corpus_open(const char *spec, corpus **out)
{
    if (!*spec)
        return kv_fail(KV_ERR_USAGE, "corpus '' is empty; name a file, a folder, or 'book'");
    KV_TRY(corpus_check_line(spec));
    corpus *c = calloc(1, sizeof *c);
    if (!c) return no_memory();
    c->info.seed = -1;
    const kv_status st = open_into(c, spec);
    if (st == KV_OK)
        *out = c;
    else
        corpus_close(c);
    return st;
}

void corpus_close(corpus *c)
{
    if (!c) return;
    for (int32_t i = 0; i < c->info.n_docs; i++) {
        free(c->items[i].name);
        free(c->items[i].title);
        free(c->items[i].path);
        free(c->items[i].text.owned);
    }
    free(c->items);
    free(c->name);
    free(c);
}

/* ---- asking ---------------------------------------------------------------------------------- */

const corpus_info *corpus_get_info(const corpus *c)
{
    return &c->info;
}

const corpus_doc *corpus_get_doc(const corpus *c, int32_t i)
{
    return i >= 0 && i < c->info.n_docs ? &c->items[i].doc : NULL;
}

static kv_status item_of(corpus *c, int32_t i, corpus_item **out)
{
    if (i < 0 || i >= c->info.n_docs)
        return kv_fail(KV_ERR_USAGE, "corpus '%s' has no document %d; it has 0 to %d", c->name, i,
                       c->info.n_docs - 1);
    *out = &c->items[i];
    return KV_OK;
}

kv_status corpus_text(corpus *c, int32_t i, const char **text, size_t *n)
{
    corpus_item *item;
    KV_TRY(item_of(c, i, &item));
    if (!c->load)
        return kv_fail(KV_ERR_UNSUPPORTED,
                       "corpus '%s': documents are made of tokens and have no text; ask for tokens",
                       c->name);
    if (!item->text.p) KV_TRY(c->load(item, &item->text));
    *text = item->text.p;
    *n = item->text.n;
    return KV_OK;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

/* Control tokens written out in a text are text: a book cannot end a turn. */
static kv_status encode(const corpus *c, const corpus_item *item, const kv_tokenizer *tok,
                        corpus_stream *out)
{
    corpus_bytes text = item->text;
    if (!text.p) KV_TRY(c->load(item, &text));
    const kv_status st =
        kv_tokenizer_encode(tok, text.p, text.n, 0, &out->tokens, &out->dropped_bytes);
    if (!item->text.p) free(text.owned);
    return st;
}

static kv_status text_tokens(const corpus *c, const corpus_item *item, const kv_tokenizer *tok,
                             const char *cache_dir, corpus_stream *out)
{
    uint8_t key[32];
    int hit = 0;
    if (cache_dir && !*cache_dir) cache_dir = NULL;
    if (cache_dir) {
        corpus_cache_key(&item->doc, tok, key);
        KV_TRY(corpus_cache_read(cache_dir, key, item->doc.n_bytes, &out->tokens,
                                 &out->dropped_bytes, &hit));
        if (hit) return KV_OK;
    }
    KV_TRY(encode(c, item, tok, out));
    if (out->tokens.n == 0)
        return kv_fail(KV_ERR_FORMAT,
                       "document '%s': none of its %lld bytes has a token (tokenizer %s); use "
                       "another model or text",
                       item->name, (long long)item->doc.n_bytes, kv_tokenizer_kind(tok));
    return cache_dir ? corpus_cache_write(cache_dir, key, &out->tokens, out->dropped_bytes) : KV_OK;
}

kv_status corpus_tokens(corpus *c, int32_t i, const kv_tokenizer *tok, const char *cache_dir,
                        int64_t max_tokens, corpus_stream *out)
{
    corpus_item *item;
    memset(out, 0, sizeof *out);
    KV_TRY(item_of(c, i, &item));
    const kv_status st =
        c->load ? text_tokens(c, item, tok, cache_dir, out) : corpus_passkey_tokens(item, tok, out);
    if (st != KV_OK) {
        corpus_stream_free(out);
        return st;
    }
    if (c->load && max_tokens > 0 && out->tokens.n > max_tokens) out->tokens.n = max_tokens;
    corpus_token_sha(out->tokens.v, out->tokens.n, out->token_sha);
    return KV_OK;
}

void corpus_stream_free(corpus_stream *s)
{
    kv_tokens_free(&s->tokens);
    kv_tokens_free(&s->answer);
}
