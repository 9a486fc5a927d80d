/* bench_tester.c - what the tester costs beyond the two sides' own time, and how fast token rows go into the
 * database. */
#include "tests/bench/bench.h"

#include "difftest/db.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CASES = 20, ROWS = 50000 };

/* Runs the program and reads the ratio from its last line on stderr. */
static double overhead(const char *program, const char *model, const char *db)
{
    char command[8192], line[1024];
    double ratio = -1;
    snprintf(command, sizeof command,
             "'%s' run --model=%s --device=blas --policy=full --corpus=book --tokens=2048 --q=256 --mode=free "
             "--rows=all --db='%s' 2>&1", program, model, db);
    FILE *f = popen(command, "r");
    while (f && fgets(line, sizeof line, f)) {
        const char *p = strstr(line, "streaming ");
        if (p) sscanf(p, "streaming %*f s (%lf", &ratio);
    }
    if (f) pclose(f);
    return ratio;
}

static kv_status push_cases(dt_writer *w, int64_t run_id)
{
    char key[32];
    for (int c = 0; c < CASES; c++) {
        dt_tok_row *rows = calloc(ROWS, sizeof *rows);
        if (!rows) return kv_fail(KV_ERR_NOMEM, "out of memory");
        for (int i = 0; i < ROWS; i++)
            rows[i] = (dt_tok_row){.pos = i, .tok = i % 49152, .nll_ref = 3.25 + 1e-3 * i, .nll_got = 3.26 + 1e-3 * i,
                                   .kl = 1e-9 * i, .margin_ref = 0.5f, .n_resident = 1024, .max_ulp = i};
        snprintf(key, sizeof key, "bench/%d", c);
        dt_case k = {.run_id = run_id, .key = key, .device = "bench", .mode = "free", .q = 1,
                     .contract_version = 1, .status = DT_CASE_PASS, .repro = "make bench", .n_tok = ROWS,
                     .first_bad_pos = -1, .first_diff_pos = -1, .n_words = -1, .rows = rows, .n_rows = ROWS};
        KV_TRY(dt_writer_push(w, &k));
    }
    return KV_OK;
}

static double rows_per_second(const char *path)
{
    dt_db *db = NULL;
    dt_writer *w = NULL;
    int64_t run_id, rows = 0;
    int resumed;
    double seconds = 0, wall = 0;
    const dt_run_start start = {.kind = "run", .argv = "make bench", .seed = -1, .options_json = "{}"};
    kv_status st = dt_db_open(path, DT_DB_WRITE, &db);
    if (st == KV_OK) st = dt_db_run_begin(db, &start, &run_id, &resumed);
    if (st == KV_OK) st = dt_writer_start(path, &w);
    if (st == KV_OK) {
        const double t = kv_now();
        st = push_cases(w, run_id);
        if (st == KV_OK) st = dt_writer_flush(w);
        wall = kv_now() - t;
        dt_writer_stats(w, &rows, &seconds);
    }
    const kv_status stopped = dt_writer_stop(w);
    if (st == KV_OK) st = stopped;
    dt_db_close(db);
    if (st != KV_OK) printf("  %s\n", kv_message());
    return st == KV_OK && wall > 0 ? (double)rows / wall : 0;
}

void bench_tester(const char *program, const char *model)
{
    char folder[] = "/tmp/kvdiff-bench-XXXXXX", db[64], clean[96];
    double x[3];
    if (!mkdtemp(folder)) return;
    printf("\nthe tester\n");
    for (int i = 0; i < 3; i++) {
        snprintf(db, sizeof db, "%s/%d.db", folder, i);
        x[i] = overhead(program, model, db);
    }
    const double ratio = bench_median(x, 3);
    bench_goal("the two sides' own time / wall time (1.10x allowed)", ratio > 0 ? 1 / ratio : 0, 1 / 1.10);
    snprintf(db, sizeof db, "%s/rows.db", folder);
    const double rate = rows_per_second(db);
    printf("  %.0f token rows/s into the database, %d cases of %d rows\n", rate, CASES, ROWS);
    bench_goal("token rows/s / 300,000", rate / 300000, 1);
    snprintf(clean, sizeof clean, "rm -rf %s", folder);
    if (system(clean) != 0) printf("  %s is left behind\n", folder);
}
