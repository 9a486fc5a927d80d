#include "common/policy_rules.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const selection_names[] = {
#define X(symbol, name, id, about) [id] = #name,
#include "common/policy.def"
#undef X
};
static const char *const selection_abouts[] = {
#define X(symbol, name, id, about) [id] = about,
#include "common/policy.def"
#undef X
};
static const char *const storage_names[] = {
#define X(symbol, name, id, about) [id] = #name,
#include "common/storage.def"
#undef X
};
static const char *const storage_abouts[] = {
#define X(symbol, name, id, about) [id] = about,
#include "common/storage.def"
#undef X
};

const char *kv_selection_name(int32_t i)
{
    return i >= 0 && i < KV_SEL_COUNT ? selection_names[i] : "?";
}

const char *kv_selection_about(int32_t i)
{
    return i >= 0 && i < KV_SEL_COUNT ? selection_abouts[i] : "?";
}

const char *kv_storage_name(int32_t i)
{
    return i >= 0 && i < KV_STORE_COUNT ? storage_names[i] : "?";
}

const char *kv_storage_about(int32_t i)
{
    return i >= 0 && i < KV_STORE_COUNT ? storage_abouts[i] : "?";
}

static int32_t *field(kv_policy *p, const kv_policy_param *d)
{
    return (int32_t *)(void *)((char *)p + d->offset);
}

static int32_t value(const kv_policy *p, const kv_policy_param *d)
{
    return *(const int32_t *)(const void *)((const char *)p + d->offset);
}

static double *decimal(const kv_policy *p, const kv_policy_param *d)
{
    return (double *)(void *)((char *)(uintptr_t)p + d->offset);
}

/* Writes "a, b, c" (or "a|b|c") into a static-sized buffer for a message. */
static void join_words(const char *const *words, const char *sep, char *dst, size_t size)
{
    size_t used = 0;
    dst[0] = '\0';
    for (; *words && used < size; words++)
        used += (size_t)snprintf(dst + used, size - used, "%s%s", used ? sep : "", *words);
}

static void join_params(const kv_policy_param *d, size_t n, char *dst, size_t size)
{
    size_t used = 0;
    snprintf(dst, size, "none");
    for (size_t i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(dst + used, size - used, "%s%s", used ? ", " : "", d[i].name);
}

static kv_status parse_word(const char *spec, const kv_policy_param *d, const char *text, int32_t *out)
{
    char list[160];
    for (int32_t i = 0; d->words[i]; i++)
        if (strcmp(text, d->words[i]) == 0) {
            *out = i;
            return KV_OK;
        }
    join_words(d->words, ", ", list, sizeof list);
    return kv_fail(KV_ERR_USAGE, "policy '%s': %s=%s is unknown; use one of %s", spec, d->name, text, list);
}

static kv_status parse_decimal(const char *spec, const kv_policy_param *d, const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end != '\0' || !(*out > 0 && *out < 1))
        return kv_fail(KV_ERR_USAGE, "policy '%s': %s=%s is not a decimal number between 0 and 1, such as %s", spec,
                       d->name, text, d->decimal);
    return KV_OK;
}

static kv_status parse_value(const char *spec, const kv_policy_param *d, const char *text, kv_policy *p)
{
    if (d->words) return parse_word(spec, d, text, field(p, d));
    if (d->decimal) return parse_decimal(spec, d, text, decimal(p, d));
    char *end;
    errno = 0;
    const long v = strtol(text, &end, 10);
    if (end == text || *end != '\0')
        return kv_fail(KV_ERR_USAGE, "policy '%s': %s=%s is not a whole number", spec, d->name, text);
    if (errno == ERANGE || v < d->min || v > d->max)
        return kv_fail(KV_ERR_USAGE, "policy '%s': %s=%s is outside %d..%d; the nearest legal value is %d", spec, d->name,
                       text, d->min, d->max, v < d->min ? d->min : d->max);
    *field(p, d) = (int32_t)v;
    return KV_OK;
}

static const kv_policy_param *find_param(const kv_policy_param *d, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(d[i].name, name) == 0) return &d[i];
    return NULL;
}

