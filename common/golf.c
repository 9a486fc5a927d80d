#include "common/golf.h"

#include "common/model_private.h"

#include <stdlib.h>
#include <string.h>

/* ---- presets -------------------------------------------------------------------------------------------------- */

#define LAYER(l)  (UINT64_C(1) << (l))
#define FAMILY                                                                                                        \
    .norm_eps = 0x1p-23f, .embed_scale = 1.0f, .logit_softcap = 30.0f, .embed_norm = 1,     \
    .tied_head = 1, .use_q_gain = 1, .qk_norm = KV_QK_NORM_RMS, .rope_pairing = KV_ROPE_HALF, .rope_sign = -1,        \
    .rope_scaling = KV_ROPE_SCALING_NTK_BY_LENGTH, .rope_theta = 10000.0, .resid_mix_x0 = 1, .unet_skips = 1,         \
    .branch_scales = 1, .smear = 1, .bigram_mul_cur = 36313, .bigram_mul_prev = 27191, .bos_id = 1, .eos_id = 2
#define NANO                                                                                                          \
    FAMILY, .vocab_size = 260, .d_model = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .ffn_dim = 192,          \
    .bigram_rows = 64, .bigram_dim = 16, .rope_train_len = 64, .rope_base_len = 128
#define FULL                                                                                                          \
    FAMILY, .vocab_size = 1024, .n_layers = 11, .d_model = 512, .n_heads = 8, .n_kv_heads = 4, .head_dim = 64,        \
    .ffn_dim = 1536, .bigram_rows = 2048, .rope_train_len = 1024, .rope_base_len = 2048
#define MODEL_B .ln_scale_inv_sqrt = 1, .use_k_gain = 1, .k_shift = 1, .v_shift = 1, .local_v = 1, .sidecar_taps = 3

/* Offset of a weight (row 0; the other rows), and what multiplies the stream. */
typedef struct spread {
    float first, others, scale;
} spread;

typedef struct preset {
    const char *name;
    uint64_t seed;
    int heavy_tails; /* matrices: s * (1 + 3 |s|) / 2, whose codes have the entropy of published artifacts (docs/artifact.md) */
    kv_config cfg;
} preset;

static const preset presets[] = {
    {"nano-a", 1, 0, {NANO, .ffn_kind = KV_FFN_RELU2, .n_layers = 4, .rope_dims = 16, .xsa_layer_mask = LAYER(2) | LAYER(3)}},
    {"nano-b", 2, 0, {NANO, MODEL_B, .ffn_kind = KV_FFN_RELU2, .n_layers = 4, .rope_dims = 8, .sidecar_hidden = 8, .sidecar_layer_mask = LAYER(2) | LAYER(3)}},
    {"nano-u", 3, 0, {NANO, MODEL_B, .n_layers = 5, .ffn_kind = KV_FFN_LEAKY_RELU2, .leaky_slope = 0.5f, .rope_dims = 8,
                      .xsa_layer_mask = LAYER(3) | LAYER(4), .sidecar_hidden = 8, .sidecar_layer_mask = LAYER(1) | LAYER(3)}},
    {"golf-a", 4, 1, {FULL, .ffn_kind = KV_FFN_RELU2, .bigram_dim = 128, .rope_dims = 64,
                      .xsa_layer_mask = LAYER(7) | LAYER(8) | LAYER(9) | LAYER(10)}},
    {"golf-b", 5, 1, {FULL, MODEL_B, .ffn_kind = KV_FFN_RELU2, .bigram_dim = 96, .rope_dims = 16, .sidecar_hidden = 48,
                      .sidecar_layer_mask = LAYER(8) | LAYER(9) | LAYER(10)}},
};

static const preset *find(const char *name)
{
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(presets[i].name, name) == 0) return &presets[i];
    return NULL;
}

const kv_config *kv_golf_preset(const char *name)
{
    const preset *p = find(name);
    return p ? &p->cfg : NULL;
}

/* ---- tensors --------------------------------------------------------------------------------------------------- */

