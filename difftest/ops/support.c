#include "difftest/ops/support.h"

#include "difftest/ops/command.h"
#include "difftest/ops/process.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int there(const char *folder, const char *file)
{
    char path[4096];
    return (size_t)snprintf(path, sizeof path, "%s/%s", folder, file) < sizeof path && access(path, R_OK) == 0;
}

/* Both parts in one folder. */
static int take_folder(dt_support *out, const char *folder)
{
    if (!there(folder, "gpu/simt/user.h") || !there(folder, "libkvsimt.a")) return 0;
    return (size_t)snprintf(out->root, sizeof out->root, "%s", folder) < sizeof out->root &&
           (size_t)snprintf(out->archive, sizeof out->archive, "%s/libkvsimt.a", folder) < sizeof out->archive;
}

/* A build folder below a source tree; the program may stand in a folder of tests below that. */
static int take_tree(dt_support *out, char *folder)
{
    out->archive[0] = '\0';
    for (int up = 0; up < 5; up++) {
        if (!out->archive[0] && there(folder, "libkvsimt.a"))
            snprintf(out->archive, sizeof out->archive, "%s/libkvsimt.a", folder);
        if (out->archive[0] && there(folder, "gpu/simt/user.h"))
            return (size_t)snprintf(out->root, sizeof out->root, "%s", folder) < sizeof out->root;
        char *slash = strrchr(folder, '/');
        if (!slash) return 0;
        *slash = '\0';
    }
    return 0;
}

kv_status dt_support_find(dt_support *out)
{
    const char *env = getenv("KVDIFF_SUPPORT");
    if (env && *env) {
        if (take_folder(out, env)) return KV_OK;
        return kv_fail(KV_ERR_IO, "KVDIFF_SUPPORT: '%.200s' holds no gpu/simt/user.h and libkvsimt.a", env);
    }
    char program[3000], installed[3100];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(program, '/');
    if (slash) *slash = '\0';
    snprintf(installed, sizeof installed, "%s/../../share/kvdiff", program);
    if (take_folder(out, installed) || take_tree(out, program)) return KV_OK;
    return kv_fail(KV_ERR_IO,
                   "the host SIMT layer for .cu files is not there; run `make`, or name share/kvdiff of an installed "
                   "kvdiff in KVDIFF_SUPPORT");
}

kv_status dt_support_gpu(int *is_here)
{
    char worker[4096];
    dt_command ask = {0};
    *is_here = 0;
    if (dt_process_beside("kvdiff-worker", worker, sizeof worker) != KV_OK) return KV_OK;
    dt_command_add(&ask, "%s", worker);
    dt_command_add(&ask, "--cuda");
    const kv_status st = dt_command_run(&ask, "", 0);
    *is_here = st == KV_OK && ask.code == 0;
    dt_command_free(&ask);
    return st;
}

/* mkdir -p */
static int make_folders(char *path)
{
    for (char *c = path + 1; *c; c++) {
        if (*c != '/') continue;
        *c = '\0';
        const int failed = mkdir(path, 0777) != 0 && errno != EEXIST;
        *c = '/';
        if (failed) return 0;
    }
    return mkdir(path, 0777) == 0 || errno == EEXIST;
}

kv_status dt_support_cache(char *dst, size_t size)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (xdg && *xdg == '/')
        n = snprintf(dst, size, "%s/kvdiff", xdg);
    else if (home && *home == '/')
        n = snprintf(dst, size, "%s/.cache/kvdiff", home);
    if (n < 0 || (size_t)n >= size)
        return kv_fail(KV_ERR_IO, "no place for compiled candidates; set XDG_CACHE_HOME to an absolute path");
    if (make_folders(dst) && access(dst, W_OK) == 0) return KV_OK;
    return kv_fail(KV_ERR_IO, "compiled candidates belong into '%.300s': %s; set XDG_CACHE_HOME to another place", dst,
                   strerror(errno));
}
