/* The masks of the golf family say which of the first 64 layers have a feature; those behind have none. In models of more than
 * 64 layers and at both ends of a model the reference and emu must agree about it, bit for bit, and a mask must matter. */
#include "tests/unit/refkit.h"
#include "tests/unit/sidekit.h"

enum { LAYERS = 66, OF_SMALL = 5, TOKENS = 5 };

static dt_side emu;
static kv_model *small;

static int set_up(void **state)
{
    (void)state;
    return kv_model_open("nano-u", NULL, &small, NULL) == KV_OK ? sidekit_open("emu", &emu) : -1;
}

static int tear_down(void **state)
{
    (void)state;
    dt_side_close(&emu);
    kv_model_close(small);
    return 0;
}

/* nano-u with its layers one after the other, again and again; tensors: of the model that is returned. */
static kv_model many_layers(kv_tensor *tensors, uint64_t exclude_own)
{
    kv_model m = *small;
    memcpy(tensors, m.tensors, KV_ROLE_GLOBAL_COUNT * sizeof *tensors);
    for (int32_t l = 0; l < LAYERS; l++)
        memcpy(tensors + KV_ROLE_GLOBAL_COUNT + l * KV_ROLE_PER_LAYER,
               m.tensors + KV_ROLE_GLOBAL_COUNT + l % OF_SMALL * KV_ROLE_PER_LAYER, KV_ROLE_PER_LAYER * sizeof *tensors);
    m.tensors = tensors;
    m.cfg.n_layers = LAYERS;
    m.cfg.unet_skips = 0; /* their weights count layers */
    m.cfg.xsa_layer_mask = exclude_own;
    return m;
}

static float *logits_of(const kv_backend *side, const kv_model *m)
{
    refkit k = refkit_open(side, m, "full");
    int32_t *tokens = refkit_tokens(TOKENS, m);
    float *rows = refkit_rows(&k, TOKENS);
    refkit_feed(&k, tokens, TOKENS, 3, rows, NULL);
    refkit_close(&k);
    free(tokens);
    return rows;
}

/* The same rows on both sides; other ones than those of the models before. */
static void agree(float *rows[], int i, const kv_model *m, uint64_t mask)
{
    const size_t bytes = (size_t)TOKENS * (size_t)small->cfg.vocab_size * sizeof(float);
    assert_ok(kv_config_check(&m->cfg));
    rows[i] = logits_of(ref_backend(), m);
    float *got = logits_of(emu.backend, m);
    if (memcmp(rows[i], got, bytes) != 0) fail_msg("mask %llx: emu has other logits", (unsigned long long)mask);
    free(got);
    for (int k = 0; k < i; k++)
        assert_memory_not_equal(rows[i], rows[k], bytes);
}

static void masks_end_at_64_layers(void **state)
{
    static kv_tensor tensors[KV_ROLE_GLOBAL_COUNT + LAYERS * KV_ROLE_PER_LAYER];
    const uint64_t masks[] = {1, UINT64_C(1) << 63, 0};
    float *rows[3];
    (void)state;
    assert_int_equal(small->cfg.n_layers, OF_SMALL);
    for (int i = 0; i < 3; i++) {
        const kv_model m = many_layers(tensors, masks[i]);
        agree(rows, i, &m, masks[i]);
    }
    for (int i = 0; i < 3; i++)
        free(rows[i]);
}

/* Sites are numbered from the first layer on, whichever that is. */
static void a_sidecar_may_be_in_any_two_layers(void **state)
{
    const uint64_t masks[] = {1 | 1 << 3, 1 << 1 | 1 << 3, 1 | 1 << 4};
    float *rows[3];
    (void)state;
    for (int i = 0; i < 3; i++) {
        kv_model m = *small;
        m.cfg.sidecar_layer_mask = masks[i];
        agree(rows, i, &m, masks[i]);
    }
    for (int i = 0; i < 3; i++)
        free(rows[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(masks_end_at_64_layers),
                                       cmocka_unit_test(a_sidecar_may_be_in_any_two_layers)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
