#include "difftest/worker/module.h"

#include "difftest/ops/command.h"
#include "difftest/ops/launch.h"
#include "difftest/worker/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* From cuda.h, as in cuda.c. */
typedef int CUresult;
typedef void *CUmodule;
typedef void *CUfunction;
typedef void *CUstream;
enum {
    CU_JIT_ERROR_LOG_BUFFER = 5,
    CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6,
    CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1,
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
    SHARED_WITHOUT_ASKING = 48 * 1024
};

/* X(member, symbol, arguments) */
#define MODULE_CALLS(X)                                                                                            \
    X(load, "cuModuleLoadDataEx", (CUmodule * module, const void *image, unsigned n, int *options, void **values)) \
    X(get_function, "cuModuleGetFunction", (CUfunction * function, CUmodule module, const char *name))             \
    X(get_attribute, "cuFuncGetAttribute", (int *value, int attribute, CUfunction function))                       \
    X(set_attribute, "cuFuncSetAttribute", (CUfunction function, int attribute, int value))                        \
    X(launch, "cuLaunchKernel",                                                                                    \
      (CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,          \
       unsigned shared, CUstream stream, void **parameters, void **extra))

static struct {
    dt_descriptor *d;
#define X(member, symbol, arguments) CUresult(*member) arguments;
    MODULE_CALLS(X)
#undef X
    CUfunction function[KVDK_OP_COUNT][DT_LAUNCHES];
    char why[512]; /* "": the last call was done */
} m;

/* ---- opening -------------------------------------------------------------------------------------------------------
 */

static kv_status find_calls(void)
{
#define X(member, symbol, arguments)                          \
    *(void **)(void *)&m.member = worker_cuda_symbol(symbol); \
    if (!m.member) return kv_fail(KV_ERR_DEVICE, "the CUDA driver has no %s", symbol);
    MODULE_CALLS(X)
#undef X
    return KV_OK;
}

/* The driver assembles PTX for the device, or takes machine code that was made for it. */
static kv_status load(const dt_module *module, CUmodule *out)
{
    char log[4096] = "", line[300] = "";
    int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)(uintptr_t)(sizeof log - 1)};
    const CUresult e = m.load(out, module->bytes, 2, options, values);
    if (e == 0) return KV_OK;
    const dt_command said = {.text = log};
    dt_command_first_error(&said, line, sizeof line);
    return kv_fail(KV_ERR_DEVICE, "%s: the driver does not take it: %s%s%s", m.d->module, worker_cuda_error(e),
                   *line ? ": " : "", line);
}

/* A driver since CUDA 12.4 knows the parameters of every kernel, those of machine code, too. */
static kv_status check_parameters(CUfunction function, const dt_launch *l)
{
    CUresult (*info)(CUfunction, size_t, size_t *, size_t *);
    size_t offset, bytes;
    int n = 0;
    *(void **)(void *)&info = worker_cuda_symbol("cuFuncGetParamInfo");
    if (!info) return KV_OK;
    for (; n < l->n_parameters && info(function, (size_t)n, &offset, &bytes) == 0; n++)
        if (bytes != (size_t)l->parameter[n].bytes)
            return kv_fail(KV_ERR_FORMAT, "parameters[%d] of '%s' has %zu bytes there, %s has %d", n, l->entry, bytes,
                           l->parameter[n].type, l->parameter[n].bytes);
    if (n == l->n_parameters && info(function, (size_t)n, &offset, &bytes) != 0) return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "'%s' has %s parameters than the %d that are given", l->entry,
                   n == l->n_parameters ? "more" : "fewer", l->n_parameters);
}

static kv_status find_functions(CUmodule module)
{
    for (int op = 0; op < KVDK_OP_COUNT; op++)
        for (int i = 0; i < m.d->recipe[op].n_launches; i++) {
            const dt_launch *l = &m.d->recipe[op].launch[i];
            const CUresult e = m.get_function(&m.function[op][i], module, l->entry);
            const kv_status st =
                e == 0 ? check_parameters(m.function[op][i], l)
                       : kv_fail(KV_ERR_FORMAT, "%s: kernel '%s': %s", m.d->module, l->entry, worker_cuda_error(e));
            if (st == KV_OK) continue;
            kv_prefix_message("%s: ops.%s.launches[%d]", m.d->file, dt_op_schemas[m.d->recipe[op].op].name, i);
            return st;
        }
    return KV_OK;
}

