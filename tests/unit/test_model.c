/* Models: the generated ones are what their recipe says, a GGUF file becomes a Llama, and whatever
 * is missing, odd or beyond kvdiff is refused by name. */
#include "tests/unit/gguf_build.h"
#include "tests/unit/kvtest.h"

#include "common/hash.h"
#include "common/model.h"
#include "common/rng.h"
#include "common/tokenizer.h"

#include <unistd.h>

static void the_catalogue_names_what_open_knows(void **state)
{
    (void)state;
    size_t n;
    const kv_model_entry *e = kv_model_catalogue(&n);
    static const char *const names[] = {"novel", "nano", "sharp", "tiny", "nano-a", "nano-b", "nano-u", "golf-a", "golf-b", "smollm2"};
    assert_int_equal(n, sizeof names / sizeof *names);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(e[i].name, names[i]);
        assert_int_equal(e[i].file != NULL, i == n - 1);
    }
    for (size_t i = 0; i < n; i++)
        assert_true(strlen(e[i].about) > 20);
}

static float first_weight(const kv_model *m, kv_role role, int32_t layer, int64_t i)
{
    return ((const float *)kv_model_tensor(m, role, layer)->data)[i];
}

/* The recipe of common/model_synth.c, written out for single weights. */
static void nano_is_made_of_its_recipe(void **state)
{
    (void)state;
    kv_model *m;
    kv_tokenizer *tok;
    assert_ok(kv_model_open("nano", NULL, &m, &tok));
    assert_string_equal(m->name, "nano");
    assert_string_equal(kv_tokenizer_kind(tok), "bytes");
    assert_int_equal(m->cfg.n_layers, 4);
    assert_int_equal(m->cfg.vocab_size, 260);
    assert_int_equal(m->cfg.max_pos, 0);
    assert_null(kv_config_beyond_llama(&m->cfg));
    const int64_t per_layer = 128 + 128 * 128 + 2 * 64 * 128 + 128 * 128 + 128 + 3 * 256 * 128;
    assert_int_equal(kv_model_weights(m), 260 * 128 + 128 + 4 * per_layer);
    assert_int_equal(kv_model_bytes(m), 4 * kv_model_weights(m));
    assert_ptr_equal(kv_model_head(m), kv_model_tensor(m, KV_ROLE_TOKEN_EMBD, 0));
    /* tensor 0 = token_embd, amplitude 2^-2; tensor 2 + 9 l = attn_norm of layer l */
    const uint32_t u = kv_philox_word(0x6B766469, 0, 77) >> 8;
    assert_true(first_weight(m, KV_ROLE_TOKEN_EMBD, 0, 77) == ((float)u - 8388608.0f) * 0x1p-25f);
    const uint32_t v = kv_philox_word(0x6B766469, 2 + 9 * 3, 5) >> 8;
    assert_true(first_weight(m, KV_ROLE_ATTN_NORM, 3, 5) ==
                1.0f + ((float)(v >> 4) - 524288.0f) * 0x1p-21f);
    kv_tokenizer_free(tok);
    kv_model_close(m);
}

static void tiny_is_made_of_its_recipe(void **state)
{
    (void)state;
    kv_model *m;
    kv_tokenizer *tok = (kv_tokenizer *)1;
    assert_ok(kv_model_open("tiny", NULL, &m, &tok));
    assert_null(tok);
    assert_int_equal(m->cfg.d_model, 64);
    const uint32_t u = (uint32_t)(kv_splitmix64((UINT64_C(41) * 256 + 3) << 32 | 9) >> 40);
    assert_true(first_weight(m, KV_ROLE_ATTN_Q, 0, 9) == ((float)u - 8388608.0f) * 0x1p-24f);
    kv_model_close(m);
}

/* Nothing but the queries, and those by a power of two. */
static void sharp_is_nano_with_larger_queries(void **state)
{
    (void)state;
    kv_model *nano, *sharp;
    assert_ok(kv_model_open("nano", NULL, &nano, NULL));
    assert_ok(kv_model_open("sharp", NULL, &sharp, NULL));
    assert_memory_equal(&nano->cfg, &sharp->cfg, sizeof nano->cfg);
    for (int32_t l = 0; l < nano->cfg.n_layers; l++)
        for (int role = KV_ROLE_GLOBAL_COUNT; role < KV_ROLE_COUNT; role++) {
            const kv_tensor *t = kv_model_tensor(nano, (kv_role)role, l);
            for (int64_t i = 0; t->data && i < t->rows * t->cols; i++)
                assert_true(first_weight(sharp, (kv_role)role, l, i) ==
                            first_weight(nano, (kv_role)role, l, i) * (role == KV_ROLE_ATTN_Q ? 256.0f : 1.0f));
        }
    kv_model_close(nano);
    kv_model_close(sharp);
}

