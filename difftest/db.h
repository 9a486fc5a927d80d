/* db.h - results.db: one SQLite file with everything that was measured and everything that it
 * depends on. The schema stands in difftest/migrations/, its meaning in docs/results.md.
 *
 * Durability: a case (one document under one policy on one device) is written in one transaction
 * when it is finished, never partially; a killed run loses at most the cases in flight. */
#ifndef KV_DIFFTEST_DB_H
#define KV_DIFFTEST_DB_H

#include "common/backend.h"
#include "difftest/coverage.h"

#include <sqlite3.h>
#include <stdint.h>

typedef struct dt_db dt_db;

enum { DT_DB_READ, DT_DB_WRITE /* creates and migrates */ };

/* ERR_DB with one line for: unwritable, not a database, another application's database, a schema
 * newer than this program, an older one that is opened for reading only (it must be migrated
 * first), corruption. Nothing is written unless everything is in order. */
kv_status dt_db_open(const char *path, int mode, dt_db **out);
void dt_db_close(dt_db *db); /* accepts NULL */
sqlite3 *dt_db_handle(dt_db *db);
const char *dt_db_file(const dt_db *db);
int dt_db_schema_version(void); /* newest this program knows */

/* ---- provenance: dimension rows, found by fingerprint or inserted --------------------------- */

kv_status dt_db_env(dt_db *db, int64_t *env_id);     /* this machine and its toolchain */
kv_status dt_db_build(dt_db *db, int64_t *build_id); /* this program */
kv_status dt_db_model(dt_db *db, const kv_model *m, int64_t *model_id);
kv_status dt_db_policy(dt_db *db, const kv_policy *p, int64_t *policy_id);

/* A device as a kernel set: name as in the case key, contract, SHA-256 of the shared object (NULL:
 * linked in), numeric contract version. */
kv_status dt_db_kernel_set(dt_db *db, const char *device, int32_t contract, const uint8_t *so_sha,
                           int64_t *kernel_set_id);
kv_status dt_db_corpus(dt_db *db, const char *name, const char *generator, int64_t seed,
                       const uint8_t manifest_sha[32], int64_t *corpus_id);
kv_status dt_db_document(dt_db *db, int64_t corpus_id, int32_t ordinal, const char *title,
                         int64_t n_bytes, int64_t n_tok, const uint8_t token_sha[32],
                         int64_t *doc_id);

/* ---- runs ----------------------------------------------------------------------------------- */

typedef struct dt_run_start {
    const char *kind;    /* a name of the lookup table run_kind: "run", "ops", ... */
    const char *argv;    /* command line, shell-quoted */
    uint8_t plan_fp[32]; /* everything that decides the cases: the same command resumes */
    int64_t seed;
    const char *label;        /* or NULL */
    const char *options_json; /* choices worth recording, e.g. {"allow_long":true} */
} dt_run_start;

/* Starts a run, or resumes: an unfinished run (interrupted, or left running by a killed process)
 * with the same plan_fp, build and environment is continued; *resumed tells. */
kv_status dt_db_run_begin(dt_db *db, const dt_run_start *start, int64_t *run_id, int *resumed);

/* 1 when the run already has a finished case with this key. */
kv_status dt_db_case_done(dt_db *db, int64_t run_id, const char *key, int *done);

/* Status: a name of the lookup table run_status other than "running": "pass", "fail", "error",
 * "interrupted", "timeout", "vacuous", "inconclusive", "recorded", "skipped". Counts are taken from
 * the run's cases. */
kv_status dt_db_run_end(dt_db *db, int64_t run_id, const char *status, int exit_code);

/* ---- cases ---------------------------------------------------------------------------------- */

typedef enum dt_case_status {
    DT_CASE_PASS,
    DT_CASE_FAIL,
    DT_CASE_SKIP,
    DT_CASE_UNSUPPORTED,
    DT_CASE_UNTRUSTED,
    DT_CASE_ERROR,
    DT_CASE_TIMEOUT,
    DT_CASE_FLAKY,
    DT_CASE_INCONCLUSIVE,
    DT_CASE_RECORDED, /* the reference alone: never counted as a pass */
    DT_CASE_XFAIL,
    DT_CASE_XPASS,
    DT_CASE_STATUS_COUNT
} dt_case_status;
const char *dt_case_status_name(dt_case_status s);

/* tok.flags */
enum {
    DT_TOK_TOP1 = 1u << 0,      /* arg-max differs */
    DT_TOK_TOP5 = 1u << 1,      /* set of the five largest differs */
    DT_TOK_NONFINITE = 1u << 2, /* NaN or infinity in a row of logits */
    DT_TOK_STATE = 1u << 3,     /* state digests differ after the step of this token */
    DT_TOK_BOUND = 1u << 4,     /* error bound exceeded */
    DT_TOK_EVICT = 1u << 5,     /* decisions of the step of this token differ */
    DT_TOK_TIE = 1u << 6        /* they differ by a legal tie */
};

