/* cmd_policy.c - `kvdiff policy`: which cache policies there are, and what one of them means in
 * numbers. */
#include "difftest/cli.h"
#include "difftest/cli_output.h"

#include "common/policy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_FORMAT = 256, OPT_TOKENS };

typedef struct request {
    const char *spec; /* NULL: list all */
    int json;
    int64_t tokens; /* 0 = not given */
    int32_t q;
} request;

/* ---- the command line ----------------------------------------------------------------------- */

static error_t number(const char *name, const char *text, int64_t max, int64_t *out)
{
    char *end;
    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < 1 || v > max)
        return dt_usage("--%s=%s: a whole number from 1 to %" PRId64 " is needed", name, text, max);
    *out = v;
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    int64_t q;
    error_t e;
    switch (key) {
    case OPT_FORMAT:
        return dt_output_parse(arg, &r->json);
    case OPT_TOKENS:
        return number("tokens", arg, INT32_MAX, &r->tokens);
    case 'q':
        e = number("q", arg, 1 << 20, &q);
        if (!e) r->q = (int32_t)q;
        return e;
    case ARGP_KEY_ARG:
        if (r->spec) return dt_usage("'%s': one policy at a time", arg);
        r->spec = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"tokens", OPT_TOKENS, "N", 0,
     "length of the stream that positions are computed for (default 4096)", 0},
    {"q", 'q', "N", 0, "tokens per step (default 256)", 0},
    DT_FORMAT_OPTION(OPT_FORMAT),
    {NULL, 0, NULL, 0, NULL, 0},
};

static const struct argp parser = {options,
                                   parse,
                                   "[SPEC]",
                                   "Lists the cache policies with their parameters, or explains "
                                   "one, such as sink:cap=1020,sinks=4.",
                                   NULL,
                                   NULL,
                                   NULL};

/* ---- one parameter -------------------------------------------------------------------------- */

static json_t *param_default(const kv_policy_param *d)
{
    if (d->decimal) return json_string(d->decimal);
    return d->words ? json_string(d->words[d->def]) : json_integer(d->def);
}

static json_t *param_value(const kv_policy *p, const kv_policy_param *d)
{
    char text[32];
    kv_policy_value(p, d, text);
    return d->words || d->decimal ? json_string(text) : json_integer(strtol(text, NULL, 10));
}

static json_t *describe_param(const kv_policy_param *d)
{
    json_t *o =
        json_pack("{s:s, s:s, s:b}", "name", d->name, "about", d->about, "required", d->flags & KV_PARAM_REQUIRED);
    if (!(d->flags & (KV_PARAM_REQUIRED | KV_PARAM_DERIVED))) json_object_set_new(o, "default", param_default(d));
    if (d->decimal) return o;
    if (!d->words) {
        json_object_set_new(o, "min", json_integer(d->min));
        json_object_set_new(o, "max", json_integer(d->max));
        return o;
    }
    json_t *words = json_array();
    for (int i = 0; d->words[i]; i++)
        json_array_append_new(words, json_string(d->words[i]));
    json_object_set_new(o, "values", words);
    return o;
}

static void print_param(const kv_policy_param *d)
{
    printf("    %-8s %s", d->name, d->about);
    for (int i = 0; d->words && d->words[i]; i++)
        printf("%s%s", i ? "|" : ": ", d->words[i]);
    if (!d->words && !d->decimal) printf(", %d..%d", d->min, d->max);
    if (d->flags & KV_PARAM_REQUIRED)
        printf(" (required)\n");
    else if (d->flags & KV_PARAM_DERIVED)
        printf("\n");
    else if (d->decimal)
        printf(" (default %s)\n", d->decimal);
    else if (d->words)
        printf(" (default %s)\n", d->words[d->def]);
    else
        printf(" (default %d)\n", d->def);
}

/* ---- all of them ---------------------------------------------------------------------------- */

