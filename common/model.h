/* model.h - a model in memory: its config and its tensors by role.
 *
 * The struct crosses the door to the sides (common/backend.h), so it is plain data. Who opens the
 * model owns it; sides only read it and must be closed first. */
#ifndef KV_COMMON_MODEL_H
#define KV_COMMON_MODEL_H

#include "common/config.h"
#include "common/tensor.h"

/* Tensors of the whole model. X(role, GGUF name, name in files of the golf family); "" = no such file has it. */
#define KV_GLOBAL_ROLE_LIST(X)                                                                     \
    X(TOKEN_EMBD, "token_embd.weight", "tok_emb.weight")   /* [V][d_model] */                      \
    X(OUTPUT_NORM, "output_norm.weight", "")               /* [d_model] */                         \
    X(OUTPUT, "output.weight", "lm_head.weight")           /* [V][d_model]; absent when tied */    \
    X(BIGRAM_EMBED, "", "bigram.embed.weight")             /* [bigram_rows][bigram_dim] */         \
    X(BIGRAM_PROJ, "", "bigram.proj.weight")               /* [d_model][bigram_dim] */             \
    X(BIGRAM_SCALE, "", "bigram.scale")                    /* [1] */                               \
    X(SMEAR_GATE, "", "smear.gate")                        /* [d_model] before the sigmoid */      \
    X(SKIP_WEIGHTS, "", "skip_weights")                    /* [skips][d_model] */                  \
    X(SIDECAR_GATE, "", "shared_sparse.gate.weight")       /* [sidecar_hidden][d_model] */         \
    X(SIDECAR_VALUE, "", "shared_sparse.value.weight")     /* [sidecar_hidden][d_model] */         \
    X(SIDECAR_CONV, "", "shared_sparse.local.weight")      /* [sidecar_hidden][sidecar_taps] */    \
    X(SIDECAR_PROJ, "", "shared_sparse.proj.weight")       /* [d_model][sidecar_hidden] */         \
    X(SIDECAR_SITE_GATE, "", "shared_sparse.site_gate.weight") /* [sites][sidecar_hidden] */       \
    X(SIDECAR_SCALE, "", "shared_sparse_scale")            /* [sites][d_model] */

/* Tensors of one layer. X(role, name after "blk.N.", name after "blocks.N.") */
#define KV_LAYER_ROLE_LIST(X)                                                                      \
    X(ATTN_NORM, "attn_norm.weight", "")                     /* [d_model] */                       \
    X(ATTN_Q, "attn_q.weight", "attn.c_q.weight")            /* [Hq*D][d_model] */                 \
    X(ATTN_K, "attn_k.weight", "attn.c_k.weight")            /* [H*D][d_model] */                  \
    X(ATTN_V, "attn_v.weight", "attn.c_v.weight")            /* [H*D][d_model] */                  \
    X(ATTN_OUTPUT, "attn_output.weight", "attn.proj.weight") /* [d_model][Hq*D] */                 \
    X(FFN_NORM, "ffn_norm.weight", "")                       /* [d_model] */                       \
    X(FFN_GATE, "ffn_gate.weight", "")                       /* [ffn_dim][d_model]; SwiGLU only */ \
    X(FFN_UP, "ffn_up.weight", "mlp.fc.weight")              /* [ffn_dim][d_model] */              \
    X(FFN_DOWN, "ffn_down.weight", "mlp.proj.weight")        /* [d_model][ffn_dim] */              \
    X(RESID_MIX, "", "resid_mix")                            /* [2][d_model] */                    \
    X(ATTN_SCALE, "", "attn_scale")                          /* [d_model] */                       \
    X(FFN_SCALE, "", "mlp_scale")                            /* [d_model] */                       \
    X(Q_GAIN, "", "attn.q_gain")                             /* [Hq] */                            \
    X(K_GAIN, "", "attn.k_gain")                             /* [H] */                             \
    X(K_SHIFT, "", "attn.k_shift_mix")                       /* [H] */                             \
    X(V_SHIFT, "", "attn.v_shift_mix")                       /* [H] */                             \
    X(LOCAL_V, "", "attn.local_v_mix")                       /* [Hq] */

