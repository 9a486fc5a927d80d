/* side.h - finds a side by its spelling on the command line and loads it.
 *
 *   ref | ref64                    linked in
 *   policy:SPEC                    linked in: the reference under another policy (policy_side.h)
 *   kernel:FILE[,ops=A+B]          the reference with operations of a candidate (kernel_side.h)
 *   NAME[:options]                 NAME.so in the sides folder ($KVDIFF_SIDES, else "sides" next to
 * the program): blas, emu:seed=3, cuda:exact PATH/FILE.so[:options]         anybody's
 *
 * Our own shared objects are loaded into this process, where they stay until it ends: they may have started threads. Anybody's runs in a
 * process of its own (remote.h), so that it may crash, hang or exit without harm; KVDIFF_IN_PROCESS=1 loads it here, for a debugger. */
#ifndef KV_DIFFTEST_SIDE_H
#define KV_DIFFTEST_SIDE_H

#include "common/backend.h"

typedef struct dt_side {
    const kv_backend *backend;
    char name[256];     /* spelling that results use: "emu:seed=3"; a file's stem for a path */
    char options[4600]; /* what its table is to be given: what follows the colon; of a side in another process the file as well */
    uint8_t so_sha[32]; /* SHA-256 of the shared object */
    int has_sha;        /* 0: linked in */
    int is_kernel;      /* kernel:FILE: judges every call by itself */
    int is_policy;      /* policy:SPEC: measured, not judged */
    void *handle;       /* of dlopen; NULL: linked in */
} dt_side;

/* ERR_USAGE: unknown name or option. ERR_IO: no such file. ERR_MISMATCH: not a side, another ABI,
 * an incomplete table, a library that changes the floating-point state. ERR_DEVICE: it cannot run
 * on this machine, with its reason. One line each. */
kv_status dt_side_open(const char *spec, dt_side *out);

/* The same with anybody's side in this process, too: for what does not go through the table's sessions (its trainer, its trace). */
kv_status dt_side_open_here(const char *spec, dt_side *out);
void dt_side_close(dt_side *s); /* accepts a zeroed one */

/* The first half of dt_side_open: everything but the question whether it can run here. */
kv_status dt_side_load(const char *spec, dt_side *out);

/* The folder that holds the shipped sides. ERR_USAGE when its path is too long. */
kv_status dt_side_folder(char *dst, size_t size);

/* Names of the shipped sides, best known first; NULL behind the last. */
extern const char *const dt_side_names[];

#endif
