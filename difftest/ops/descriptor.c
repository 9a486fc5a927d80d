#include "difftest/ops/descriptor_read.h"

#include "common/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DESCRIPTOR_BYTES = 1 << 20, PATH_BYTES = 1000, NAME_BYTES = 60 };

/* ---- places -------------------------------------------------------------------------------------------------------
 */

const char *dt_said(dt_reader *r, const char *word)
{
    snprintf(r->said, sizeof r->said, "%s", word);
    for (char *c = r->said; *c; c++)
        if (*c < 0x20 || *c > 0x7e) *c = '?';
    return r->said;
}

size_t dt_enter_key(dt_reader *r, const char *key)
{
    const size_t n = strlen(r->where);
    snprintf(r->where + n, sizeof r->where - n, "%s%s", n ? "." : "", dt_said(r, key));
    return n;
}

size_t dt_enter_item(dt_reader *r, size_t i)
{
    const size_t n = strlen(r->where);
    snprintf(r->where + n, sizeof r->where - n, "[%zu]", i);
    return n;
}

void dt_leave(dt_reader *r, size_t before)
{
    r->where[before] = '\0';
}

kv_status dt_only_keys(dt_reader *r, const json_t *object, const char *const *known)
{
    if (!json_is_object(object)) return kv_fail(KV_ERR_FORMAT, "must be an object, {...}");
    for (void *it = json_object_iter((json_t *)(uintptr_t)object); it;
         it = json_object_iter_next((json_t *)(uintptr_t)object, it)) {
        const char *key = json_object_iter_key(it);
        char list[200] = "";
        size_t used = 0;
        int i = 0;
        for (; known[i] && strcmp(known[i], key) != 0; i++)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", known[i]);
        if (!known[i]) return kv_fail(KV_ERR_FORMAT, "unknown key '%s'; known are %s", dt_said(r, key), list);
    }
    return KV_OK;
}

kv_status dt_take_text(const json_t *v, size_t most, const char **out)
{
    *out = json_string_value(v);
    if (!*out || !**out || strlen(*out) > most)
        return kv_fail(KV_ERR_FORMAT, "must be a text of 1 to %zu characters", most);
    for (const char *c = *out; *c; c++)
        if (*c < 0x20 || *c > 0x7e) return kv_fail(KV_ERR_FORMAT, "must be printable ASCII");
    return KV_OK;
}

/* ---- what a candidate says of itself ------------------------------------------------------------------------------
 */

static const char *const contracts[] = {"bitexact", "bounded", "statistical", NULL};
static const char *const determinisms[] = {"no_promise", "same_call", "same_row", NULL};
static const char *const precisions[] = {"f32", "f16", "bf16", NULL};

/* A word of a list, whose number is that of the enum in kvdiff_kernel.h. */
static kv_status take_word(dt_reader *r, const json_t *of, const char *key, const char *const *words, int32_t *out)
{
    const json_t *v = json_object_get(of, key);
    char list[100] = "";
    size_t used = 0;
    if (!v) return KV_OK;
    const size_t before = dt_enter_key(r, key);
    for (int32_t i = 0; words[i]; i++) {
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", words[i]);
        if (!json_is_string(v) || strcmp(json_string_value(v), words[i]) != 0) continue;
        *out = i;
        dt_leave(r, before);
        return KV_OK;
    }
    return kv_fail(KV_ERR_FORMAT, "'%s' is unknown; known are %s",
                   dt_said(r, json_is_string(v) ? json_string_value(v) : "(no text)"), list);
}

static kv_status read_precision(dt_reader *r, const json_t *root)
{
    static const char *const keys[] = {"scores", "probabilities", "accumulators", NULL};
    kvdk_precision *p = &r->d->info.precision;
    const json_t *v = json_object_get(root, "precision");
    if (!v) return KV_OK;
    const size_t before = dt_enter_key(r, "precision");
    KV_TRY(dt_only_keys(r, v, keys));
    KV_TRY(take_word(r, v, keys[0], precisions, &p->scores));
    KV_TRY(take_word(r, v, keys[1], precisions, &p->probabilities));
    KV_TRY(take_word(r, v, keys[2], precisions, &p->accumulators));
    dt_leave(r, before);
    return KV_OK;
}

static kv_status read_info(dt_reader *r, const json_t *root)
{
    kvdk_info *info = &r->d->info;
    const json_t *fast = json_object_get(root, "fast_math");
    *info = (kvdk_info){.size = sizeof *info, .contract = -1, .determinism = KVDK_SAME_CALL, .memory = KVDK_CUDA};
    const size_t before = dt_enter_key(r, "name");
    KV_TRY(dt_take_text(json_object_get(root, "name"), NAME_BYTES, &info->name));
    if (strchr(info->name, '|')) return kv_fail(KV_ERR_FORMAT, "must not hold '|'");
    dt_leave(r, before);
    KV_TRY(take_word(r, root, "contract", contracts, &info->contract));
    if (info->contract < 0)
        return kv_fail(KV_ERR_FORMAT, "the key 'contract' is missing: bitexact, bounded or statistical");
    KV_TRY(take_word(r, root, "determinism", determinisms, &info->determinism));
    KV_TRY(read_precision(r, root));
    if (fast && !json_is_boolean(fast)) return kv_fail(KV_ERR_FORMAT, "'fast_math' must be true or false");
    info->fast_math = json_is_true(fast);
    return KV_OK;
}