/* What a list of parameters belongs to. */
typedef struct owner {
    const char *name;
    const kv_policy_param *d;
    size_t n;
} owner;

/* text = "key=value,key=value"; modified in place. */
static kv_status parse_params(const char *spec, char *text, const owner *o, kv_policy *out, uint64_t *given)
{
    char list[192], *save = NULL;
    *given = 0;
    for (char *item = strtok_r(text, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        char *eq = strchr(item, '=');
        if (eq) *eq = '\0';
        const kv_policy_param *p = find_param(o->d, o->n, item);
        if (!p) {
            join_params(o->d, o->n, list, sizeof list);
            return kv_fail(KV_ERR_USAGE, "policy '%s': %s has no parameter '%s'; it has: %s", spec, o->name, item, list);
        }
        if (!eq)
            return kv_fail(KV_ERR_USAGE, "policy '%s': '%s' needs a value, as in %s=...", spec, item, item);
        const uint64_t bit = UINT64_C(1) << (p - o->d);
        if (*given & bit) return kv_fail(KV_ERR_USAGE, "policy '%s': %s is given twice; keep one", spec, item);
        *given |= bit;
        KV_TRY(parse_value(spec, p, eq + 1, out));
    }
    for (size_t i = 0; i < o->n; i++)
        if (o->d[i].flags & KV_PARAM_REQUIRED && !(*given & (UINT64_C(1) << i)))
            return kv_fail(KV_ERR_USAGE, "policy '%s': %s=N is missing (%s); it has no default", spec, o->d[i].name,
                           o->d[i].about);
    return KV_OK;
}

static int32_t find_name(const char *const *names, int32_t n, const char *name)
{
    for (int32_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

static void set_defaults_of(kv_policy *p, const kv_policy_param *d, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (d[i].decimal)
            *decimal(p, &d[i]) = strtod(d[i].decimal, NULL);
        else
            *field(p, &d[i]) = d[i].def;
}

static void set_defaults(kv_policy *p)
{
    size_t n;
    memset(p, 0, sizeof *p);
    for (int32_t s = 0; s < KV_SEL_COUNT; s++) {
        const kv_policy_param *d = kv_selection_params(s, &n);
        set_defaults_of(p, d, n);
    }
    for (int32_t s = 0; s < KV_STORE_COUNT; s++) {
        const kv_policy_param *d = kv_storage_params(s, &n);
        set_defaults_of(p, d, n);
    }
}

static kv_status unknown_name(const char *spec, const char *what, const char *name,
                              const char *const *names, int32_t n)
{
    char list[192];
    size_t used = 0;
    list[0] = '\0';
    for (int32_t i = 0; i < n && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    return kv_fail(KV_ERR_USAGE, "policy '%s': unknown %s '%s'; known: %s", spec, what, name, list);
}

static kv_status parse_storage(const char *spec, char *text, kv_policy *out, uint64_t *given)
{
    char empty[1] = "", *params = strchr(text, ':');
    if (params) *params++ = '\0';
    out->storage = find_name(storage_names, KV_STORE_COUNT, text);
    if (out->storage < 0) return unknown_name(spec, "storage", text, storage_names, KV_STORE_COUNT);
    owner o = {kv_storage_name(out->storage), NULL, 0};
    o.d = kv_storage_params(out->storage, &o.n);
    return parse_params(spec, params ? params : empty, &o, out, given);
}

kv_status kv_policy_parse(const char *spec, kv_policy *out)
{
    char text[256];
    if (strlen(spec) >= sizeof text)
        return kv_fail(KV_ERR_USAGE, "policy '%.60s...': longer than %zu characters", spec,
                       sizeof text - 1);
    strcpy(text, spec);
    set_defaults(out);

    char *storage = strchr(text, '+');
    if (storage) *storage++ = '\0';
    char *params = strchr(text, ':');
    if (params) *params++ = '\0';
    out->selection = find_name(selection_names, KV_SEL_COUNT, text);
    if (out->selection < 0)
        return unknown_name(spec, "selection", text, selection_names, KV_SEL_COUNT);
    char empty[1] = "";
    uint64_t given, ignored;
    owner o = {kv_selection_name(out->selection), NULL, 0};
    o.d = kv_selection_params(out->selection, &o.n);
    KV_TRY(parse_params(spec, params ? params : empty, &o, out, &given));
    if (storage) KV_TRY(parse_storage(spec, storage, out, &ignored));
    KV_TRY(kv_policy_derive(spec, out, given));
    return kv_policy_check_rules(spec, out);
}

static kv_status check_limits(const char *spec, const kv_policy *p, const kv_policy_param *d, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (d[i].decimal || d[i].flags & KV_PARAM_ALIAS) continue;
        const int32_t v = value(p, &d[i]);
        if (v < d[i].min || v > d[i].max)
            return kv_fail(KV_ERR_USAGE, "policy %s: %s=%d is outside %d..%d", spec, d[i].name, v, d[i].min, d[i].max);
    }
    return KV_OK;
}

kv_status kv_policy_check(const kv_policy *p)
{
    if (p->selection < 0 || p->selection >= KV_SEL_COUNT)
        return kv_fail(KV_ERR_USAGE, "policy: selection %d is unknown", p->selection);
    if (p->storage < 0 || p->storage >= KV_STORE_COUNT)
        return kv_fail(KV_ERR_USAGE, "policy: storage %d is unknown", p->storage);
    size_t n;
    const kv_policy_param *d = kv_selection_params(p->selection, &n);
    KV_TRY(check_limits(kv_selection_name(p->selection), p, d, n));
    d = kv_storage_params(p->storage, &n);
    KV_TRY(check_limits(kv_storage_name(p->storage), p, d, n));
    return kv_policy_check_rules(kv_selection_name(p->selection), p);
}

/* The shortest decimal text that reads back as v. */
static void print_decimal(double v, char *dst)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(dst, 32, "%.*g", digits, v);
        if (strtod(dst, NULL) == v) return;
    }
}

void kv_policy_value(const kv_policy *p, const kv_policy_param *d, char *dst)
{
    if (d->decimal)
        print_decimal(*decimal(p, d), dst);
    else if (d->words)
        snprintf(dst, 32, "%s", d->words[value(p, d)]);
    else
        snprintf(dst, 32, "%d", value(p, d));
}

static int is_default(const kv_policy *p, const kv_policy_param *d)
{
    if (d->flags & KV_PARAM_REQUIRED) return 0;
    if (d->decimal) return *decimal(p, d) == strtod(d->decimal, NULL);
    if (d->flags & KV_PARAM_DERIVED && p->selection == KV_SEL_H2O) return p->h2o.heavy == p->h2o.recent;
    return value(p, d) == d->def;
}

/* Appends ":key=value,..." of everything that differs from its default; returns the new length. */
static size_t format_params(const kv_policy *p, const kv_policy_param *d, size_t n, char *dst, size_t used)
{
    char sep = ':', text[32];
    for (size_t i = 0; i < n && used < KV_POLICY_TEXT_MAX; i++) {
        if (d[i].flags & KV_PARAM_ALIAS || is_default(p, &d[i])) continue;
        kv_policy_value(p, &d[i], text);
        used += (size_t)snprintf(dst + used, KV_POLICY_TEXT_MAX - used, "%c%s=%s", sep, d[i].name, text);
        sep = ',';
    }
    return used;
}

void kv_policy_format(const kv_policy *p, char *dst)
{
    size_t n;
    const kv_policy_param *d = kv_selection_params(p->selection, &n);
    size_t used = (size_t)snprintf(dst, KV_POLICY_TEXT_MAX, "%s", kv_selection_name(p->selection));
    used = format_params(p, d, n, dst, used);
    if (p->storage == KV_STORE_F32 || used >= KV_POLICY_TEXT_MAX) return;
    used += (size_t)snprintf(dst + used, KV_POLICY_TEXT_MAX - used, "+%s", kv_storage_name(p->storage));
    d = kv_storage_params(p->storage, &n);
    format_params(p, d, n, dst, used);
}
