#include "common/train.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- keys ------------------------------------------------------------------------------------------------ */

typedef enum kind { I32, I64, U64, U8, F32, F64, LAYERS, WORD, NAME } kind;

typedef struct key {
    const char *name;
    kind kind;
    size_t at; /* in kv_train_config */
    double lo, hi;
} key;

#define AT(field)               offsetof(kv_train_config, field)
#define MODEL(field)            offsetof(kv_train_config, model.field)
#define GROUP(field, group)     (offsetof(kv_train_config, field) + (size_t)(group) * sizeof(double))
#define SWITCH(name, field)     {name, U8, MODEL(field), 0, 1}

/* In the order of the canonical text. `model` comes before all of them. */
static const key keys[] = {
    {"name", NAME, AT(name), 0, 0},
    {"vocab_size", I32, MODEL(vocab_size), 2, 1 << 22},
    {"n_layers", I32, MODEL(n_layers), 1, 64},
    {"d_model", I32, MODEL(d_model), 1, 1 << 17},
    {"n_heads", I32, MODEL(n_heads), 1, 4096},
    {"n_kv_heads", I32, MODEL(n_kv_heads), 1, 4096},
    {"head_dim", I32, MODEL(head_dim), 2, KV_MAX_HEAD_DIM},
    {"ffn_dim", I32, MODEL(ffn_dim), 1, 1 << 20},
    {"ffn_kind", WORD, MODEL(ffn_kind), KV_FFN_RELU2, KV_FFN_LEAKY_RELU2},
    {"leaky_slope", F32, MODEL(leaky_slope), 0, 1},
    {"logit_softcap", F32, MODEL(logit_softcap), 0, 1e6},
    {"rope_dims", I32, MODEL(rope_dims), 2, KV_MAX_HEAD_DIM},
    {"rope_theta", F64, MODEL(rope_theta), 1, 1e12},
    {"rope_train_len", I32, MODEL(rope_train_len), 1, 1 << 30},
    {"rope_base_len", I32, MODEL(rope_base_len), 0, 1 << 30},
    SWITCH("ln_scale", ln_scale_inv_sqrt),
    SWITCH("q_gain", use_q_gain),
    SWITCH("k_gain", use_k_gain),
    SWITCH("k_shift", k_shift),
    SWITCH("v_shift", v_shift),
    SWITCH("local_v", local_v),
    SWITCH("smear", smear),
    SWITCH("resid_mix", resid_mix_x0),
    SWITCH("unet_skips", unet_skips),
    SWITCH("branch_scales", branch_scales),
    SWITCH("tied_head", tied_head),
    {"xsa_layers", LAYERS, MODEL(xsa_layer_mask), 0, 0},
    {"bigram_rows", I32, MODEL(bigram_rows), 0, 1 << 24},
    {"bigram_dim", I32, MODEL(bigram_dim), 0, 1 << 16},
    {"sidecar_layers", LAYERS, MODEL(sidecar_layer_mask), 0, 0},
    {"sidecar_hidden", I32, MODEL(sidecar_hidden), 0, 1 << 16},
    {"sidecar_taps", I32, MODEL(sidecar_taps), 0, 3},
    {"seed", U64, AT(seed), 0, 0},
    {"seq", I64, AT(seq), 1, 1 << 20},
    {"batch_tokens", I64, AT(batch_tokens), 1, 1 << 24},
    {"iterations", I64, AT(iterations), 1, 1e9},
    {"warmdown", I64, AT(warmdown), 0, 1e9},
    {"lr_token", F64, GROUP(lr, KV_GOLF_TOKEN), 0, 100},
    {"lr_muon", F64, GROUP(lr, KV_GOLF_MUON), 0, 100},
    {"lr_scalar", F64, GROUP(lr, KV_GOLF_SCALAR), 0, 100},
    {"lr_head", F64, GROUP(lr, KV_GOLF_HEAD), 0, 100},
    {"wd_token", F64, GROUP(weight_decay, KV_GOLF_TOKEN), 0, 100},
    {"wd_muon", F64, GROUP(weight_decay, KV_GOLF_MUON), 0, 100},
    {"wd_scalar", F64, GROUP(weight_decay, KV_GOLF_SCALAR), 0, 100},
    {"wd_head", F64, GROUP(weight_decay, KV_GOLF_HEAD), 0, 100},
    {"beta1", F64, AT(beta1), 0, 0.999999},
    {"beta2", F64, AT(beta2), 0, 0.999999},
    {"eps", F64, AT(eps), 1e-30, 1},
    {"momentum_from", F64, AT(momentum_from), 0, 1},
    {"momentum_to", F64, AT(momentum_to), 0, 1},
    {"momentum_steps", I64, AT(momentum_steps), 0, 1e9},
    {"clip", F64, AT(clip), 0, 1e9},
    {"ema", F64, AT(ema), 0, 0.9999999},
    {"qat_below", F64, AT(qat_below), 0, 1.1},
    {"ns5_bf16", I32, AT(ns5_bf16), 0, 1},
    {"optimizer", WORD, AT(optimizer), KV_TRAIN_GOLF, KV_TRAIN_SGD},
};

