/* db.c - opening results.db.
 *
 * Order: what the path is; the first bytes of the file, before SQLite acts on them, so that a file
 * that is not ours is never touched; pragmas; the schema's version; when writing: the pages of a
 * small file, migrations, the journal.
 *
 * The first bytes are read through SQLite's own file handle. An open() and close() here would drop
 * the POSIX locks that this process's other connections hold on the file. */
#include "difftest/db_private.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { CHECK_MAX_BYTES = 64 << 20 }; /* larger files are not read through when they are opened */

/* ---- what the path is ----------------------------------------------------------------------- */

static kv_status check_folder(const char *file)
{
    char *copy = strdup(file);
    if (!copy) return kv_fail(KV_ERR_NOMEM, "out of memory opening '%s'", file);
    const char *folder = dirname(copy);
    kv_status st = KV_OK;
    if (faccessat(AT_FDCWD, folder, W_OK | X_OK, AT_EACCESS) != 0)
        st = kv_fail(KV_ERR_DB,
                     "cannot write results database '%s': folder '%s': %s; mend that or choose "
                     "another file with --db",
                     file, folder, strerror(errno));
    free(copy);
    return st;
}

static kv_status check_path(const char *file, int mode, int *exists)
{
    struct stat s;
    *exists = stat(file, &s) == 0;
    if (!*exists && errno != ENOENT)
        return kv_fail(KV_ERR_DB, "cannot open results database '%s': %s", file, strerror(errno));
    if (!*exists && mode == DT_DB_WRITE) return check_folder(file);
    if (!*exists)
        return kv_fail(KV_ERR_DB,
                       "results database '%s' does not exist; `kvdiff run` makes one, --db names "
                       "another",
                       file);
    if (S_ISDIR(s.st_mode))
        return kv_fail(KV_ERR_DB, "'%s' is a folder; name a file in it: --db '%s/results.db'", file,
                       file);
    if (!S_ISREG(s.st_mode))
        return kv_fail(KV_ERR_DB, "'%s' is not a regular file; choose another with --db", file);
    return KV_OK;
}

static kv_status check_writable(const char *file)
{
    if (faccessat(AT_FDCWD, file, W_OK, AT_EACCESS) != 0)
        return kv_fail(KV_ERR_DB,
                       "cannot write results database '%s': %s; mend that or choose another file "
                       "with --db",
                       file, strerror(errno));
    return check_folder(file);
}

/* ---- the first bytes ------------------------------------------------------------------------ */

/* Offsets of SQLite's database header (sqlite.org/fileformat.html, section 1.3) and of the head of
 * the schema's root page behind it. */
enum {
    AT_USER_VERSION = 60,
    AT_APPLICATION_ID = 68,
    AT_PAGE_TYPE = 100,
    AT_CELLS = 103,
    HEAD = 105
};
enum { LEAF_TABLE = 13 };

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static kv_status refuse_foreign(const char *file, const char *what)
{
    return kv_fail(KV_ERR_DB,
                   "'%s' is %s, not a results database; it was left alone, choose another file "
                   "with --db",
                   file, what);
}

/* The file's size and first bytes; those past its end are 0. */
static kv_status read_head(const dt_db *db, uint8_t head[HEAD], sqlite3_int64 *size)
{
    sqlite3_file *f = NULL;
    memset(head, 0, HEAD);
    if (sqlite3_file_control(db->h, "main", SQLITE_FCNTL_FILE_POINTER, &f) != SQLITE_OK ||
        !f->pMethods || f->pMethods->xFileSize(f, size) != SQLITE_OK)
        return dt_db_fail(db, "reading its header");
    const int n = *size < HEAD ? (int)*size : HEAD;
    if (f->pMethods->xRead(f, head, n, 0) != SQLITE_OK) return dt_db_fail(db, "reading its header");
    return KV_OK;
}

