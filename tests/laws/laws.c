/* laws.c - what must hold on one side alone, without a second implementation to compare with: laws of docs/policy/
 * that wrong caches break.
 *
 *     laws SIDE [WORD...] [-WORD...]     only policies whose spelling has one of the words, and none of those behind a - */
#include "tests/laws/kit.h"

static char **words;
static int n_words;

int law_wanted(const char *spec)
{
    int named = 1;
    for (int i = 0; i < n_words; i++) {
        if (words[i][0] == '-' && strstr(spec, words[i] + 1)) return 0;
        named &= words[i][0] == '-';
    }
    for (int i = 0; i < n_words && !named; i++)
        named = words[i][0] != '-' && strstr(spec, words[i]);
    return named;
}

int main(int argc, char **argv)
{
    dt_side side;
    if (argc < 2) {
        fprintf(stderr, "usage: laws SIDE [WORD...]\n");
        return 2;
    }
    words = argv + 2;
    n_words = argc - 2;
    if (dt_side_open(argv[1], &side) != KV_OK || kv_model_open("tiny", NULL, &law_model, NULL) != KV_OK) {
        printf("Bail out! %s\n", kv_message());
        return 2;
    }
    law_side = side.backend;
    const int failed = laws_of_sessions() + laws_of_kept_sets() + laws_of_equality() + laws_of_windows() + laws_of_cascade();
    kv_model_close(law_model);
    dt_side_close(&side);
    return failed != 0;
}
