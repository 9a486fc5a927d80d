/* mutant_report.c - what a mutation benchmark found, by family, beside what other judges say of the same logits. */
#include "difftest/mutants.h"
#include "difftest/table.h"

#include <string.h>

/* Sums over the bugs of a family, equivalent ones left out. */
typedef struct tally {
    int n, found, located, op, with_head, head, judged, judge[DT_JUDGE_COUNT];
    double seconds;
} tally;

static void count(tally *t, const dt_mutant *m, const dt_mutant_result *r)
{
    const int found = r->outcome == DT_MUTANT_FOUND, located = found && r->report.op[0] != '\0';
    t->n++;
    t->found += found;
    t->located += located;
    t->op += located && strcmp(r->report.op, m->op) == 0;
    t->with_head += located && m->head >= 0;
    t->head += located && m->head >= 0 && r->report.head == m->head;
    t->seconds += r->report.seconds;
    t->judged += r->judged;
    for (int i = 0; i < DT_JUDGE_COUNT; i++)
        t->judge[i] += r->judged && r->report.judge[i];
}

static void put_share(dt_table *t, int part, int whole)
{
    if (whole)
        dt_table_number(t, "%.0f", 100.0 * part / whole);
    else
        dt_table_text(t, NULL);
}

static void put_row(dt_table *t, const char *name, const tally *s)
{
    dt_table_text(t, name);
    dt_table_int(t, s->n);
    put_share(t, s->found, s->n);
    put_share(t, s->op, s->located);
    put_share(t, s->head, s->with_head);
    dt_table_number(t, "%.2f", s->n ? s->seconds / s->n : 0.0);
    for (int i = 0; i < DT_JUDGE_COUNT; i++)
        put_share(t, s->judge[i], s->judged);
}

/* In the order of the table; equal names stand together. */
static kv_status print_families(const dt_mutant *table, int n, const dt_mutant_result *results, tally *all, FILE *out)
{
    dt_table *t = dt_table_new(DT_FORMAT_TABLE, out);
    dt_table_column(t, "family", DT_LEFT);
    static const char *const titles[] = {"bugs", "found %", "right op %", "right head %", "s"};
    for (size_t i = 0; i < sizeof titles / sizeof *titles; i++)
        dt_table_column(t, titles[i], DT_RIGHT);
    for (int i = 0; i < DT_JUDGE_COUNT; i++)
        dt_table_column(t, dt_judge_title(i), DT_RIGHT);
    for (int i = 0; i < n; i++) {
        tally family = {0};
        int seen = 0;
        for (int k = 0; k < i; k++)
            seen |= strcmp(table[k].family, table[i].family) == 0;
        for (int k = i; k < n && !seen; k++)
            if (results[k].done && !table[k].equivalent && strcmp(table[k].family, table[i].family) == 0) {
                count(&family, &table[k], &results[k]);
                count(all, &table[k], &results[k]);
            }
        if (family.n) put_row(t, table[i].family, &family);
    }
    put_row(t, "all", all);
    return dt_table_finish(t);
}

static int is_missing(const dt_mutant *m, const dt_mutant_result *r)
{
    return r->done && !m->equivalent && r->outcome != DT_MUTANT_FOUND;
}

kv_status dt_mutant_report(const dt_mutant_result *results, FILE *out, int *missing)
{
    int n;
    const dt_mutant *table = dt_mutants(&n);
    tally all = {0};
    *missing = 0;
    KV_TRY(print_families(table, n, results, &all, out));
    if (all.judged)
        fprintf(out, "\n%% of bugs that other judges would notice in the same logits: NMSE 5e-4 of a step's rows "
                     "(test-backend-ops);\nallclose rtol 1e-5 atol 1e-8, fp32 (torch); abs and rel > 1e-2 of an element "
                     "(flashinfer-bench);\nz-test of two independent samples of NLL, alpha 0.05 (lm-eval's comparator).\n");
    for (int i = 0; i < n; i++) {
        if (results[i].done && table[i].equivalent && results[i].outcome == DT_MUTANT_FOUND)
            fprintf(out, "\n%s is listed as equivalent and was found: %s", table[i].id, results[i].report.reason);
        if (!is_missing(&table[i], &results[i])) continue;
        fprintf(out, "%s%-9s  %s  %s: %s (%s)\n", *missing ? "" : "\nnot found:\n",
                dt_mutant_outcome_name(results[i].outcome), table[i].id, table[i].op, table[i].about, table[i].when);
        ++*missing;
    }
    fprintf(out, "\nfound %d of %d planted bugs\n", all.found, all.n);
    return KV_OK;
}
