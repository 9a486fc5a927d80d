/* laws.c - what must hold on one side alone, without a second implementation to compare with: laws of docs/policy/
 * that wrong caches break.
 *
 *     laws SIDE [MODEL:] [WORD...] [-WORD...]
 *
 * MODEL: "tiny:" unless named. Only policies that the model's heads allow, whose spelling has one of the words, and none
 * of those behind a -. */
#include "tests/laws/kit.h"

static char **words;
static int n_words;

int law_wanted(const char *spec)
{
    int named = 1;
    kv_policy p;
    if (kv_policy_parse(spec, &p) == KV_OK && kv_policy_fit(&p, &law_model->cfg) != KV_OK) return 0;
    for (int i = 0; i < n_words; i++) {
        if (words[i][0] == '-' && strstr(spec, words[i] + 1)) return 0;
        named &= words[i][0] == '-';
    }
    for (int i = 0; i < n_words && !named; i++)
        named = words[i][0] != '-' && strstr(spec, words[i]);
    return named;
}

int law_base_of_its_own(const char *spec)
{
    return law_model->cfg.rope_scaling == KV_ROPE_SCALING_NTK_BY_LENGTH && strstr(spec, "published");
}

int main(int argc, char **argv)
{
    dt_side side;
    if (argc < 2) {
        fprintf(stderr, "usage: laws SIDE [MODEL:] [WORD...]\n");
        return 2;
    }
    const size_t end = argc > 2 ? strlen(argv[2]) - 1 : 0;
    const int named = argc > 2 && argv[2][0] && argv[2][end] == ':';
    if (named) argv[2][end] = 0;
    words = argv + 2 + named;
    n_words = argc - 2 - named;
    if (dt_side_open(argv[1], &side) != KV_OK || kv_model_open(named ? argv[2] : "tiny", NULL, &law_model, NULL) != KV_OK) {
        printf("Bail out! %s\n", kv_message());
        return 2;
    }
    law_side = side.backend;
    const int failed = laws_of_sessions() + laws_of_kept_sets() + laws_of_equality() + laws_of_windows() + laws_of_cascade();
    kv_model_close(law_model);
    dt_side_close(&side);
    return failed != 0;
}
