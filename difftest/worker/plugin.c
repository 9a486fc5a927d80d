/* plugin.c - loads a candidate's shared object. */
#include "difftest/worker/cuda.h"
#include "difftest/worker/module.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static void log_line(const char *line)
{
    fprintf(stderr, "candidate: %s\n", line);
}

static void *find(const worker_plugin *p, const char *name)
{
    char symbol[64];
    snprintf(symbol, sizeof symbol, "kvdk_%s", name);
    return dlsym(p->handle, symbol);
}

/* dlerror() may span lines. */
static kv_status fail_load(const char *path)
{
    char why[512];
    const char *text = dlerror();
    snprintf(why, sizeof why, "%s", text ? text : "no reason given");
    for (char *c = why; *c; c++)
        if (*c == '\n') *c = ' ';
    return kv_fail(KV_ERR_MISMATCH, "'%s' cannot be loaded: %s", path, why);
}

static kv_status describe(const char *path, worker_plugin *p)
{
    uint32_t (*version)(void);
    void (*fill)(kvdk_info *);
    *(void **)(void *)&version = find(p, "abi_version");
    *(void **)(void *)&fill = find(p, "describe");
    if (!version || !fill)
        return kv_fail(KV_ERR_MISMATCH,
                       "'%s' exports no kvdk_abi_version and kvdk_describe; write KVDK_CANDIDATE(name, contract) "
                       "into its source",
                       path);
    if (version() != KVDK_ABI)
        return kv_fail(KV_ERR_MISMATCH, "'%s' speaks ABI %u of kvdiff_kernel.h, not %u; compile it again", path,
                       version(), KVDK_ABI);
    p->info = (kvdk_info){.size = sizeof p->info};
    fill(&p->info);
    if (!p->info.name || !*p->info.name || strlen(p->info.name) > 60 || strpbrk(p->info.name, "|\n\r\t"))
        return kv_fail(KV_ERR_MISMATCH, "'%s': its name must be 1 to 60 characters without '|' and control characters",
                       path);
    if (p->info.contract < KVDK_BITEXACT || p->info.contract > KVDK_STATISTICAL)
        return kv_fail(KV_ERR_MISMATCH, "'%s': contract %d is none of kvdk_contract", path, p->info.contract);
    /* What a CUDA candidate calls device memory is the host's in the SIMT layer. */
    p->uses_stream = p->info.memory == KVDK_CUDA;
    if (p->simt_stream) p->info.memory = KVDK_HOST;
    return KV_OK;
}

kv_status worker_plugin_open(const char *path, worker_plugin *p)
{
    int (*init)(const kvdk_host *);
    memset(p, 0, sizeof *p);
    if (dt_is_descriptor(path)) return worker_module_open(path, p);
    p->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!p->handle) return fail_load(path);
    *(void **)(void *)&p->simt_stream = find(p, "simt_stream");
    *(void **)(void *)&p->simt_finish = find(p, "simt_finish");
    KV_TRY(describe(path, p));
    if (p->info.memory == KVDK_CUDA) KV_TRY(worker_cuda_open());
    int n = 0;
    for (int i = 0; i < KVDK_OP_COUNT; i++) {
        *(void **)(void *)&p->ops[i] = find(p, dt_op_schemas[i].name);
        n += p->ops[i] != NULL;
    }
    if (n == 0) return kv_fail(KV_ERR_MISMATCH, "'%s' has no operation: it exports no kvdk_<operation>", path);
    *(void **)(void *)&p->workspace = find(p, "workspace");
    *(void **)(void *)&init = find(p, "init");
    const kvdk_host host = {sizeof host, 0, log_line};
    const int rc = init ? init(&host) : 0;
    return rc == 0 ? KV_OK : kv_fail(KV_ERR_DEVICE, "'%s': its kvdk_init returned %d: it cannot run here", path, rc);
}
