#include "common/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const sliding_pos_words[] = {"rerotate", "absolute", "saturate", NULL};

enum { CAP_MAX = 1 << 28 };

static const kv_policy_param sliding_params[] = {
    {"cap", "most entries a step may end with", offsetof(kv_policy, sliding.cap), 1, 0, 2, CAP_MAX,
     NULL},
    {"pos", "how positions are numbered", offsetof(kv_policy, sliding.pos), 0, KV_SLIDING_REROTATE,
     0, 2, sliding_pos_words},
};

static const kv_policy_param sink_params[] = {
    {"cap", "slots other than sinks", offsetof(kv_policy, sink.cap), 1, 0, 1, CAP_MAX, NULL},
    {"sinks", "first tokens kept for ever", offsetof(kv_policy, sink.sinks), 0, 4, 0, 1 << 20,
     NULL},
};

static const struct {
    const kv_policy_param *params;
    size_t n;
} selection_params[] = {
    [KV_SEL_FULL] = {NULL, 0},
    [KV_SEL_SLIDING] = {sliding_params, sizeof sliding_params / sizeof *sliding_params},
    [KV_SEL_SINK] = {sink_params, sizeof sink_params / sizeof *sink_params},
};

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

const kv_policy_param *kv_selection_params(int32_t selection, size_t *n)
{
    *n = 0;
    if (selection < 0 || selection >= KV_SEL_COUNT) return NULL;
    *n = selection_params[selection].n;
    return selection_params[selection].params;
}

static int32_t *field(kv_policy *p, const kv_policy_param *d)
{
    return (int32_t *)(void *)((char *)p + d->offset);
}

static int32_t value(const kv_policy *p, const kv_policy_param *d)
{
    return *(const int32_t *)(const void *)((const char *)p + d->offset);
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

static kv_status parse_value(const char *spec, const kv_policy_param *d, const char *text,
                             int32_t *out)
{
    char list[128];
    if (d->words) {
        for (int32_t i = 0; d->words[i]; i++)
            if (strcmp(text, d->words[i]) == 0) {
                *out = i;
                return KV_OK;
            }
        join_words(d->words, ", ", list, sizeof list);
        return kv_fail(KV_ERR_USAGE, "policy '%s': %s=%s is unknown; use one of %s", spec, d->name,
                       text, list);
    }
    char *end;
    errno = 0;
    const long v = strtol(text, &end, 10);
    if (end == text || *end != '\0')
        return kv_fail(KV_ERR_USAGE, "policy '%s': %s=%s is not a whole number", spec, d->name,
                       text);
    if (errno == ERANGE || v < d->min || v > d->max) {
        const long nearest = v < d->min ? d->min : d->max;
        return kv_fail(KV_ERR_USAGE,
                       "policy '%s': %s=%s is outside %d..%d; the nearest legal value is %ld", spec,
                       d->name, text, d->min, d->max, nearest);
    }
    *out = (int32_t)v;
    return KV_OK;
}

static const kv_policy_param *find_param(const kv_policy_param *d, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(d[i].name, name) == 0) return &d[i];
    return NULL;
}

