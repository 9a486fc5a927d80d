/* States of more entries than a side moves between host and device at a time. */
#include "tests/unit/refkit.h"
#include "tests/unit/sidekit.h"

enum { TOKENS = 4300, STEP = 64 };

static dt_side emu;
static kv_model *tiny;

static int set_up(void **state)
{
    (void)state;
    return kv_model_open("tiny", NULL, &tiny, NULL) == KV_OK ? sidekit_open("emu", &emu) : -1;
}

static int tear_down(void **state)
{
    (void)state;
    dt_side_close(&emu);
    kv_model_close(tiny);
    return 0;
}

static void a_state_of_thousands_of_entries_comes_back_whole(void **state)
{
    static const char *const policies[] = {"full", "full+bf16"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        refkit ref = refkit_open(ref_backend(), tiny, policies[i]), got = refkit_open(emu.backend, tiny, policies[i]);
        int32_t *tokens = refkit_tokens(TOKENS, tiny);
        refkit_feed(&ref, tokens, TOKENS, STEP, NULL, NULL);
        refkit_blob blob = refkit_export_all(&ref);
        assert_side(&got, emu.backend->import_state(got.s, blob.p, blob.size));
        refkit_same_state(&ref, &got, policies[i]);
        free(blob.p);
        free(tokens);
        refkit_close(&ref);
        refkit_close(&got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_state_of_thousands_of_entries_comes_back_whole)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