/* *blank: a file without content, which may become a results database. */
static kv_status judge_head(const dt_db *db, int mode, const uint8_t head[HEAD], int64_t size,
                            int *blank)
{
    *blank = size == 0;
    if (*blank && mode == DT_DB_READ)
        return kv_fail(KV_ERR_DB,
                       "results database '%s' is empty: nothing was ever written; `kvdiff run` "
                       "fills it",
                       db->file);
    if (*blank) return KV_OK;
    if (size < HEAD || memcmp(head, "SQLite format 3", 16) != 0)
        return refuse_foreign(db->file, "no SQLite file");
    const uint32_t id = be32(head + AT_APPLICATION_ID);
    if (id == DT_APPLICATION_ID)
        return dt_schema_judge(db->file, (int32_t)be32(head + AT_USER_VERSION),
                               dt_db_schema_version(), mode);
    if (id || head[AT_PAGE_TYPE] != LEAF_TABLE || head[AT_CELLS] || head[AT_CELLS + 1])
        return refuse_foreign(db->file, "another program's database");
    *blank = 1;
    return KV_OK;
}

/* ---- connections ---------------------------------------------------------------------------- */

/* "./" keeps names such as ":memory:" from meaning something. */
static char *file_name(const char *file)
{
    char *name = NULL;
    if (asprintf(&name, "%s%s", file[0] == '/' ? "" : "./", file) < 0) return NULL;
    return name;
}

