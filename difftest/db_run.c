/* db_run.c - runs: who owns one, when it is resumed, how it ends.
 *
 * A running run belongs to the process named in its row (host, boot, pid namespace, pid, start time
 * of the process). When that process is known to be gone, the run counts as interrupted. On another
 * machine or in another pid namespace nothing can be known, and the run is left alone. */
#include "difftest/db_private.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef struct owner {
    char host[65], boot[64];
    int64_t pid_ns, pid, pid_start;
} owner;

/* Field 22 of /proc/PID/stat: clock ticks from boot to the start of the process. 0: no such process
 * (a zombie is none); -1: cannot be known. */
static int64_t process_start(int64_t pid)
{
    char path[48], text[1024];
    if (kill((pid_t)pid, 0) != 0 && errno == ESRCH) return 0;
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    const size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    const char *p = strrchr(text, ')'); /* the name before it may contain anything */
    char state;
    long long start;
    if (!p || sscanf(p + 1,
                     " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
                     "%*d %*d %lld",
                     &state, &start) != 2)
        return -1;
    return state == 'Z' || state == 'X' ? 0 : start;
}

static void find_self(owner *o)
{
    struct stat s;
    memset(o, 0, sizeof *o);
    gethostname(o->host, sizeof o->host - 1);
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (f && fgets(o->boot, sizeof o->boot, f)) o->boot[strcspn(o->boot, "\n")] = '\0';
    if (f) fclose(f);
    if (stat("/proc/self/ns/pid", &s) == 0) o->pid_ns = (int64_t)s.st_ino;
    o->pid = (int64_t)getpid();
    o->pid_start = process_start(o->pid);
}

static int may_be_alive(const owner *o, const owner *self)
{
    if (strcmp(o->host, self->host) != 0) return 1;
    if (strcmp(o->boot, self->boot) != 0) return 0;
    if (o->pid_ns != self->pid_ns) return 1;
    const int64_t start = process_start(o->pid);
    return start == -1 || (start != 0 && start == o->pid_start);
}

/* ---- beginning ------------------------------------------------------------------------------ */

/* Runs whose process is gone become interrupted; they ended at their last sign of life. */
static kv_status sweep_dead(const dt_db *db, const owner *self)
{
    sqlite3_stmt *s = NULL;
    kv_status st = dt_sql_prepare(
        db,
        "SELECT run_id, host, boot_id, pid_ns, pid, pid_start FROM run WHERE status = 'running'",
        &s);
    int rc = SQLITE_DONE;
    while (st == KV_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        owner o = {.pid_ns = sqlite3_column_int64(s, 3),
                   .pid = sqlite3_column_int64(s, 4),
                   .pid_start = sqlite3_column_int64(s, 5)};
        snprintf(o.host, sizeof o.host, "%s", (const char *)sqlite3_column_text(s, 1));
        snprintf(o.boot, sizeof o.boot, "%s", (const char *)sqlite3_column_text(s, 2));
        if (may_be_alive(&o, self)) continue;
        const dt_value id = DT_INT(sqlite3_column_int64(s, 0));
        st = dt_sql_run(db,
                        "UPDATE run SET status = 'interrupted', ended_at = updated_at"
                        " WHERE run_id = ?",
                        &id, 1, NULL);
    }
    if (st == KV_OK && rc != SQLITE_DONE) st = dt_db_fail(db, "looking for unfinished runs");
    sqlite3_finalize(s);
    return st;
}

