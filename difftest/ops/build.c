#include "difftest/ops/build.h"

#include "common/hash.h"
#include "difftest/ops/assemble.h"
#include "difftest/ops/command.h"
#include "difftest/ops/cu_pass.h"
#include "difftest/ops/descriptor.h"
#include "difftest/ops/support.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A compilation. The source goes in as stdin after the source pass, or by its path to nvcc. */
typedef struct compilation {
    const char *path;
    int verbose, is_gpu, is_gcc;
    dt_support support;
    char compiler[1024], cache[3000];
    char *source;
    size_t n_source;
} compilation;

/* ---- files
 * ------------------------------------------------------------------------------------------------------------ */

static kv_status read_file(const char *path, char **bytes, size_t *n)
{
    FILE *f = fopen(path, "rb");
    size_t cap = 0;
    *bytes = NULL;
    *n = 0;
    if (!f) return kv_fail(KV_ERR_IO, "'%s': %s; check the path", path, strerror(errno));
    for (size_t k = 1; k;) {
        if (*n == cap) {
            char *more = realloc(*bytes, cap = 2 * cap + 65536);
            if (!more) break;
            *bytes = more;
        }
        k = fread(*bytes + *n, 1, cap - *n, f);
        *n += k;
    }
    const int failed = ferror(f) || !feof(f);
    fclose(f);
    return failed ? kv_fail(KV_ERR_IO, "'%s' cannot be read", path) : KV_OK;
}

/* The file's own name, for messages and as a C string. */
static void short_name(const char *path, char *dst, size_t size)
{
    const char *slash = strrchr(path, '/');
    snprintf(dst, size, "%.200s", slash ? slash + 1 : path);
    for (char *c = dst; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < 0x20) *c = '_';
}

/* The source after the pass, behind a line that gives messages its name and line numbers. */
static kv_status pass_source(compilation *c)
{
    char name[256], *text, *passed;
    size_t n, n_passed;
    short_name(c->path, name, sizeof name);
    kv_status st = read_file(c->path, &text, &n);
    if (st == KV_OK) st = dt_cu_pass(text, n, name, &passed, &n_passed);
    free(text);
    KV_TRY(st);
    const int k = asprintf(&c->source, "#line 1 \"%s\"\n%s", name, passed);
    free(passed);
    if (k < 0) {
        c->source = NULL;
        return kv_fail(KV_ERR_NOMEM, "out of memory");
    }
    c->n_source = (size_t)k;
    return KV_OK;
}

/* ---- compilers
 * ---------------------------------------------------------------------------------------------------------- */

/* A device that a worker can compute on, and a compiler for it. */
static kv_status find_gpu(compilation *c)
{
    const char *env = getenv("NVCC");
    static const char *const places[] = {"nvcc", "/usr/local/cuda/bin/nvcc"};
    if (env && *env) snprintf(c->compiler, sizeof c->compiler, "%s", env);
    for (size_t i = 0; i < sizeof places / sizeof *places && !c->compiler[0]; i++)
        if (dt_command_exists(places[i])) snprintf(c->compiler, sizeof c->compiler, "%s", places[i]);
    return c->compiler[0] ? dt_support_gpu(&c->is_gpu) : KV_OK;
}

static kv_status find_host_compiler(compilation *c)
{
    const char *env = getenv("CXX");
    static const char *const names[] = {"g++", "clang++"};
    c->compiler[0] = '\0';
    if (env && *env) snprintf(c->compiler, sizeof c->compiler, "%s", env);
    for (size_t i = 0; i < sizeof names / sizeof *names && !c->compiler[0]; i++)
        if (dt_command_exists(names[i])) snprintf(c->compiler, sizeof c->compiler, "%s", names[i]);
    if (c->compiler[0]) return KV_OK;
    return kv_fail(
        KV_ERR_DEVICE,
        "a .cu file needs a C++ compiler where there is no GPU, and neither g++ nor clang++ is in PATH; install "
        "one, or name it in CXX");
}

