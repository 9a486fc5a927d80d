#include "difftest/ops/assemble.h"

#include "difftest/ops/command.h"
#include "difftest/ops/descriptor.h"
#include "difftest/ops/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *short_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* "": there is none. */
static const char *find_ptxas(void)
{
    static const char *const places[] = {"ptxas", "/usr/local/cuda/bin/ptxas"};
    const char *env = getenv("PTXAS");
    if (env && *env) return env;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (dt_command_exists(places[i])) return places[i];
    return "";
}

static kv_status fail_assemble(const char *file, const char *ptxas, const dt_command *cmd, int verbose)
{
    char line[250];
    if (cmd->code == 127 && !cmd->n_text) return kv_fail(KV_ERR_DEVICE, "the assembler '%.200s' cannot be run", ptxas);
    if (verbose) fputs(cmd->text, stderr);
    dt_command_first_error(cmd, line, sizeof line);
    return kv_fail(KV_ERR_DEVICE, "ptxas does not take %.80s: %s%s", file, line,
                   verbose ? "" : " (all messages: --verbose)");
}

/* Into nothing: whether it can be done is all that is asked. target: NULL for the assembler's own choice. */
static kv_status run_ptxas(dt_command *cmd, const char *path, const char *ptxas, const char *target)
{
    dt_command_add_words(cmd, ptxas);
    if (target) dt_command_add(cmd, "-arch=%s", target);
    dt_command_add(cmd, "-o");
    dt_command_add(cmd, "/dev/null");
    dt_command_add(cmd, "%s", path);
    return dt_command_run(cmd, "", 0);
}

/* A text for an architecture that ptxas has given up is assembled for a later one, as a driver would. */
static kv_status assemble(const char *path, const char *ptxas, const char *target, int verbose)
{
    dt_command cmd = {0};
    kv_status st = run_ptxas(&cmd, path, ptxas, target);
    if (st == KV_OK && cmd.code != 0 && strstr(cmd.text, "is not defined for option 'gpu-name'")) {
        dt_command_free(&cmd);
        st = run_ptxas(&cmd, path, ptxas, NULL);
    }
    if (st == KV_OK && cmd.code != 0)
        st = fail_assemble(short_name(path), ptxas, &cmd, verbose);
    else if (st == KV_OK && verbose)
        fputs(cmd.text, stderr);
    dt_command_free(&cmd);
    return st;
}

/* How far one gets without a device; what was found out goes into *how. */
static kv_status look_at(const dt_module *m, const char *path, int verbose, char *how, size_t size)
{
    char target[32];
    const char *ptxas = find_ptxas(), *file = short_name(path);
    if (m->kind != DT_PTX) {
        snprintf(how, size, "%.80s is machine code, which nobody has looked at", file);
        return KV_OK;
    }
    kv_status st = dt_ptx_target(m, target, sizeof target);
    if (st != KV_OK) {
        kv_prefix_message("%s", file);
        return st;
    }
    if (*ptxas)
        snprintf(how, size, "ptxas takes %.80s (.target %s)", file, target);
    else
        snprintf(how, size, "%.80s was not assembled, as there is no ptxas here (PTXAS names one)", file);
    return *ptxas ? assemble(path, ptxas, target, verbose) : KV_OK;
}

static kv_status check(const dt_descriptor *d, const dt_module *m, int verbose)
{
    char how[200];
    int is_here;
    KV_TRY(dt_descriptor_fits(d, m));
    KV_TRY(dt_support_gpu(&is_here));
    if (is_here) return KV_OK;
    KV_TRY(look_at(m, d->module, verbose, how, sizeof how));
    return kv_fail(
        KV_ERR_UNSUPPORTED,
        "there is no CUDA device here, and a module runs nowhere else; its descriptor is well-formed, and %s", how);
}

kv_status dt_module_check(const char *path, int verbose)
{
    dt_descriptor *d;
    dt_module m = {0};
    KV_TRY(dt_descriptor_read(path, &d));
    kv_status st = dt_module_read(d->module, &m);
    if (st == KV_OK) st = check(d, &m, verbose);
    dt_module_free(&m);
    dt_descriptor_free(d);
    return st;
}
