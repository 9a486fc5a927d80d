/* stub.h - a complete table whose calls do nothing: the sides of this folder are refused before any
 * call, each for a reason of its own (tests/unit/test_side.c). */
#ifndef KV_TESTS_SIDES_STUB_H
#define KV_TESTS_SIDES_STUB_H

#include "common/backend.h"

#define UNUSED __attribute__((unused)) static

UNUSED kv_status stub_available(const char *o, char *why, size_t n)
{
    (void)o, (void)why, (void)n;
    return KV_OK;
}
UNUSED kv_status stub_open(const kv_open_args *a, kv_session **out)
{
    (void)a, (void)out;
    return KV_ERR_UNSUPPORTED;
}
UNUSED void stub_close(kv_session *s)
{
    (void)s;
}
UNUSED const char *stub_error(const kv_session *s)
{
    (void)s;
    return "";
}
UNUSED kv_status stub_reset(kv_session *s)
{
    (void)s;
    return KV_OK;
}
UNUSED kv_status stub_step(kv_session *s, const kv_step *step)
{
    (void)s, (void)step;
    return KV_OK;
}
UNUSED kv_status stub_export(kv_session *s, int32_t l, uint32_t w, void *d, size_t c, size_t *n)
{
    (void)s, (void)l, (void)w, (void)d, (void)c, (void)n;
    return KV_OK;
}
UNUSED kv_status stub_import(kv_session *s, const void *p, size_t n)
{
    (void)s, (void)p, (void)n;
    return KV_OK;
}
UNUSED kv_status stub_snapshot(kv_session *s, void **out)
{
    (void)s, (void)out;
    return KV_OK;
}
UNUSED kv_status stub_restore(kv_session *s, const void *p)
{
    (void)s, (void)p;
    return KV_OK;
}
UNUSED void stub_snapshot_free(kv_session *s, void *p)
{
    (void)s, (void)p;
}
UNUSED kv_status stub_table(kv_session *s, kv_table w, int64_t f, int64_t n, float *d)
{
    (void)s, (void)w, (void)f, (void)n, (void)d;
    return KV_OK;
}

#define STUB_TABLE                                                                                 \
    .abi = KV_BACKEND_ABI, .contract = KV_CONTRACT_BOUNDED, .name = "stub",                        \
    .available = stub_available, .open = stub_open, .close = stub_close, .last_error = stub_error, \
    .reset = stub_reset, .step = stub_step, .export_state = stub_export,                           \
    .import_state = stub_import, .snapshot = stub_snapshot, .restore = stub_restore,               \
    .snapshot_free = stub_snapshot_free, .table = stub_table

const kv_backend *kv_side_entry(uint32_t abi);

#endif
