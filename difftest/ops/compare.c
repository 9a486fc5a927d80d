#include "difftest/ops/compare.h"

#include "common/math.h"

#include <stdlib.h>
#include <string.h>

static uint32_t bits_at(const void *p, int64_t i)
{
    uint32_t b;
    memcpy(&b, (const char *)p + 4 * i, 4);
    return b;
}

static float float_at(const void *p, int64_t i)
{
    return ((const float *)p)[i];
}

static int is_finite(float x)
{
    return (kv_f2bits(x) & 0x7f800000) != 0x7f800000;
}

/* Distance in units in the last place; of values that are not numbers the largest. */
static int64_t ulps(uint32_t a, uint32_t b)
{
    const int64_t x = (int32_t)a < 0 ? -(int64_t)(a & 0x7fffffff) : (int64_t)a;
    const int64_t y = (int32_t)b < 0 ? -(int64_t)(b & 0x7fffffff) : (int64_t)b;
    if ((a & 0x7fffffff) > 0x7f800000 || (b & 0x7fffffff) > 0x7f800000) return a == b ? 0 : INT32_MAX;
    return x > y ? x - y : y - x;
}

static double absolute(double x)
{
    return x < 0 ? -x : x;
}

/* Error over bound; infinite where a number should be one and is not, or the other way round. */
static double ratio_of(float ref, float got, double value, double bound)
{
    if (!is_finite(got) || !is_finite(ref)) return kv_f2bits(ref) == kv_f2bits(got) ? 0 : (double)kv_inf();
    const double err = absolute((double)got - value);
    return err == 0 ? 0 : bound > 0 ? err / bound : (double)kv_inf();
}

typedef struct sums {
    double squares, errors;
    int64_t *ulp; /* of all elements, for the quantile */
    int64_t n;
} sums;

static void note_bad(dt_op_difference *d, int slot, int64_t i, uint32_t ref, uint32_t got)
{
    if (d->n_bad++) return;
    d->bad_slot = slot;
    d->bad_index = i;
    if (d->worst_index < 0) d->worst_slot = slot, d->worst_index = i;
    d->ref_bits = ref;
    d->got_bits = got;
}

static void compare_reals(const dt_answer *right, const void *got, int slot, int64_t n, int bits, dt_op_difference *d,
                          sums *s)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t rb = bits_at(right->bits[slot], i), gb = bits_at(got, i);
        const float ref = float_at(right->bits[slot], i), x = float_at(got, i);
        const double value = right->value[slot][i], bound = right->bound[slot][i];
        const double ratio = ratio_of(ref, x, value, bound), err = absolute((double)x - value);
        const int64_t distance = ulps(rb, gb);
        const int is_bad = bits ? rb != gb : !(ratio <= 1);
        d->n_nonfinite += !is_finite(x) && is_finite(ref);
        d->n_informative += absolute(value) > bound;
        s->ulp[s->n++] = distance;
        s->squares += (double)ref * (double)ref;
        s->errors += ((double)x - (double)ref) * ((double)x - (double)ref);
        if (err > d->max_abs) d->max_abs = err;
        if (distance > d->max_ulp) d->max_ulp = distance;
        if (ratio > d->max_ratio) {
            d->max_ratio = ratio;
            d->worst_slot = slot;
            d->worst_index = i;
            if (!d->n_bad) d->ref_bits = rb, d->got_bits = gb, d->ref_value = value, d->got_value = (double)x;
        }
        if (!is_bad) continue;
        if (!d->n_bad) d->ref_value = value, d->got_value = (double)x, d->bad_bound = bound;
        note_bad(d, slot, i, rb, gb);
    }
}

static void compare_wholes(const void *right, const void *got, int32_t dtype, int slot, int64_t n, dt_op_difference *d)
{
    const size_t bytes = dt_dtype_bytes(dtype);
    for (int64_t i = 0; i < n; i++) {
        uint64_t a = 0, b = 0;
        memcpy(&a, (const char *)right + (size_t)i * bytes, bytes);
        memcpy(&b, (const char *)got + (size_t)i * bytes, bytes);
        d->n_informative += a != 0;
        if (a == b) continue;
        if (!d->n_bad) {
            d->ref_value = dtype == KVDK_U8 ? (double)a : dtype == KVDK_I32 ? (double)(int32_t)a : (double)(int64_t)a;
            d->got_value = dtype == KVDK_U8 ? (double)b : dtype == KVDK_I32 ? (double)(int32_t)b : (double)(int64_t)b;
        }
        note_bad(d, slot, i, (uint32_t)a, (uint32_t)b);
    }
}

