#include "common/model.h"

#include "common/golf.h"
#include "common/hash.h"
#include "common/model_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const kv_model_entry catalogue[] = {
    {KV_EMBEDDED_MODEL, NULL, "trained on novels and retrieval, part of the program: golf family, 6 layers of width 192"},
    {"nano", NULL, "generated: 4 layers of width 128, byte vocabulary, random weights, no context limit"},
    {"sharp", NULL, "generated: nano with queries so large that probabilities underflow and scores of policies tie"},
    {"tiny", NULL, "generated: 2 layers of width 64, 64 tokens; the model of the golden policy values"},
    {"nano-a", NULL, "generated: golf model A, 4 layers of width 64"},
    {"nano-b", NULL, "generated: golf model B, 4 layers of width 64"},
    {"nano-u", NULL, "generated: every feature of the golf family at once, 5 layers of width 64"},
    {"golf-a", NULL, "generated: golf model A in its full size, 11 layers of width 512"},
    {"golf-b", NULL, "generated: golf model B in its full size, 11 layers of width 512"},
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

static size_t slot_count(const kv_model *m)
{
    return KV_ROLE_GLOBAL_COUNT + (size_t)m->cfg.n_layers * KV_ROLE_PER_LAYER;
}

void kv_model_shape(const kv_config *cfg, kv_role role, int64_t *rows, int64_t *cols)
{
    const int64_t d = cfg->d_model, q = (int64_t)cfg->n_heads * cfg->head_dim,
                  kv = (int64_t)cfg->n_kv_heads * cfg->head_dim, norm = cfg->norm_weight, gate = cfg->ffn_kind == KV_FFN_SWIGLU,
                  bigram = cfg->bigram_rows > 0, sites = kv_config_sites(cfg), hidden = sites ? cfg->sidecar_hidden : 0,
                  branch = cfg->branch_scales;
    const struct {
        int64_t rows, cols;
    } shapes[KV_ROLE_COUNT] = {
        [KV_ROLE_TOKEN_EMBD] = {cfg->vocab_size, d},
        [KV_ROLE_OUTPUT_NORM] = {norm, d},
        [KV_ROLE_OUTPUT] = {cfg->tied_head ? 0 : cfg->vocab_size, d},
        [KV_ROLE_BIGRAM_EMBED] = {cfg->bigram_rows, cfg->bigram_dim},
        [KV_ROLE_BIGRAM_PROJ] = {bigram * d, cfg->bigram_dim},
        [KV_ROLE_BIGRAM_SCALE] = {bigram, 1},
        [KV_ROLE_SMEAR_GATE] = {cfg->smear, d},
        [KV_ROLE_SKIP_WEIGHTS] = {kv_config_skips(cfg), d},
        [KV_ROLE_SIDECAR_GATE] = {hidden, d},
        [KV_ROLE_SIDECAR_VALUE] = {hidden, d},
        [KV_ROLE_SIDECAR_CONV] = {hidden, cfg->sidecar_taps},
        [KV_ROLE_SIDECAR_PROJ] = {hidden ? d : 0, hidden},
        [KV_ROLE_SIDECAR_SITE_GATE] = {sites, hidden},
        [KV_ROLE_SIDECAR_SCALE] = {sites, d},
        [KV_ROLE_ATTN_NORM] = {norm, d},
        [KV_ROLE_ATTN_Q] = {q, d},
        [KV_ROLE_ATTN_K] = {kv, d},
        [KV_ROLE_ATTN_V] = {kv, d},
        [KV_ROLE_ATTN_OUTPUT] = {d, q},
        [KV_ROLE_FFN_NORM] = {norm, d},
        [KV_ROLE_FFN_GATE] = {gate * cfg->ffn_dim, d},
        [KV_ROLE_FFN_UP] = {cfg->ffn_dim, d},
        [KV_ROLE_FFN_DOWN] = {d, cfg->ffn_dim},
        [KV_ROLE_RESID_MIX] = {cfg->resid_mix_x0 ? 2 : 0, d},
        [KV_ROLE_ATTN_SCALE] = {branch, d},
        [KV_ROLE_FFN_SCALE] = {branch, d},
        [KV_ROLE_Q_GAIN] = {cfg->use_q_gain, cfg->n_heads},
        [KV_ROLE_K_GAIN] = {cfg->use_k_gain, cfg->n_kv_heads},
        [KV_ROLE_K_SHIFT] = {cfg->k_shift, cfg->n_kv_heads},
        [KV_ROLE_V_SHIFT] = {cfg->v_shift, cfg->n_kv_heads},
        [KV_ROLE_LOCAL_V] = {cfg->local_v, cfg->n_heads},
    };
    *rows = shapes[role].rows;
    *cols = *rows ? shapes[role].cols : 0;
}