enum { KEYS = sizeof keys / sizeof *keys };

/* Values of the keys that are words: numbers lo to hi of a list. */
static const char *const ffn_words[] = {"swiglu", "relu2", "leaky_relu2", "gelu"};
static const char *const optimizer_words[] = {"golf", "adamw", "sgd"};
static const char *const *words_of(const key *k) { return k->at == AT(optimizer) ? optimizer_words : ffn_words; }

/* ---- presets ---------------------------------------------------------------------------------------------- */

#define MINI_LAYERS ((UINT64_C(1) << 4) | (UINT64_C(1) << 5))

/* About a million parameters, every feature of model B. */
static kv_config mini_model(void)
{
    kv_config c = *kv_golf_preset("golf-b");
    c.n_layers = 6;
    c.d_model = 128;
    c.n_heads = 4;
    c.n_kv_heads = 2;
    c.head_dim = 32;
    c.ffn_dim = 384;
    c.bigram_rows = 1024;
    c.bigram_dim = 32;
    c.rope_base_len = 1024;
    c.sidecar_hidden = 16;
    c.sidecar_layer_mask = MINI_LAYERS;
    return c;
}

const char *kv_train_preset_names(void) { return "mini, nano-a, nano-b, nano-u, golf-a, golf-b"; }

kv_status kv_train_preset(const char *name, kv_train_config *out)
{
    const int mini = strcmp(name, "mini") == 0, full = strncmp(name, "golf-", 5) == 0;
    const kv_config *cfg = mini ? NULL : kv_golf_preset(name);
    if (!mini && !cfg)
        return kv_fail(KV_ERR_USAGE, "training preset '%.64s' is unknown; there are: %s", name, kv_train_preset_names());
    *out = (kv_train_config){
        .model = mini ? mini_model() : *cfg,
        .seed = 1,
        .seq = full ? 2048 : mini ? 1024 : 128,
        .batch_tokens = full ? 786432 : mini ? 8192 : 512,
        .iterations = full ? 9000 : 2000,
        .warmdown = full ? 3000 : 600,
        .lr = {[KV_GOLF_TOKEN] = 0.035, [KV_GOLF_MUON] = 0.025, [KV_GOLF_SCALAR] = 0.025, [KV_GOLF_HEAD] = 0.008},
        .weight_decay = {[KV_GOLF_TOKEN] = 0.04, [KV_GOLF_MUON] = 0.04, [KV_GOLF_SCALAR] = 0.04},
        .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8,
        .momentum_from = 0.92, .momentum_to = 0.99, .momentum_steps = full ? 1500 : 300,
        .clip = 0.3, .ema = 0.997,
    };
    snprintf(out->name, sizeof out->name, "%s", name);
    return KV_OK;
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static kv_status bad(const key *k, const char *value)
{
    return kv_fail(KV_ERR_USAGE, "training key '%s': '%.64s' is not a number from %g to %g", k->name, value, k->lo, k->hi);
}

static kv_status set_number(const key *k, const char *value, void *at)
{
    char *end;
    errno = 0;
    const double x = strtod(value, &end);
    const int whole = k->kind != F32 && k->kind != F64;
    if (end == value || *end || errno || !(x >= k->lo && x <= k->hi) || (whole && x != (double)(int64_t)x)) return bad(k, value);
    switch (k->kind) {
    case I32:
        *(int32_t *)at = (int32_t)x;
        break;
    case I64:
        *(int64_t *)at = (int64_t)x;
        break;
    case U8:
        *(uint8_t *)at = (uint8_t)x;
        break;
    case F32:
        *(float *)at = (float)x;
        break;
    default:
        *(double *)at = x;
        break;
    }
    return KV_OK;
}

static kv_status set_seed(const key *k, const char *value, uint64_t *at)
{
    char *end;
    errno = 0;
    *at = strtoull(value, &end, 10);
    if (end == value || *end || errno || *value == '-')
        return kv_fail(KV_ERR_USAGE, "training key '%s': '%.64s' is not a whole number below 2^64", k->name, value);
    return KV_OK;
}

/* "none" or "3,4,7" */
static kv_status set_layers(const key *k, const char *value, uint64_t *mask)
{
    uint64_t m = 0;
    for (const char *p = value; strcmp(value, "none") != 0; p++) {
        char *end;
        const unsigned long l = strtoul(p, &end, 10);
        if (end == p || l > 63 || (*end && *end != ','))
            return kv_fail(KV_ERR_USAGE, "training key '%s': '%.64s' is neither 'none' nor a list of layers such as 4,5", k->name, value);
        m |= UINT64_C(1) << l;
        if (!*end) break;
        p = end;
    }
    *mask = m;
    return KV_OK;
}

static kv_status set_word(const key *k, const char *value, int32_t *at)
{
    const char *const *words = words_of(k);
    char known[64] = "";
    size_t n = 0;
    for (int i = (int)k->lo; i <= (int)k->hi; i++) {
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", words[i]);
        if (strcmp(value, words[i]) == 0) {
            *at = i;
            return KV_OK;
        }
    }
    return kv_fail(KV_ERR_USAGE, "training key '%s': '%.64s' is not one of: %s", k->name, value, known);
}

static kv_status set_name(const char *value, char *at, size_t size)
{
    for (const char *p = value; *p; p++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", *p))
            return kv_fail(KV_ERR_USAGE, "training key 'name': '%.64s' has a character other than letters, digits, - _ .", value);
    if (!*value || strlen(value) >= size) return kv_fail(KV_ERR_USAGE, "training key 'name' needs 1 to %zu characters", size - 1);
    snprintf(at, size, "%s", value);
    return KV_OK;
}

kv_status kv_train_set(kv_train_config *c, const char *name, const char *value)
{
    for (int i = 0; i < KEYS; i++) {
        const key *k = &keys[i];
        void *at = (char *)c + k->at;
        if (strcmp(name, k->name) != 0) continue;
        if (k->kind == NAME) return set_name(value, at, sizeof c->name);
        if (k->kind == LAYERS) return set_layers(k, value, at);
        if (k->kind == WORD) return set_word(k, value, at);
        if (k->kind == U64) return set_seed(k, value, at);
        return set_number(k, value, at);
    }
    return kv_fail(KV_ERR_USAGE, "training key '%.64s' is unknown; docs/training.md lists them", name);
}

/* One line without its end and comment, cut into key and value; 0 when it is empty, -1 when it is neither. */
static int split(char *line, char **name, char **value)
{
    line[strcspn(line, "#")] = '\0';
    line += strspn(line, " \t\r");
    if (!*line) return 0;
    char *eq = strchr(line, '=');
    if (!eq) return -1;
    char *end = eq;
    while (end > line && strchr(" \t", end[-1]))
        end--;
    *end = '\0';
    char *v = eq + 1 + strspn(eq + 1, " \t");
    end = v + strlen(v);
    while (end > v && strchr(" \t\r", end[-1]))
        end--;
    *end = '\0';
    *name = line;
    *value = v;
    return *line ? 1 : -1;
}

/* The `model` key first, wherever it stands; then (pass 1) the others. */
static kv_status read_pass(const char *text, const char *name, int pass, kv_train_config *out)
{
    int line_no = 0;
    for (const char *p = text; *p; line_no++) {
        const size_t n = strcspn(p, "\n");
        char line[512], *key_name, *value;
        if (n >= sizeof line) return kv_fail(KV_ERR_USAGE, "%s:%d: the line is longer than %zu characters", name, line_no + 1, sizeof line - 1);
        memcpy(line, p, n);
        line[n] = '\0';
        p += n + (p[n] == '\n');
        const int got = split(line, &key_name, &value);
        if (got == 0) continue;
        if (got < 0) return kv_fail(KV_ERR_USAGE, "%s:%d: not of the form `key = value`", name, line_no + 1);
        const int is_model = strcmp(key_name, "model") == 0;
        if (is_model != (pass == 0)) continue;
        const kv_status st = is_model ? kv_train_preset(value, out) : kv_train_set(out, key_name, value);
        if (st != KV_OK) {
            kv_prefix_message("%s:%d", name, line_no + 1);
            return st;
        }
    }
    return KV_OK;
}

kv_status kv_train_parse(const char *text, const char *name, kv_train_config *out)
{
    KV_TRY(kv_train_preset("mini", out));
    KV_TRY(read_pass(text, name, 0, out));
    return read_pass(text, name, 1, out);
}

kv_status kv_train_check(const kv_train_config *c)
{
    KV_TRY(kv_config_check(&c->model));
    const char *beyond = kv_config_beyond_golf(&c->model);
    if (beyond || !kv_config_is_golf(&c->model))
        return kv_fail(KV_ERR_UNSUPPORTED, "training knows the golf family only; this model has %s", beyond ? beyond : "no norm behind its embedding");
    if (c->model.norm_weight || c->model.ffn_kind == KV_FFN_SWIGLU || c->model.qk_norm != KV_QK_NORM_RMS)
        return kv_fail(KV_ERR_UNSUPPORTED, "training knows norms without gains, squared activations and normalised queries and keys only");
    if (c->batch_tokens % c->seq != 0)
        return kv_fail(KV_ERR_USAGE, "training: batch_tokens is %lld; it must be a multiple of seq, %lld", (long long)c->batch_tokens, (long long)c->seq);
    return KV_OK;
}

/* ---- printing --------------------------------------------------------------------------------------------------- */

static void print_layers(uint64_t mask, char *text, size_t size)
{
    size_t n = 0;
    snprintf(text, size, "none");
    for (int l = 0; l < 64; l++)
        if (mask >> l & 1) n += (size_t)snprintf(text + n, size - n, "%s%d", n ? "," : "", l);
}

void kv_train_print(const kv_train_config *c, char text[KV_TRAIN_TEXT_MAX])
{
    size_t n = 0;
    for (int i = 0; i < KEYS; i++) {
        const key *k = &keys[i];
        const void *at = (const char *)c + k->at;
        char value[256] = "";
        switch (k->kind) {
        case I32:
            snprintf(value, sizeof value, "%d", *(const int32_t *)at);
            break;
        case I64:
            snprintf(value, sizeof value, "%lld", (long long)*(const int64_t *)at);
            break;
        case U64:
            snprintf(value, sizeof value, "%llu", (unsigned long long)*(const uint64_t *)at);
            break;
        case U8:
            snprintf(value, sizeof value, "%d", *(const uint8_t *)at);
            break;
        case F32:
            snprintf(value, sizeof value, "%.9g", (double)*(const float *)at);
            break;
        case F64:
            snprintf(value, sizeof value, "%.17g", *(const double *)at);
            break;
        case LAYERS:
            print_layers(*(const uint64_t *)at, value, sizeof value);
            break;
        case WORD:
            snprintf(value, sizeof value, "%s", words_of(k)[*(const int32_t *)at]);
            break;
        case NAME:
            snprintf(value, sizeof value, "%s", (const char *)at);
            break;
        }
        n += (size_t)snprintf(text + n, KV_TRAIN_TEXT_MAX - n, "%s = %s\n", k->name, value);
    }
}
