#include "common/model.h"

#include "common/model_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const kv_model_entry catalogue[] = {
    {"nano", NULL, "generated: 4 layers of width 128, byte vocabulary, random weights, no context limit"},
    {"sharp", NULL, "generated: nano with queries so large that probabilities underflow and scores of policies tie"},
    {"tiny", NULL, "generated: 2 layers of width 64, 64 tokens; the model of the golden policy values"},
    {"smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf",
     "SmolLM2-135M-Instruct, a real Llama of 30 layers (`make models` fetches it)"},
};

const kv_model_entry *kv_model_catalogue(size_t *n)
{
    *n = sizeof catalogue / sizeof *catalogue;
    return catalogue;
}

/* ---- the tensor table --------------------------------------------------------------------------- */

kv_status kv_model_new(const char *name, const kv_config *cfg, kv_model **out)
{
    const size_t slots = KV_ROLE_GLOBAL_COUNT + (size_t)cfg->n_layers * KV_ROLE_PER_LAYER;
    kv_model *m = calloc(1, sizeof *m);
    kv_model_owner *o = calloc(1, sizeof *o);
    kv_tensor *t = calloc(slots, sizeof *t);
    if (!m || !o || !t) {
        free(m);
        free(o);
        free(t);
        return kv_fail(KV_ERR_NOMEM, "model '%s': out of memory", name);
    }
    snprintf(m->name, sizeof m->name, "%s", name);
    m->cfg = *cfg;
    m->owner = o;
    m->tensors = o->tensors = t;
    *out = m;
    return KV_OK;
}

void kv_model_close(kv_model *m)
{
    if (!m) return;
    kv_model_owner *o = m->owner;
    kv_gguf_close(o->gguf);
    free(o->weights);
    free(o->tensors);
    free(o);
    free(m);
}

kv_tensor *kv_model_slot(kv_model *m, kv_role role, int32_t layer)
{
    kv_model_owner *o = m->owner;
    return o->tensors + (kv_model_tensor(m, role, layer) - m->tensors);
}

void kv_model_shape(const kv_config *cfg, kv_role role, int64_t *rows, int64_t *cols)
{
    const int64_t d = cfg->d_model, q = (int64_t)cfg->n_heads * cfg->head_dim,
                  kv = (int64_t)cfg->n_kv_heads * cfg->head_dim;
    const struct {
        int64_t rows, cols;
    } shapes[KV_ROLE_COUNT] = {
        [KV_ROLE_TOKEN_EMBD] = {cfg->vocab_size, d},
        [KV_ROLE_OUTPUT_NORM] = {1, d},
        [KV_ROLE_OUTPUT] = {cfg->tied_head ? 0 : cfg->vocab_size, cfg->tied_head ? 0 : d},
        [KV_ROLE_ATTN_NORM] = {1, d},
        [KV_ROLE_ATTN_Q] = {q, d},
        [KV_ROLE_ATTN_K] = {kv, d},
        [KV_ROLE_ATTN_V] = {kv, d},
        [KV_ROLE_ATTN_OUTPUT] = {d, q},
        [KV_ROLE_FFN_NORM] = {1, d},
        [KV_ROLE_FFN_GATE] = {cfg->ffn_dim, d},
        [KV_ROLE_FFN_UP] = {cfg->ffn_dim, d},
        [KV_ROLE_FFN_DOWN] = {d, cfg->ffn_dim},
    };
    *rows = shapes[role].rows;
    *cols = shapes[role].cols;
}

static const char *role_name(kv_role role)
{
    static const char *const names[KV_ROLE_COUNT] = {
#define X(r, name) [KV_ROLE_##r] = name,
        KV_GLOBAL_ROLE_LIST(X) KV_LAYER_ROLE_LIST(X)
#undef X
    };
    return names[role];
}