typedef struct dt_tok_row {
    int64_t pos;             /* index of the predicting token */
    int32_t tok;             /* the token it predicts */
    uint32_t flags;          /* DT_TOK_* */
    double nll_ref, nll_got; /* nats; nll_got is NaN without a device */
    double kl;               /* KL(ref || got), nats */
    float margin_ref;        /* reference: largest logit - second largest */
    int32_t n_resident;      /* tokens that layer 0, KV head 0 held after the step */
    int64_t max_ulp;         /* largest distance of a logit, in units in the last place */
} dt_tok_row;

typedef struct dt_hash_row {
    int64_t pos;   /* last token of the step */
    int32_t layer; /* -1 = all layers */
    int32_t reserved;
    uint64_t h_ref, h_got; /* content digests */
} dt_hash_row;

typedef struct dt_retrieval {
    int64_t ctx_len, depth_ppm, insert_pos;
    int32_t digits;
    const char *expected, *ans_ref, *ans_got; /* ans_got may be NULL */
    int32_t ok_ref, ok_got;                   /* exact match */
    int32_t digits_ref, digits_got;           /* equal digits at equal index */
    double nll_ref, nll_got;                  /* of the expected digits, nats, summed; NaN = none */
    int32_t needle_resident_ref, needle_resident_got; /* key tokens in the cache: layer 0, head 0 */
} dt_retrieval;

/* One finished case. Strings are copied; rows, hashes and events pass to the writer, which frees
 * them. Without a device (kernel_set_id 0) whatever compares with one is stored as NULL. */
typedef struct dt_case {
    int64_t run_id, model_id, policy_id, kernel_set_id, doc_id; /* 0 = none, except run_id */
    const char *key, *device, *mode;
    int32_t q;
    int32_t contract;         /* kv_contract */
    int32_t contract_version; /* docs/numerics.md */
    dt_case_status status;
    const char *reason, *repro; /* reason may be NULL */
    double wall_ms, ref_ms, got_ms;
    int64_t n_tok; /* scored tokens */
    double sum_nll_ref, sum_nll_got, sum_kl, max_kl;
    int64_t n_top1_same, n_bitexact, max_ulp;
    double max_abs;            /* largest |difference| of a logit */
    double max_ratio;       /* error used / error allowed; NaN = nothing is allowed or judged */
    int64_t first_bad_pos;  /* first token that breaks the contract; -1 = none */
    int64_t first_diff_pos; /* first token with any differing bit; -1 = none */
    int64_t n_words;        /* of the scored text, for word-level perplexity; -1 = unknown */
    int64_t n_text_bytes;   /* of the tokens that are predicted, for bits per byte; -1 = unknown */
    uint64_t dropped_bytes;
    int64_t n_ties;         /* decisions that differ by a legal tie */
    int64_t bytes_ref, bytes_got, peak_ref, peak_got; /* of the records in the cache: at the end, at most; -1 = unknown */
    int64_t cells[DT_CELL_COUNT];                     /* states visited; 0 = not */
    int has_digests;
    kv_digest digest_ref, digest_got;
    dt_tok_row *rows;
    int64_t n_rows;
    dt_hash_row *hashes;
    int64_t n_hashes;
    kv_event *events; /* decisions that differ, or all of them when asked for */
    int64_t n_events;
    int64_t n_events_got;          /* the last ones are the device's, the others the reference's */
    const dt_retrieval *retrieval; /* or NULL */
} dt_case;

/* ---- the writer thread ---------------------------------------------------------------------- */

typedef struct dt_writer dt_writer;

/* The writer owns a connection of its own and a bounded queue; only it writes while it lives. */
kv_status dt_writer_start(const char *path, dt_writer **out);

/* Hands a finished case over; waits while the queue is full. rows, hashes and events of c are NULL
 * afterwards, also on failure. After a write failure every push, flush and the stop return that
 * failure. */
kv_status dt_writer_push(dt_writer *w, dt_case *c);

/* Waits until everything pushed so far is committed. */
kv_status dt_writer_flush(dt_writer *w);

/* Waits until everything is committed, stops the thread, frees the writer. Accepts NULL. */
kv_status dt_writer_stop(dt_writer *w);

/* Rows of table tok written and seconds spent inside transactions so far. */
void dt_writer_stats(const dt_writer *w, int64_t *tok_rows, double *seconds);

/* ---- queries -------------------------------------------------------------------------------- */

typedef struct dt_query {
    const char *name;
    const char *alias;  /* second name, such as "q1"; "" = none */
    const char *about;  /* one line: what it answers */
    const char *params; /* one line: its parameters and their defaults; "" = none */
    const char *sql;
} dt_query;
const dt_query *dt_queries(size_t *n);           /* sorted by name */
const dt_query *dt_query_find(const char *name); /* by name or alias; NULL = none */

typedef struct dt_binding {
    const char *name;  /* without the mark in front */
    const char *value; /* an integer or a real when it reads as one, else a text */
} dt_binding;

struct dt_table;

/* Runs one statement that only reads and puts its rows into a table without columns. Parameters of
 * the statement without a value are NULL when `defaults` is set, which is how named queries see
 * that they shall choose. ERR_USAGE with one line for a statement that SQLite refuses, one that
 * writes, several at once, and parameters that do not fit; ERR_DB for a database that cannot be
 * read. */
kv_status dt_query_run(dt_db *db, const char *sql, const dt_binding *values, int n, int defaults,
                       struct dt_table *out);

#endif
