#include "difftest/case_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static error_t parse_int(const char *name, const char *text, int64_t min, int64_t max, int32_t *out)
{
    int64_t v;
    const error_t err = dt_parse_number(name, text, min, max, &v);
    if (!err) *out = (int32_t)v;
    return err;
}

error_t dt_parse_word(const char *name, const char *text, const char *const *words, int32_t *out)
{
    for (int32_t i = 0; words[i]; i++)
        if (strcmp(words[i], text) == 0) {
            *out = i;
            return 0;
        }
    return dt_usage("--%s=%s is unknown; use %s, %s or %s", name, text, words[0], words[1], words[2]);
}

static error_t add(dt_list *l, const char *text)
{
    return dt_list_add(l, text, strlen(text)) == KV_OK ? 0 : EINVAL;
}

error_t dt_case_option(dt_options *o, int key, char *arg)
{
    static const char *const modes[] = {"free", "locked", "follow", NULL};
    switch (key) {
    case 'm':
        o->model = arg;
        return 0;
    case 'q':
        return parse_int("q", arg, 1, 1 << 20, &o->q);
    case DT_OPT_CORPUS:
        return add(&o->corpora, arg);
    case DT_OPT_DOC:
        return add(&o->docs, arg);
    case DT_OPT_POLICY:
        return add(&o->policies, arg);
    case DT_OPT_DEVICE:
        return dt_list_add_devices(&o->devices, arg) == KV_OK ? 0 : EINVAL;
    case DT_OPT_TOKENS:
        return dt_parse_number("tokens", arg, 1, INT32_MAX, &o->tokens);
    case DT_OPT_MODE:
        return dt_parse_word("mode", arg, modes, &o->mode);
    case DT_OPT_WINDOW:
        return parse_int("window", arg, 4, 1 << 20, &o->window);
    case DT_OPT_THREADS:
        return parse_int("threads", arg, 1, 1024, &o->threads);
    case DT_OPT_DEVICE_MODEL:
        o->device_model = arg;
        return 0;
    case DT_OPT_DB:
        o->db = arg;
        return 0;
    case DT_OPT_CACHE:
        o->cache_dir = arg;
        return 0;
    case DT_OPT_LONG:
        o->allow_long = 1;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

kv_status dt_case_defaults(dt_options *o)
{
    if (!o->corpora.n) KV_TRY(dt_list_add(&o->corpora, "book", 4));
    if (!o->policies.n) KV_TRY(dt_list_add(&o->policies, "full", 4));
    if (!o->devices.n) KV_TRY(dt_list_add(&o->devices, "blas", 4));
    if (!o->cache_dir) o->cache_dir = getenv("KVDIFF_CACHE");
    if (o->devices.n > DT_MAX_LANES)
        return kv_fail(KV_ERR_USAGE, "--device names %d sides; at most %d fit in one run", o->devices.n, DT_MAX_LANES);
    for (int i = 0; o->devices.n > 1 && i < o->devices.n; i++)
        if (strcmp(o->devices.v[i], "none") == 0)
            return kv_fail(KV_ERR_USAGE, "--device=none stands alone: it means the reference without a device");
    if (o->window && o->window % 2) return kv_fail(KV_ERR_USAGE, "--window=%d must be even", o->window);
    return KV_OK;
}
