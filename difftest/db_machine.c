/* db_machine.c - provenance that does not depend on a run: this machine with its toolchain (env)
 * and this program (build). */
#include "difftest/db_private.h"

#include "build_info.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <zstd.h>

/* "" is an unknown; it is stored as NULL. */
static const char *known(const char *text)
{
    return text[0] ? text : NULL;
}

/* ---- the machine ---------------------------------------------------------------------------- */

typedef struct machine {
    struct utsname uts;
    char os[128], cpu[128], isa[256], driver[64], gpu[128], gpu_uuid[64];
    int n_gpus;
    long cores;
} machine;

/* The value of "key<blanks><sep> value" in a small text file; dst stays as it is when there is
 * none. */
static void lookup(const char *path, const char *key, char sep, char *dst, size_t size)
{
    FILE *f = fopen(path, "re");
    char line[512];
    while (f && fgets(line, sizeof line, f)) {
        char *at = strchr(line, sep);
        if (strncmp(line, key, strlen(key)) != 0 || !at) continue;
        at += 1 + strspn(at + 1, " \t\"");
        at[strcspn(at, "\"\n")] = '\0';
        snprintf(dst, size, "%s", at);
        break;
    }
    if (f) fclose(f);
}

static void first_line(const char *path, char *dst, size_t size)
{
    FILE *f = fopen(path, "re");
    if (!f) return;
    if (fgets(dst, (int)size, f)) dst[strcspn(dst, "\n")] = '\0';
    fclose(f);
}

/* Vector extensions that this processor has, of those that kernels choose by. */
static void find_isa(char *dst, size_t size)
{
    dst[0] = '\0';
#if defined(__x86_64__)
#    define ISA(name)                               \
        {                                           \
            name, __builtin_cpu_supports(name) != 0 \
        }
    const struct {
        const char *name;
        int has;
    } all[] = {
        ISA("sse4.2"),   ISA("avx"),      ISA("fma"),      ISA("avx2"),       ISA("avx512f"),
        ISA("avx512bw"), ISA("avx512vl"), ISA("avx512dq"), ISA("avx512vnni"), ISA("avx512bf16"),
    };
#    undef ISA
    for (int i = 0; i < DT_COUNT(all); i++)
        if (all[i].has)
            snprintf(dst + strlen(dst), size - strlen(dst), "%s%s", dst[0] ? " " : "", all[i].name);
#elif defined(__aarch64__)
    snprintf(dst, size, "neon");
#endif
}

/* NVIDIA devices as the kernel driver lists them: no CUDA is needed, or loaded. */
static void find_gpus(machine *m)
{
    glob_t g = {0};
    first_line("/sys/module/nvidia/version", m->driver, sizeof m->driver);
    if (glob("/proc/driver/nvidia/gpus/*/information", 0, NULL, &g) == 0) {
        m->n_gpus = (int)g.gl_pathc;
        lookup(g.gl_pathv[0], "Model", ':', m->gpu, sizeof m->gpu);
        lookup(g.gl_pathv[0], "GPU UUID", ':', m->gpu_uuid, sizeof m->gpu_uuid);
    }
    globfree(&g);
}

static void find_machine(machine *m)
{
    memset(m, 0, sizeof *m);
    uname(&m->uts);
    snprintf(m->os, sizeof m->os, "%s", m->uts.sysname);
    lookup("/etc/os-release", "PRETTY_NAME", '=', m->os, sizeof m->os);
    snprintf(m->cpu, sizeof m->cpu, "%s", m->uts.machine);
    lookup("/proc/cpuinfo", "model name", ':', m->cpu, sizeof m->cpu);
    find_isa(m->isa, sizeof m->isa);
    m->cores = sysconf(_SC_NPROCESSORS_ONLN);
    find_gpus(m);
}

/* Environment variables that change what libraries compute or where. */
static json_t *variables(void)
{
    static const char *const names[] = {"CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG",
                                        "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE"};
    json_t *o = json_object();
    for (int i = 0; i < DT_COUNT(names); i++) {
        const char *v = getenv(names[i]);
        if (v) json_object_set_new(o, names[i], json_string(v));
    }
    return o;
}