static int by_size(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static int64_t count_all(const dt_opcase *c, const dt_answer *right)
{
    const dt_op_schema *s = &dt_op_schemas[c->op];
    int64_t n = 0;
    for (int i = 0; i < s->n_tensors; i++)
        if (right->bits[i]) n += dt_tensor_count(dt_op_tensor_of(&c->args, &s->tensors[i]));
    return n;
}

kv_status dt_op_compare(const dt_opcase *c, const dt_answer *right, void *const got[DT_OP_TENSORS], int32_t contract,
                        int bits, dt_op_difference *out)
{
    const dt_op_schema *schema = &dt_op_schemas[c->op];
    const dt_op_impl *impl = dt_op_impl_of(c->op);
    if (impl->judge && contract != KVDK_BITEXACT && !bits) {
        impl->judge(c, right, got, out);
        return KV_OK;
    }
    *out = (dt_op_difference){.bad_slot = -1, .worst_slot = -1, .worst_index = -1, .n_elem = count_all(c, right)};
    sums s = {.ulp = malloc((size_t)(out->n_elem + 1) * sizeof *s.ulp)};
    if (!s.ulp) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int i = 0; i < schema->n_tensors; i++) {
        const kvdk_tensor *t = dt_op_tensor_of(&c->args, &schema->tensors[i]);
        if (!right->bits[i]) continue;
        if (right->value[i])
            compare_reals(right, got[i], i, dt_tensor_count(t), bits || contract == KVDK_BITEXACT, out, &s);
        else
            compare_wholes(right->bits[i], got[i], t->dtype, i, dt_tensor_count(t), out);
    }
    qsort(s.ulp, (size_t)s.n, sizeof *s.ulp, by_size);
    out->p999_ulp = s.n ? s.ulp[(s.n - 1) * 999 / 1000] : 0;
    out->nmse = s.squares > 0 ? s.errors / s.squares : s.errors > 0 ? (double)kv_inf() : 0;
    free(s.ulp);
    return KV_OK;
}

int dt_op_trust(const dt_opcase *c, const dt_answer *right, double *ratio)
{
    const dt_op_schema *s = &dt_op_schemas[c->op];
    const dt_op_impl *impl = dt_op_impl_of(c->op);
    *ratio = 0;
    if (impl->judge) {
        dt_op_difference d;
        impl->judge(c, right, right->bits, &d);
        *ratio = d.max_ratio;
    }
    for (int i = 0; i < s->n_tensors; i++) {
        const int64_t n = right->value[i] ? dt_tensor_count(dt_op_tensor_of(&c->args, &s->tensors[i])) : 0;
        for (int64_t j = 0; j < n; j++) {
            const float ref = float_at(right->bits[i], j);
            const double r = is_finite(ref) ? ratio_of(ref, ref, right->value[i][j], right->bound[i][j]) : 0;
            *ratio = r > *ratio ? r : *ratio;
        }
    }
    return *ratio <= 1;
}

int dt_op_same(const dt_opcase *c, void *const a[DT_OP_TENSORS], void *const b[DT_OP_TENSORS], int *slot,
               int64_t *index)
{
    const dt_op_schema *s = &dt_op_schemas[c->op];
    for (int i = 0; i < s->n_tensors; i++) {
        const kvdk_tensor *t = dt_op_tensor_of(&c->args, &s->tensors[i]);
        const size_t bytes = a[i] ? dt_dtype_bytes(t->dtype) : 0;
        if (!a[i] || memcmp(a[i], b[i], (size_t)dt_tensor_count(t) * bytes) == 0) continue;
        *slot = i;
        for (*index = 0;
             memcmp((char *)a[i] + (size_t)*index * bytes, (char *)b[i] + (size_t)*index * bytes, bytes) == 0;
             (*index)++)
            ;
        return 0;
    }
    return 1;
}
