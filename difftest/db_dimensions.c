/* db_dimensions.c - what a case depends on: model, policy, device, corpus, document. Every row is
 * found by a fingerprint of its content, so equal things are one row, also after databases are
 * merged. */
#include "difftest/db_private.h"

#include "common/hash.h"

#include <stdlib.h>
#include <string.h>

/* Version of the definitions in docs/policy: raised when one of them gives another decision. */
enum { POLICY_SPEC_VERSION = 1 };

/* ---- model ---------------------------------------------------------------------------------- */

typedef enum field_type { U8, I32, U64, F32, F64 } field_type;

typedef struct config_field {
    const char *name;
    field_type type;
    size_t offset;
} config_field;

#define FIELD(type, name)                      \
    {                                          \
#        name, type, offsetof(kv_config, name) \
    }
static const config_field config_fields[] = {
    FIELD(I32, vocab_size),
    FIELD(I32, n_layers),
    FIELD(I32, d_model),
    FIELD(I32, n_heads),
    FIELD(I32, n_kv_heads),
    FIELD(I32, head_dim),
    FIELD(I32, ffn_dim),
    FIELD(I32, ffn_kind),
    FIELD(F32, leaky_slope),
    FIELD(F32, norm_eps),
    FIELD(F32, embed_scale),
    FIELD(F32, logit_softcap),
    FIELD(F32, softmax_scale),
    FIELD(U8, qkv_bias),
    FIELD(U8, o_bias),
    FIELD(U8, norm_weight),
    FIELD(U8, ln_scale_inv_sqrt),
    FIELD(U8, embed_norm),
    FIELD(U8, tied_head),
    FIELD(U8, use_q_gain),
    FIELD(U8, use_k_gain),
    FIELD(I32, qk_norm),
    FIELD(I32, rope_dims),
    FIELD(I32, rope_pairing),
    FIELD(I32, rope_sign),
    FIELD(I32, rope_scaling),
    FIELD(F64, rope_theta),
    FIELD(I32, rope_train_len),
    FIELD(I32, rope_base_len),
    FIELD(F64, rope_p[0]),
    FIELD(F64, rope_p[1]),
    FIELD(F64, rope_p[2]),
    FIELD(F64, rope_p[3]),
    FIELD(U8, k_shift),
    FIELD(U8, v_shift),
    FIELD(U8, local_v),
    FIELD(U8, resid_mix_x0),
    FIELD(U8, unet_skips),
    FIELD(U8, branch_scales),
    FIELD(U8, smear),
    FIELD(U64, xsa_layer_mask),
    FIELD(I32, attn_window),
    FIELD(I32, attn_sinks),
    FIELD(I32, bigram_rows),
    FIELD(I32, bigram_dim),
    FIELD(I32, bigram_mul_cur),
    FIELD(I32, bigram_mul_prev),
    FIELD(I32, sidecar_hidden),
    FIELD(I32, sidecar_taps),
    FIELD(U64, sidecar_layer_mask),
    FIELD(I32, ve_dim),
    FIELD(U64, ve_layer_mask),
    FIELD(I32, bos_id),
    FIELD(I32, eos_id),
    FIELD(I32, pad_id),
    FIELD(I32, max_pos),
};
#undef FIELD
KV_STATIC_ASSERT(sizeof(kv_config) == 216, "a new field of kv_config belongs in config_fields");

static json_t *config_value(const kv_config *cfg, const config_field *f)
{
    const char *at = (const char *)cfg + f->offset;
    uint64_t u = 0;
    int32_t i;
    float x;
    double d;
    switch (f->type) {
    case U8:
        return json_integer(*(const uint8_t *)at);
    case I32:
        memcpy(&i, at, sizeof i);
        return json_integer(i);
    case F32:
        memcpy(&x, at, sizeof x);
        return json_real((double)x);
    case F64:
        memcpy(&d, at, sizeof d);
        return json_real(d);
    default: /* a mask: its bits as JSON's signed integer */
        memcpy(&u, at, sizeof u);
        return json_integer((json_int_t)u);
    }
}

/* Only what differs from 0: the zero value means "feature off" everywhere. */
static json_t *describe_config(const kv_config *cfg)
{
    static const uint8_t zero[8];
    static const size_t sizes[] = {1, 4, 8, 4, 8};
    json_t *o = json_object();
    for (int i = 0; i < DT_COUNT(config_fields); i++) {
        const config_field *f = &config_fields[i];
        if (memcmp((const char *)cfg + f->offset, zero, sizes[f->type]) == 0) continue;
        json_object_set_new(o, f->name, config_value(cfg, f));
    }
    return o;
}

