/* manifest.c - manifest.json of a folder of texts: an array of objects,
 *
 *     {"file": "name.txt", "title": "...", "bytes": 12, "words": 2, "sha256": "64 hex digits"}
 *
 * "file" is required, other keys are optional and unknown ones are ignored. The bytes are
 * untrusted. */
#include "corpus/internal.h"

#include "common/hash.h"
#include "common/utf8.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Entry i of the manifest `where`, for messages. */
typedef struct place {
    const char *where;
    size_t i;
} place;

static kv_status bad(place p, const char *key, const char *wanted)
{
    return kv_fail(KV_ERR_FORMAT, "%s: entry %zu: \"%s\" must be %s", p.where, p.i + 1, key,
                   wanted);
}

/* One line of text: it is printed in tables. */
static int is_plain(const char *s)
{
    for (; *s; s++)
        if ((uint8_t)*s < 0x20 || *s == 0x7f) return 0;
    return 1;
}

static kv_status read_string(place p, const json_t *o, const char *key, char **out)
{
    const json_t *v = json_object_get(o, key);
    if (!v) return KV_OK;
    if (!json_is_string(v) || !*json_string_value(v) || !is_plain(json_string_value(v)))
        return bad(p, key, "a line of text");
    *out = strdup(json_string_value(v));
    return *out ? KV_OK : kv_fail(KV_ERR_NOMEM, "%s: out of memory", p.where);
}

static kv_status read_count(place p, const json_t *o, const char *key, int64_t *out)
{
    const json_t *v = json_object_get(o, key);
    *out = -1;
    if (!v) return KV_OK;
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return bad(p, key, "a whole number, zero or more");
    *out = json_integer_value(v);
    return KV_OK;
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *d = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
    return d ? (int)(d - digits) : -1;
}

static kv_status read_sha(place p, const json_t *o, corpus_entry *e)
{
    const json_t *v = json_object_get(o, "sha256");
    if (!v) return KV_OK;
    if (!json_is_string(v) || json_string_length(v) != 64)
        return bad(p, "sha256", "64 hexadecimal digits");
    const char *s = json_string_value(v);
    for (int i = 0; i < 32; i++) {
        const int hi = hex_digit(s[2 * i]), lo = hex_digit(s[2 * i + 1]);
        if (hi < 0 || lo < 0) return bad(p, "sha256", "64 hexadecimal digits");
        e->sha[i] = (uint8_t)(hi << 4 | lo);
    }
    e->has_sha = 1;
    return KV_OK;
}

static int is_text_file(const char *name)
{
    const size_t n = name ? strlen(name) : 0;
    return n > 4 && name[0] != '.' && !strchr(name, '/') && strcmp(name + n - 4, ".txt") == 0;
}

static kv_status read_entry(place p, const json_t *o, corpus_entry *e)
{
    if (!json_is_object(o))
        return kv_fail(KV_ERR_FORMAT, "%s: entry %zu is not an object {\"file\": ...}", p.where,
                       p.i + 1);
    KV_TRY(read_string(p, o, "file", &e->file));
    if (!is_text_file(e->file)) return bad(p, "file", "the name of a *.txt in the same folder");
    KV_TRY(read_string(p, o, "title", &e->title));
    KV_TRY(read_count(p, o, "bytes", &e->bytes));
    KV_TRY(read_count(p, o, "words", &e->words));
    return read_sha(p, o, e);
}

static int by_file(const void *a, const void *b)
{
    return strcmp(((const corpus_entry *)a)->file, ((const corpus_entry *)b)->file);
}

static kv_status read_array(const json_t *root, const char *where, corpus_manifest *m)
{
    if (!json_is_array(root))
        return kv_fail(KV_ERR_FORMAT, "%s: not an array [{\"file\": ...}, ...]", where);
    const size_t n = json_array_size(root);
    if (n == 0) return KV_OK;
    m->v = calloc(n, sizeof *m->v);
    if (!m->v) return kv_fail(KV_ERR_NOMEM, "%s: out of memory", where);
    m->n = n;
    for (size_t i = 0; i < n; i++)
        KV_TRY(read_entry((place){where, i}, json_array_get(root, i), &m->v[i]));
    qsort(m->v, n, sizeof *m->v, by_file);
    for (size_t i = 1; i < n; i++)
        if (strcmp(m->v[i - 1].file, m->v[i].file) == 0)
            return kv_fail(KV_ERR_FORMAT, "%s: lists '%s' twice; keep one entry", where,
                           m->v[i].file);
    return KV_OK;
}

kv_status corpus_manifest_parse(const char *bytes, size_t n, const char *where,
                                corpus_manifest *out)
{
    char shown[JSON_ERROR_TEXT_LENGTH];
    json_error_t e;
    json_t *root = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &e);
    if (!root)
        return kv_fail(KV_ERR_FORMAT, "%s: line %d: %s; the file must be JSON", where, e.line,
                       kv_printable(e.text, strlen(e.text), shown, sizeof shown));
    const kv_status st = read_array(root, where, out);
    json_decref(root);
    return st;
}

void corpus_manifest_free(corpus_manifest *m)
{
    for (size_t i = 0; i < m->n; i++) {
        free(m->v[i].file);
        free(m->v[i].title);
    }
    free(m->v);
    *m = (corpus_manifest){0};
}

const corpus_entry *corpus_manifest_find(const corpus_manifest *m, const char *file)
{
    const corpus_entry wanted = {.file = (char *)(uintptr_t)file};
    return m->n ? bsearch(&wanted, m->v, m->n, sizeof *m->v, by_file) : NULL;
}

static kv_status wrong_count(const char *where, const char *unit, int64_t listed, int64_t found)
{
    return kv_fail(KV_ERR_MISMATCH,
                   "%s: manifest.json says %lld %s, the file has %lld; fetch the file again or "
                   "correct the manifest",
                   where, (long long)listed, unit, (long long)found);
}

kv_status corpus_entry_check(const corpus_entry *e, const corpus_doc *doc, const char *where)
{
    char listed[65], found[65];
    if (e->bytes >= 0 && e->bytes != doc->n_bytes)
        return wrong_count(where, "bytes", e->bytes, doc->n_bytes);
    if (e->has_sha && memcmp(e->sha, doc->text_sha, sizeof e->sha) != 0) {
        kv_hex32(e->sha, listed);
        kv_hex32(doc->text_sha, found);
        return kv_fail(
            KV_ERR_MISMATCH,
            "%s: manifest.json says SHA-256 %s, the file has %s; fetch the file again or "
            "correct the manifest",
            where, listed, found);
    }
    if (e->words >= 0 && e->words != doc->n_words)
        return wrong_count(where, "words", e->words, doc->n_words);
    return KV_OK;
}
