#include "difftest/artifact.h"

#include "difftest/cli_output.h"

#include "common/config_fields.h"
#include "common/file.h"
#include "common/math.h"
#include "common/safetensors.h"
#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>

/* ---- configs ------------------------------------------------------------------------------------------------------ */

/* What a config is where JSON says nothing. */
static const kv_config blank = {.embed_scale = 1.0f, .bos_id = -1, .eos_id = -1, .pad_id = -1};

static kv_status bad_value(const char *name, const char *wanted)
{
    return kv_fail(KV_ERR_FORMAT, "\"%s\" must be %s", name, wanted);
}

static kv_status set_field(const kv_config_field *f, const json_t *v, kv_config *cfg)
{
    uint8_t *at = (uint8_t *)cfg + f->offset;
    const json_int_t i = json_is_boolean(v) ? json_is_true(v) : json_integer_value(v);
    const double x = json_number_value(v);
    const float narrow = (float)x;
    const int whole = json_is_integer(v) || (f->type == KV_FIELD_FLAG && json_is_boolean(v));
    switch (f->type) {
    case KV_FIELD_I32:
        if (!whole || i < INT32_MIN || i > INT32_MAX) return bad_value(f->name, "a whole number of 32 bits");
        break;
    case KV_FIELD_U64:
        if (!whole || i < 0) return bad_value(f->name, "a whole number, 0 or more");
        break;
    case KV_FIELD_FLAG:
        if (!whole || i < 0 || i > 1) return bad_value(f->name, "true, false, 0 or 1");
        break;
    case KV_FIELD_F32:
    case KV_FIELD_F64:
        if (!json_is_number(v)) return bad_value(f->name, "a number");
        memcpy(at, f->type == KV_FIELD_F32 ? (const void *)&narrow : &x, f->bytes);
        return KV_OK;
    }
    memcpy(at, &i, f->bytes);
    return KV_OK;
}

static kv_status set_by_name(const char *name, const json_t *v, kv_config *cfg)
{
    int n;
    char shown[80];
    dt_nearest best = {NULL, 0};
    const kv_config_field *f = kv_config_fields(&n);
    for (int i = 0; i < n; i++) {
        if (strcmp(f[i].name, name) == 0) return set_field(&f[i], v, cfg);
        dt_nearest_offer(&best, name, strlen(name), f[i].name);
    }
    kv_printable(name, strlen(name), shown, sizeof shown);
    if (best.name) return kv_fail(KV_ERR_FORMAT, "a config has no field \"%s\"; did you mean \"%s\"?", shown, best.name);
    return kv_fail(KV_ERR_FORMAT, "a config has no field \"%s\"; common/config.h lists them", shown);
}

static kv_status from_json(const json_t *root, kv_config *cfg)
{
    const json_t *base = json_object_get(root, "base");
    const kv_config *preset = json_is_string(base) ? kv_golf_preset(json_string_value(base)) : NULL;
    if (base && !preset) return bad_value("base", "the name of a golf preset: nano-a, nano-b, nano-u, golf-a or golf-b");
    *cfg = preset ? *preset : blank;
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)root, name, v)
        if (strcmp(name, "base") != 0) KV_TRY(set_by_name(name, v, cfg));
    return kv_kvm_check_config(cfg);
}

static kv_status from_text(const char *text, size_t n, kv_config *cfg)
{
    json_error_t e;
    char shown[120];
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!root) return kv_fail(KV_ERR_FORMAT, "line %d: %s", e.line, kv_printable(e.text, strlen(e.text), shown, sizeof shown));
    const kv_status st = json_is_object(root) ? from_json(root, cfg) : kv_fail(KV_ERR_FORMAT, "not a JSON object");
    json_decref(root);
    return st;
}

kv_status dt_config_parse(const char *text, kv_config *cfg)
{
    const kv_config *preset = kv_golf_preset(text);
    if (preset) {
        *cfg = *preset;
        return KV_OK;
    }
    if (*text == '{') {
        if (from_text(text, strlen(text), cfg) == KV_OK) return KV_OK;
        kv_prefix_message("--config");
        return KV_ERR_USAGE;
    }
    if (!strchr(text, '/') && !strchr(text, '.'))
        return kv_fail(KV_ERR_USAGE, "--config=%s is no golf preset (nano-a, nano-b, nano-u, golf-a, golf-b), JSON text or file", text);
    char *bytes;
    size_t n;
    KV_TRY(kv_file_read(text, 1 << 16, &bytes, &n));
    const kv_status st = from_text(bytes, n, cfg);
    free(bytes);
    if (st != KV_OK) kv_prefix_message("%s", text);
    return st;
}