kv_status dt_db_model(dt_db *db, const kv_model *m, int64_t *model_id)
{
    char *json = NULL;
    uint8_t fp[32];
    KV_TRY(dt_json_canonical(describe_config(&m->cfg), &json, NULL));
    kv_sha256_ctx sha;
    kv_sha256_begin(&sha);
    kv_sha256_add(&sha, m->sha256, 32);
    kv_sha256_add(&sha, json, strlen(json));
    kv_sha256_end(&sha, fp);
    const dt_value v[] = {
        DT_BLOB(fp, 32),          DT_TEXT(m->name),           DT_BLOB(m->sha256, 32),
        DT_INT(m->cfg.n_layers),  DT_INT(m->cfg.n_heads),     DT_INT(m->cfg.n_kv_heads),
        DT_INT(m->cfg.head_dim),  DT_INT(m->cfg.d_model),     DT_INT(m->cfg.vocab_size),
        DT_INT(m->cfg.rope_dims), DT_REAL(m->cfg.rope_theta), DT_TEXT(json),
    };
    const kv_status st = dt_sql_intern(
        db, "SELECT model_id FROM model WHERE fp = ?", v, 1,
        "INSERT INTO model(fp, name, weights_sha, n_layer, n_head, n_kv_head, d_head, d_model,"
        " vocab, rope_dim, rope_theta, config_json)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        v, DT_COUNT(v), model_id);
    free(json);
    return st;
}

/* ---- policy --------------------------------------------------------------------------------- */

static void add_params(json_t *o, const kv_policy *p, const kv_policy_param *params, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (params[i].flags & KV_PARAM_ALIAS) continue;
        char text[32];
        kv_policy_value(p, &params[i], text);
        const int number = !params[i].words && !params[i].decimal;
        json_object_set_new(o, params[i].name, number ? json_integer(strtol(text, NULL, 10)) : json_string(text));
    }
}

static json_t *describe_policy(const kv_policy *p)
{
    json_t *o = json_pack("{s:s, s:s}", "selection", kv_selection_name(p->selection), "storage",
                          kv_storage_name(p->storage));
    size_t n;
    const kv_policy_param *params = kv_selection_params(p->selection, &n);
    add_params(o, p, params, n);
    params = kv_storage_params(p->storage, &n);
    add_params(o, p, params, n);
    return o;
}

