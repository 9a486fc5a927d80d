/* ttt_record.c - what `kvdiff ttt` found, into results.db: a run of kind ttt for each score, with one case whose mode names how
 * the score came about. A run has one mode only, so that no sum over a run mixes adapted scores with others. */
#include "difftest/ttt.h"

#include "difftest/cli.h"
#include "difftest/db.h"
#include "difftest/options.h"

#include "common/hash.h"
#include "common/math.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What decides the score: the same command of the same program resumes nothing, it only repeats. */
static void fingerprint(const dt_ttt_score *s, const uint8_t model[32], uint8_t out[32])
{
    kv_sha256_ctx c;
    kv_sha256_begin(&c);
    kv_sha256_add(&c, s->mode, strlen(s->mode) + 1);
    kv_sha256_add(&c, s->options, strlen(s->options) + 1);
    kv_sha256_add(&c, s->text_sha, 32);
    kv_sha256_add(&c, model, 32);
    kv_sha256_end(&c, out);
}

static kv_status store(dt_db *db, const dt_ttt_score *s, const char *line)
{
    dt_run_start start = {.kind = "ttt", .argv = line, .seed = 0, .label = s->label, .options_json = s->options};
    dt_case c = {.key = NULL, .device = "none", .mode = s->mode, .q = s->q, .contract_version = KV_NUMERIC_CONTRACT_VERSION,
                 .contract = KV_CONTRACT_BITEXACT, .status = DT_CASE_RECORDED, .repro = line, .n_tok = s->tokens,
                 .sum_nll_ref = s->sum, .max_ratio = (double)NAN, .first_bad_pos = -1, .first_diff_pos = -1, .n_words = -1,
                 .n_text_bytes = s->bytes ? (int64_t)s->bytes : -1, .bytes_ref = -1, .bytes_got = -1, .peak_ref = -1, .peak_got = -1,
                 .wall_ms = s->seconds * 1e3, .ref_ms = s->seconds * 1e3};
    char key[512];
    int64_t corpus_id;
    int resumed;
    dt_writer *w;
    snprintf(key, sizeof key, "%s|%s|-|none|len=%lld|%s|q=%d", s->text, s->model->name, (long long)s->tokens, s->mode, s->q);
    c.key = key;
    fingerprint(s, s->model->sha256, start.plan_fp);
    KV_TRY(dt_db_model(db, s->model, &c.model_id));
    KV_TRY(dt_db_corpus(db, s->text, "shards", 0, s->text_sha, &corpus_id));
    KV_TRY(dt_db_document(db, corpus_id, 0, s->text, -1, s->tokens, s->text_sha, &c.doc_id));
    KV_TRY(dt_db_run_begin(db, &start, &c.run_id, &resumed));
    kv_status st = dt_writer_start(dt_db_file(db), &w);
    if (st == KV_OK) {
        (void)dt_writer_push(w, &c);
        st = dt_writer_stop(w);
    }
    const kv_status ended = dt_db_run_end(db, c.run_id, st == KV_OK ? "recorded" : "error", kv_status_exit_code(st));
    return st == KV_OK ? ended : st;
}

kv_status dt_ttt_record(const char *database, const dt_ttt_score *s, int argc, char **argv)
{
    dt_db *db;
    char *line = dt_command_line(argc, argv);
    kv_status st = line ? dt_db_open(dt_db_path(database), DT_DB_WRITE, &db) : kv_fail(KV_ERR_NOMEM, "out of memory");
    if (st == KV_OK) {
        st = store(db, s, line);
        dt_db_close(db);
    }
    free(line);
    return st;
}
