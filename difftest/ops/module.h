/* module.h - compiled device code of a candidate: PTX text, a cubin or a fat binary, as far as it can be looked at
 * without a driver. What kind it is follows from its contents. */
#ifndef KV_DIFFTEST_OPS_MODULE_H
#define KV_DIFFTEST_OPS_MODULE_H

#include "common/status.h"

#include <stdint.h>

enum { DT_MODULE_PARAMETERS = 64 }; /* most parameters of a kernel */

typedef enum dt_module_kind { DT_PTX, DT_CUBIN, DT_FATBIN } dt_module_kind;

typedef struct dt_module {
    char *bytes; /* owned; a zero follows */
    size_t n;
    dt_module_kind kind;
} dt_module;

/* A kernel of a PTX text. */
typedef struct dt_ptx_entry {
    int n; /* parameters; beyond DT_MODULE_PARAMETERS only counted */
    uint64_t bytes[DT_MODULE_PARAMETERS];
} dt_ptx_entry;

/* The caller frees the module. ERR_IO, ERR_FORMAT: none of the three. */
kv_status dt_module_read(const char *path, dt_module *out);
kv_status dt_module_take(const char *bytes, size_t n, dt_module *out); /* a copy; messages name no file */
void dt_module_free(dt_module *m);

/* The kernel of that name. ERR_FORMAT: there is none, and which there are. For a cubin n is -1: its name is all that is
 * looked for; for a fat binary, which may be compressed, not even that. */
kv_status dt_module_entry(const dt_module *m, const char *name, dt_ptx_entry *out);

/* Architecture that a PTX text names in .target ("sm_90a"); ERR_FORMAT. */
kv_status dt_ptx_target(const dt_module *m, char *dst, size_t size);

#endif