static json_t *list_json(void)
{
    json_t *selections = json_array(), *storages = json_array();
    for (int32_t s = 0; s < KV_SEL_COUNT; s++) {
        size_t n;
        const kv_policy_param *d = kv_selection_params(s, &n);
        json_t *params = json_array();
        for (size_t i = 0; i < n; i++)
            json_array_append_new(params, describe_param(&d[i]));
        json_array_append_new(selections,
                              json_pack("{s:s, s:s, s:o}", "name", kv_selection_name(s), "about",
                                        kv_selection_about(s), "parameters", params));
    }
    for (int32_t s = 0; s < KV_STORE_COUNT; s++)
        json_array_append_new(storages, json_pack("{s:s, s:s}", "name", kv_storage_name(s), "about",
                                                  kv_storage_about(s)));
    return json_pack("{s:o, s:o}", "selections", selections, "storages", storages);
}

static int list_text(void)
{
    printf("selection[:parameters][+storage]\n\nselections\n");
    for (int32_t s = 0; s < KV_SEL_COUNT; s++) {
        size_t n;
        const kv_policy_param *d = kv_selection_params(s, &n);
        printf("  %-10s %s\n", kv_selection_name(s), kv_selection_about(s));
        for (size_t i = 0; i < n; i++)
            print_param(&d[i]);
    }
    printf("\nstorages\n");
    for (int32_t s = 0; s < KV_STORE_COUNT; s++)
        printf("  %-10s %s%s\n", kv_storage_name(s), kv_storage_about(s), s ? "" : " (default)");
    printf("\nDefinitions: docs/policy/.\n");
    return dt_close_output();
}

/* ---- one of them ---------------------------------------------------------------------------- */

static int explain(const request *r)
{
    kv_policy p;
    char text[KV_POLICY_TEXT_MAX];
    size_t n;
    const kv_status st = kv_policy_parse(r->spec, &p);
    if (st != KV_OK) return dt_report_failure(st);
    kv_policy_format(&p, text);
    const kv_policy_param *d = kv_selection_params(p.selection, &n);
    const int64_t most = kv_policy_max_entries(&p), entries = most < r->tokens ? most : r->tokens;
    const int64_t position = kv_policy_max_position(&p, r->tokens, r->q);
    json_t *params = json_object();
    for (size_t i = 0; i < n; i++)
        json_object_set_new(params, d[i].name, param_value(&p, &d[i]));
    if (r->json)
        return dt_print_json(json_pack(
            "{s:s, s:s, s:s, s:o, s:b, s:I, s:i, s:I, s:I}", "policy", text, "selection",
            kv_selection_name(p.selection), "storage", kv_storage_name(p.storage), "parameters",
            params, "bounded", most != INT64_MAX, "tokens", (json_int_t)r->tokens, "q", r->q,
            "entries", (json_int_t)entries, "max_position", (json_int_t)position));
    json_decref(params);
    printf("policy        %s\nselection     %s: %s\n", text, kv_selection_name(p.selection),
           kv_selection_about(p.selection));
    for (size_t i = 0; i < n; i++) {
        char value[32];
        kv_policy_value(&p, &d[i], value);
        printf("  %-11s %s\n", d[i].name, value);
    }
    printf("storage       %s: %s\n", kv_storage_name(p.storage), kv_storage_about(p.storage));
    printf("entries kept  %" PRId64 " per layer and KV head after %" PRId64 " tokens%s\n", entries,
           r->tokens, most == INT64_MAX ? "; grows with the stream" : "");
    printf("max position  %" PRId64 " at %d tokens per step\n", position, r->q);
    return dt_close_output();
}

int dt_cmd_policy(int argc, char **argv)
{
    request r = {.tokens = 4096, .q = 256};
    int done;
    const int code = dt_argp(&parser, argc, argv, &r, &done);
    if (done) return code;
    if (r.spec) return explain(&r);
    return r.json ? dt_print_json(list_json()) : list_text();
}
