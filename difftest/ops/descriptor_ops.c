/* descriptor_ops.c - the operations of a descriptor. */
#include "difftest/ops/descriptor_read.h"

#include "difftest/ops/launch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRY_BYTES = 255, SCRATCH_NAME_BYTES = 40 };

/* ---- expressions ---------------------------------------------------------------------------------------------------
 */

/* A text, or a whole number. */
static kv_status take_expr(dt_reader *r, const json_t *v, const dt_op_schema *op, dt_expr *out)
{
    if (json_is_integer(v)) return dt_expr_constant(json_integer_value(v), &r->d->pool, out);
    if (!json_is_string(v)) return kv_fail(KV_ERR_FORMAT, "must be a whole number or an expression in quotes");
    return dt_expr_compile(json_string_value(v), op, &r->d->pool, out);
}

/* What does not depend on a call is looked at now. */
static kv_status take_limited(dt_reader *r, const json_t *v, const dt_op_schema *op, int64_t most, dt_expr *out)
{
    int64_t value;
    KV_TRY(take_expr(r, v, op, out));
    return dt_expr_is_constant(&r->d->pool, out, &value) ? dt_launch_limit(value, most) : KV_OK;
}

/* One number, or a list of up to three; the rest is 1. */
static kv_status take_dim3(dt_reader *r, const json_t *launch, const char *key, const dt_op_schema *op,
                           const int64_t most[3], dt_expr out[3])
{
    const json_t *v = json_object_get(launch, key);
    const size_t before = dt_enter_key(r, key), n = json_is_array(v) ? json_array_size(v) : 1;
    if (n < 1 || n > 3) return kv_fail(KV_ERR_FORMAT, "must have 1 to 3 dimensions");
    for (size_t i = 0; i < 3; i++) {
        const size_t at = json_is_array(v) ? dt_enter_item(r, i) : strlen(r->where);
        if (i < n)
            KV_TRY(take_limited(r, json_is_array(v) ? json_array_get(v, i) : v, op, most[i], &out[i]));
        else
            KV_TRY(dt_expr_constant(1, &r->d->pool, &out[i]));
        dt_leave(r, at);
    }
    dt_leave(r, before);
    return KV_OK;
}

/* ---- parameters of a kernel ----------------------------------------------------------------------------------------
 */

static kv_status take_pointer(dt_reader *r, const char *name, const dt_op_schema *op, dt_parameter *p)
{
    char list[300] = "";
    size_t used = 0;
    p->type = "a pointer";
    p->bytes = sizeof(void *);
    if (strcmp(name, "args") == 0) {
        p->kind = DT_PARAMETER_ARGS;
        p->type = "args";
        p->bytes = (int32_t)op->size;
        return KV_OK;
    }
    for (int i = 0; i < op->n_tensors; i++) {
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", op->tensors[i].name);
        if (strcmp(op->tensors[i].name, name) != 0) continue;
        p->kind = DT_PARAMETER_TENSOR;
        p->offset = op->tensors[i].offset;
        return KV_OK;
    }
    return kv_fail(KV_ERR_FORMAT, "'%s' is no tensor of %s; it has %s, and there is args; numbers are {\"i32\": \"T\"}",
                   dt_said(r, name), op->name, list);
}

static kv_status take_scratch(dt_reader *r, const json_t *v, const dt_recipe *recipe, dt_parameter *p)
{
    const char *name = json_string_value(v);
    p->kind = DT_PARAMETER_SCRATCH;
    p->type = "a pointer";
    p->bytes = sizeof(void *);
    for (int i = 0; name && i < recipe->n_scratch; i++)
        if (strcmp(recipe->scratch[i].name, name) == 0) {
            p->scratch = i;
            return KV_OK;
        }
    return kv_fail(KV_ERR_FORMAT, "there is no scratch '%s' in this operation", dt_said(r, name ? name : "(no text)"));
}

/* A number of the operation that is none of a whole kind, a number of the file, or an expression. */
static kv_status take_real(dt_reader *r, const json_t *v, const dt_op_schema *op, dt_parameter *p)
{
    const char *name = json_string_value(v);
    if (json_is_number(v)) {
        p->kind = DT_PARAMETER_NUMBER;
        p->number = json_number_value(v);
        return KV_OK;
    }
    for (int i = 0; name && i < op->n_params; i++)
        if (op->params[i].is_real && strcmp(op->params[i].name, name) == 0) {
            p->kind = DT_PARAMETER_REAL;
            p->offset = op->params[i].offset;
            return KV_OK;
        }
    p->kind = DT_PARAMETER_WHOLE;
    return take_expr(r, v, op, &p->value);
}

static const struct {
    const char *name;
    int32_t bytes, is_signed, is_real;
} types[] = {
    {"i8", 1, 1, 0},  {"u8", 1, 0, 0},  {"i16", 2, 1, 0}, {"u16", 2, 0, 0}, {"i32", 4, 1, 0},
    {"u32", 4, 0, 0}, {"i64", 8, 1, 0}, {"u64", 8, 0, 0}, {"f32", 4, 1, 1}, {"f64", 8, 1, 1},
};