/* The whole text for those who want it, the first error for the message. */
static kv_status fail_compile(const compilation *c, const dt_command *cmd)
{
    char line[400];
    if (cmd->code == 127 && !cmd->n_text)
        return kv_fail(KV_ERR_DEVICE, "the compiler '%.200s' cannot be run", c->compiler);
    if (c->verbose) fputs(cmd->text, stderr);
    dt_command_first_error(cmd, line, sizeof line);
    return kv_fail(KV_ERR_DEVICE, "it does not compile: %s%s", line, c->verbose ? "" : " (all messages: --verbose)");
}

/* Its version decides about flags. */
static kv_status ask_compiler(compilation *c)
{
    dt_command ask = {0};
    dt_command_add_words(&ask, c->compiler);
    dt_command_add(&ask, "--version");
    kv_status st = dt_command_run(&ask, "", 0);
    if (st == KV_OK && ask.code != 0) st = fail_compile(c, &ask);
    c->is_gcc = st == KV_OK && !strstr(ask.text, "clang");
    dt_command_free(&ask);
    return st;
}

static void add_gpu_flags(const compilation *c, dt_command *cmd)
{
    static const char flags[] = "-std=c++17 -O3 -shared -arch=native -cudart static -Xcompiler -fPIC";
    dt_command_add_words(cmd, c->compiler);
    dt_command_add_words(cmd, flags);
    dt_command_add(cmd, "-I%s/include", c->support.root);
}

/* -ffp-contract=off, so that all compilers and machines agree; -w, for what the pass leaves behind. */
static void add_host_flags(const compilation *c, dt_command *cmd)
{
    static const char flags[] =
        "-std=c++17 -O1 -g1 -fPIC -shared -ffp-contract=off -fno-strict-aliasing -fwrapv -w -pthread -DKVDK_SIMT";
    const char *slash = strrchr(c->path, '/');
    dt_command_add_words(cmd, c->compiler);
    dt_command_add_words(cmd, flags);
    if (c->is_gcc) dt_command_add(cmd, "-fstack-reuse=none"); /* docs/numerics.md, section 7 */
    dt_command_add(cmd, "-I%s", c->support.root);
    dt_command_add(cmd, "-I%s/include", c->support.root);
    dt_command_add(cmd, "-I%s/gpu/simt/include", c->support.root);
    dt_command_add(cmd, "-iquote%.*s", slash ? (int)(slash - c->path) : 1, slash ? c->path : ".");
    dt_command_add(cmd, "-include");
    dt_command_add(cmd, "gpu/simt/user_door.h");
}

static void add_input(const compilation *c, dt_command *cmd)
{
    if (c->is_gpu) {
        dt_command_add(cmd, "%s", c->path);
        return;
    }
    dt_command_add_words(cmd, "-x c++ -");
}

static void add_flags(const compilation *c, dt_command *cmd)
{
    if (c->is_gpu)
        add_gpu_flags(c, cmd);
    else
        add_host_flags(c, cmd);
}

/* ---- the cache
 * ------------------------------------------------------------------------------------------------------------- */

static kv_status add_file(kv_sha256_ctx *sha, const char *path)
{
    char *bytes;
    size_t n;
    const kv_status st = read_file(path, &bytes, &n);
    if (st == KV_OK) kv_sha256_add(sha, bytes, n);
    free(bytes);
    return st;
}

/* Adds what a command prints, and the command. */
static kv_status add_command(const compilation *c, kv_sha256_ctx *sha, dt_command *cmd, const char *input, size_t n)
{
    kv_status st = dt_command_run(cmd, input, n);
    if (st == KV_OK && cmd->code != 0) st = fail_compile(c, cmd);
    for (int i = 0; st == KV_OK && cmd->argv[i]; i++)
        kv_sha256_add(sha, cmd->argv[i], strlen(cmd->argv[i]) + 1);
    if (st == KV_OK) kv_sha256_add(sha, cmd->text, cmd->n_text);
    dt_command_free(cmd);
    return st;
}