kv_status dt_db_policy(dt_db *db, const kv_policy *p, int64_t *policy_id)
{
    char name[KV_POLICY_TEXT_MAX], *json = NULL;
    uint8_t fp[32];
    KV_TRY(dt_json_canonical(
        json_pack("{s:o, s:i}", "params", describe_policy(p), "spec_version", POLICY_SPEC_VERSION),
        &json, fp));
    free(json);
    KV_TRY(dt_json_canonical(describe_policy(p), &json, NULL));
    kv_policy_format(p, name);
    const dt_value v[] = {
        DT_BLOB(fp, 32),
        DT_TEXT(name),
        DT_TEXT(kv_selection_name(p->selection)),
        DT_TEXT(kv_storage_name(p->storage)),
        DT_TEXT(json),
        DT_INT(POLICY_SPEC_VERSION),
    };
    const kv_status st =
        dt_sql_intern(db, "SELECT policy_id FROM policy WHERE fp = ?", v, 1,
                      "INSERT INTO policy(fp, name, selection, storage, params_json, spec_version)"
                      " VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                      v, DT_COUNT(v), policy_id);
    free(json);
    return st;
}

/* ---- device --------------------------------------------------------------------------------- */

static const char *const contract_names[] = {
    [KV_CONTRACT_BITEXACT] = "bitexact",
    [KV_CONTRACT_BOUNDED] = "bounded",
    [KV_CONTRACT_STATISTICAL] = "statistical",
};

const char *dt_contract_name(int32_t contract)
{
    return contract >= 0 && contract < DT_COUNT(contract_names) ? contract_names[contract] : NULL;
}

/* "cuda:exact" is the kernel `cuda`, variant `exact`. */
static kv_status intern_kernel(dt_db *db, const uint8_t fp[32], const char *device,
                               const char *contract, const uint8_t *so_sha, int64_t *kernel_id)
{
    const char *colon = strchr(device, ':');
    char *name = strndup(device, colon ? (size_t)(colon - device) : strlen(device));
    if (!name) return kv_fail(KV_ERR_NOMEM, "out of memory for the name of device '%s'", device);
    const int reference = strcmp(name, "ref") == 0 || strcmp(name, "ref64") == 0;
    const dt_value v[] = {
        DT_BLOB(fp, 32),   DT_TEXT(name),     DT_TEXT(colon ? colon + 1 : ""),
        DT_INT(reference), DT_TEXT(contract), DT_BLOB(so_sha, 32),
    };
    const kv_status st =
        dt_sql_intern(db, "SELECT kernel_id FROM kernel WHERE fp = ?", v, 1,
                      "INSERT INTO kernel(fp, name, variant, op, is_reference, contract, so_sha)"
                      " VALUES(?, ?, ?, '*', ?, ?, ?) ON CONFLICT DO NOTHING",
                      v, DT_COUNT(v), kernel_id);
    free(name);
    return st;
}

static kv_status intern_set(dt_db *db, const uint8_t fp[32], const char *device, int64_t kernel_id,
                            int64_t *kernel_set_id)
{
    const dt_value v[] = {DT_BLOB(fp, 32), DT_TEXT(device)};
    KV_TRY(dt_sql_intern(db, "SELECT kernel_set_id FROM kernel_set WHERE fp = ?", v, 1,
                         "INSERT INTO kernel_set(fp, name) VALUES(?, ?) ON CONFLICT DO NOTHING", v,
                         DT_COUNT(v), kernel_set_id));
    const dt_value member[] = {DT_INT(*kernel_set_id), DT_INT(kernel_id)};
    return dt_sql_run(db,
                      "INSERT INTO kernel_set_member(kernel_set_id, op, kernel_id)"
                      " VALUES(?, '*', ?) ON CONFLICT DO NOTHING",
                      member, DT_COUNT(member), NULL);
}

kv_status dt_db_kernel_set(dt_db *db, const char *device, int32_t contract, const uint8_t *so_sha,
                           int64_t *kernel_set_id)
{
    const char *promise = dt_contract_name(contract);
    if (!promise)
        return kv_fail(KV_ERR_INTERNAL, "device '%s' claims contract %d, which does not exist",
                       device, (int)contract);
    char hex[65] = "", *json = NULL;
    uint8_t fp[32];
    int64_t kernel_id;
    if (so_sha) kv_hex32(so_sha, hex);
    KV_TRY(dt_json_canonical(
        json_pack("{s:s, s:s, s:s}", "device", device, "contract", promise, "so", hex), &json, fp));
    free(json);
    KV_TRY(dt_sql_begin(db));
    kv_status st = intern_kernel(db, fp, device, promise, so_sha, &kernel_id);
    if (st == KV_OK) st = intern_set(db, fp, device, kernel_id, kernel_set_id);
    return dt_sql_end(db, st);
}

/* ---- corpus --------------------------------------------------------------------------------- */

kv_status dt_db_corpus(dt_db *db, const char *name, const char *generator, int64_t seed,
                       const uint8_t manifest_sha[32], int64_t *corpus_id)
{
    const dt_value v[] = {DT_BLOB(manifest_sha, 32), DT_TEXT(name), DT_TEXT(generator),
                          DT_IF(seed >= 0, DT_INT(seed))};
    return dt_sql_intern(db, "SELECT corpus_id FROM corpus WHERE manifest_sha = ?", v, 1,
                         "INSERT INTO corpus(manifest_sha, name, generator, seed)"
                         " VALUES(?, ?, ?, ?) ON CONFLICT DO NOTHING",
                         v, DT_COUNT(v), corpus_id);
}

kv_status dt_db_document(dt_db *db, int64_t corpus_id, int32_t ordinal, const char *title,
                         int64_t n_bytes, int64_t n_tok, const uint8_t token_sha[32],
                         int64_t *doc_id)
{
    const dt_value v[] = {DT_INT(corpus_id), DT_INT(ordinal), DT_BLOB(token_sha, 32),
                          DT_TEXT(title),    DT_INT(n_bytes), DT_INT(n_tok)};
    return dt_sql_intern(
        db, "SELECT doc_id FROM document WHERE corpus_id = ? AND ordinal = ? AND token_sha = ?", v,
        3,
        "INSERT INTO document(corpus_id, ordinal, token_sha, title, n_bytes, n_tok)"
        " VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        v, DT_COUNT(v), doc_id);
}