static json_t *describe_machine(const machine *m)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:s, s:i, s:s, s:s, s:s, s:s, s:s, "
                     "s:s, s:o}",
                     "hostname", m->uts.nodename, "os", m->os, "kernel", m->uts.release, "machine",
                     m->uts.machine, "cpu_model", m->cpu, "cpu_isa", m->isa, "ncores",
                     (json_int_t)m->cores, "gpu_name", m->gpu, "gpu_uuid", m->gpu_uuid, "n_gpus",
                     m->n_gpus, "driver", m->driver, "cc", BUILD_CC, "nvcc", BUILD_NVCC, "blas",
                     BUILD_OPENBLAS, "sqlite", sqlite3_libversion(), "zstd", ZSTD_versionString(),
                     "variables", variables());
}

kv_status dt_db_env(dt_db *db, int64_t *env_id)
{
    machine m;
    char *json = NULL;
    uint8_t fp[32];
    find_machine(&m);
    KV_TRY(dt_json_canonical(describe_machine(&m), &json, fp));
    const dt_value v[] = {
        DT_BLOB(fp, 32),
        DT_TEXT(m.uts.nodename),
        DT_TEXT(m.os),
        DT_TEXT(m.cpu),
        DT_TEXT(known(m.isa)),
        DT_INT(m.cores),
        DT_TEXT(known(m.gpu)),
        DT_TEXT(known(m.gpu_uuid)),
        DT_TEXT(known(m.driver)),
        DT_TEXT(BUILD_CC),
        DT_TEXT(known(BUILD_NVCC)),
        DT_TEXT(known(BUILD_OPENBLAS)),
        DT_TEXT(sqlite3_libversion()),
        DT_TEXT(ZSTD_versionString()),
        DT_TEXT(json),
    };
    const kv_status st = dt_sql_intern(
        db, "SELECT env_id FROM env WHERE fp = ?", v, 1,
        "INSERT INTO env(fp, hostname, os, cpu_model, cpu_isa, ncores, gpu_name, gpu_uuid, driver,"
        " cc_version, nvcc_version, blas, sqlite_version, zstd_version, json)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        v, DT_COUNT(v), env_id);
    free(json);
    return st;
}

/* ---- the program ---------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    return c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
}

/* 64 hex digits into 32 bytes. */
static void unhex(const char *hex, uint8_t out[32])
{
    for (int i = 0; i < 32; i++)
        out[i] = (uint8_t)(hex_digit(hex[2 * i]) << 4 | hex_digit(hex[2 * i + 1]));
}

static int64_t program_age(void)
{
    struct stat s;
    return stat("/proc/self/exe", &s) == 0 ? (int64_t)s.st_mtime : 0;
}

static json_t *describe_build(void)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "commit", BUILD_COMMIT, "diff",
                     BUILD_DIFF_SHA, "cc", BUILD_CC, "cflags", BUILD_CFLAGS, "nvcc", BUILD_NVCC,
                     "nvccflags", BUILD_NVCCFLAGS);
}

kv_status dt_db_build(dt_db *db, int64_t *build_id)
{
    static const char diff_hex[] = BUILD_DIFF_SHA;
    char *json = NULL;
    uint8_t fp[32], diff[32] = {0};
    KV_TRY(dt_json_canonical(describe_build(), &json, fp));
    free(json);
    if (BUILD_DIRTY) unhex(diff_hex, diff);
    const dt_value v[] = {
        DT_BLOB(fp, 32),
        DT_TEXT(BUILD_COMMIT),
        DT_TEXT(known(BUILD_BRANCH)),
        DT_INT(BUILD_DIRTY),
        DT_IF(BUILD_DIRTY, DT_BLOB(diff, 32)),
        DT_IF(BUILD_COMMIT_TIME, DT_INT(BUILD_COMMIT_TIME)),
        DT_TEXT(BUILD_CC),
        DT_TEXT(BUILD_CFLAGS),
        DT_TEXT(known(BUILD_NVCC)),
        DT_TEXT(known(BUILD_NVCCFLAGS)),
        DT_INT(program_age()),
    };
    return dt_sql_intern(
        db, "SELECT build_id FROM build WHERE fp = ?", v, 1,
        "INSERT INTO build(fp, git_commit, git_branch, git_dirty, dirty_diff_sha, commit_time,"
        " cc_version, cflags, nvcc_version, nvccflags, built_at)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        v, DT_COUNT(v), build_id);
}