static kv_status take_typed(dt_reader *r, const char *type, const json_t *v, const dt_op_schema *op, dt_parameter *p)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        int64_t value;
        if (strcmp(types[i].name, type) != 0) continue;
        p->type = types[i].name;
        p->bytes = types[i].bytes;
        p->is_signed = types[i].is_signed;
        if (types[i].is_real) return take_real(r, v, op, p);
        p->kind = DT_PARAMETER_INTEGER;
        KV_TRY(take_expr(r, v, op, &p->value));
        return dt_expr_is_constant(&r->d->pool, &p->value, &value) ? dt_launch_range(value, p) : KV_OK;
    }
    return kv_fail(KV_ERR_FORMAT, "unknown type '%s'; known are i8 u8 i16 u16 i32 u32 i64 u64 f32 f64 scratch",
                   dt_said(r, type));
}

static kv_status take_parameter(dt_reader *r, const json_t *v, const dt_recipe *recipe, dt_parameter *p)
{
    const dt_op_schema *op = &dt_op_schemas[recipe->op];
    *p = (dt_parameter){.value.root = -1};
    if (json_is_string(v)) return take_pointer(r, json_string_value(v), op, p);
    if (!json_is_object(v) || json_object_size(v) != 1)
        return kv_fail(KV_ERR_FORMAT, "must be the name of a tensor, or an object of one member, {\"i32\": \"T\"}");
    void *it = json_object_iter((json_t *)(uintptr_t)v);
    const char *type = json_object_iter_key(it);
    const json_t *value = json_object_iter_value(it);
    return strcmp(type, "scratch") == 0 ? take_scratch(r, value, recipe, p) : take_typed(r, type, value, op, p);
}

/* ---- launches ------------------------------------------------------------------------------------------------------
 */

/* A list of at least `least` and at most `most` elements. */
static kv_status take_list(const json_t *v, size_t least, size_t most, const char *of, size_t *n)
{
    *n = json_array_size(v);
    if (json_is_array(v) && *n >= least && *n <= most) return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "must be a list of %zu to %zu %s, [...]", least, most, of);
}

static kv_status read_parameters(dt_reader *r, const json_t *launch, const dt_recipe *recipe, dt_launch *out)
{
    size_t n;
    const json_t *v = json_object_get(launch, "parameters");
    const size_t before = dt_enter_key(r, "parameters");
    KV_TRY(take_list(v, 0, DT_MODULE_PARAMETERS, "parameters", &n));
    for (size_t i = 0; i < n; i++) {
        const size_t at = dt_enter_item(r, i);
        KV_TRY(take_parameter(r, json_array_get(v, i), recipe, &out->parameter[i]));
        dt_leave(r, at);
    }
    out->n_parameters = (int)n;
    dt_leave(r, before);
    return KV_OK;
}

/* A member that may be absent: then `otherwise`. */
static kv_status take_optional(dt_reader *r, const json_t *of, const char *key, const dt_op_schema *op,
                               int64_t otherwise, dt_expr *out)
{
    const json_t *v = json_object_get(of, key);
    if (!v) return dt_expr_constant(otherwise, &r->d->pool, out);
    const size_t before = dt_enter_key(r, key);
    KV_TRY(take_expr(r, v, op, out));
    dt_leave(r, before);
    return KV_OK;
}

static kv_status read_launch(dt_reader *r, const json_t *v, const dt_recipe *recipe, dt_launch *out)
{
    static const char *const keys[] = {"entry", "when", "grid", "block", "shared", "parameters", NULL};
    const dt_op_schema *op = &dt_op_schemas[recipe->op];
    KV_TRY(dt_only_keys(r, v, keys));
    const size_t before = dt_enter_key(r, "entry");
    KV_TRY(dt_take_text(json_object_get(v, "entry"), ENTRY_BYTES, &out->entry));
    dt_leave(r, before);
    KV_TRY(take_optional(r, v, "when", op, 1, &out->when));
    KV_TRY(take_dim3(r, v, "grid", op, dt_most_grid, out->grid));
    KV_TRY(take_dim3(r, v, "block", op, dt_most_block, out->block));
    KV_TRY(take_optional(r, v, "shared", op, 0, &out->shared));
    return read_parameters(r, v, recipe, out);
}

static kv_status read_launches(dt_reader *r, const json_t *v, dt_recipe *recipe)
{
    size_t n;
    const size_t before = dt_enter_key(r, "launches");
    KV_TRY(take_list(v, 1, DT_LAUNCHES, "launches", &n));
    recipe->launch = calloc(n, sizeof *recipe->launch);
    if (!recipe->launch) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const size_t at = dt_enter_item(r, i);
        KV_TRY(read_launch(r, json_array_get(v, i), recipe, &recipe->launch[i]));
        dt_leave(r, at);
    }
    recipe->n_launches = (int)n;
    dt_leave(r, before);
    return KV_OK;
}

