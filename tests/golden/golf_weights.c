/* golf_weights.c - the generated models themselves: configs, tokens, and every tensor's name, shape, optimiser and bits
 * against an independent program. The data of all sides; nothing is computed by one. */
#include "tests/golden/golf.h"

#include "common/golf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t mask_of(const json_t *layers)
{
    uint64_t mask = 0;
    for (size_t i = 0; i < json_array_size(layers); i++)
        mask |= UINT64_C(1) << json_integer_value(json_array_get(layers, i));
    return mask;
}

/* Numbers of the golden config that differ from ours. */
static int config_differs(const kv_config *c, const json_t *want)
{
    const struct {
        const char *key;
        double ours;
    } numbers[] = {{"V", c->vocab_size}, {"L", c->n_layers}, {"d", c->d_model}, {"H", c->n_heads}, {"KV", c->n_kv_heads},
                   {"D", c->head_dim}, {"F", c->ffn_dim}, {"rope_dims", c->rope_dims}, {"rope_theta", c->rope_theta},
                   {"rope_train_len", c->rope_train_len}, {"rope_base_len", c->rope_base_len}, {"rope_sign", c->rope_sign},
                   {"R", c->bigram_rows}, {"db", c->bigram_dim}, {"mul_cur", c->bigram_mul_cur},
                   {"mul_prev", c->bigram_mul_prev}, {"cap", (double)c->logit_softcap}, {"ln_scale", c->ln_scale_inv_sqrt},
                   {"k_gain", c->use_k_gain}, {"k_shift", c->k_shift}, {"v_shift", c->v_shift}, {"local_v", c->local_v},
                   {"leaky", (double)c->leaky_slope}, {"hid", c->sidecar_hidden}, {"taps", c->sidecar_taps}};
    int differ = 0;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const int idle = strcmp(numbers[i].key, "taps") == 0 && !c->sidecar_hidden; /* taps of no sidecar */
        differ += !idle && golden_number(want, numbers[i].key) != numbers[i].ours;
    }
    differ += mask_of(json_object_get(want, "xsa")) != c->xsa_layer_mask;
    return differ + (mask_of(json_object_get(want, "side")) != c->sidecar_layer_mask);
}

static int dims_differ(const kv_config *c, kv_role role, const json_t *shape)
{
    int64_t dims[3];
    const int n = kv_golf_dims(c, role, dims);
    if (json_array_size(shape) != (size_t)n) return 1;
    for (int i = 0; i < n; i++)
        if (json_integer_value(json_array_get(shape, (size_t)i)) != dims[i]) return 1;
    return 0;
}

static uint64_t fnv_of(const void *p, size_t bytes)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ ((const uint8_t *)p)[i]) * UINT64_C(0x100000001b3);
    return h;
}

/* Bits of all elements and of the first four; norm and sum say that the digests are of what they claim. */
static int values_differ(const float *w, size_t n, const json_t *want)
{
    const json_t *first = json_object_get(want, "first_hex");
    double sum = 0;
    int differ = fnv_of(w, n * sizeof *w) != strtoull(golden_text(want, "f32_fnv"), NULL, 16);
    for (size_t i = 0; i < json_array_size(first); i++) {
        uint32_t bits;
        memcpy(&bits, w + i, sizeof bits);
        differ |= bits != strtoul(json_string_value(json_array_get(first, i)), NULL, 16);
    }
    for (size_t i = 0; i < n; i++)
        sum += (double)w[i];
    const double l2 = golden_number(want, "l2");
    return differ | !(fabs(golf_l2(w, n) - l2) <= 1e-12 * l2) | !(fabs(sum - golden_number(want, "sum")) <= 1e-9);
}

static void check_model(const golf_model *g, const json_t *want)
{
    static const char *const groups[] = {[KV_GOLF_TOKEN] = "tok", [KV_GOLF_MUON] = "muon", [KV_GOLF_SCALAR] = "scalar",
                                         [KV_GOLF_HEAD] = "head"};
    const kv_config *c = &g->m.cfg;
    const json_t *tensors = json_object_get(want, "tensors");
    kv_golf_place places[256];
    const int32_t n = kv_golf_order(c, NULL);
    if (n > 256 || json_array_size(tensors) != (size_t)n) golden_die("%s: %d tensors, golden %zu", g->name, n, json_array_size(tensors));
    kv_golf_order(c, places);
    int shapes = 0, values = 0;
    for (int32_t i = 0; i < n; i++) {
        const json_t *t = json_array_get(tensors, (size_t)i);
        const kv_tensor *ours = kv_model_tensor(&g->m, places[i].role, places[i].layer);
        char name[KV_TENSOR_NAME_MAX];
        kv_model_tensor_name(c, places[i].role, places[i].layer, name);
        shapes += strcmp(name, golden_text(t, "name")) != 0 || dims_differ(c, places[i].role, json_object_get(t, "shape")) ||
                  strcmp(groups[kv_golf_group_of(places[i].role)], golden_text(t, "group")) != 0;
        values += values_differ(ours->data, (size_t)(ours->rows * ours->cols), t);
    }
    const int config = config_differs(c, json_object_get(want, "config"));
    golden_ok(!config, "%s: the config (%d numbers differ)", g->name, config);
    golden_ok(kv_golf_parameters(c) == golden_number(want, "params"), "%s: %.0f parameters", g->name, golden_number(want, "params"));
    golden_ok(!shapes && !values, "%s: names, shapes, groups of %d tensors (%d differ), their bits (%d differ)", g->name, n, shapes,
              values);
}

void golf_weights(const char *folder)
{
    json_t *j = golden_load(folder, "1_weights.json");
    int32_t tokens[GOLF_N + 1];
    int differ = json_array_size(json_object_get(j, "tokens")) != GOLF_N + 1;
    golf_tokens(tokens);
    for (size_t i = 0; i <= GOLF_N; i++)
        differ += json_integer_value(json_array_get(json_object_get(j, "tokens"), i)) != tokens[i];
    golden_ok(!differ, "96 tokens (%d differ)", differ);
    for (const char *p = "ABU"; *p; p++) {
        golf_model g;
        golf_open(&g, *p);
        check_model(&g, json_object_get(json_object_get(j, "presets"), g.name));
        golf_close(&g);
    }
    json_decref(j);
}
