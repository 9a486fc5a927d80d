/* Any bytes as manifest.json: refused in one line, or a sorted list of distinct files of the
 * folder. */
#include "tests/fuzz/fuzz.h"

#include "corpus/internal.h"

#include <string.h>

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    static const char *const texts[] = {
        "[{\"file\": \"b.txt\", \"title\": \"B, or \\u00c9\", \"bytes\": 12, \"words\": 3, "
        "\"sha256\": "
        "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"},\n"
        " {\"file\": \"a.txt\", \"year\": 1871, \"tags\": [null, true, {}]}]",
        "[]", "[{\"file\": \"a.txt\"}, {\"file\": \"a.txt\"}]"};
    if (i >= sizeof texts / sizeof texts[0]) return NULL;
    *size = strlen(texts[i]);
    return (uint8_t *)strdup(texts[i]);
}

static void check_entry(const corpus_manifest *m, size_t i)
{
    const corpus_entry *e = &m->v[i];
    const size_t n = strlen(e->file);
    FUZZ_DEMAND(n > 4 && strcmp(e->file + n - 4, ".txt") == 0 && !strchr(e->file, '/'));
    FUZZ_DEMAND(!e->title || (*e->title && !strchr(e->title, '\n')));
    FUZZ_DEMAND(e->bytes >= -1 && e->words >= -1);
    FUZZ_DEMAND(corpus_manifest_find(m, e->file) == e);
    if (i > 0) FUZZ_DEMAND(strcmp(m->v[i - 1].file, e->file) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    corpus_manifest m = {NULL, 0};
    const kv_status st = corpus_manifest_parse((const char *)data, size, "manifest.json", &m);
    if (st == KV_OK) {
        for (size_t i = 0; i < m.n; i++)
            check_entry(&m, i);
        FUZZ_DEMAND(!corpus_manifest_find(&m, "no such file"));
    } else {
        FUZZ_DEMAND(st == KV_ERR_FORMAT);
        FUZZ_DEMAND(strncmp(kv_message(), "manifest.json: ", 15) == 0);
        FUZZ_DEMAND(!strchr(kv_message(), '\n'));
    }
    corpus_manifest_free(&m);
    return 0;
}