/* Beside the descriptor, unless its path is absolute. */
static kv_status read_module(dt_reader *r, const json_t *root, const char *path)
{
    const char *name, *slash = strrchr(path, '/');
    const size_t before = dt_enter_key(r, "module");
    KV_TRY(dt_take_text(json_object_get(root, "module"), PATH_BYTES, &name));
    dt_leave(r, before);
    const int folder = *name == '/' || !slash ? 0 : (int)(slash - path) + 1;
    if (asprintf(&r->d->module, "%.*s%s", folder, path, name) >= 0) return KV_OK;
    r->d->module = NULL;
    return kv_fail(KV_ERR_NOMEM, "out of memory");
}

/* ---- the file ------------------------------------------------------------------------------------------------------
 */

static kv_status read_root(dt_reader *r, const json_t *root, const char *path)
{
    static const char *const keys[] = {"kvdk",      "name",      "about",  "contract", "determinism",
                                       "precision", "fast_math", "module", "ops",      NULL};
    const json_t *abi = json_object_get(root, "kvdk");
    KV_TRY(dt_only_keys(r, root, keys));
    if (!json_is_integer(abi) || json_integer_value(abi) != KVDK_ABI)
        return kv_fail(KV_ERR_FORMAT, "the key 'kvdk' must be %u, the ABI of kvdiff_kernel.h", KVDK_ABI);
    KV_TRY(read_info(r, root));
    KV_TRY(read_module(r, root, path));
    const size_t before = dt_enter_key(r, "ops");
    KV_TRY(dt_read_recipes(r, json_object_get(root, "ops")));
    dt_leave(r, before);
    return KV_OK;
}

static kv_status fill(dt_descriptor *d, const char *text, size_t n, const char *path)
{
    const char *slash = strrchr(path, '/');
    dt_reader r = {.d = d};
    json_error_t error;
    if (!(d->file = strdup(slash ? slash + 1 : path))) return kv_fail(KV_ERR_NOMEM, "out of memory");
    d->json = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    if (!d->json) {
        char why[JSON_ERROR_TEXT_LENGTH];
        snprintf(why, sizeof why, "%s", error.text);
        for (char *c = why; *c; c++)
            if (*c < 0x20 || *c > 0x7e) *c = '?';
        return kv_fail(KV_ERR_FORMAT, "%s: line %d, column %d: %s", d->file, error.line, error.column, why);
    }
    const kv_status st = read_root(&r, d->json, path);
    if (st == KV_OK) return st;
    if (*r.where)
        kv_prefix_message("%s: %s", d->file, r.where);
    else
        kv_prefix_message("%s", d->file);
    return st;
}

kv_status dt_descriptor_take(const char *text, size_t n, const char *path, dt_descriptor **out)
{
    *out = NULL;
    dt_descriptor *d = calloc(1, sizeof *d);
    if (!d) return kv_fail(KV_ERR_NOMEM, "out of memory");
    const kv_status st = fill(d, text, n, path);
    if (st == KV_OK)
        *out = d;
    else
        dt_descriptor_free(d);
    return st;
}

kv_status dt_descriptor_read(const char *path, dt_descriptor **out)
{
    char *text;
    size_t n;
    *out = NULL;
    KV_TRY(kv_file_read(path, DESCRIPTOR_BYTES, &text, &n));
    const kv_status st = dt_descriptor_take(text, n, path, out);
    free(text);
    return st;
}

void dt_descriptor_free(dt_descriptor *d)
{
    if (!d) return;
    for (int i = 0; i < KVDK_OP_COUNT; i++)
        if (d->recipe[i].op == i) free(d->recipe[i].launch);
    dt_expr_pool_free(&d->pool);
    json_decref(d->json);
    free(d->module);
    free(d->file);
    free(d);
}

int dt_ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

int dt_is_descriptor(const char *path)
{
    return dt_ends_with(path, ".kernel.json");
}

/* ---- descriptor and module -----------------------------------------------------------------------------------------
 */

static kv_status launch_fits(const dt_launch *l, const dt_module *m)
{
    dt_ptx_entry has;
    KV_TRY(dt_module_entry(m, l->entry, &has));
    if (has.n < 0) return KV_OK;
    if (has.n != l->n_parameters)
        return kv_fail(KV_ERR_FORMAT, "'%s' has %d parameters, %d are given", l->entry, has.n, l->n_parameters);
    for (int i = 0; i < has.n; i++)
        if (has.bytes[i] != (uint64_t)l->parameter[i].bytes)
            return kv_fail(KV_ERR_FORMAT, "parameters[%d] of '%s' has %llu bytes there, %s has %d", i, l->entry,
                           (unsigned long long)has.bytes[i], l->parameter[i].type, l->parameter[i].bytes);
    return KV_OK;
}

kv_status dt_descriptor_fits(const dt_descriptor *d, const dt_module *m)
{
    const char *slash = strrchr(d->module, '/');
    for (int op = 0; op < KVDK_OP_COUNT; op++)
        for (int i = 0; i < d->recipe[op].n_launches && d->recipe[op].op == op; i++) {
            const kv_status st = launch_fits(&d->recipe[op].launch[i], m);
            if (st == KV_OK) continue;
            kv_prefix_message("%s: ops.%s.launches[%d]: %s", d->file, dt_op_schemas[op].name, i,
                              slash ? slash + 1 : d->module);
            return st;
        }
    return KV_OK;
}