/* text = "key=value,key=value"; modified in place. */
static kv_status parse_params(const char *spec, char *text, int32_t selection, kv_policy *out)
{
    size_t n;
    const kv_policy_param *d = kv_selection_params(selection, &n);
    uint64_t seen = 0;
    char list[128], *save = NULL;
    for (char *item = strtok_r(text, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        char *eq = strchr(item, '=');
        if (eq) *eq = '\0';
        const kv_policy_param *p = find_param(d, n, item);
        if (!p) {
            join_params(d, n, list, sizeof list);
            return kv_fail(KV_ERR_USAGE, "policy '%s': %s has no parameter '%s'; it has: %s", spec,
                           kv_selection_name(selection), item, list);
        }
        if (!eq)
            return kv_fail(KV_ERR_USAGE, "policy '%s': '%s' needs a value, as in %s=...", spec,
                           item, item);
        if (seen & (UINT64_C(1) << (p - d)))
            return kv_fail(KV_ERR_USAGE, "policy '%s': %s is given twice; keep one", spec, item);
        seen |= UINT64_C(1) << (p - d);
        KV_TRY(parse_value(spec, p, eq + 1, field(out, p)));
    }
    for (size_t i = 0; i < n; i++)
        if (d[i].required && !(seen & (UINT64_C(1) << i)))
            return kv_fail(KV_ERR_USAGE, "policy '%s': %s=N is missing (%s); it has no default",
                           spec, d[i].name, d[i].about);
    return KV_OK;
}

static int32_t find_name(const char *const *names, int32_t n, const char *name)
{
    for (int32_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

static void set_defaults(kv_policy *p)
{
    memset(p, 0, sizeof *p);
    for (int32_t s = 0; s < KV_SEL_COUNT; s++) {
        size_t n;
        const kv_policy_param *d = kv_selection_params(s, &n);
        for (size_t i = 0; i < n; i++)
            *field(p, &d[i]) = d[i].def;
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
    KV_TRY(parse_params(spec, params ? params : empty, out->selection, out));
    if (storage) {
        char *storage_params = strchr(storage, ':');
        if (storage_params) *storage_params++ = '\0';
        out->storage = find_name(storage_names, KV_STORE_COUNT, storage);
        if (out->storage < 0)
            return unknown_name(spec, "storage", storage, storage_names, KV_STORE_COUNT);
        if (storage_params)
            return kv_fail(KV_ERR_USAGE, "policy '%s': storage %s has no parameters", spec, storage);
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
    for (size_t i = 0; i < n; i++) {
        const int32_t v = value(p, &d[i]);
        if (v < d[i].min || v > d[i].max)
            return kv_fail(KV_ERR_USAGE, "policy %s: %s=%d is outside %d..%d",
                           kv_selection_name(p->selection), d[i].name, v, d[i].min, d[i].max);
    }
    return KV_OK;
}

void kv_policy_format(const kv_policy *p, char *dst)
{
    size_t n, used = 0;
    const kv_policy_param *d = kv_selection_params(p->selection, &n);
    used += (size_t)snprintf(dst, KV_POLICY_TEXT_MAX, "%s", kv_selection_name(p->selection));
    char sep = ':';
    for (size_t i = 0; i < n && used < KV_POLICY_TEXT_MAX; i++) {
        const int32_t v = value(p, &d[i]);
        if (!d[i].required && v == d[i].def) continue;
        if (d[i].words)
            used += (size_t)snprintf(dst + used, KV_POLICY_TEXT_MAX - used, "%c%s=%s", sep,
                                     d[i].name, d[i].words[v]);
        else
            used += (size_t)snprintf(dst + used, KV_POLICY_TEXT_MAX - used, "%c%s=%d", sep,
                                     d[i].name, v);
        sep = ',';
    }
    if (p->storage != KV_STORE_F32 && used < KV_POLICY_TEXT_MAX)
        snprintf(dst + used, KV_POLICY_TEXT_MAX - used, "+%s", kv_storage_name(p->storage));
}

int64_t kv_policy_max_position(const kv_policy *p, int64_t n_tokens, int32_t q)
{
    const int64_t last = n_tokens - 1;
    int64_t bound = last;
    switch (p->selection) {
    case KV_SEL_SLIDING:
        /* A step ends with at most cap entries; its newest sits at cap - 1. */
        if (p->sliding.pos != KV_SLIDING_ABSOLUTE) bound = (int64_t)p->sliding.cap - 1;
        break;
    case KV_SEL_SINK:
        /* Stored entries hold 0 .. sinks + cap - 1; a step's tokens follow. */
        bound = (int64_t)p->sink.sinks + p->sink.cap + q - 1;
        break;
    default:
        break;
    }
    return bound < last ? bound : last;
}