/* ---- an operation --------------------------------------------------------------------------------------------------
 */

static kv_status read_requires(dt_reader *r, const json_t *v, dt_recipe *recipe)
{
    size_t n;
    if (!v) return KV_OK;
    const size_t before = dt_enter_key(r, "requires");
    KV_TRY(take_list(v, 0, DT_REQUIREMENTS, "expressions", &n));
    for (size_t i = 0; i < n; i++) {
        const size_t at = dt_enter_item(r, i);
        KV_TRY(take_expr(r, json_array_get(v, i), &dt_op_schemas[recipe->op], &recipe->requires[i]));
        dt_leave(r, at);
    }
    recipe->n_requires = (int)n;
    dt_leave(r, before);
    return KV_OK;
}

static kv_status check_scratch_name(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    const size_t n = strlen(name);
    if (n >= 1 && n <= SCRATCH_NAME_BYTES && strspn(name, letters) == n) return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "must be a name of 1 to %d letters, digits and '_'", SCRATCH_NAME_BYTES);
}

static kv_status read_scratch(dt_reader *r, const json_t *v, dt_recipe *recipe)
{
    if (!v) return KV_OK;
    const size_t before = dt_enter_key(r, "scratch");
    if (!json_is_object(v) || json_object_size(v) > DT_SCRATCHES)
        return kv_fail(KV_ERR_FORMAT, "must be an object of at most %d members, {\"name\": bytes}", DT_SCRATCHES);
    for (void *it = json_object_iter((json_t *)(uintptr_t)v); it;
         it = json_object_iter_next((json_t *)(uintptr_t)v, it)) {
        dt_scratch *s = &recipe->scratch[recipe->n_scratch];
        s->name = json_object_iter_key(it);
        const size_t at = dt_enter_key(r, s->name);
        KV_TRY(check_scratch_name(s->name));
        KV_TRY(take_expr(r, json_object_iter_value(it), &dt_op_schemas[recipe->op], &s->bytes));
        dt_leave(r, at);
        recipe->n_scratch++;
    }
    dt_leave(r, before);
    return KV_OK;
}

static kv_status read_recipe(dt_reader *r, const json_t *v, dt_recipe *recipe)
{
    static const char *const keys[] = {"requires", "scratch", "launches", NULL};
    KV_TRY(dt_only_keys(r, v, keys));
    KV_TRY(read_requires(r, json_object_get(v, "requires"), recipe));
    KV_TRY(read_scratch(r, json_object_get(v, "scratch"), recipe));
    return read_launches(r, json_object_get(v, "launches"), recipe);
}

/* "attn_prefill": "attn_decode" */
static kv_status share_recipe(dt_reader *r, const char *name, dt_recipe *recipe, int op)
{
    const int other = dt_op_find(name);
    if (other < 0 || !r->d->recipe[other].n_launches || r->d->recipe[other].op != other)
        return kv_fail(KV_ERR_FORMAT, "'%s' is no operation that this file describes", dt_said(r, name));
    if (dt_op_schemas[other].params != dt_op_schemas[op].params)
        return kv_fail(KV_ERR_FORMAT, "%s has other arguments than %s", dt_op_schemas[op].name,
                       dt_op_schemas[other].name);
    *recipe = r->d->recipe[other];
    return KV_OK;
}

static kv_status find_op(dt_reader *r, const char *key, int *op)
{
    char list[300] = "";
    size_t used = 0;
    *op = dt_op_find(key);
    if (*op >= 0) return KV_OK;
    for (int i = 0; i < KVDK_OP_COUNT; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", dt_op_schemas[i].name);
    return kv_fail(KV_ERR_FORMAT, "there is no operation '%s'; there are %s", dt_said(r, key), list);
}

/* Those that are described in a first pass, those that are like another one in a second. */
static kv_status read_pass(dt_reader *r, const json_t *ops, int like_others)
{
    for (void *it = json_object_iter((json_t *)(uintptr_t)ops); it;
         it = json_object_iter_next((json_t *)(uintptr_t)ops, it)) {
        const json_t *v = json_object_iter_value(it);
        int op;
        KV_TRY(find_op(r, json_object_iter_key(it), &op));
        if (json_is_string(v) != like_others) continue;
        const size_t before = dt_enter_key(r, dt_op_schemas[op].name);
        dt_recipe *recipe = &r->d->recipe[op];
        recipe->op = op;
        if (like_others)
            KV_TRY(share_recipe(r, json_string_value(v), recipe, op));
        else
            KV_TRY(read_recipe(r, v, recipe));
        dt_leave(r, before);
    }
    return KV_OK;
}

kv_status dt_read_recipes(dt_reader *r, const json_t *ops)
{
    if (!json_is_object(ops) || json_object_size(ops) == 0)
        return kv_fail(KV_ERR_FORMAT, "must be an object with at least one operation, {\"attn_decode\": {...}}");
    KV_TRY(read_pass(r, ops, 0));
    return read_pass(r, ops, 1);
}