/* Random UUID, version 4 (RFC 4122, section 4.4). */
static kv_status make_uuid(char out[37])
{
    uint8_t b[16];
    if (getrandom(b, sizeof b, 0) != (ssize_t)sizeof b)
        return kv_fail(KV_ERR_IO, "no random numbers from the system: %s", strerror(errno));
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    for (int i = 0, at = 0; i < 16; i++)
        at += sprintf(out + at, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", b[i]);
    return KV_OK;
}

static kv_status check_name(const dt_db *db, const char *sql, const char *name, const char *what)
{
    const dt_value v = DT_TEXT(name);
    int64_t n = 0;
    KV_TRY(dt_sql_run(db, sql, &v, 1, &n));
    if (n) return KV_OK;
    return kv_fail(KV_ERR_INTERNAL, "'%s' is no %s of a run", name ? name : "", what);
}

static kv_status insert_run(const dt_db *db, const dt_run_start *s, const owner *self,
                            int64_t env_id, int64_t build_id, int64_t *run_id)
{
    char uuid[37];
    const int64_t now = (int64_t)time(NULL);
    KV_TRY(make_uuid(uuid));
    const dt_value v[] = {
        DT_TEXT(uuid),
        DT_TEXT(s->kind),
        DT_INT(now),
        DT_TEXT(s->argv),
        DT_INT(s->seed),
        DT_TEXT(s->label),
        DT_TEXT(s->options_json),
        DT_BLOB(s->plan_fp, 32),
        DT_TEXT(self->host),
        DT_TEXT(self->boot),
        DT_INT(self->pid_ns),
        DT_INT(self->pid),
        DT_INT(self->pid_start),
        DT_INT(env_id),
        DT_INT(build_id),
    };
    KV_TRY(dt_sql_run(db,
                      "INSERT INTO run(uuid, kind, started_at, updated_at, argv, seed, label,"
                      " options_json, plan_fp, host, boot_id, pid_ns, pid, pid_start, env_id,"
                      " build_id)"
                      " VALUES(?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,"
                      " ?15)",
                      v, DT_COUNT(v), NULL));
    *run_id = sqlite3_last_insert_rowid(db->h);
    return KV_OK;
}

static kv_status take_over(const dt_db *db, const owner *self, int64_t run_id)
{
    const dt_value v[] = {DT_INT(run_id),       DT_TEXT(self->host), DT_TEXT(self->boot),
                          DT_INT(self->pid_ns), DT_INT(self->pid),   DT_INT(self->pid_start),
                          DT_INT(time(NULL))};
    return dt_sql_run(db,
                      "UPDATE run SET status = 'running', ended_at = NULL, exit_code = NULL,"
                      " n_resumes = n_resumes + 1, host = ?2, boot_id = ?3, pid_ns = ?4, pid = ?5,"
                      " pid_start = ?6, updated_at = ?7 WHERE run_id = ?1",
                      v, DT_COUNT(v), NULL);
}

static kv_status begin_or_resume(const dt_db *db, const dt_run_start *s, int64_t env_id,
                                 int64_t build_id, int64_t *run_id, int *resumed)
{
    owner self;
    find_self(&self);
    KV_TRY(check_name(db, "SELECT count(*) FROM run_kind WHERE name = ?", s->kind, "kind"));
    KV_TRY(sweep_dead(db, &self));
    const dt_value same[] = {DT_BLOB(s->plan_fp, 32), DT_TEXT(s->kind), DT_INT(build_id),
                             DT_INT(env_id)};
    KV_TRY(dt_sql_run(db,
                      "SELECT run_id FROM run WHERE plan_fp = ? AND kind = ? AND build_id = ?"
                      " AND env_id = ? AND status = 'interrupted' ORDER BY run_id DESC LIMIT 1",
                      same, DT_COUNT(same), run_id));
    *resumed = *run_id != 0;
    if (*resumed) return take_over(db, &self, *run_id);
    return insert_run(db, s, &self, env_id, build_id, run_id);
}

kv_status dt_db_run_begin(dt_db *db, const dt_run_start *start, int64_t *run_id, int *resumed)
{
    int64_t env_id, build_id;
    *run_id = 0;
    KV_TRY(dt_db_env(db, &env_id));
    KV_TRY(dt_db_build(db, &build_id));
    KV_TRY(dt_sql_begin(db));
    return dt_sql_end(db, begin_or_resume(db, start, env_id, build_id, run_id, resumed));
}

/* ---- during and after ----------------------------------------------------------------------- */

kv_status dt_db_case_done(dt_db *db, int64_t run_id, const char *key, int *done)
{
    const dt_value v[] = {DT_INT(run_id), DT_TEXT(key)};
    int64_t n = 0;
    KV_TRY(dt_sql_run(db, "SELECT count(*) FROM kase WHERE run_id = ? AND key = ?", v, DT_COUNT(v),
                      &n));
    *done = n != 0;
    return KV_OK;
}

static const char end_sql[] =
    "UPDATE run SET status = ?2, exit_code = ?3, ended_at = ?4, updated_at = ?4,"
    " (n_pass, n_fail, n_skip, n_unsup, n_untrust, n_error, n_timeout, n_flaky, n_inconclusive,"
    "  n_recorded, n_xfail, n_xpass) = (SELECT"
    "  count(*) FILTER (WHERE status = 'PASS'), count(*) FILTER (WHERE status = 'FAIL'),"
    "  count(*) FILTER (WHERE status = 'SKIP'), count(*) FILTER (WHERE status = 'UNSUPPORTED'),"
    "  count(*) FILTER (WHERE status = 'UNTRUSTED'), count(*) FILTER (WHERE status = 'ERROR'),"
    "  count(*) FILTER (WHERE status = 'TIMEOUT'), count(*) FILTER (WHERE status = 'FLAKY'),"
    "  count(*) FILTER (WHERE status = 'INCONCLUSIVE'),"
    "  count(*) FILTER (WHERE status = 'RECORDED'), count(*) FILTER (WHERE status = 'XFAIL'),"
    "  count(*) FILTER (WHERE status = 'XPASS') FROM kase WHERE run_id = ?1)"
    " WHERE run_id = ?1 RETURNING 1";

kv_status dt_db_run_end(dt_db *db, int64_t run_id, const char *status, int exit_code)
{
    KV_TRY(check_name(db, "SELECT count(*) FROM run_status WHERE name = ? AND name <> 'running'",
                      status, "final status"));
    const dt_value v[] = {DT_INT(run_id), DT_TEXT(status), DT_INT(exit_code), DT_INT(time(NULL))};
    int64_t found = 0;
    KV_TRY(dt_sql_run(db, end_sql, v, DT_COUNT(v), &found));
    if (found) return KV_OK;
    return kv_fail(KV_ERR_INTERNAL, "results database '%s' has no run %lld", db->file,
                   (long long)run_id);
}