static kv_status check_tensor(const kv_model *m, kv_role role, int32_t layer)
{
    int64_t rows, cols;
    kv_model_shape(&m->cfg, role, &rows, &cols);
    const kv_tensor *t = kv_model_tensor(m, role, layer);
    char where[96];
    if ((int)role < (int)KV_ROLE_GLOBAL_COUNT)
        snprintf(where, sizeof where, "%s", role_name(role));
    else
        snprintf(where, sizeof where, "blk.%d.%s", layer, role_name(role));
    if (rows == 0) return KV_OK;
    if (!t->data)
        return kv_fail(KV_ERR_FORMAT, "model '%s': tensor '%s' is missing; the file is incomplete",
                       m->name, where);
    if (t->rows != rows || t->cols != cols)
        return kv_fail(KV_ERR_FORMAT,
                       "model '%s': tensor '%s' is %lld x %lld; the config demands %lld x %lld",
                       m->name, where, (long long)t->rows, (long long)t->cols, (long long)rows,
                       (long long)cols);
    const int64_t row_bytes = kv_dtype_row_bytes(t->dtype, cols);
    if (row_bytes < 0 || (uint64_t)row_bytes * (uint64_t)rows != t->n_bytes)
        return kv_fail(KV_ERR_FORMAT, "model '%s': tensor '%s' has %llu bytes, not %lld rows of %s",
                       m->name, where, (unsigned long long)t->n_bytes, (long long)rows,
                       kv_dtype_name(t->dtype));
    return KV_OK;
}

kv_status kv_model_check(const kv_model *m)
{
    KV_TRY(kv_config_check(&m->cfg));
    for (int r = 0; r < KV_ROLE_GLOBAL_COUNT; r++)
        KV_TRY(check_tensor(m, (kv_role)r, 0));
    for (int32_t l = 0; l < m->cfg.n_layers; l++)
        for (int r = KV_ROLE_GLOBAL_COUNT; r < KV_ROLE_COUNT; r++)
            KV_TRY(check_tensor(m, (kv_role)r, l));
    return KV_OK;
}

static size_t slot_count(const kv_model *m)
{
    return KV_ROLE_GLOBAL_COUNT + (size_t)m->cfg.n_layers * KV_ROLE_PER_LAYER;
}

int64_t kv_model_weights(const kv_model *m)
{
    int64_t n = 0;
    for (size_t i = 0; i < slot_count(m); i++)
        n += m->tensors[i].rows * m->tensors[i].cols;
    return n;
}

int64_t kv_model_bytes(const kv_model *m)
{
    uint64_t n = 0;
    for (size_t i = 0; i < slot_count(m); i++)
        n += m->tensors[i].n_bytes;
    return (int64_t)n;
}

/* ---- open by name ----------------------------------------------------------------------------------- */

static const kv_model_entry *find_entry(const char *name)
{
    for (size_t i = 0; i < sizeof catalogue / sizeof *catalogue; i++)
        if (strcmp(catalogue[i].name, name) == 0) return &catalogue[i];
    return NULL;
}

/* "models/SmolLM2.Q4.gguf" -> "SmolLM2.Q4" */
static void file_stem(const char *path, char *dst, size_t size)
{
    const char *slash = strrchr(path, '/');
    snprintf(dst, size, "%s", slash ? slash + 1 : path);
    char *dot = strrchr(dst, '.');
    if (dot && dot != dst) *dot = '\0';
}

static kv_status open_catalogued(const kv_model_entry *e, const char *models_dir, kv_model **out,
                                 kv_tokenizer **tok)
{
    char path[4096];
    if (!models_dir) models_dir = getenv("KVDIFF_MODELS");
    if (!models_dir || !*models_dir) models_dir = "models";
    if (snprintf(path, sizeof path, "%s/%s", models_dir, e->file) >= (int)sizeof path)
        return kv_fail(KV_ERR_USAGE, "model '%s': the path of the models folder is too long", e->name);
    if (access(path, F_OK) != 0)
        return kv_fail(KV_ERR_IO, "model '%s': '%s' is not there; run `make models`, or point "
                                  "KVDIFF_MODELS at the folder that holds it", e->name, path);
    return kv_model_from_gguf(path, e->name, out, tok);
}

kv_status kv_model_open(const char *name, const char *models_dir, kv_model **out,
                        kv_tokenizer **tok)
{
    kv_tokenizer *unused = NULL;
    *out = NULL;
    if (tok) *tok = NULL;
    const kv_model_entry *e = find_entry(name);
    kv_status st;
    if (e && !e->file) {
        st = kv_model_synth(name, out, tok ? tok : &unused);
    } else if (e) {
        st = open_catalogued(e, models_dir, out, tok ? tok : &unused);
    } else if (strchr(name, '/') || strchr(name, '.')) {
        char stem[96];
        file_stem(name, stem, sizeof stem);
        st = kv_model_from_gguf(name, stem, out, tok ? tok : &unused);
    } else {
        return kv_fail(KV_ERR_USAGE, "model '%s' is unknown; give the path of a .gguf file or one of: "
                                     "nano, sharp, tiny, smollm2", name);
    }
    kv_tokenizer_free(unused);
    return st;
}
