/* attention.c - scores by one product, a softmax per row with a single maximum, outputs by another
 * product. A task is one query head and a block of rows. Under kvarn all rows are rotated by H, so the query is
 * rotated first and the output last. */
#include "gpu/blas/blas.h"

#include <cblas.h>
#include <string.h>

enum { ROWS = 64 };

typedef struct attention {
    const blas_session *s;
    int64_t m;
} attention;

/* Softmax of scores[0..n); columns n .. width become 0. stats: the row's, or NULL. Returns 1 / sum. */
static float softmax_row(const blas_session *s, float *scores, int64_t n, int64_t width, float *stats)
{
    const float max = s->vec->max(scores, n), sum = s->vec->exp_sum(scores, n, max);
    memset(scores + n, 0, (size_t)(width - n) * sizeof *scores);
    if (stats) {
        stats[0] = max;
        stats[1] = sum;
    }
    return 1.0f / sum;
}

static void attend_task(void *arg, int64_t task, int worker)
{
    const attention *a = arg;
    const blas_session *s = a->s;
    const kv_config *cfg = &s->model->cfg;
    const int64_t Hq = cfg->n_heads, D = cfg->head_dim, head = task % Hq, row = task / Hq * ROWS;
    const int64_t kv_head = head / (Hq / cfg->n_kv_heads), inner = kv_head % s->cache.set_heads;
    const blas_view *view = &s->views[kv_head / s->cache.set_heads];
    const int64_t rows = a->m - row < ROWS ? a->m - row : ROWS;
    const int64_t width = view->n + row + rows; /* what the block's last row sees */
    const int64_t qkv_width = s->weights->layers[0].qkv.n;
    const int turned = s->cache.policy.storage == KV_STORE_KVARN;
    float *q = s->work.qkv + row * qkv_width + head * D;
    const float *k = view->keys + inner * view->key_stride, *v = view->values + inner * view->value_stride;
    float *scores = s->scratch[worker].p, *out = s->work.att + row * Hq * D + head * D;

    for (int64_t x = 0; turned && x < rows; x++)
        blas_hadamard(q + x * qkv_width, D);
    if (rows == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)width, (int)D, s->scale, k, (int)D, q, 1, 0,
                    scores, 1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)width, (int)D,
                    s->scale, q, (int)qkv_width, k, (int)D, 0, scores, (int)width);
    float inverse[ROWS], *const stats = s->work.stats ? s->work.stats + (row * Hq + head) * 2 : NULL;
    for (int64_t x = 0; x < rows; x++)
        inverse[x] = softmax_row(s, scores + x * width, view->n + row + x + 1, width, stats ? stats + 2 * x * Hq : NULL);
    if (rows == 1)
        cblas_sgemv(CblasRowMajor, CblasTrans, (int)width, (int)D, 1, v, (int)D, scores, 1, 0, out,
                    1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)D, (int)width, 1,
                    scores, (int)width, v, (int)D, 0, out, (int)(Hq * D));
    for (int64_t x = 0; x < rows; x++) {
        for (int64_t d = 0; d < D; d++)
            out[x * Hq * D + d] *= inverse[x];
        if (turned) blas_hadamard(out + x * Hq * D, D);
    }
}

kv_status blas_attend(blas_session *s, int64_t m)
{
    const int64_t rows = m < ROWS ? m : ROWS, blocks = (m + ROWS - 1) / ROWS;
    int64_t longest = 0;
    for (int32_t g = 0; g < s->cache.n_sets; g++)
        longest = s->views[g].n > longest ? s->views[g].n : longest;
    for (int i = 0; i < kv_pool_threads(s->pool); i++)
        KV_TRY(kv_buffer_reserve(&s->scratch[i], (size_t)(rows * (longest + m)) * sizeof(float)));
    attention job = {s, m};
    kv_pool_run(s->pool, blocks * s->model->cfg.n_heads, attend_task, &job);
    return KV_OK;
}