/* Source and headers as the compiler sees them, its version, its flags, the layer. */
static kv_status hash_inputs(const compilation *c, kv_sha256_ctx *sha)
{
    dt_command version = {0}, preprocess = {0};
    dt_command_add_words(&version, c->compiler);
    dt_command_add(&version, "--version");
    KV_TRY(add_command(c, sha, &version, "", 0));
    add_flags(c, &preprocess);
    dt_command_add(&preprocess, "-E");
    add_input(c, &preprocess);
    KV_TRY(add_command(c, sha, &preprocess, c->source, c->n_source));
    return c->is_gpu ? KV_OK : add_file(sha, c->support.archive);
}

static kv_status compile(const compilation *c, const char *built)
{
    char fresh[PATH_MAX];
    dt_command cmd = {0};
    if ((size_t)snprintf(fresh, sizeof fresh, "%s.%ld", built, (long)getpid()) >= sizeof fresh)
        return kv_fail(KV_ERR_USAGE, "'%.40s...': the path of the cache is too long", built);
    add_flags(c, &cmd);
    add_input(c, &cmd);
    if (!c->is_gpu) {
        dt_command_add_words(&cmd, "-x none");
        dt_command_add(&cmd, "%s", c->support.archive);
        dt_command_add_words(&cmd, "-Wl,-Bsymbolic -Wl,--exclude-libs,ALL");
    }
    dt_command_add(&cmd, "-o");
    dt_command_add(&cmd, "%s", fresh);
    kv_status st = dt_command_run(&cmd, c->source, c->n_source);
    if (st == KV_OK && cmd.code != 0) st = fail_compile(c, &cmd);
    if (st == KV_OK && c->verbose) fputs(cmd.text, stderr);
    if (st == KV_OK && rename(fresh, built) != 0) st = kv_fail(KV_ERR_IO, "'%s': %s", built, strerror(errno));
    if (st != KV_OK) unlink(fresh);
    dt_command_free(&cmd);
    return st;
}

static kv_status build(compilation *c, char *built, size_t size)
{
    uint8_t sha[32];
    char hex[65];
    kv_sha256_ctx ctx;
    KV_TRY(dt_support_find(&c->support));
    KV_TRY(find_gpu(c));
    if (!c->is_gpu) {
        KV_TRY(pass_source(c));
        KV_TRY(find_host_compiler(c));
        KV_TRY(ask_compiler(c));
    }
    KV_TRY(dt_support_cache(c->cache, sizeof c->cache));
    kv_sha256_begin(&ctx);
    const kv_status st = hash_inputs(c, &ctx);
    kv_sha256_end(&ctx, sha);
    KV_TRY(st);
    kv_hex32(sha, hex);
    if ((size_t)snprintf(built, size, "%s/%s.so", c->cache, hex) >= size)
        return kv_fail(KV_ERR_USAGE, "'%.40s...': the path of the cache is too long", c->cache);
    return access(built, R_OK) == 0 ? KV_OK : compile(c, built);
}

kv_status dt_candidate_build(const char *path, int verbose, char *built, size_t size)
{
    static const char *const bare[] = {".ptx", ".cubin", ".fatbin"};
    for (size_t i = 0; i < sizeof bare / sizeof *bare; i++)
        if (dt_ends_with(path, bare[i]))
            return kv_fail(
                KV_ERR_USAGE,
                "a %s alone does not say how it is launched; write a NAME.kernel.json beside it and give that "
                "(docs/candidates.md, \"Modules\")",
                bare[i] + 1);
    if (!dt_ends_with(path, ".cu")) {
        if (dt_is_descriptor(path)) KV_TRY(dt_module_check(path, verbose));
        if ((size_t)snprintf(built, size, "%s", path) < size) return KV_OK;
        return kv_fail(KV_ERR_USAGE, "candidate '%.40s...': the path is too long", path);
    }
    compilation c = {.path = path, .verbose = verbose};
    const kv_status st = build(&c, built, size);
    free(c.source);
    return st;
}