int32_t kv_golf_order(const kv_config *cfg, kv_golf_place *places)
{
    static const kv_role head[] = {KV_ROLE_TOKEN_EMBD, KV_ROLE_BIGRAM_EMBED, KV_ROLE_BIGRAM_PROJ, KV_ROLE_BIGRAM_SCALE,
                                   KV_ROLE_SMEAR_GATE, KV_ROLE_SKIP_WEIGHTS};
    static const kv_role layer[] = {KV_ROLE_RESID_MIX, KV_ROLE_ATTN_SCALE, KV_ROLE_FFN_SCALE, KV_ROLE_ATTN_NORM, KV_ROLE_ATTN_Q,
                                    KV_ROLE_ATTN_K, KV_ROLE_ATTN_V, KV_ROLE_ATTN_OUTPUT, KV_ROLE_Q_GAIN, KV_ROLE_K_GAIN,
                                    KV_ROLE_K_SHIFT, KV_ROLE_V_SHIFT, KV_ROLE_LOCAL_V, KV_ROLE_FFN_NORM, KV_ROLE_FFN_GATE,
                                    KV_ROLE_FFN_UP, KV_ROLE_FFN_DOWN};
    static const kv_role tail[] = {KV_ROLE_SIDECAR_GATE, KV_ROLE_SIDECAR_VALUE, KV_ROLE_SIDECAR_CONV, KV_ROLE_SIDECAR_PROJ,
                                   KV_ROLE_SIDECAR_SITE_GATE, KV_ROLE_SIDECAR_SCALE, KV_ROLE_OUTPUT_NORM, KV_ROLE_OUTPUT};
    const struct {
        const kv_role *roles;
        size_t n;
        int32_t repeats;
    } parts[] = {{head, sizeof head / sizeof *head, 1}, {layer, sizeof layer / sizeof *layer, cfg->n_layers}, {tail, sizeof tail / sizeof *tail, 1}};
    int32_t n = 0;
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
        for (int32_t l = 0; l < parts[p].repeats; l++)
            for (size_t i = 0; i < parts[p].n; i++) {
                int64_t rows, cols;
                kv_model_shape(cfg, parts[p].roles[i], &rows, &cols);
                if (rows == 0) continue;
                if (places) places[n] = (kv_golf_place){parts[p].roles[i], l};
                n++;
            }
    return n;
}

int kv_golf_dims(const kv_config *cfg, kv_role role, int64_t dims[3])
{
    int64_t rows, cols;
    kv_model_shape(cfg, role, &rows, &cols);
    switch (role) {
    case KV_ROLE_BIGRAM_SCALE:
        return 0;
    case KV_ROLE_SMEAR_GATE:
    case KV_ROLE_ATTN_SCALE:
    case KV_ROLE_FFN_SCALE:
    case KV_ROLE_Q_GAIN:
    case KV_ROLE_K_GAIN:
    case KV_ROLE_K_SHIFT:
    case KV_ROLE_V_SHIFT:
    case KV_ROLE_LOCAL_V:
        dims[0] = cols;
        return 1;
    case KV_ROLE_SIDECAR_CONV:
        dims[0] = rows;
        dims[1] = 1;
        dims[2] = cols;
        return 3;
    default:
        dims[0] = rows;
        dims[1] = cols;
        return 2;
    }
}

kv_golf_group kv_golf_group_of(kv_role role)
{
    switch (role) {
    case KV_ROLE_TOKEN_EMBD:
    case KV_ROLE_BIGRAM_EMBED:
        return KV_GOLF_TOKEN;
    case KV_ROLE_OUTPUT:
        return KV_GOLF_HEAD;
    case KV_ROLE_BIGRAM_PROJ:
    case KV_ROLE_ATTN_Q:
    case KV_ROLE_ATTN_K:
    case KV_ROLE_ATTN_V:
    case KV_ROLE_ATTN_OUTPUT:
    case KV_ROLE_FFN_GATE:
    case KV_ROLE_FFN_UP:
    case KV_ROLE_FFN_DOWN:
    case KV_ROLE_SIDECAR_GATE:
    case KV_ROLE_SIDECAR_VALUE:
    case KV_ROLE_SIDECAR_PROJ:
    case KV_ROLE_SIDECAR_SITE_GATE:
        return KV_GOLF_MUON;
    default:
        return KV_GOLF_SCALAR;
    }
}

int64_t kv_golf_parameters(const kv_config *cfg)
{
    int64_t total = 0, rows, cols;
    for (int role = 0; role < KV_ROLE_COUNT; role++) {
        kv_model_shape(cfg, (kv_role)role, &rows, &cols);
        total += rows * cols * (role < KV_ROLE_GLOBAL_COUNT ? 1 : cfg->n_layers);
    }
    return total;
}

/* ---- generated weights ------------------------------------------------------------------------------------------- */

static uint64_t fnv1a(const char *name)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    while (*name)
        h = (h ^ (uint8_t)*name++) * UINT64_C(0x100000001b3);
    return h;
}

