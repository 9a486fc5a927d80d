/* emu.so with one lie (liar.h), as a side that promises bits unless LIAR_CONTRACT says otherwise. It finds
 * emu.so in the build that it belongs to. */
#include "tests/sides/liar.h"

#include <dlfcn.h>

#ifndef LIAR_CONTRACT
#    define LIAR_CONTRACT KV_CONTRACT_BITEXACT
#endif

static const kv_backend *honest;

static const kv_backend *liar_honest(void) { return honest; }

/* BUILD/tests/sides/liar.so -> BUILD/sides/emu.so */
static void find_honest(uint32_t abi)
{
    Dl_info me;
    char path[2048];
    if (!dladdr((void *)&honest, &me)) return;
    const char *slash = strrchr(me.dli_fname, '/');
    snprintf(path, sizeof path, "%.*s/../../sides/emu.so", slash ? (int)(slash - me.dli_fname) : 1,
             slash ? me.dli_fname : ".");
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    kv_side_entry_fn *entry = NULL;
    if (so) *(void **)(void *)&entry = dlsym(so, KV_SIDE_ENTRY);
    if (entry) honest = entry(abi);
}

const kv_backend *kv_side_entry(uint32_t abi);
__attribute__((visibility("default"))) const kv_backend *kv_side_entry(uint32_t abi)
{
    static kv_backend table;
    if (abi != KV_BACKEND_ABI) return NULL;
    if (!honest) find_honest(abi);
    liar_fill(&table, LIAR_CONTRACT);
    return &table;
}
