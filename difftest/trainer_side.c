#include "difftest/trainer_side.h"

#include "ref/train/door.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static kv_status find_entry(const char *spec, dt_trainer_side *out)
{
    kv_trainer_entry_fn *entry;
    void *symbol = out->side.handle ? dlsym(out->side.handle, KV_TRAINER_ENTRY) : NULL;
    if (!symbol)
        return kv_fail(KV_ERR_UNSUPPORTED, "side '%s' has no trainer: it exports no %s (common/trainer.h); ref, ref64, emu and "
                       "cuda:exact have one", spec, KV_TRAINER_ENTRY);
    memcpy(&entry, &symbol, sizeof entry);
    out->api = entry(KV_TRAINER_ABI);
    if (out->api && out->api->abi == KV_TRAINER_ABI) return KV_OK;
    return kv_fail(KV_ERR_MISMATCH, "side '%s': its trainer does not speak ABI %u of common/trainer.h; build it against this "
                   "version", spec, KV_TRAINER_ABI);
}

kv_status dt_trainer_side_open(const char *spec, dt_trainer_side *out)
{
    *out = (dt_trainer_side){0};
    KV_TRY(dt_side_open_here(spec, &out->side));
    const int is_ref = strncmp(out->side.name, "ref", 3) == 0;
    if (out->side.handle || out->side.is_policy || !is_ref) return find_entry(spec, out);
    out->api = strncmp(out->side.name, "ref64", 5) == 0 ? ref64_trainer_door() : ref_trainer_door();
    return KV_OK;
}

kv_status dt_trainer_open(const dt_trainer_side *s, const kv_trainer_args *args, const char *isa, kv_trainer **out)
{
    char options[320];
    kv_trainer_args a = *args;
    a.options = s->side.options;
    if (isa && s->side.handle)
        return kv_fail(KV_ERR_USAGE, "--isa=%s chooses kernels of the reference; side '%s' has none of them", isa, s->side.name);
    if (isa) {
        snprintf(options, sizeof options, "isa=%.300s", isa);
        a.options = options;
    }
    return dt_trainer_said(s->api, s->api->open(&a, out));
}

kv_status dt_trainer_said(const kv_trainer_api *api, kv_status st)
{
    if (st == KV_OK || api->last_error() == kv_message()) return st;
    return kv_fail(st, "%s: %s", api->name, api->last_error());
}
