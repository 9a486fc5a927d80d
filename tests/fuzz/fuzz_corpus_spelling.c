/* Any text as the parameters of a corpus: refused, or every value is within its limits,
 * lists have no value twice, and what was not given has its default. */
#include "tests/fuzz/fuzz.h"

#include "corpus/internal.h"

#include <string.h>

static const corpus_param params[] = {
    {"len", "tokens", 1, 0, 64, 1 << 26, 128},
    {"depth", "per cent", 1, 4, 0, 1000000, 500000},
    {"seed", "number", 0, 0, 0, INT64_MAX, 0},
};
enum { N = sizeof params / sizeof params[0] };

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    static const char *const texts[] = {
        "len=1k/64/2M,depth=0/12.5/33.3333/100,seed=9223372036854775807", "seed=007", "depth=,len",
        "len=1k/1024"};
    if (i >= sizeof texts / sizeof texts[0]) return NULL;
    *size = strlen(texts[i]);
    return (uint8_t *)strdup(texts[i]);
}

static void check_values(const corpus_param *p, const corpus_values *v)
{
    FUZZ_DEMAND(v->n >= 1 && v->n <= (p->is_list ? CORPUS_LIST_MAX : 1));
    for (int32_t i = 0; i < v->n; i++) {
        FUZZ_DEMAND(v->v[i] >= p->min && v->v[i] <= p->max);
        for (int32_t k = 0; k < i; k++)
            FUZZ_DEMAND(v->v[k] != v->v[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    corpus_values v[N];
    char *text = malloc(size + 1);
    if (!text) abort();
    memcpy(text, data, size);
    text[size] = '\0';
    const kv_status st = corpus_parse("kind:...", text, params, N, v);
    free(text);
    if (st == KV_OK) {
        for (int i = 0; i < N; i++)
            check_values(&params[i], &v[i]);
    } else {
        FUZZ_DEMAND(st == KV_ERR_USAGE);
        FUZZ_DEMAND(strncmp(kv_message(), "corpus 'kind:...': ", 19) == 0);
    }
    return 0;
}
