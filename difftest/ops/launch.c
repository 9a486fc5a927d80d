#include "difftest/ops/launch.h"

#include <stdio.h>
#include <string.h>

enum { SCRATCH_ALIGNMENT = 256 };
static const int64_t most_scratch = INT64_C(1) << 40;

const int64_t dt_most_grid[3] = {INT32_MAX, 65535, 65535}, dt_most_block[3] = {1024, 1024, 64};

kv_status dt_launch_limit(int64_t value, int64_t most)
{
    if (value >= 1 && value <= most) return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "%lld; a device takes 1 to %lld (\"when\" leaves a launch out)", (long long)value,
                   (long long)most);
}

kv_status dt_launch_range(int64_t value, const dt_parameter *p)
{
    const int bits = 8 * p->bytes - (p->is_signed ? 1 : 0);
    const int64_t most = bits >= 63 ? INT64_MAX : (INT64_C(1) << bits) - 1;
    const int64_t least = p->is_signed ? (bits >= 63 ? INT64_MIN : -most - 1) : 0;
    if (value >= least && value <= most) return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "%lld does not fit into %s", (long long)value, p->type);
}

/* Says where a failure of a call is. */
static kv_status located(kv_status st, const dt_descriptor *d, const dt_recipe *recipe, const char *fmt, ...)
    KV_PRINTF(4, 5);
static kv_status located(kv_status st, const dt_descriptor *d, const dt_recipe *recipe, const char *fmt, ...)
{
    char where[64];
    va_list ap;
    if (st == KV_OK) return st;
    va_start(ap, fmt);
    vsnprintf(where, sizeof where, fmt, ap);
    va_end(ap);
    kv_prefix_message("%s: ops.%s.%s", d->file, dt_op_schemas[recipe->op].name, where);
    return KV_ERR_CONTRACT;
}

kv_status dt_recipe_takes(const dt_descriptor *d, const dt_recipe *recipe, const void *args)
{
    for (int i = 0; i < recipe->n_requires; i++) {
        int64_t value;
        KV_TRY(located(dt_expr_value(&d->pool, &recipe->requires[i], args, &value), d, recipe, "requires[%d]", i));
        if (!value) return kv_fail(KV_ERR_UNSUPPORTED, "it requires %s", recipe->requires[i].text);
    }
    return KV_OK;
}

kv_status dt_recipe_scratch(const dt_descriptor *d, const dt_recipe *recipe, const void *args,
                            uint64_t at[DT_SCRATCHES + 1])
{
    at[0] = 0;
    for (int i = 0; i < recipe->n_scratch; i++) {
        int64_t bytes;
        kv_status st = dt_expr_value(&d->pool, &recipe->scratch[i].bytes, args, &bytes);
        if (st == KV_OK && (bytes < 0 || bytes > most_scratch))
            st = kv_fail(KV_ERR_CONTRACT, "%lld bytes", (long long)bytes);
        KV_TRY(located(st, d, recipe, "scratch.%s", recipe->scratch[i].name));
        at[i + 1] = at[i] + ((uint64_t)bytes + SCRATCH_ALIGNMENT - 1) / SCRATCH_ALIGNMENT * SCRATCH_ALIGNMENT;
    }
    return KV_OK;
}

static kv_status compute_dims(const dt_expr_pool *pool, const dt_expr e[3], const int64_t most[3], const void *args,
                              unsigned out[3], int *at)
{
    for (*at = 0; *at < 3; (*at)++) {
        int64_t value;
        KV_TRY(dt_expr_value(pool, &e[*at], args, &value));
        KV_TRY(dt_launch_limit(value, most[*at]));
        out[*at] = (unsigned)value;
    }
    return KV_OK;
}

static void store_real(double value, const dt_parameter *p, void *dst)
{
    const float single = (float)value;
    if (p->bytes == sizeof single)
        memcpy(dst, &single, sizeof single);
    else
        memcpy(dst, &value, sizeof value);
}

