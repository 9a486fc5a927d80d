/* policy_list.c - `kvdiff policy list`: all selections and storages, and which of them go together. */
#include "difftest/cmd_policy.h"

#include "difftest/cli_output.h"

#include <stdio.h>
#include <string.h>

/* ---- one parameter -------------------------------------------------------------------------- */

static json_t *param_default(const kv_policy_param *d)
{
    if (d->decimal) return json_string(d->decimal);
    return d->words ? json_string(d->words[d->def]) : json_integer(d->def);
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

static json_t *describe_params(const kv_policy_param *d, size_t n)
{
    json_t *params = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(params, describe_param(&d[i]));
    return params;
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

static void print_param_names(const kv_policy_param *d, size_t n)
{
    for (size_t i = 0; i < n; i++)
        printf("%s`%s`", i ? ", " : "", d[i].name);
    if (n == 0) printf("none");
}

/* ---- which go together ------------------------------------------------------------------------ */

/* A selection, and for sliding a way to number positions, against every storage. */
typedef struct pair_row {
    char name[48];
    const char *reason[KV_STORE_COUNT]; /* NULL: they go together */
} pair_row;

enum { SLIDING_MODES = 3, PAIR_ROWS = KV_SEL_COUNT - 1 + SLIDING_MODES };

static void fill_pair_row(pair_row *row, int32_t selection, int32_t pos, const char *mode)
{
    kv_policy p = {.selection = selection, .sliding.pos = pos};
    snprintf(row->name, sizeof row->name, "%s%s%s", kv_selection_name(selection), mode ? ":pos=" : "",
             mode ? mode : "");
    for (p.storage = 0; p.storage < KV_STORE_COUNT; p.storage++)
        row->reason[p.storage] = kv_policy_pair_reason(&p);
}

static void fill_pairs(pair_row rows[PAIR_ROWS])
{
    size_t n, at = 0;
    for (int32_t s = 0; s < KV_SEL_COUNT; s++) {
        const kv_policy_param *d = kv_selection_params(s, &n);
        if (s != KV_SEL_SLIDING) {
            fill_pair_row(&rows[at++], s, 0, NULL);
            continue;
        }
        for (size_t i = 0; i < n; i++)
            for (int32_t w = 0; strcmp(d[i].name, "pos") == 0 && w < SLIDING_MODES; w++)
                fill_pair_row(&rows[at++], s, w, d[i].words[w]);
    }
}

/* Every reason of a row once. */
static void print_reasons(const pair_row *row, const char *before)
{
    for (int32_t s = 0; s < KV_STORE_COUNT; s++) {
        int said = !row->reason[s];
        for (int32_t i = 0; i < s && !said; i++)
            said = row->reason[i] && strcmp(row->reason[i], row->reason[s]) == 0;
        if (said) continue;
        printf("%s%s", before, row->reason[s]);
        before = "; ";
    }
}

static json_t *pairs_json(void)
{
    pair_row rows[PAIR_ROWS];
    json_t *pairs = json_array();
    fill_pairs(rows);
    for (int i = 0; i < PAIR_ROWS; i++)
        for (int32_t s = 0; s < KV_STORE_COUNT; s++) {
            const char *reason = rows[i].reason[s];
            json_t *o = json_pack("{s:s, s:s, s:b}", "selection", rows[i].name, "storage", kv_storage_name(s), "legal",
                                  reason == NULL);
            if (reason) json_object_set_new(o, "reason", json_string(reason));
            json_array_append_new(pairs, o);
        }
    return pairs;
}

static void print_pairs_text(void)
{
    pair_row rows[PAIR_ROWS];
    fill_pairs(rows);
    printf("\nwhich go together, and why not\n  %-21s", "");
    for (int32_t s = 0; s < KV_STORE_COUNT; s++)
        printf(" %5s", kv_storage_name(s));
    putchar('\n');
    for (int i = 0; i < PAIR_ROWS; i++) {
        printf("  %-21s", rows[i].name);
        for (int32_t s = 0; s < KV_STORE_COUNT; s++)
            printf(" %5s", rows[i].reason[s] ? "no" : "yes");
        print_reasons(&rows[i], "  ");
        putchar('\n');
    }
}

static void print_pairs_markdown(void)
{
    pair_row rows[PAIR_ROWS];
    fill_pairs(rows);
    printf("\n| selection |");
    for (int32_t s = 0; s < KV_STORE_COUNT; s++)
        printf(" %s |", kv_storage_name(s));
    printf(" why not |\n|---|");
    for (int32_t s = 0; s < KV_STORE_COUNT; s++)
        printf("---|");
    printf("---|\n");
    for (int i = 0; i < PAIR_ROWS; i++) {
        printf("| %s |", rows[i].name);
        for (int32_t s = 0; s < KV_STORE_COUNT; s++)
            printf(" %s |", rows[i].reason[s] ? "no" : "yes");
        print_reasons(&rows[i], " ");
        printf(" |\n");
    }
}

/* ---- all of it -------------------------------------------------------------------------------- */

static int list_json(void)
{
    size_t n;
    json_t *selections = json_array(), *storages = json_array();
    for (int32_t s = 0; s < KV_SEL_COUNT; s++) {
        const kv_policy_param *d = kv_selection_params(s, &n);
        json_array_append_new(selections, json_pack("{s:s, s:s, s:o}", "name", kv_selection_name(s), "about",
                                                    kv_selection_about(s), "parameters", describe_params(d, n)));
    }
    for (int32_t s = 0; s < KV_STORE_COUNT; s++) {
        const kv_policy_param *d = kv_storage_params(s, &n);
        json_array_append_new(storages, json_pack("{s:s, s:s, s:o}", "name", kv_storage_name(s), "about",
                                                  kv_storage_about(s), "parameters", describe_params(d, n)));
    }
    return dt_print_json(
        json_pack("{s:o, s:o, s:o}", "selections", selections, "storages", storages, "pairs", pairs_json()));
}

static int list_text(void)
{
    size_t n;
    printf("selection[:parameters][+storage[:parameters]]\n\nselections\n");
    for (int32_t s = 0; s < KV_SEL_COUNT; s++) {
        const kv_policy_param *d = kv_selection_params(s, &n);
        printf("  %-10s %s\n", kv_selection_name(s), kv_selection_about(s));
        for (size_t i = 0; i < n; i++)
            print_param(&d[i]);
    }
    printf("\nstorages\n");
    for (int32_t s = 0; s < KV_STORE_COUNT; s++) {
        const kv_policy_param *d = kv_storage_params(s, &n);
        printf("  %-10s %s%s\n", kv_storage_name(s), kv_storage_about(s), s ? "" : " (default)");
        for (size_t i = 0; i < n; i++)
            print_param(&d[i]);
    }
    print_pairs_text();
    printf("\nDefinitions: docs/policy/.\n");
    return dt_close_output();
}

static int list_markdown(void)
{
    size_t n;
    printf("| selection | | parameters |\n|---|---|---|\n");
    for (int32_t s = 0; s < KV_SEL_COUNT; s++) {
        const kv_policy_param *d = kv_selection_params(s, &n);
        printf("| [%s](%s.md) | %s | ", kv_selection_name(s), kv_selection_name(s), kv_selection_about(s));
        print_param_names(d, n);
        printf(" |\n");
    }
    printf("\n| storage | | parameters |\n|---|---|---|\n");
    for (int32_t s = 0; s < KV_STORE_COUNT; s++) {
        const kv_policy_param *d = kv_storage_params(s, &n);
        printf("| [%s](%s.md) | %s | ", kv_storage_name(s), n ? kv_storage_name(s) : "storage", kv_storage_about(s));
        print_param_names(d, n);
        printf(" |\n");
    }
    print_pairs_markdown();
    return dt_close_output();
}

int dt_policy_list(dt_policy_format format)
{
    if (format == DT_POLICY_JSON) return list_json();
    return format == DT_POLICY_MARKDOWN ? list_markdown() : list_text();
}