typedef enum kv_role {
#define X(role, gguf, golf) KV_ROLE_##role,
    KV_GLOBAL_ROLE_LIST(X)
#undef X
        KV_ROLE_GLOBAL_COUNT,
    KV_ROLE_LAYER_FIRST_ = KV_ROLE_GLOBAL_COUNT - 1,
#define X(role, gguf, golf) KV_ROLE_##role,
    KV_LAYER_ROLE_LIST(X)
#undef X
        KV_ROLE_COUNT
} kv_role;

enum { KV_ROLE_PER_LAYER = KV_ROLE_COUNT - KV_ROLE_GLOBAL_COUNT };

typedef struct kv_model {
    char name[96];          /* what results call it: "nano", "smollm2", a file's stem */
    uint8_t sha256[32];     /* of the file, or of the widened weights of a generated model */
    kv_config cfg;
    const kv_tensor *tensors; /* KV_ROLE_GLOBAL_COUNT + n_layers * KV_ROLE_PER_LAYER entries */
    void *owner;            /* private to common/model.c */
    char source[1024];      /* what kv_model_open was given; "": made otherwise, or longer */
} kv_model;

/* The tensor of a role; layer is ignored for whole-model roles. data == NULL when absent. */
static inline const kv_tensor *kv_model_tensor(const kv_model *m, kv_role role, int32_t layer)
{
    if ((int)role < (int)KV_ROLE_GLOBAL_COUNT) return &m->tensors[role];
    return &m->tensors[KV_ROLE_GLOBAL_COUNT + layer * KV_ROLE_PER_LAYER +
                       ((int)role - (int)KV_ROLE_GLOBAL_COUNT)];
}

/* The matrix that makes logits: OUTPUT, or TOKEN_EMBD when the head is tied. */
static inline const kv_tensor *kv_model_head(const kv_model *m)
{
    return kv_model_tensor(m, m->cfg.tied_head ? KV_ROLE_TOKEN_EMBD : KV_ROLE_OUTPUT, 0);
}

KV_EXTERN_C_BEGIN

struct kv_tokenizer;

/* Opens a model by name (kv_model_catalogue) or by the path of a GGUF file or of an
 * artifact (FILE.kvm).
 * Names of files are looked up in models_dir (NULL: $KVDIFF_MODELS, else ./models).
 * tok (may be NULL) receives the model's tokenizer; NULL for a model without one ("tiny"). */
kv_status kv_model_open(const char *name_or_path, const char *models_dir, kv_model **out,
                        struct kv_tokenizer **tok);
void kv_model_close(kv_model *m); /* accepts NULL */

/* Shape that the config demands of a role: rows x cols; 0 x 0 when the model must not have it. */
void kv_model_shape(const kv_config *cfg, kv_role role, int64_t *rows, int64_t *cols);

/* What the model's family calls a tensor: "blk.3.attn_q.weight", "blocks.3.attn.c_q.weight". */
enum { KV_TENSOR_NAME_MAX = 64 };
void kv_model_tensor_name(const kv_config *cfg, kv_role role, int32_t layer, char name[KV_TENSOR_NAME_MAX]);

/* Checks shapes of all tensors against the config: ERR_FORMAT names the first that is wrong. */
kv_status kv_model_check(const kv_model *m);

/* Number of weights in all tensors, and the bytes they occupy as stored. */
int64_t kv_model_weights(const kv_model *m);
int64_t kv_model_bytes(const kv_model *m);

/* The trained model that is part of the program. */
#define KV_EMBEDDED_MODEL "novel"

/* What kv_model_open knows without a path. */
typedef struct kv_model_entry {
    const char *name, *file, *about; /* file == NULL: generated, or part of the program */
} kv_model_entry;
const kv_model_entry *kv_model_catalogue(size_t *n);

KV_EXTERN_C_END

#endif