static int32_t bell(uint64_t start, uint64_t e)
{
    uint64_t z = start + (e + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    z ^= z >> 31;
    return (int32_t)((z & 65535) + (z >> 16 & 65535) + (z >> 32 & 65535) + (z >> 48)) - 131070;
}

int32_t kv_golf_bell(const char *name, uint64_t seed, uint64_t e) { return bell(fnv1a(name) ^ seed, e); }

static spread spread_of(kv_role role)
{
    static const spread spreads[KV_ROLE_COUNT] = {
        [KV_ROLE_TOKEN_EMBD] = {0, 0, 1.0f},          [KV_ROLE_BIGRAM_EMBED] = {0, 0, 1.0f},
        [KV_ROLE_BIGRAM_PROJ] = {0, 0, 0.25f},        [KV_ROLE_BIGRAM_SCALE] = {0.75f, 0.75f, 0.125f},
        [KV_ROLE_SMEAR_GATE] = {0, 0, 2.0f},          [KV_ROLE_SKIP_WEIGHTS] = {1, 1, 0.5f},
        [KV_ROLE_RESID_MIX] = {1, 0, 0.25f},          [KV_ROLE_ATTN_SCALE] = {1, 1, 0.5f},
        [KV_ROLE_FFN_SCALE] = {1, 1, 0.5f},           [KV_ROLE_ATTN_Q] = {0, 0, 0.25f},
        [KV_ROLE_ATTN_K] = {0, 0, 0.25f},             [KV_ROLE_ATTN_V] = {0, 0, 0.25f},
        [KV_ROLE_ATTN_OUTPUT] = {0, 0, 0.25f},        [KV_ROLE_Q_GAIN] = {1.5f, 1.5f, 0.5f},
        [KV_ROLE_K_GAIN] = {1, 1, 0.25f},             [KV_ROLE_K_SHIFT] = {0, 0, 0.5f},
        [KV_ROLE_V_SHIFT] = {0, 0, 0.5f},             [KV_ROLE_LOCAL_V] = {0, 0, 0.5f},
        [KV_ROLE_FFN_UP] = {0, 0, 0.25f},             [KV_ROLE_FFN_DOWN] = {0, 0, 0.125f},
        [KV_ROLE_SIDECAR_GATE] = {0, 0, 0.25f},       [KV_ROLE_SIDECAR_VALUE] = {0, 0, 0.25f},
        [KV_ROLE_SIDECAR_CONV] = {0, 0, 1.0f},        [KV_ROLE_SIDECAR_PROJ] = {0, 0, 0.5f},
        [KV_ROLE_SIDECAR_SITE_GATE] = {0, 0, 1.0f},   [KV_ROLE_SIDECAR_SCALE] = {0, 0, 0.5f},
    };
    return spreads[role];
}

/* Scales are powers of two: every double below is exact, so that there is one rounding. */
static void fill(kv_model *m, const preset *p, kv_golf_place at)
{
    const kv_tensor *t = kv_model_tensor(m, at.role, at.layer);
    const spread sp = spread_of(at.role);
    const int heavy = p->heavy_tails && kv_golf_group_of(at.role) == KV_GOLF_MUON;
    char name[KV_TENSOR_NAME_MAX];
    kv_model_tensor_name(&m->cfg, at.role, at.layer, name);
    const uint64_t start = fnv1a(name) ^ p->seed;
    float *w = (float *)(uintptr_t)t->data;
    for (int64_t i = 0; i < t->rows * t->cols; i++) {
        const double s = (double)bell(start, (uint64_t)i) * 0x1p-16;
        const double tail = heavy ? 0.5 + 1.5 * (s < 0 ? -s : s) : 1;
        w[i] = (float)((double)(i < t->cols ? sp.first : sp.others) + s * tail * (double)sp.scale);
    }
}

kv_status kv_model_golf(const char *name, kv_model **out, kv_tokenizer **tok)
{
    const preset *p = find(name);
    kv_model *m;
    KV_TRY(kv_model_new(name, &p->cfg, &m));
    kv_status st = kv_model_allocate(m);
    kv_golf_place *places = NULL;
    const int32_t n = kv_golf_order(&p->cfg, NULL);
    if (st == KV_OK && !(places = malloc((size_t)n * sizeof *places)))
        st = kv_fail(KV_ERR_NOMEM, "model '%s': out of memory", name);
    if (st == KV_OK) {
        kv_golf_order(&p->cfg, places);
        for (int32_t i = 0; i < n; i++)
            fill(m, p, places[i]);
        kv_model_fingerprint(m);
        st = kv_model_check(m);
    }
    free(places);
    if (st == KV_OK) st = kv_tokenizer_bytes(tok);
    if (st != KV_OK) {
        kv_model_close(m);
        return st;
    }
    *out = m;
    return KV_OK;
}

/* ---- weights from elsewhere --------------------------------------------------------------------------------------- */

kv_status kv_golf_model(const char *name, const kv_config *cfg, const float *w, kv_model **out)
{
    const int32_t n = kv_golf_order(cfg, NULL);
    kv_golf_place *places = malloc((size_t)n * sizeof *places);
    kv_model *m = NULL;
    kv_status st = places ? kv_model_new(name, cfg, &m) : kv_fail(KV_ERR_NOMEM, "model '%s': out of memory", name);
    if (st == KV_OK) st = kv_model_allocate(m);
    if (st == KV_OK) {
        kv_golf_order(cfg, places);
        for (int32_t i = 0; i < n; i++) {
            const kv_tensor *t = kv_model_tensor(m, places[i].role, places[i].layer);
            memcpy((void *)(uintptr_t)t->data, w, t->n_bytes);
            w += t->rows * t->cols;
        }
        kv_model_fingerprint(m);
        st = kv_model_check(m);
    }
    free(places);
    if (st != KV_OK) {
        kv_model_close(m);
        return st;
    }
    *out = m;
    return KV_OK;
}