void kv_model_tensor_name(const kv_config *cfg, kv_role role, int32_t layer, char name[KV_TENSOR_NAME_MAX])
{
    static const char *const names[KV_ROLE_COUNT][2] = {
#define X(r, gguf, golf) [KV_ROLE_##r] = {gguf, golf},
        KV_GLOBAL_ROLE_LIST(X) KV_LAYER_ROLE_LIST(X)
#undef X
    };
    const int golf = kv_config_is_golf(cfg);
    if ((int)role < (int)KV_ROLE_GLOBAL_COUNT)
        snprintf(name, KV_TENSOR_NAME_MAX, "%s", names[role][golf]);
    else
        snprintf(name, KV_TENSOR_NAME_MAX, golf ? "blocks.%d.%s" : "blk.%d.%s", layer, names[role][golf]);
}

kv_status kv_model_allocate(kv_model *m)
{
    int64_t total = 0;
    for (int role = 0; role < KV_ROLE_COUNT; role++)
        for (int32_t l = 0; l < (role < KV_ROLE_GLOBAL_COUNT ? 1 : m->cfg.n_layers); l++) {
            kv_tensor *t = kv_model_slot(m, (kv_role)role, l);
            kv_model_shape(&m->cfg, (kv_role)role, &t->rows, &t->cols);
            total += t->rows * t->cols;
        }
    float *next = calloc((size_t)total, sizeof *next);
    if (!next) return kv_fail(KV_ERR_NOMEM, "model '%s': out of memory", m->name);
    ((kv_model_owner *)m->owner)->weights = next;
    for (size_t i = 0; i < slot_count(m); i++) {
        kv_tensor *t = (kv_tensor *)&m->tensors[i];
        if (t->rows == 0) continue;
        t->dtype = KV_DTYPE_F32;
        t->n_bytes = (uint64_t)(t->rows * t->cols) * sizeof(float);
        t->data = next;
        next += t->rows * t->cols;
    }
    return KV_OK;
}

void kv_model_fingerprint(kv_model *m)
{
    const kv_model_owner *o = m->owner;
    kv_sha256(o->weights, (size_t)kv_model_weights(m) * sizeof *o->weights, m->sha256);
}

static kv_status check_tensor(const kv_model *m, kv_role role, int32_t layer)
{
    int64_t rows, cols;
    kv_model_shape(&m->cfg, role, &rows, &cols);
    const kv_tensor *t = kv_model_tensor(m, role, layer);
    if (rows == 0) return KV_OK;
    char where[KV_TENSOR_NAME_MAX];
    kv_model_tensor_name(&m->cfg, role, layer, where);
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

static int is_kvm(const char *path)
{
    const size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, ".kvm") == 0;
}

static kv_status open_built_in(const char *name, kv_model **out, kv_tokenizer **tok)
{
    if (strcmp(name, KV_EMBEDDED_MODEL) == 0) return kv_model_embedded(name, out, tok);
    return (kv_golf_preset(name) ? kv_model_golf : kv_model_synth)(name, out, tok);
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

static kv_status unknown(const char *name)
{
    char known[256] = "";
    for (size_t i = 0, n = 0; i < sizeof catalogue / sizeof *catalogue && n < sizeof known; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", catalogue[i].name);
    return kv_fail(KV_ERR_USAGE, "model '%s' is unknown; give the path of a .gguf or .kvm file or one of: %s", name, known);
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
        st = open_built_in(name, out, tok ? tok : &unused);
    } else if (e) {
        st = open_catalogued(e, models_dir, out, tok ? tok : &unused);
    } else if (strchr(name, '/') || strchr(name, '.')) {
        char stem[96];
        file_stem(name, stem, sizeof stem);
        st = (is_kvm(name) ? kv_model_from_kvm : kv_model_from_gguf)(name, stem, out, tok ? tok : &unused);
    } else {
        return unknown(name);
    }
    kv_tokenizer_free(unused);
    if (st == KV_OK && strlen(name) < sizeof (*out)->source) snprintf((*out)->source, sizeof (*out)->source, "%s", name);
    return st;
}
