/* call.c - from the text of a call to the arguments of an operation. The tester is trusted, a test that speaks in its
 * place may not be: everything is checked against the operation and the block. */
#include "difftest/worker/worker.h"

#include <string.h>

static kv_status read_params(const json_t *message, const dt_op_schema *op, void *args)
{
    const json_t *params = json_object_get(message, "params");
    for (int i = 0; i < op->n_params; i++) {
        const json_t *v = json_object_get(params, op->params[i].name);
        if (!json_is_number(v))
            return kv_fail(KV_ERR_FORMAT, "call %s: parameter '%s' is missing", op->name, op->params[i].name);
        char *at = (char *)args + op->params[i].offset;
        if (op->params[i].is_real)
            *(double *)(void *)at = json_number_value(v);
        else
            *(int64_t *)(void *)at = json_integer_value(v);
    }
    return KV_OK;
}

static kv_status read_shape(const json_t *v, kvdk_tensor *t)
{
    const json_t *dim = json_object_get(v, "dim"), *stride = json_object_get(v, "stride");
    for (size_t i = 0; i < 4; i++) {
        const json_t *d = json_array_get(dim, i), *s = json_array_get(stride, i);
        if (!json_is_integer(d) || !json_is_integer(s)) return KV_ERR_FORMAT;
        t->dim[i] = json_integer_value(d);
        t->stride[i] = json_integer_value(s);
        if (t->dim[i] < 0 || t->dim[i] > INT32_MAX || t->stride[i] < 0 || t->stride[i] > INT32_MAX)
            return KV_ERR_FORMAT;
    }
    return KV_OK;
}

static kv_status read_tensor(const json_t *v, const worker_memory *memory, kvdk_tensor *t)
{
    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    const json_int_t offset = json_integer_value(json_object_get(v, "offset"));
    const int type = dtype ? dt_dtype_find(dtype) : -1;
    if (type < 0 || read_shape(v, t) != KV_OK) return KV_ERR_FORMAT;
    t->dtype = type;
    t->read_only = json_is_true(json_object_get(v, "read_only"));
    int64_t elements = 0;
    for (int i = 0; i < 4; i++) {
        int64_t part;
        if (__builtin_mul_overflow(t->dim[i], t->stride[i], &part) || __builtin_add_overflow(elements, part, &elements))
            return KV_ERR_FORMAT;
    }
    const uint64_t bytes = (uint64_t)dt_tensor_extent(t) * dt_dtype_bytes(type);
    if (offset < 0 || (uint64_t)offset > memory->bytes || bytes > memory->bytes - (uint64_t)offset)
        return KV_ERR_FORMAT;
    t->data = memory->p + offset;
    return KV_OK;
}

kv_status worker_read_call(const json_t *message, const worker_memory *memory, int *op, dt_args *args)
{
    const char *name = json_string_value(json_object_get(message, "op"));
    const json_t *tensors = json_object_get(message, "tensors"), *v;
    *op = name ? dt_op_find(name) : -1;
    if (*op < 0) return kv_fail(KV_ERR_FORMAT, "call: there is no operation '%s'", name ? name : "");
    const dt_op_schema *s = &dt_op_schemas[*op];
    memset(args, 0, sizeof *args);
    args->call = (kvdk_call){.size = (uint32_t)s->size, .op = (uint32_t)*op};
    KV_TRY(read_params(message, s, args));
    for (int i = 0; i < s->n_tensors; i++) {
        kvdk_tensor *t = dt_op_tensor(args, &s->tensors[i]);
        if (!(v = json_object_get(tensors, s->tensors[i].name))) continue;
        if (read_tensor(v, memory, t) != KV_OK)
            return kv_fail(KV_ERR_FORMAT, "call %s: tensor '%s' does not fit", s->name, s->tensors[i].name);
    }
    const json_int_t at = json_integer_value(json_object_get(message, "workspace")),
                     bytes = json_integer_value(json_object_get(message, "workspace_bytes"));
    if (at < 0 || bytes < 0 || (uint64_t)at > memory->bytes || (uint64_t)bytes > memory->bytes - (uint64_t)at)
        return kv_fail(KV_ERR_FORMAT, "call %s: the workspace does not fit", s->name);
    args->call.workspace = bytes ? memory->p + at : NULL;
    args->call.workspace_bytes = (uint64_t)bytes;
    return KV_OK;
}
