/* kvm.c - what an artifact may hold, and the model inside an open one. */
#include "common/kvm_private.h"

#include "common/model_private.h"
#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>

/* ---- what an artifact may hold ------------------------------------------------------------------------------------ */

static kv_status check_ids(const kv_config *cfg)
{
    const struct {
        const char *name;
        int32_t id;
    } ids[] = {{"bos_id", cfg->bos_id}, {"eos_id", cfg->eos_id}, {"pad_id", cfg->pad_id}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].id < -1 || ids[i].id >= cfg->vocab_size)
            return kv_fail(KV_ERR_FORMAT, "model config: %s is %d; it must be -1 or an id below %d", ids[i].name, ids[i].id,
                           cfg->vocab_size);
    return KV_OK;
}

kv_status kv_kvm_check_config(const kv_config *cfg)
{
    KV_TRY(kv_config_check(cfg));
    KV_TRY(check_ids(cfg));
    if (!kv_config_is_golf(cfg))
        return kv_fail(KV_ERR_UNSUPPORTED, "artifacts hold models of the golf family; this config has no embed_norm");
    const char *beyond = kv_config_beyond_golf(cfg);
    if (beyond) return kv_fail(KV_ERR_UNSUPPORTED, "no side computes a model with %s; build one without it", beyond);
    if (cfg->norm_weight || cfg->ffn_kind == KV_FFN_SWIGLU)
        return kv_fail(KV_ERR_UNSUPPORTED, "files of the golf family have no names for the tensors of %s; use a model without it",
                       cfg->norm_weight ? "norm_weight" : "ffn_kind swiglu");
    return KV_OK;
}

static int is_key_char(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c && strchr("_-.", c)); }

/* Length of the line's key; 0: it is no "key=value". */
static size_t key_length(const char *line, size_t n)
{
    size_t k = 0;
    while (k < n && is_key_char(line[k]))
        k++;
    return k < n && line[k] == '=' ? k : 0;
}

static int seen_before(const char *notes, const char *line, size_t key)
{
    for (const char *p = notes; p < line; p = (const char *)memchr(p, '\n', (size_t)(line - p)) + 1)
        if (strncmp(p, line, key + 1) == 0) return 1;
    return 0;
}

static kv_status check_line(const char *notes, const char *line, size_t n, int number)
{
    const size_t key = key_length(line, n);
    if (key == 0) return kv_fail(KV_ERR_USAGE, "note %d is not key=value; a key is made of a-z, 0-9, '_', '-' and '.'", number);
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)line[i] < 0x20 || line[i] == 0x7f)
            return kv_fail(KV_ERR_USAGE, "note %d: '%.*s' has a control character in its value", number, (int)key, line);
    if (seen_before(notes, line, key)) return kv_fail(KV_ERR_USAGE, "note %d: '%.*s' appears twice", number, (int)key, line);
    return KV_OK;
}

kv_status kv_kvm_check_notes(const char *notes, size_t n)
{
    if (n > KV_KVM_MAX_NOTES) return kv_fail(KV_ERR_USAGE, "notes: %zu bytes; at most %d are possible", n, KV_KVM_MAX_NOTES);
    if (n > 0 && notes[n - 1] != '\n') return kv_fail(KV_ERR_USAGE, "notes: the last line is cut off");
    if (kv_utf8_check(notes, n, "notes") != KV_OK) return KV_ERR_USAGE;
    int number = 0;
    for (const char *line = notes; line < notes + n;) {
        const char *end = memchr(line, '\n', (size_t)(notes + n - line));
        if (++number > 256) return kv_fail(KV_ERR_USAGE, "notes: more than 256 lines");
        KV_TRY(check_line(notes, line, (size_t)(end - line), number));
        line = end + 1;
    }
    return KV_OK;
}

/* ---- tensors ------------------------------------------------------------------------------------------------------ */

void kv_kvm_describe(const kv_config *cfg, kv_golf_place place, kv_kvm_tensor *t)
{
    memset(t, 0, sizeof *t);
    t->place = place;
    kv_model_tensor_name(cfg, place.role, place.layer, t->name);
    kv_model_shape(cfg, place.role, &t->rows, &t->cols);
}