static json_t *field_json(const kv_config_field *f, const uint8_t *at)
{
    int32_t i32;
    uint64_t u64;
    float f32;
    double f64;
    switch (f->type) {
    case KV_FIELD_I32:
        memcpy(&i32, at, sizeof i32);
        return json_integer(i32);
    case KV_FIELD_U64:
        memcpy(&u64, at, sizeof u64);
        return json_integer((json_int_t)u64);
    case KV_FIELD_FLAG:
        return json_boolean(*at);
    case KV_FIELD_F32:
        memcpy(&f32, at, sizeof f32);
        return json_real((double)f32);
    default:
        memcpy(&f64, at, sizeof f64);
        return json_real(f64);
    }
}

json_t *dt_config_json(const kv_config *cfg)
{
    int n;
    const kv_config_field *f = kv_config_fields(&n);
    json_t *root = json_object();
    for (int i = 0; i < n && root; i++) {
        const uint8_t *at = (const uint8_t *)cfg + f[i].offset;
        if (memcmp(at, (const uint8_t *)&blank + f[i].offset, f[i].bytes) != 0) json_object_set_new(root, f[i].name, field_json(&f[i], at));
    }
    return root;
}

/* ---- weights ------------------------------------------------------------------------------------------------------ */

int dt_has_suffix(const char *path, const char *suffix)
{
    const size_t n = strlen(path), k = strlen(suffix);
    return n > k && strcmp(path + n - k, suffix) == 0;
}

kv_status dt_weights_open(const char *name, const kv_config *cfg, kv_model **out)
{
    kv_safetensors *s;
    *out = NULL;
    if (!dt_has_suffix(name, ".safetensors")) return kv_model_open(name, NULL, out, NULL);
    if (!cfg) return kv_fail(KV_ERR_USAGE, "'%s' has weights but no config; give one with --config", name);
    KV_TRY(kv_safetensors_open(name, &s));
    const kv_status st = kv_safetensors_model(s, cfg, name, out);
    kv_safetensors_close(s);
    return st;
}

/* ---- figures ------------------------------------------------------------------------------------------------------ */

static double entropy(const uint8_t *codes, uint64_t n)
{
    uint64_t count[256] = {0};
    double bits = 0;
    for (uint64_t i = 0; i < n; i++)
        count[codes[i]]++;
    for (int c = 0; c < 256; c++)
        if (count[c]) bits -= (double)count[c] * kv_log_core((double)count[c] / (double)n);
    return bits / (double)n / kv_log_core(2.0);
}

static void compare(const float *w, const float *original, int64_t n, dt_tensor_figures *out)
{
    double sum = 0, whole = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)w[i] - (double)original[i], far = d < 0 ? -d : d;
        if (far > out->largest) out->largest = far;
        sum += d * d;
        whole += (double)original[i] * (double)original[i];
    }
    out->rms = kv_dsqrt(sum / (double)n);
    out->share = whole > 0 ? kv_dsqrt(sum / whole) : 0;
}

kv_status dt_tensor_measure(const kv_kvm *k, const kv_kvm_tensor *t, const kv_model *other, dt_tensor_figures *out)
{
    *out = (dt_tensor_figures){0};
    if (kv_quant_top(t->cls)) out->entropy = entropy(k->payload + t->value_at, t->value_bytes);
    if (!other) return KV_OK;
    int64_t rows, cols;
    kv_model_shape(&other->cfg, t->place.role, &rows, &cols);
    if (rows != t->rows || cols != t->cols || t->place.layer >= other->cfg.n_layers)
        return kv_fail(KV_ERR_MISMATCH, "model '%s': tensor '%s' is %lld x %lld; the artifact's is %lld x %lld", other->name, t->name,
                       (long long)rows, (long long)cols, (long long)t->rows, (long long)t->cols);
    const size_t n = (size_t)(rows * cols);
    float *w = malloc(2 * n * sizeof *w);
    if (!w) return kv_fail(KV_ERR_NOMEM, "out of memory for tensor '%s'", t->name);
    kv_kvm_decode(k, t, w);
    kv_tensor_rows_f32(kv_model_tensor(other, t->place.role, t->place.layer), 0, rows, w + n);
    compare(w, w + n, (int64_t)n, out);
    free(w);
    return KV_OK;
}