/* Stored results refer to these sums: the recipe never changes under the same name. */
static void generated_models_keep_their_fingerprint(void **state)
{
    (void)state;
    static const char *const known[][2] = {
        {"nano", "94a7b8c2b261cd4145d2d3c467c4c96713083c3c0dbf1db67fb4e85d05d41eab"},
        {"sharp", "aba1930fefcaa28bb80cc11d740090149f95460879654032f9f4e318b0f126c7"},
        {"tiny", "71f6892f63155b7c16fffe163945b6891e7517427b67eb2c9875330ba204a3ef"},
        {"nano-a", "b539cefd5add21432a58578e7581443e85326a4f62f895fcc3949e61a1f36939"},
        {"nano-b", "a1e4adeb3d94338acfd75af8588e701924ba577a604b7c419c474665b83e6c91"},
        {"nano-u", "b6ac7403f88a7b39eba854a28a6492e7055fbddc5f7c72ade45b04daf83e08b8"},
        {"golf-a", "189d35c0a0b715e24ec2a35c7ebb7a1301013aded5d369ff5930cdc94116167c"},
        {"golf-b", "8477926234bf36567b430c84abe82f79fc0db0fdf59f7fed288b4718b60ddda3"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        kv_model *m;
        char hex[65];
        assert_ok(kv_model_open(known[i][0], NULL, &m, NULL));
        kv_hex32(m->sha256, hex);
        assert_string_equal(hex, known[i][1]);
        kv_model_close(m);
    }
}

/* ---- from GGUF ------------------------------------------------------------------------------- */

/* Writes a tiny Llama with a flaw (NULL: none) and opens it. */
static kv_status open_flawed(const gb_llama_flaw *flaw, kv_model **m, kv_tokenizer **tok)
{
    const char *path = kvtest_path("made.v1.gguf");
    gguf_build b = {0};
    gb_llama(&b, flaw);
    kvtest_write(path, b.p, b.n);
    gb_free(&b);
    const kv_status st = kv_model_open(path, NULL, m, tok);
    unlink(path);
    return st;
}

static void a_gguf_file_becomes_a_llama(void **state)
{
    (void)state;
    kv_model *m;
    kv_tokenizer *tok;
    assert_ok(open_flawed(NULL, &m, &tok));
    assert_string_equal(m->name, "made.v1");
    assert_int_equal(m->cfg.n_layers, 1);
    assert_int_equal(m->cfg.d_model, 32);
    assert_int_equal(m->cfg.n_heads, 2);
    assert_int_equal(m->cfg.n_kv_heads, 1);
    assert_int_equal(m->cfg.head_dim, 16);
    assert_int_equal(m->cfg.rope_dims, 16);
    assert_int_equal(m->cfg.rope_pairing, KV_ROPE_INTERLEAVED);
    assert_int_equal(m->cfg.max_pos, 128);
    assert_int_equal(m->cfg.vocab_size, 258);
    assert_int_equal(m->cfg.bos_id, 257);
    assert_int_equal(m->cfg.eos_id, -1);
    assert_int_equal(m->cfg.tied_head, 1);
    assert_true(m->cfg.rope_theta == 10000.0 && m->cfg.norm_eps == 1e-5f);
    assert_int_equal(kv_tokenizer_vocab(tok), 258);
    const kv_tensor *k = kv_model_tensor(m, KV_ROLE_ATTN_K, 0);
    assert_int_equal(k->rows, 16);
    assert_int_equal(k->cols, 32);
    assert_int_equal(k->dtype, KV_DTYPE_Q8_0);
    assert_int_equal(k->n_bytes, 16 * 34);
    assert_true(kv_model_bytes(m) < 2 * kv_model_weights(m));
    kv_tokenizer_free(tok);
    kv_model_close(m);
}

static void the_fingerprint_is_that_of_the_file(void **state)
{
    (void)state;
    gguf_build b = {0};
    kv_model *m;
    uint8_t sha[32];
    gb_llama(&b, NULL);
    kv_sha256(b.p, b.n, sha);
    gb_free(&b);
    assert_ok(open_flawed(NULL, &m, NULL));
    assert_memory_equal(m->sha256, sha, 32);
    kv_model_close(m);
}

static void every_flaw_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        gb_llama_flaw flaw;
        kv_status status;
        const char *words;
    } flaws[] = {
        {{.architecture = "mamba"}, KV_ERR_UNSUPPORTED, "architecture 'mamba'"},
        {{.architecture = "llama4"}, KV_ERR_UNSUPPORTED, "architecture 'llama4'"},
        {{.without_key = "general.architecture"},
         KV_ERR_FORMAT,
         "'general.architecture' is missing"},
        {{.without_key = "llama.block_count"}, KV_ERR_FORMAT, "'llama.block_count' is missing"},
        {{.without_key = "llama.embedding_length"}, KV_ERR_FORMAT, "embedding_length"},
        {{.without_key = "llama.context_length"}, KV_ERR_FORMAT, "context_length"},
        {{.without_key = "llama.attention.layer_norm_rms_epsilon"}, KV_ERR_FORMAT, "epsilon"},
        {{.extra_key = "llama.expert_count"}, KV_ERR_UNSUPPORTED, "llama.expert_count"},
        {{.extra_key = "llama.attention.sliding_window"}, KV_ERR_UNSUPPORTED, "sliding_window"},
        {{.extra_key = "llama.logit_scale"}, KV_ERR_UNSUPPORTED, "logit_scale"},
        {{.kv_heads = 3}, KV_ERR_FORMAT, "n_kv_heads"},
        {{.without_tensor = "token_embd.weight"}, KV_ERR_FORMAT, "'token_embd.weight' is missing"},
        {{.without_tensor = "blk.0.ffn_up.weight"},
         KV_ERR_FORMAT,
         "'blk.0.ffn_up.weight' is missing"},
        {{.without_tensor = "output_norm.weight"},
         KV_ERR_FORMAT,
         "'output_norm.weight' is missing"},
        {{.wide_tensor = "blk.0.attn_v.weight"},
         KV_ERR_FORMAT,
         "17 x 32; the config demands 16 x 32"},
        {{.odd_tensor = "blk.0.attn_q.weight", .odd_type = 99}, KV_ERR_UNSUPPORTED, "type 99"},
        {{.odd_tensor = "blk.0.ffn_norm.weight", .odd_type = 10}, KV_ERR_UNSUPPORTED, "type 10"},
        {{.extra_tensor = "blk.0.ffn_gate_exps.weight"}, KV_ERR_UNSUPPORTED, "ffn_gate_exps"},
        {{.extra_tensor = "blk.1.attn_norm.weight"}, KV_ERR_UNSUPPORTED, "blk.1.attn_norm.weight"},
        {{.extra_tensor = "rope_freqs.weight"}, KV_ERR_UNSUPPORTED, "rope_freqs.weight"},
        {{.extra_tensor = "blk.0.attn_norm.weight"}, KV_ERR_FORMAT, "appears twice"},
        {{.without_key = "tokenizer.ggml.model"}, KV_ERR_FORMAT, "tokenizer.ggml.model"},
        {{.without_key = "tokenizer.ggml.merges"}, KV_ERR_FORMAT, "tokenizer.ggml.merges"},
        {{.tokenizer = "bert"}, KV_ERR_UNSUPPORTED, "tokenizer model 'bert'"},
        {{.pre = "qwen2"}, KV_ERR_UNSUPPORTED, "pre-tokenizer 'qwen2'"},
        {{.bad_merge = 1}, KV_ERR_FORMAT, "merge 0"},
        {{.bos_id = 300}, KV_ERR_FORMAT, "bos_token_id"},
        {{.extra_tokens = 4}, KV_ERR_MISMATCH, "262 tokens but the model only 258"},
    };
    for (size_t i = 0; i < sizeof flaws / sizeof *flaws; i++) {
        kv_model *m = (kv_model *)1;
        kv_tokenizer *tok = (kv_tokenizer *)1;
        assert_refused(open_flawed(&flaws[i].flaw, &m, &tok), flaws[i].status, flaws[i].words);
        assert_null(m);
        assert_null(tok);
    }
}

