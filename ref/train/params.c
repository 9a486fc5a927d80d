#include "ref/train/params.h"

#include <stdlib.h>

static void place(ref_params *ps, const kv_golf_place *at, int32_t i)
{
    ref_param *p = &ps->p[i];
    *p = (ref_param){.role = at->role, .layer = at->layer, .group = kv_golf_group_of(at->role), .at = ps->total};
    kv_model_shape(&ps->cfg, at->role, &p->rows, &p->cols);
    p->n = p->rows * p->cols;
    ps->total += p->n;
    if (ps->index[at->role] < 0)
        ps->index[at->role] = (int16_t)i;
    else if (at->layer == 1)
        ps->stride = (int16_t)(i - ps->index[at->role]);
}

kv_status REF(params_open)(ref_params *ps, const kv_config *cfg)
{
    *ps = (ref_params){.cfg = *cfg};
    KV_TRY(kv_config_check(cfg));
    ps->n = kv_golf_order(cfg, NULL);
    kv_golf_place *places = malloc((size_t)ps->n * sizeof *places);
    ps->p = calloc((size_t)ps->n, sizeof *ps->p);
    if (!places || !ps->p || ps->n > INT16_MAX) {
        free(places);
        REF(params_close)(ps);
        return kv_fail(KV_ERR_NOMEM, "out of memory for a model of %d tensors", ps->n);
    }
    kv_golf_order(cfg, places);
    for (int r = 0; r < KV_ROLE_COUNT; r++)
        ps->index[r] = -1;
    for (int32_t i = 0; i < ps->n; i++)
        place(ps, &places[i], i);
    free(places);
    return KV_OK;
}

void REF(params_close)(ref_params *ps)
{
    free(ps->p);
    ps->p = NULL;
}

void REF(param_name)(const ref_params *ps, const ref_param *p, char name[KV_TENSOR_NAME_MAX])
{
    kv_model_tensor_name(&ps->cfg, p->role, p->layer, name);
}

kv_status REF(params_read)(const ref_params *ps, const kv_model *m, real *w)
{
    int64_t widest = 1;
    for (int32_t i = 0; i < ps->n; i++)
        widest = ref_max(widest, ps->p[i].cols);
    float *row = malloc((size_t)widest * sizeof *row);
    if (!row) return kv_fail(KV_ERR_NOMEM, "out of memory for a row of %lld weights", (long long)widest);
    for (int32_t i = 0; i < ps->n; i++)
        for (int64_t r = 0; r < ps->p[i].rows; r++) {
            const ref_param *p = &ps->p[i];
            kv_tensor_rows_f32(kv_model_tensor(m, p->role, p->layer), r, 1, row);
            for (int64_t c = 0; c < p->cols; c++)
                w[p->at + r * p->cols + c] = (real)row[c];
        }
    free(row);
    return KV_OK;
}
