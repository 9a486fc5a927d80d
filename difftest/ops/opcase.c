#include "difftest/ops/opcase.h"

#include "common/math.h"
#include "common/numfmt.h"
#include "common/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const dist_names[] = {
#define X(name, about) #name,
    DT_DIST_LIST(X)
#undef X
};

const char *dt_dist_name(int dist)
{
    return dist_names[dist];
}

int dt_dist_find(const char *name)
{
    for (int i = 0; i < DT_DIST_COUNT; i++)
        if (strcmp(dist_names[i], name) == 0) return i;
    return -1;
}

void dt_opcase_begin(dt_opcase *c, int op, int64_t shape, dt_dist dist, uint64_t seed)
{
    memset(c, 0, sizeof *c);
    c->op = op;
    c->shape = shape;
    c->dist = dist;
    c->seed = seed;
    c->args.call = (kvdk_call){.size = (uint32_t)dt_op_schemas[op].size, .op = (uint32_t)op};
}

void dt_opcase_free(dt_opcase *c)
{
    const dt_op_schema *s = &dt_op_schemas[c->op];
    for (int i = 0; i < s->n_tensors; i++)
        free(dt_op_tensor(&c->args, &s->tensors[i])->data);
    memset(c, 0, sizeof *c);
}

static const dt_op_slot *slot_of(int op, const char *name)
{
    const dt_op_schema *s = &dt_op_schemas[op];
    for (int i = 0; i < s->n_tensors; i++)
        if (strcmp(s->tensors[i].name, name) == 0) return &s->tensors[i];
    abort(); /* a name in the source of the tester */
}

kvdk_tensor *dt_opcase_find(dt_opcase *c, const char *name)
{
    return dt_op_tensor(&c->args, slot_of(c->op, name));
}

kv_status dt_opcase_tensor(dt_opcase *c, const char *name, int32_t dtype, int64_t d0, int64_t d1, int64_t d2)
{
    const dt_op_slot *slot = slot_of(c->op, name);
    kvdk_tensor *t = dt_op_tensor(&c->args, slot);
    *t = (kvdk_tensor){
        .dtype = dtype, .read_only = slot->role == DT_IN, .dim = {d0, d1, d2, 1}, .stride = {d1 * d2, d2, 1, 1}};
    t->data = calloc((size_t)dt_tensor_count(t) + 1, dt_dtype_bytes(dtype));
    return t->data ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
}

/* ---- random numbers -----------------------------------------------------------------------------------------------
 */

static uint64_t key_of(const dt_opcase *c)
{
    return c->seed ^ kv_splitmix64((uint64_t)c->op * 1000003u + (uint64_t)c->shape * 64 + (uint64_t)c->dist);
}

uint32_t dt_opcase_word(const dt_opcase *c, uint64_t stream, uint64_t i)
{
    return kv_philox_word(key_of(c), stream, i);
}

int64_t dt_opcase_below(const dt_opcase *c, uint64_t stream, uint64_t i, int64_t n)
{
    return (int64_t)(((uint64_t)dt_opcase_word(c, stream, i) * (uint64_t)n) >> 32);
}

/* The sum of eight uniform numbers of 16 bits, with variance 1: near enough, and the same everywhere. */
double dt_opcase_normal(const dt_opcase *c, uint64_t stream, uint64_t i)
{
    const uint64_t key = key_of(c);
    const kv_philox_block b = kv_philox((uint32_t)i, (uint32_t)(i >> 32), (uint32_t)stream, (uint32_t)(stream >> 32),
                                        (uint32_t)key, (uint32_t)(key >> 32));
    uint32_t sum = 0;
    for (int k = 0; k < 4; k++)
        sum += (b.v[k] & 0xffff) + (b.v[k] >> 16);
    return (sum - 8 * 32767.5) * (1.2247448713915889 / 65536);
}

/* ---- filling -------------------------------------------------------------------------------------------------------
 */

float dt_element(const kvdk_tensor *t, int64_t i)
{
    switch (t->dtype) {
    case KVDK_F16:
        return kv_f162f(((const uint16_t *)t->data)[i]);
    case KVDK_BF16:
        return kv_bf162f(((const uint16_t *)t->data)[i]);
    default:
        return ((const float *)t->data)[i];
    }
}

void dt_element_set(kvdk_tensor *t, int64_t i, float x)
{
    switch (t->dtype) {
    case KVDK_F16:
        ((uint16_t *)t->data)[i] = kv_f2f16(x);
        return;
    case KVDK_BF16:
        ((uint16_t *)t->data)[i] = kv_f2bf16(x);
        return;
    default:
        ((float *)t->data)[i] = x;
    }
}

void dt_opcase_fill(dt_opcase *c, const char *name, uint64_t stream, double scale, int64_t width)
{
    kvdk_tensor *t = dt_opcase_find(c, name);
    const int64_t n = t->data ? dt_tensor_count(t) : 0;
    for (int64_t i = 0; i < n; i++) {
        double x;
        switch (c->dist) {
        case DT_DIST_exact:
            x = (double)dt_opcase_below(c, stream, (uint64_t)i, 9) - 4;
            break;
        case DT_DIST_constant:
            x = dt_opcase_normal(c, stream, (uint64_t)(i / width)) * scale;
            break;
        case DT_DIST_outlier:
            x = dt_opcase_normal(c, stream, (uint64_t)i) * scale * (i % width % 16 == 5 ? 50 : 1);
            break;
        case DT_DIST_small:
            x = dt_opcase_normal(c, stream, (uint64_t)i) * scale * 1e-3;
            break;
        case DT_DIST_large:
            x = dt_opcase_normal(c, stream, (uint64_t)i) * scale * 1e3;
            break;
        case DT_DIST_subnormal:
            x = dt_opcase_normal(c, stream, (uint64_t)i) * scale * 0x1p-132;
            break;
        default:
            x = dt_opcase_normal(c, stream, (uint64_t)i) * scale;
        }
        dt_element_set(t, i, (float)x);
    }
}