static void names_that_mean_nothing_are_refused_with_the_known_ones(void **state)
{
    (void)state;
    kv_model *m;
    assert_refused(kv_model_open("nanno", NULL, &m, NULL), KV_ERR_USAGE, "nano, sharp, tiny, nano-a, nano-b, nano-u, golf-a, golf-b, smollm2");
    assert_refused(kv_model_open("./nano.gguf", NULL, &m, NULL), KV_ERR_IO, "./nano.gguf");
    assert_refused(kv_model_open("smollm2", "no/such/folder", &m, NULL), KV_ERR_IO, "make models");
    kv_model_close(NULL);
}

static void the_models_folder_comes_from_the_environment(void **state)
{
    (void)state;
    kv_model *m;
    const char *old = getenv("KVDIFF_MODELS");
    char saved[512] = "";
    if (old) snprintf(saved, sizeof saved, "%s", old);
    setenv("KVDIFF_MODELS", "somewhere/else", 1);
    assert_refused(kv_model_open("smollm2", NULL, &m, NULL), KV_ERR_IO, "somewhere/else/");
    if (old)
        setenv("KVDIFF_MODELS", saved, 1);
    else
        unsetenv("KVDIFF_MODELS");
}

static void check_compares_shapes_with_the_config(void **state)
{
    (void)state;
    kv_model *m;
    assert_ok(kv_model_open("tiny", NULL, &m, NULL));
    assert_ok(kv_model_check(m));
    kv_model copy = *m; /* tensors stay those of the original */
    copy.cfg.ffn_dim = 95;
    assert_refused(kv_model_check(&copy), KV_ERR_FORMAT, "blk.0.ffn_gate.weight");
    copy.cfg = m->cfg;
    copy.cfg.vocab_size = 65;
    assert_refused(kv_model_check(&copy), KV_ERR_FORMAT, "token_embd.weight");
    copy.cfg = m->cfg;
    copy.cfg.tied_head = 0;
    assert_refused(kv_model_check(&copy), KV_ERR_FORMAT, "output.weight");
    copy.cfg.n_heads = 0;
    assert_refused(kv_model_check(&copy), KV_ERR_FORMAT, "n_heads");
    kv_model_close(m);
}

