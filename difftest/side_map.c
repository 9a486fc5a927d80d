#include "difftest/side_map.h"

#include "common/fpenv.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* First missing entry of a table, or NULL. Only `digest` may be absent, and only without its
 * capability. */
static const char *missing_entry(const kv_backend *b)
{
    const struct {
        const char *name;
        int present;
    } entries[] = {
#define ENTRY(e) {#e, b->e != NULL}
        ENTRY(name),
        ENTRY(available),
        ENTRY(open),
        ENTRY(close),
        ENTRY(last_error),
        ENTRY(reset),
        ENTRY(step),
        ENTRY(export_state),
        ENTRY(import_state),
        ENTRY(snapshot),
        ENTRY(restore),
        ENTRY(snapshot_free),
        ENTRY(table),
#undef ENTRY
        {"digest", b->digest || !(b->caps & KV_CAP_DIGEST)},
    };
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (!entries[i].present) return entries[i].name;
    return NULL;
}

static kv_status check_table(const char *spec, const kv_backend *b)
{
    if (!b)
        return kv_fail(KV_ERR_MISMATCH,
                       "device '%s' does not speak ABI %u of common/backend.h; build it "
                       "against this version",
                       spec, KV_BACKEND_ABI);
    if (b->abi != KV_BACKEND_ABI)
        return kv_fail(KV_ERR_MISMATCH,
                       "device '%s' speaks ABI %u, not %u; build it against this version "
                       "of common/backend.h",
                       spec, b->abi, KV_BACKEND_ABI);
    const char *missing = missing_entry(b);
    if (missing)
        return kv_fail(KV_ERR_MISMATCH,
                       "device '%s': its table has no %s; docs/backend.md says what a side "
                       "must do",
                       spec, missing);
    if (b->contract < KV_CONTRACT_BITEXACT || b->contract > KV_CONTRACT_STATISTICAL)
        return kv_fail(KV_ERR_MISMATCH, "device '%s': contract %d is none of kv_contract", spec,
                       b->contract);
    return KV_OK;
}

/* dlerror() may span lines and repeats the path. */
static kv_status fail_dlopen(const char *spec)
{
    char why[512];
    const char *text = dlerror();
    snprintf(why, sizeof why, "%s", text ? text : "no reason given");
    for (char *c = why; *c; c++)
        if (*c == '\n') *c = ' ';
    return kv_fail(KV_ERR_MISMATCH, "device '%s' cannot be loaded: %s", spec, why);
}

kv_status dt_side_map(const char *spec, const char *path, void **handle, const kv_backend **backend)
{
    *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!*handle) return fail_dlopen(spec);
    if (kv_fpenv_check("after it was loaded") != KV_OK) {
        kv_prefix_message("device '%s'", spec);
        return KV_ERR_MISMATCH;
    }
    kv_side_entry_fn *entry;
    void *symbol = dlsym(*handle, KV_SIDE_ENTRY);
    if (!symbol)
        return kv_fail(KV_ERR_MISMATCH,
                       "device '%s': '%s' exports no %s, so it is not a side "
                       "(docs/backend.md)",
                       spec, path, KV_SIDE_ENTRY);
    memcpy(&entry, &symbol, sizeof entry);
    *backend = entry(KV_BACKEND_ABI);
    return check_table(spec, *backend);
}
