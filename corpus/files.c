/* files.c - a corpus of text files: one FILE, or every *.txt of a DIR in byte order of the names.
 *
 * Opening reads every file once, to check it and to know its SHA-256, and keeps no text: a corpus
 * may be larger than memory. A text that is fetched later must still be the one that was checked.
 */
#include "corpus/internal.h"

#include "common/file.h"
#include "common/hash.h"
#include "common/utf8.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MANIFEST_MAX = 64 << 20 };

kv_status corpus_read_file(const char *path, size_t max, corpus_bytes *out)
{
    char *p;
    size_t n;
    KV_TRY(kv_file_read(path, max, &p, &n));
    *out = (corpus_bytes){p, n, p};
    return KV_OK;
}

/* ---- documents ------------------------------------------------------------------------------- */

static kv_status load(const corpus_item *item, corpus_bytes *out)
{
    uint8_t sha[32];
    corpus_bytes text;
    KV_TRY(corpus_read_file(item->path, CORPUS_TEXT_MAX, &text));
    kv_sha256(text.p, text.n, sha);
    if (memcmp(sha, item->doc.text_sha, sizeof sha) != 0) {
        free(text.owned);
        return kv_fail(KV_ERR_MISMATCH, "%s: changed since the corpus was opened; run again",
                       item->path);
    }
    *out = text;
    return KV_OK;
}

/* Last part of a path, without ".txt". The caller frees it; NULL: out of memory. */
static char *stem_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *stem = strdup(slash ? slash + 1 : path);
    const size_t n = stem ? strlen(stem) : 0;
    if (n > 4 && strcmp(stem + n - 4, ".txt") == 0) stem[n - 4] = '\0';
    return stem;
}

/* entry = what the manifest says about the file, or NULL. */
static kv_status add_file(corpus *c, const char *path, const corpus_entry *entry)
{
    corpus_bytes text = {0};
    corpus_item *item;
    kv_status st;
    char *stem = stem_of(path);
    if (!stem) return kv_fail(KV_ERR_NOMEM, "%s: out of memory", path);
    KV_TRY_GOTO(st, corpus_check_line(path), done);
    KV_TRY_GOTO(st, corpus_read_file(path, CORPUS_TEXT_MAX, &text), done);
    KV_TRY_GOTO(st, corpus_add(c, stem, entry ? entry->title : NULL, &item), done);
    item->path = strdup(path);
    if (!item->path) {
        st = kv_fail(KV_ERR_NOMEM, "%s: out of memory", path);
        goto done;
    }
    KV_TRY_GOTO(st, corpus_describe(item, path, text.p, text.n), done);
    if (entry) st = corpus_entry_check(entry, &item->doc, path);
done:
    free(text.owned);
    free(stem);
    return st;
}

static void sign(corpus *c)
{
    kv_sha256_ctx h;
    kv_sha256_begin(&h);
    for (int32_t i = 0; i < c->info.n_docs; i++) {
        const corpus_doc *d = &c->items[i].doc;
        uint8_t le[8];
        for (int k = 0; k < 8; k++)
            le[k] = (uint8_t)((uint64_t)d->n_bytes >> 8 * k);
        kv_sha256_add(&h, d->name, strlen(d->name) + 1);
        kv_sha256_add(&h, le, sizeof le);
        kv_sha256_add(&h, d->text_sha, sizeof d->text_sha);
    }
    kv_sha256_end(&h, c->info.manifest_sha);
}

/* ---- a folder -------------------------------------------------------------------------------- */

void corpus_names_free(corpus_names *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->v[i]);
    free(l->v);
}

/* Hidden files are other programs' leftovers. */
static int is_text_name(const char *name, const void *arg)
{
    (void)arg;
    const size_t n = strlen(name);
    return name[0] != '.' && n > 4 && strcmp(name + n - 4, ".txt") == 0;
}