kv_kvm_tensor *kv_kvm_tensors_of(const kv_config *cfg, int32_t *n)
{
    *n = kv_golf_order(cfg, NULL);
    kv_golf_place *places = malloc((size_t)*n * sizeof *places);
    kv_kvm_tensor *t = malloc((size_t)*n * sizeof *t);
    if (places && t) {
        kv_golf_order(cfg, places);
        for (int32_t i = 0; i < *n; i++)
            kv_kvm_describe(cfg, places[i], &t[i]);
        free(places);
        return t;
    }
    free(places);
    free(t);
    return NULL;
}

uint64_t kv_kvm_lay(kv_kvm_tensor *t, uint64_t end)
{
    t->value_at = end;
    t->value_bytes = kv_quant_value_bytes(t->cls, t->rows, t->cols);
    t->scale_at = t->value_at + t->value_bytes;
    t->scale_bytes = kv_quant_scale_bytes(t->cls, t->rows);
    return t->scale_at + t->scale_bytes;
}

/* ---- the model inside --------------------------------------------------------------------------------------------- */

void kv_kvm_decode(const kv_kvm *k, const kv_kvm_tensor *t, float *w)
{
    kv_quant_decode(t->cls, t->rows, t->cols, k->payload + t->value_at, k->payload + t->scale_at, w);
}

kv_status kv_kvm_model(const kv_kvm *k, const char *name, kv_model **out)
{
    kv_model *m;
    *out = NULL;
    KV_TRY(kv_model_new(name, &k->cfg, &m));
    const kv_status st = kv_model_allocate(m);
    if (st != KV_OK) {
        kv_model_close(m);
        return st;
    }
    for (int32_t i = 0; i < k->n_tensors; i++) {
        const kv_kvm_tensor *t = &k->tensors[i];
        kv_kvm_decode(k, t, (float *)(uintptr_t)kv_model_slot(m, t->place.role, t->place.layer)->data);
    }
    memcpy(m->sha256, k->sha256, sizeof m->sha256);
    *out = m;
    return KV_OK;
}

kv_status kv_kvm_open_tokenizer(const kv_config *cfg, const kv_kvm_extras *e, const char *where, kv_tokenizer **out)
{
    *out = NULL;
    if (e->tokenizer_kind == KV_KVM_NO_TOKENIZER) return KV_OK;
    KV_TRY(e->tokenizer_kind == KV_KVM_BYTES ? kv_tokenizer_bytes(out)
                                             : kv_tokenizer_from_model(e->tokenizer, e->tokenizer_bytes, where, out));
    const int32_t n = kv_tokenizer_vocab(*out);
    if (n <= cfg->vocab_size) return KV_OK;
    kv_tokenizer_free(*out);
    *out = NULL;
    return kv_fail(KV_ERR_MISMATCH, "%s: the tokenizer has %d tokens but the model only %d", where, n, cfg->vocab_size);
}

kv_status kv_kvm_tokenizer(const kv_kvm *k, const char *where, kv_tokenizer **out)
{
    return kv_kvm_open_tokenizer(&k->cfg, &k->extras, where, out);
}

kv_status kv_model_from_kvm(const char *path, const char *name, kv_model **out, kv_tokenizer **tok)
{
    kv_kvm *k;
    *out = NULL;
    *tok = NULL;
    KV_TRY(kv_kvm_open(path, &k));
    return kv_model_of_kvm(k, path, name, out, tok);
}

kv_status kv_model_of_kvm(kv_kvm *k, const char *where, const char *name, kv_model **out, kv_tokenizer **tok)
{
    kv_status st = kv_kvm_tokenizer(k, where, tok);
    if (st == KV_OK) st = kv_kvm_model(k, name, out);
    kv_kvm_close(k);
    if (st == KV_OK) return KV_OK;
    kv_tokenizer_free(*tok);
    *tok = NULL;
    return st;
}