static void store_integer(int64_t value, const dt_parameter *p, void *dst)
{
    const int8_t b = (int8_t)value;
    const int16_t h = (int16_t)value;
    const int32_t w = (int32_t)value;
    memcpy(dst,
           p->bytes == 1   ? (const void *)&b
           : p->bytes == 2 ? (const void *)&h
           : p->bytes == 4 ? (const void *)&w
                           : &value,
           (size_t)p->bytes);
}

/* The value of a parameter, at *dst. */
static kv_status compute_parameter(const dt_descriptor *d, const dt_parameter *p, const dt_args *args,
                                   const uint64_t *at, uint64_t *dst)
{
    const char *field = (const char *)args + p->offset;
    int64_t value = 0;
    if (p->kind == DT_PARAMETER_INTEGER || p->kind == DT_PARAMETER_WHOLE)
        KV_TRY(dt_expr_value(&d->pool, &p->value, args, &value));
    switch (p->kind) {
    case DT_PARAMETER_TENSOR:
        memcpy(dst, &((const kvdk_tensor *)(const void *)field)->data, sizeof(void *));
        return KV_OK;
    case DT_PARAMETER_SCRATCH:
        *dst = (uint64_t)(uintptr_t)args->call.workspace + at[p->scratch];
        return KV_OK;
    case DT_PARAMETER_REAL:
        store_real(*(const double *)(const void *)field, p, dst);
        return KV_OK;
    case DT_PARAMETER_NUMBER:
        store_real(p->number, p, dst);
        return KV_OK;
    case DT_PARAMETER_WHOLE:
        store_real((double)value, p, dst);
        return KV_OK;
    default:
        KV_TRY(dt_launch_range(value, p));
        store_integer(value, p, dst);
        return KV_OK;
    }
}

static kv_status compute_shape(const dt_descriptor *d, const dt_recipe *recipe, int i, const void *args,
                               dt_launch_values *out)
{
    const dt_launch *l = &recipe->launch[i];
    int64_t shared;
    int k;
    kv_status st = compute_dims(&d->pool, l->grid, dt_most_grid, args, out->grid, &k);
    KV_TRY(located(st, d, recipe, "launches[%d].grid[%d]", i, k));
    st = compute_dims(&d->pool, l->block, dt_most_block, args, out->block, &k);
    KV_TRY(located(st, d, recipe, "launches[%d].block[%d]", i, k));
    const unsigned threads = out->block[0] * out->block[1] * out->block[2];
    if (threads > DT_MOST_THREADS)
        st = kv_fail(KV_ERR_CONTRACT, "%u threads; a device takes %d", threads, DT_MOST_THREADS);
    KV_TRY(located(st, d, recipe, "launches[%d].block", i));
    st = dt_expr_value(&d->pool, &l->shared, args, &shared);
    if (st == KV_OK && (shared < 0 || shared > DT_MOST_SHARED))
        st = kv_fail(KV_ERR_CONTRACT, "%lld bytes; no device has more than %d", (long long)shared, DT_MOST_SHARED);
    out->shared = (unsigned)shared;
    return located(st, d, recipe, "launches[%d].shared", i);
}

kv_status dt_launch_compute(const dt_descriptor *d, const dt_recipe *recipe, int i, const void *args,
                            const uint64_t *at, int *is_on, dt_launch_values *out)
{
    const dt_launch *l = &recipe->launch[i];
    int64_t when;
    KV_TRY(located(dt_expr_value(&d->pool, &l->when, args, &when), d, recipe, "launches[%d].when", i));
    *is_on = when != 0;
    if (!when) return KV_OK;
    KV_TRY(compute_shape(d, recipe, i, args, out));
    for (int k = 0; k < l->n_parameters; k++) {
        out->pointer[k] = &out->storage[k];
        if (l->parameter[k].kind == DT_PARAMETER_ARGS)
            out->pointer[k] = (void *)(uintptr_t)args;
        else
            KV_TRY(located(compute_parameter(d, &l->parameter[k], args, at, &out->storage[k]), d, recipe,
                           "launches[%d].parameters[%d]", i, k));
    }
    return KV_OK;
}