static kv_status push(corpus_names *l, const char *name)
{
    if (l->n == l->cap) {
        const size_t cap = l->cap ? 2 * l->cap : 64;
        char **v = realloc(l->v, cap * sizeof *v);
        if (!v) return kv_fail(KV_ERR_NOMEM, "out of memory: list of files");
        l->v = v;
        l->cap = cap;
    }
    if (!(l->v[l->n] = strdup(name))) return kv_fail(KV_ERR_NOMEM, "out of memory: list of files");
    l->n++;
    return KV_OK;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

kv_status corpus_names_list(const char *path, corpus_wanted *wanted, const void *arg,
                            corpus_names *l)
{
    DIR *d = opendir(path);
    if (!d) return kv_file_error(path, "open the folder");
    kv_status st = KV_OK;
    errno = 0;
    for (struct dirent *e; st == KV_OK && (e = readdir(d)); errno = 0)
        if (wanted(e->d_name, arg)) st = push(l, e->d_name);
    if (st == KV_OK && errno) st = kv_file_error(path, "read the folder");
    closedir(d);
    if (l->n > 0) qsort(l->v, l->n, sizeof *l->v, by_bytes);
    return st;
}

/* "folder/name"; the caller frees it; NULL: out of memory. */
static char *join(const char *folder, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

/* No manifest.json: an empty manifest. */
static kv_status read_manifest(const char *folder, corpus_manifest *m)
{
    char *path = join(folder, "manifest.json");
    if (!path) return kv_fail(KV_ERR_NOMEM, "%s: out of memory", folder);
    kv_status st = KV_OK;
    if (access(path, F_OK) == 0) {
        corpus_bytes text;
        st = corpus_read_file(path, MANIFEST_MAX, &text);
        if (st == KV_OK) {
            st = corpus_manifest_parse(text.p, text.n, path, m);
            free(text.owned);
        }
    }
    free(path);
    return st;
}

static kv_status check_complete(const char *folder, const corpus_manifest *m, const corpus_names *l)
{
    for (size_t i = 0; i < m->n; i++) {
        const char *file = m->v[i].file;
        if (!l->n || !bsearch(&file, l->v, l->n, sizeof *l->v, by_bytes))
            return kv_fail(
                KV_ERR_MISMATCH,
                "%s/manifest.json: lists '%s', which the folder lacks; fetch the file or "
                "remove its entry",
                folder, file);
    }
    return KV_OK;
}

static kv_status add_folder(corpus *c, const char *folder, const corpus_manifest *m,
                            const corpus_names *l)
{
    KV_TRY(check_complete(folder, m, l));
    if (l->n == 0)
        return kv_fail(KV_ERR_IO, "%s: the folder has no *.txt; name one that has, or a file",
                       folder);
    for (size_t i = 0; i < l->n; i++) {
        char *path = join(folder, l->v[i]);
        if (!path) return kv_fail(KV_ERR_NOMEM, "%s: out of memory", folder);
        const kv_status st = add_file(c, path, corpus_manifest_find(m, l->v[i]));
        free(path);
        if (st != KV_OK) return st;
    }
    return KV_OK;
}

static kv_status open_folder(corpus *c, const char *folder)
{
    corpus_names list = {0};
    corpus_manifest m = {0};
    kv_status st = corpus_names_list(folder, is_text_name, NULL, &list);
    if (st == KV_OK) st = read_manifest(folder, &m);
    if (st == KV_OK) st = add_folder(c, folder, &m, &list);
    corpus_manifest_free(&m);
    corpus_names_free(&list);
    return st;
}

/* A corpus is called after its file or folder, wherever that lies: keys are the same on every
 * machine. */
static kv_status name_after(corpus *c, const char *path)
{
    char *real = realpath(path, NULL);
    if (!real) return kv_file_error(path, "open");
    char *stem = stem_of(real);
    free(real);
    if (!stem) return kv_fail(KV_ERR_NOMEM, "%s: out of memory", path);
    corpus_make_safe(stem);
    const kv_status st = corpus_set_name(c, stem);
    free(stem);
    return st;
}

kv_status corpus_open_path(corpus *c, const char *path)
{
    struct stat s;
    if (stat(path, &s) != 0) return kv_file_error(path, "open");
    KV_TRY(name_after(c, path));
    KV_TRY(S_ISDIR(s.st_mode) ? open_folder(c, path) : add_file(c, path, NULL));
    c->info.generator = "files";
    c->load = load;
    sign(c);
    return KV_OK;
}
