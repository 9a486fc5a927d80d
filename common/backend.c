#include "common/backend.h"

int64_t kv_tap_width(const kv_config *cfg, int32_t point)
{
    const int64_t d_model = cfg->d_model, ffn_dim = cfg->ffn_dim, D = cfg->head_dim;
    const int64_t Hq = cfg->n_heads, H = cfg->n_kv_heads;
    switch (point) {
#define X(name, layerwise, width, what)                                                            \
    case KV_TAP_##name:                                                                            \
        return width;
        KV_TAP_LIST(X)
#undef X
    default:
        return -1;
    }
}

static kv_status check_taps(const kv_config *cfg, const kv_step *step)
{
    for (int32_t i = 0; i < step->n_taps; i++) {
        const kv_tap *t = &step->taps[i];
        if (kv_tap_width(cfg, t->point) != t->width || !t->dst || t->row < 0 || t->row >= step->n ||
            t->layer < 0 || t->layer >= cfg->n_layers)
            return kv_fail(KV_ERR_USAGE, "tap %d: point %d, layer %d, row %d, width %d does not exist in "
                                         "this step", i, t->point, t->layer, t->row, t->width);
    }
    return KV_OK;
}

kv_status kv_step_check(const kv_config *cfg, const kv_step *step)
{
    const int32_t V = cfg->vocab_size;
    if (step->n < 1) return kv_fail(KV_ERR_USAGE, "a step of %d tokens; at least 1", step->n);
    for (int32_t i = 0; i < step->n; i++)
        if (step->tokens[i] < 0 || step->tokens[i] >= V)
            return kv_fail(KV_ERR_USAGE, "token %d of the step is %d, outside the vocabulary of %d", i,
                           step->tokens[i], V);
    const int32_t rows = step->rows == KV_ROWS_ALL ? step->n : step->rows == KV_ROWS_LAST;
    for (int32_t r = 0; step->nll && r < rows; r++)
        if (!step->targets || step->targets[r] < 0 || step->targets[r] >= V)
            return kv_fail(KV_ERR_USAGE, "row %d of the step has no target in the vocabulary of %d", r, V);
    return check_taps(cfg, step);
}
