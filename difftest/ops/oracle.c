#include "difftest/ops/oracle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void dt_answer_free(dt_answer *a)
{
    for (int i = 0; i < DT_OP_TENSORS; i++) {
        free(a->bits[i]);
        free(a->value[i]);
        free(a->bound[i]);
    }
    free(a->detail);
    memset(a, 0, sizeof *a);
}

kv_status dt_answer_tensor(const dt_opcase *c, const char *name, dt_answer *a, int *slot)
{
    const dt_op_schema *s = &dt_op_schemas[c->op];
    int i = 0;
    while (strcmp(s->tensors[i].name, name) != 0)
        i++;
    const kvdk_tensor *t = dt_op_tensor_of(&c->args, &s->tensors[i]);
    const size_t n = (size_t)dt_tensor_count(t) + 1;
    *slot = i;
    a->bits[i] = calloc(n, dt_dtype_bytes(t->dtype));
    if (t->dtype == KVDK_F32) {
        a->value[i] = calloc(n, sizeof(double));
        a->bound[i] = calloc(n, sizeof(double));
    }
    if (!a->bits[i] || (t->dtype == KVDK_F32 && (!a->value[i] || !a->bound[i])))
        return kv_fail(KV_ERR_NOMEM, "out of memory");
    return KV_OK;
}

void dt_answer_exact(const dt_opcase *c, dt_answer *a, int slot)
{
    const int64_t n = dt_tensor_count(dt_op_tensor_of(&c->args, &dt_op_schemas[c->op].tensors[slot]));
    for (int64_t i = 0; i < n; i++)
        a->value[slot][i] = (double)((const float *)a->bits[slot])[i];
}

double dt_unit_of(int32_t dtype)
{
    switch (dtype) {
    case KVDK_F16:
        return 0x1p-11;
    case KVDK_BF16:
        return 0x1p-8;
    default:
        return 0;
    }
}

void dt_name_rows(int64_t i, int64_t width, dt_element_name *out)
{
    *out = (dt_element_name){.token = i / width, .head = -1, .slot = -1, .dim = i % width};
    snprintf(out->text, sizeof out->text, "token %lld dim %lld", (long long)out->token, (long long)out->dim);
}

const dt_op_impl *dt_op_impl_of(int op)
{
    static const dt_op_impl *const all[KVDK_OP_COUNT] = {
#define X(name, type) [KVDK_OP_##name] = &dt_op_##name,
        KVDK_OP_LIST(X)
#undef X
    };
    return all[op];
}