/* ---- calls ---------------------------------------------------------------------------------------------------------
 */

/* The status that a candidate's function would return. */
static int give_up(kv_status st)
{
    snprintf(m.why, sizeof m.why, "%s", kv_message());
    return st == KV_ERR_UNSUPPORTED ? -1 : 1;
}

/* More than 48 KiB of shared memory must be asked for. */
static kv_status ask_for_shared(CUfunction function, unsigned shared)
{
    int fixed = 0;
    CUresult e = m.get_attribute(&fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function);
    if (e == 0 && (unsigned)fixed + shared <= SHARED_WITHOUT_ASKING) return KV_OK;
    if (e == 0) e = m.set_attribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)shared);
    return e == 0 ? KV_OK
                  : kv_fail(KV_ERR_DEVICE, "%u bytes of shared memory beside %d of its own: %s", shared, fixed,
                            worker_cuda_error(e));
}

static kv_status launch(const dt_recipe *recipe, int i, CUfunction function, const dt_args *args, const uint64_t *at,
                        CUstream stream)
{
    dt_launch_values v;
    int is_on;
    KV_TRY(dt_launch_compute(m.d, recipe, i, args, at, &is_on, &v));
    if (!is_on) return KV_OK;
    kv_status st = ask_for_shared(function, v.shared);
    if (st == KV_OK) {
        const CUresult e = m.launch(function, v.grid[0], v.grid[1], v.grid[2], v.block[0], v.block[1], v.block[2],
                                    v.shared, stream, v.pointer, NULL);
        if (e == 0) return KV_OK;
        st = kv_fail(KV_ERR_DEVICE, "grid %u x %u x %u, block %u x %u x %u, %u bytes: %s", v.grid[0], v.grid[1],
                     v.grid[2], v.block[0], v.block[1], v.block[2], v.shared, worker_cuda_error(e));
    }
    kv_prefix_message("%s: ops.%s.launches[%d]: '%s'", m.d->file, dt_op_schemas[recipe->op].name, i,
                      recipe->launch[i].entry);
    return st;
}

/* Every operation of a module. */
static int run(const void *p, kvdk_stream stream)
{
    const dt_args *args = p;
    const dt_recipe *recipe = &m.d->recipe[args->call.op];
    uint64_t at[DT_SCRATCHES + 1];
    m.why[0] = '\0';
    kv_status st = dt_recipe_takes(m.d, recipe, args);
    if (st == KV_OK) st = dt_recipe_scratch(m.d, recipe, args, at);
    if (st == KV_OK && at[recipe->n_scratch] > args->call.workspace_bytes)
        st = kv_fail(KV_ERR_DEVICE, "%s: ops.%s.scratch: %llu bytes are not there", m.d->file,
                     dt_op_schemas[recipe->op].name, (unsigned long long)at[recipe->n_scratch]);
    for (int i = 0; i < recipe->n_launches && st == KV_OK; i++)
        st = launch(recipe, i, m.function[args->call.op][i], args, at, stream);
    return st == KV_OK ? 0 : give_up(st);
}

/* What cannot be computed is said by the call itself. */
static uint64_t workspace(const kvdk_call *call)
{
    const dt_recipe *recipe = &m.d->recipe[call->op];
    uint64_t at[DT_SCRATCHES + 1];
    if (dt_recipe_takes(m.d, recipe, call) != KV_OK || dt_recipe_scratch(m.d, recipe, call, at) != KV_OK) return 0;
    return at[recipe->n_scratch];
}

static const char *reason(void)
{
    return m.why[0] ? m.why : NULL;
}

kv_status worker_module_open(const char *path, worker_plugin *out)
{
    dt_module module;
    CUmodule loaded = NULL;
    KV_TRY(dt_descriptor_read(path, &m.d));
    KV_TRY(dt_module_read(m.d->module, &module));
    kv_status st = dt_descriptor_fits(m.d, &module);
    if (st == KV_OK) st = worker_cuda_open();
    if (st == KV_OK) st = find_calls();
    if (st == KV_OK) st = load(&module, &loaded);
    dt_module_free(&module);
    KV_TRY(st);
    KV_TRY(find_functions(loaded));
    *out = (worker_plugin){.info = m.d->info, .uses_stream = 1, .workspace = workspace, .reason = reason};
    for (int op = 0; op < KVDK_OP_COUNT; op++)
        if (m.d->recipe[op].n_launches) out->ops[op] = run;
    return KV_OK;
}