static void smollm2_has_the_shape_of_its_card(void **state)
{
    (void)state;
    kv_model *m;
    kv_tokenizer *tok;
    if (kv_model_open("smollm2", NULL, &m, &tok) != KV_OK) kvtest_skip("%s", kv_message());
    char hex[65];
    kv_hex32(m->sha256, hex);
    assert_string_equal(hex, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
    assert_int_equal(m->cfg.n_layers, 30);
    assert_int_equal(m->cfg.d_model, 576);
    assert_int_equal(m->cfg.n_heads, 9);
    assert_int_equal(m->cfg.n_kv_heads, 3);
    assert_int_equal(m->cfg.head_dim, 64);
    assert_int_equal(m->cfg.ffn_dim, 1536);
    assert_int_equal(m->cfg.vocab_size, 49152);
    assert_int_equal(m->cfg.max_pos, 8192);
    assert_true(m->cfg.rope_theta == 100000.0);
    assert_int_equal(kv_model_weights(m), 134515008);
    kv_tokenizer_free(tok);
    kv_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_catalogue_names_what_open_knows),
        cmocka_unit_test(nano_is_made_of_its_recipe),
        cmocka_unit_test(sharp_is_nano_with_larger_queries),
        cmocka_unit_test(tiny_is_made_of_its_recipe),
        cmocka_unit_test(generated_models_keep_their_fingerprint),
        cmocka_unit_test(a_gguf_file_becomes_a_llama),
        cmocka_unit_test(the_fingerprint_is_that_of_the_file),
        cmocka_unit_test(every_flaw_is_refused_by_name),
        cmocka_unit_test(names_that_mean_nothing_are_refused_with_the_known_ones),
        cmocka_unit_test(the_models_folder_comes_from_the_environment),
        cmocka_unit_test(check_compares_shapes_with_the_config),
        cmocka_unit_test(smollm2_has_the_shape_of_its_card),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
