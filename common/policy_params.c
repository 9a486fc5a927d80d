/* policy_params.c - the parameters of every policy as tables; their meaning stands in docs/policy/. */
#include "common/policy.h"

enum { CAP_MAX = 1 << 28, SINKS_MAX = 1 << 20 };

static const char *const no_yes[] = {"0", "1", NULL};
static const char *const sliding_pos[] = {"rerotate", "absolute", "saturate", NULL};
static const char *const reduce[] = {"max", "mean", "median", NULL};
static const char *const select_words[] = {"ema", "newest", "oldest", NULL};
static const char *const accept_words[] = {"pow2",      "pow3",      "pow4",      "iplus1", "1-then-2",
                                           "pow2-1",    "pow2-1-4",  "pow2-2-4",  "pow2-3-4", NULL};
static const char *const compat[] = {"none", "shifted", "reversed", "strict", NULL};
static const char *const score_words[] = {"f32", "f16", NULL};
static const char *const presets[] = {"none", "paper", "code", NULL};
static const char *const gqa[] = {"sum", "max", NULL};
static const char *const pred[] = {"reset", "carry", NULL};
static const char *const ver[] = {"fixed", "published", NULL};
static const char *const dialect[] = {"A", "B", NULL};
static const char *const tie[] = {"literal", "rel", NULL};

#define NUMBER(member, name, about, flags, def, min, max) \
    {name, about, offsetof(kv_policy, member), flags, def, min, max, NULL, NULL}
#define WORD(member, name, about, flags, def, words) \
    {name, about, offsetof(kv_policy, member), flags, def, 0, (int32_t)(sizeof words / sizeof *words) - 2, words, NULL}

static const kv_policy_param sliding_params[] = {
    NUMBER(sliding.cap, "cap", "most entries a step may end with", KV_PARAM_REQUIRED, 0, 2, CAP_MAX),
    WORD(sliding.pos, "pos", "how positions are numbered", 0, KV_SLIDING_REROTATE, sliding_pos),
};

static const kv_policy_param sink_params[] = {
    NUMBER(sink.cap, "cap", "slots other than sinks", KV_PARAM_REQUIRED, 0, 1, CAP_MAX),
    NUMBER(sink.sinks, "sinks", "first tokens kept for ever", 0, 4, 0, SINKS_MAX),
};

static const kv_policy_param cascade_params[] = {
    WORD(cascade.accept, "accept", "acceptance period of ring i", 0, KV_ACCEPT_POW2, accept_words),
    {"beta", "decay of a score per token", offsetof(kv_policy, cascade.beta), 0, 0, 0, 0, NULL, "0.9999"},
    NUMBER(cascade.cap, "cap", "slots other than sinks (this or window)", KV_PARAM_DERIVED, 0, 1, CAP_MAX),
    WORD(cascade.compat, "compat", "a known defect, on purpose", 0, KV_COMPAT_NONE, compat),
    WORD(cascade.eager, "eager", "accept everything until the cache is full", 0, 1, no_yes),
    WORD(cascade.homog, "homog", "one score for all KV heads", 0, 0, no_yes),
    NUMBER(cascade.n, "n", "number of rings", 0, 4, 1, KV_CASCADE_MAX),
    WORD(cascade.preset, "preset", "defaults of the paper or of its code", KV_PARAM_ALIAS, 0, presets),
    WORD(cascade.reduce, "reduce", "query heads of a group become one score", 0, KV_REDUCE_MAX, reduce),
    WORD(cascade.score, "score", "how scores are kept", 0, KV_SCORE_F32, score_words),
    WORD(cascade.select, "select", "who wins a duel", 0, KV_SELECT_EMA, select_words),
    NUMBER(cascade.sinks, "sinks", "first tokens kept for ever", 0, 4, 0, SINKS_MAX),
    NUMBER(cascade.window, "window", "slots of a ring: cap / n", KV_PARAM_ALIAS | KV_PARAM_DERIVED, 0, 1, CAP_MAX),
};

static const kv_policy_param xwindow_params[] = {
    NUMBER(xwindow.cache, "cache", "rows of earlier windows in view", KV_PARAM_REQUIRED, 0, 0, CAP_MAX),
    NUMBER(xwindow.layers, "layers", "the last layers that use the cache; 0: all", 0, 0, 0, 1 << 16),
    WORD(xwindow.pred, "pred", "recurrent state at a window's start", 0, KV_PRED_RESET, pred),
    NUMBER(xwindow.stride, "stride", "tokens from one window's start to the next", KV_PARAM_REQUIRED, 0, 1, CAP_MAX),
    WORD(xwindow.ver, "ver", "the corrected rule or the published one", 0, KV_XW_FIXED, ver),
    NUMBER(xwindow.window, "window", "tokens computed together", KV_PARAM_REQUIRED, 0, 1, CAP_MAX),
};

