/* docs/results.md explains every table, every column and every named query. */
#include "tests/unit/dbkit.h"

/* The part of the page under "### table", up to the next heading; the caller frees it. */
static char *section(const char *page, const char *table)
{
    char title[80];
    snprintf(title, sizeof title, "\n### %s\n", table);
    const char *at = strstr(page, title);
    if (!at) fail_msg("docs/results.md has no section '%s'", table);
    at += strlen(title);
    const char *end = strstr(at, "\n#");
    return strndup(at, end ? (size_t)(end - at) : strlen(at));
}

/* Views that add columns to those of a table refer to its section. */
static int is_inherited(const char *table, const char *page, const char *column)
{
    const char *parent = strcmp(table, "v_case") == 0        ? "kase"
                         : strcmp(table, "v_first_div") == 0 ? "divergence"
                                                             : NULL;
    if (!parent) return 0;
    char *text = section(page, parent);
    const int found = strstr(text, column) != NULL;
    free(text);
    return found;
}

static void every_table_and_column_is_explained(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    size_t size;
    int columns = 0;
    char *page = (char *)kvtest_read("docs/results.md", &size);
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    sqlite3_stmt *s = NULL;
    assert_ok(
        dt_sql_prepare(db,
                       "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c"
                       " WHERE t.type IN ('table', 'view') AND t.name NOT LIKE 'sqlite_%'",
                       &s));
    while (sqlite3_step(s) == SQLITE_ROW) {
        const char *table = (const char *)sqlite3_column_text(s, 0);
        char quoted[80];
        snprintf(quoted, sizeof quoted, "`%s`", (const char *)sqlite3_column_text(s, 1));
        char *text = section(page, table);
        if (!strstr(text, quoted) && !is_inherited(table, page, quoted))
            fail_msg("docs/results.md does not explain %s of %s", quoted, table);
        free(text);
        columns++;
    }
    assert_true(columns > 250);
    sqlite3_finalize(s);
    dt_db_close(db);
    free(page);
}

static void every_named_query_is_listed(void **state)
{
    (void)state;
    size_t size;
    char *page = (char *)kvtest_read("docs/results.md", &size);
    size_t n;
    const dt_query *q = dt_queries(&n);
    for (size_t i = 0; i < n; i++) {
        char row[80];
        snprintf(row, sizeof row, "\n| `%s` |%s%s |", q[i].name, *q[i].alias ? " " : "",
                 q[i].alias);
        if (!strstr(page, row)) fail_msg("docs/results.md does not list query %s", q[i].name);
    }
    free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        dbkit_test(every_table_and_column_is_explained),
        cmocka_unit_test(every_named_query_is_listed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