static kv_status connect(dt_db *db, int flags)
{
    sqlite3_close(db->h);
    db->h = NULL;
    char *name = file_name(db->file);
    if (!name) return kv_fail(KV_ERR_NOMEM, "out of memory opening '%s'", db->file);
    const int rc = sqlite3_open_v2(name, &db->h, flags | SQLITE_OPEN_NOMUTEX, NULL);
    free(name);
    if (rc != SQLITE_OK) return dt_db_fail(db, "opening it");
    sqlite3_busy_timeout(db->h, DT_BUSY_MS);
    sqlite3_db_config(db->h, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    /* Somebody else's views may run when a file is read. Writing needs json_valid in our own
     * checks, which not every SQLite (3.40) counts among the harmless functions. */
    if (flags & SQLITE_OPEN_READONLY)
        sqlite3_db_config(db->h, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, (int *)NULL);
    return KV_OK;
}

/* Reads the file as it stands, without locks or a log: for folders that cannot be written. */
static kv_status connect_immutable(dt_db *db)
{
    static const char plain[] = "/._-~";
    sqlite3_close(db->h);
    db->h = NULL;
    char *name = file_name(db->file);
    char *uri = (char *)malloc(name ? 3 * strlen(name) + sizeof "file:?immutable=1" : 1);
    if (!name || !uri) {
        free(name);
        free(uri);
        return kv_fail(KV_ERR_NOMEM, "out of memory opening '%s'", db->file);
    }
    char *w = stpcpy(uri, "file:");
    for (const unsigned char *p = (unsigned char *)name; *p; p++) {
        const int literal = (*p >= '0' && *p <= '9') || ((*p | 32) >= 'a' && (*p | 32) <= 'z') ||
                            strchr(plain, *p) != NULL;
        w += literal ? sprintf(w, "%c", *p) : sprintf(w, "%%%02X", *p);
    }
    strcpy(w, "?immutable=1");
    const int rc = sqlite3_open_v2(
        uri, &db->h, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, NULL);
    free(name);
    free(uri);
    return rc == SQLITE_OK ? KV_OK : dt_db_fail(db, "opening it");
}

static int has_log(const char *file)
{
    char *log = NULL;
    struct stat s;
    if (asprintf(&log, "%s-wal", file) < 0) return 1;
    const int yes = stat(log, &s) == 0 && s.st_size > 0;
    free(log);
    return yes;
}

static int try_read(const dt_db *db)
{
    const int rc = sqlite3_exec(db->h, "SELECT 1 FROM sqlite_schema LIMIT 1", NULL, NULL, NULL);
    return rc == SQLITE_OK ? SQLITE_OK : sqlite3_extended_errcode(db->h);
}

/* The first access to a file that is only read. A killed writer may have left a rollback journal,
 * which only a writing connection can play back; a write-ahead log needs a writable folder. */
static kv_status first_read(dt_db *db)
{
    const int rc = try_read(db);
    if (rc == SQLITE_OK) return KV_OK;
    const kv_status st = dt_db_fail(db, "opening it");
    if (rc == SQLITE_READONLY_ROLLBACK) {
        KV_TRY(check_writable(db->file));
        KV_TRY(connect(db, SQLITE_OPEN_READWRITE));
        if (try_read(db) != SQLITE_OK) return dt_db_fail(db, "playing back its journal");
        return connect(db, SQLITE_OPEN_READONLY);
    }
    if ((rc & 0xff) != SQLITE_CANTOPEN && (rc & 0xff) != SQLITE_READONLY) return st;
    if (has_log(db->file)) return st;
    KV_TRY(connect_immutable(db));
    return try_read(db) == SQLITE_OK ? KV_OK : dt_db_fail(db, "opening it");
}

/* ---- pragmas -------------------------------------------------------------------------------- */

static const char pragmas[] = "PRAGMA temp_store = MEMORY;"
                              "PRAGMA cache_size = -65536;"
                              "PRAGMA mmap_size = 268435456;";
static const char write_pragmas[] = "PRAGMA foreign_keys = ON;"
                                    "PRAGMA journal_size_limit = 67108864;"
                                    "PRAGMA wal_autocheckpoint = 4000;";
static const char new_file_pragmas[] = "PRAGMA page_size = 8192;"
                                       "PRAGMA auto_vacuum = INCREMENTAL;";

static kv_status check_library(const dt_db *db)
{
    if (sqlite3_libversion_number() < 3037000)
        return kv_fail(KV_ERR_DB, "SQLite %s is too old: 3.37 or newer is needed",
                       sqlite3_libversion());
    if (sqlite3_exec(db->h, "SELECT exp(0.0), log2(1.0)", NULL, NULL, NULL) == SQLITE_OK)
        return KV_OK;
    return kv_fail(KV_ERR_DB,
                   "this SQLite (%s) lacks exp() and log2(); use one built with "
                   "SQLITE_ENABLE_MATH_FUNCTIONS",
                   sqlite3_libversion());
}

/* Network and user-space file systems: shared memory between processes is not dependable there, and
 * a write-ahead log needs it. Numbers of linux/magic.h and of statfs(2). */
const char *dt_journal_for(unsigned long f_type)
{
    static const uint32_t no_log[] = {
        0x6969 /* NFS */,        0x517B /* SMB */,       0xFF534D42 /* CIFS */,
        0xFE534D42 /* SMB2 */,   0x01021997 /* 9P */,    0x65735546 /* FUSE */,
        0x5346414F /* AFS */,    0x00C36400 /* Ceph */,  0x0BD00BD0 /* Lustre */,
        0x47504653 /* GPFS */,   0x01161970 /* GFS2 */,  0x7461636F /* OCFS2 */,
        0x19830326 /* BeeGFS */, 0x013111A8 /* IBRIX */, 0x73757245 /* Coda */,
    };
    for (int i = 0; i < DT_COUNT(no_log); i++)
        if ((uint32_t)f_type == no_log[i]) return "delete";
    return "wal";
}

/* Changing the journal needs the file for a moment, and SQLite does not wait for that by itself. */
static int set_journal(const dt_db *db, const char *journal)
{
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA journal_mode = %s", journal);
    for (int waited = 0;; waited += 20) {
        const int rc = sqlite3_exec(db->h, sql, NULL, NULL, NULL);
        if (rc != SQLITE_BUSY || waited >= DT_BUSY_MS) return rc;
        sqlite3_sleep(20);
    }
}

static kv_status choose_journal(const dt_db *db)
{
    struct statfs fs;
    const char *journal = "wal";
    if (statfs(db->file, &fs) == 0) journal = dt_journal_for((unsigned long)fs.f_type);
    if (set_journal(db, journal) != SQLITE_OK) return dt_db_fail(db, "choosing its journal");
    int64_t logged = 0; /* SQLite keeps another mode where it cannot have a log */
    KV_TRY(
        dt_sql_run(db, "SELECT journal_mode = 'wal' FROM pragma_journal_mode", NULL, 0, &logged));
    return dt_sql_exec(db, logged ? "PRAGMA synchronous = NORMAL" : "PRAGMA synchronous = FULL");
}

/* ---- opening -------------------------------------------------------------------------------- */

/* What the log holds counts, too: a read-only connection sees it and changes nothing. */
static kv_status judge_schema(const dt_db *db, int *blank)
{
    int64_t tables = 0, id = 0, version = 0;
    KV_TRY(dt_sql_run(db, "SELECT count(*) FROM sqlite_schema", NULL, 0, &tables));
    KV_TRY(dt_sql_run(db, "PRAGMA application_id", NULL, 0, &id));
    if (tables && id != DT_APPLICATION_ID)
        return refuse_foreign(db->file, "another program's database");
    *blank = *blank && !tables;
    if (*blank && db->mode == DT_DB_READ)
        return kv_fail(KV_ERR_DB,
                       "results database '%s' has no tables: nothing was ever written; `kvdiff "
                       "run` fills it",
                       db->file);
    if (*blank) return KV_OK;
    KV_TRY(dt_sql_run(db, "PRAGMA user_version", NULL, 0, &version));
    return dt_schema_judge(db->file, version, dt_db_schema_version(), db->mode);
}

static int first_text(void *text, int n, char **values, char **names)
{
    (void)n;
    (void)names;
    snprintf((char *)text, 128, "%s", values[0] ? values[0] : "");
    return 1; /* one row is enough */
}

static kv_status check_pages(const dt_db *db)
{
    char found[128] = "";
    sqlite3_exec(db->h, "PRAGMA quick_check(1)", first_text, found, NULL);
    if (strcmp(found, "ok") == 0) return KV_OK;
    if (!found[0]) return dt_db_fail(db, "checking its pages");
    found[strcspn(found, "\n")] = '\0';
    return kv_fail(KV_ERR_DB,
                   "results database '%s' is damaged (%s); restore a copy, or save what is "
                   "readable: sqlite3 '%s' .recover | sqlite3 rescued.db",
                   db->file, found, db->file);
}

static kv_status open_for_writing(dt_db *db, int blank, int check)
{
    KV_TRY(connect(db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE));
    if (sqlite3_db_readonly(db->h, "main"))
        return kv_fail(KV_ERR_DB, "cannot write results database '%s'; choose another with --db",
                       db->file);
    if (blank) KV_TRY(dt_sql_exec(db, new_file_pragmas));
    KV_TRY(dt_sql_exec(db, pragmas));
    KV_TRY(dt_sql_exec(db, write_pragmas));
    if (check && !blank) KV_TRY(check_pages(db));
    size_t n;
    const dt_migration *list = dt_migrations(&n);
    int64_t version = 0;
    KV_TRY(dt_sql_run(db, "PRAGMA user_version", NULL, 0, &version));
    if (version < list[n - 1].number) KV_TRY(dt_schema_migrate(db, list, n));
    return choose_journal(db);
}

static kv_status open_file(dt_db *db, int check)
{
    int exists, blank = 1;
    sqlite3_int64 size = 0;
    KV_TRY(check_path(db->file, db->mode, &exists));
    if (exists) {
        uint8_t head[HEAD];
        KV_TRY(connect(db, SQLITE_OPEN_READONLY));
        KV_TRY(check_library(db));
        KV_TRY(read_head(db, head, &size));
        KV_TRY(judge_head(db, db->mode, head, size, &blank));
        if (db->mode == DT_DB_WRITE) KV_TRY(check_writable(db->file));
        if (size) KV_TRY(first_read(db));
        if (size) KV_TRY(judge_schema(db, &blank));
    }
    if (db->mode == DT_DB_WRITE)
        return open_for_writing(db, blank, check && size <= CHECK_MAX_BYTES);
    KV_TRY(dt_sql_exec(db, pragmas));
    return dt_sql_exec(db, "PRAGMA query_only = ON");
}

static kv_status open_with(const char *path, int mode, int check, dt_db **out)
{
    *out = NULL;
    if (!path || !*path) return kv_fail(KV_ERR_DB, "the results database has no name; give --db");
    dt_db *db = (dt_db *)calloc(1, sizeof *db);
    if (!db || !(db->file = strdup(path))) {
        free(db);
        return kv_fail(KV_ERR_NOMEM, "out of memory opening '%s'", path);
    }
    db->mode = mode;
    const kv_status st = open_file(db, check);
    if (st != KV_OK) {
        dt_db_close(db);
        return st;
    }
    *out = db;
    return KV_OK;
}

kv_status dt_db_open(const char *path, int mode, dt_db **out)
{
    return open_with(path, mode, 1, out);
}

kv_status dt_db_open_unchecked(const char *path, int mode, dt_db **out)
{
    return open_with(path, mode, 0, out);
}

void dt_db_close(dt_db *db)
{
    if (!db) return;
    sqlite3_close(db->h);
    free(db->file);
    free(db);
}

sqlite3 *dt_db_handle(dt_db *db)
{
    return db->h;
}

const char *dt_db_file(const dt_db *db)
{
    return db->file;
}