static const kv_policy_param h2o_params[] = {
    NUMBER(h2o.cap, "cap", "most entries after a step: heavy + recent", KV_PARAM_REQUIRED, 0, 1, CAP_MAX),
    WORD(h2o.gqa, "gqa", "query heads of a group become one score", 0, KV_GQA_SUM, gqa),
    NUMBER(h2o.heavy, "heavy", "entries kept by score", KV_PARAM_DERIVED, -1, 0, CAP_MAX),
    NUMBER(h2o.recent, "recent", "newest entries, kept in any case", KV_PARAM_DERIVED, -1, 0, CAP_MAX),
};

#define SNAP_PARAMS                                                                                              \
    NUMBER(snapkv.cap, "cap", "entries kept of the prompt, window included", KV_PARAM_REQUIRED, 0, 2, CAP_MAX),  \
        NUMBER(snapkv.kernel, "kernel", "width of the average pool, odd", 0, 5, 1, 255),                         \
        NUMBER(snapkv.prompt, "prompt", "tokens of the prompt, fed as one step", KV_PARAM_REQUIRED, 0, 1, CAP_MAX), \
        NUMBER(snapkv.window, "window", "newest tokens of the prompt: they decide and stay", 0, 32, 1, CAP_MAX)

static const kv_policy_param snapkv_params[] = {SNAP_PARAMS};
static const kv_policy_param pyramid_params[] = {
    NUMBER(snapkv.beta, "beta", "the smallest budget is (cap - window) / beta", 0, 20, 1, 1 << 20),
    SNAP_PARAMS,
};

static const kv_policy_param tova_params[] = {
    NUMBER(tova.cap, "cap", "most entries after a step", KV_PARAM_REQUIRED, 0, 1, CAP_MAX),
};

static const kv_policy_param dilated_params[] = {
    NUMBER(dilated.every, "every", "distance of the tokens that are kept for ever", 0, 16, 1, CAP_MAX),
    NUMBER(dilated.sinks, "sinks", "first tokens kept for ever", 0, 4, 0, SINKS_MAX),
    NUMBER(dilated.window, "window", "newest tokens, kept in any case", KV_PARAM_REQUIRED, 0, 1, CAP_MAX),
};

static const kv_policy_param kvarn_params[] = {
    WORD(kvarn.dialect, "dialect", "affine code: min and max, or zero-snapped", 0, KV_KVARN_A, dialect),
    NUMBER(kvarn.iters, "iters", "rounds of balancing", 0, 8, 1, 64),
    NUMBER(kvarn.kbits, "kbits", "bits of a key code (2, 3, 4, 5, 6, 8)", 0, 4, 2, 8),
    WORD(kvarn.tie, "tie", "which of two equally good rounds counts", 0, KV_TIE_LITERAL, tie),
    NUMBER(kvarn.tile, "tile", "tokens of a tile (32, 64, 128)", 0, 128, 32, 128),
    NUMBER(kvarn.vbits, "vbits", "bits of a value code (2, 3, 4, 5, 6, 8)", 0, 2, 2, 8),
};

static const kv_policy_param kivi_params[] = {
    NUMBER(kivi.bits, "bits", "bits of a code (2, 3, 4, 5, 6, 8)", 0, 2, 2, 8),
    NUMBER(kivi.group, "group", "values that share scale and minimum", 0, 32, 2, 1 << 16),
    NUMBER(kivi.residual, "residual", "newest rows kept in fp32", 0, 128, 2, 1 << 20),
};

typedef struct param_list {
    const kv_policy_param *v;
    size_t n;
} param_list;

#define LIST(a) {a, sizeof a / sizeof *a}

static const param_list of_selection[KV_SEL_COUNT] = {
    [KV_SEL_SLIDING] = LIST(sliding_params), [KV_SEL_SINK] = LIST(sink_params),
    [KV_SEL_CASCADE] = LIST(cascade_params), [KV_SEL_XWINDOW] = LIST(xwindow_params),
    [KV_SEL_H2O] = LIST(h2o_params),         [KV_SEL_SNAPKV] = LIST(snapkv_params),
    [KV_SEL_TOVA] = LIST(tova_params),       [KV_SEL_PYRAMID] = LIST(pyramid_params),
    [KV_SEL_DILATED] = LIST(dilated_params),
};

static const param_list of_storage[KV_STORE_COUNT] = {
    [KV_STORE_KVARN] = LIST(kvarn_params),
    [KV_STORE_KIVI] = LIST(kivi_params),
};

static const kv_policy_param *lookup(const param_list *lists, int32_t count, int32_t i, size_t *n)
{
    *n = 0;
    if (i < 0 || i >= count) return NULL;
    *n = lists[i].n;
    return lists[i].v;
}

const kv_policy_param *kv_selection_params(int32_t selection, size_t *n)
{
    return lookup(of_selection, KV_SEL_COUNT, selection, n);
}

const kv_policy_param *kv_storage_params(int32_t storage, size_t *n)
{
    return lookup(of_storage, KV_STORE_COUNT, storage, n);
}
