/* descriptor.h - NAME.kernel.json: a candidate whose code is a module (module.h) and that has no host code; the file
 * says what its host code would do. docs/candidates.md, "Modules", has the format. The file is not trusted: whatever it
 * holds is refused in one line, "file: place.in.it: what is wrong", or means something. */
#ifndef KV_DIFFTEST_OPS_DESCRIPTOR_H
#define KV_DIFFTEST_OPS_DESCRIPTOR_H

#include "difftest/ops/expr.h"
#include "difftest/ops/module.h"

enum { DT_LAUNCHES = 16, DT_SCRATCHES = 8, DT_REQUIREMENTS = 16 };

typedef enum dt_parameter_kind {
    DT_PARAMETER_TENSOR,  /* pointer of a tensor; NULL when it is absent */
    DT_PARAMETER_SCRATCH, /* pointer into the workspace */
    DT_PARAMETER_ARGS,    /* the operation's struct of kvdiff_kernel.h, by value */
    DT_PARAMETER_INTEGER, /* an expression */
    DT_PARAMETER_REAL,    /* a real number of the operation */
    DT_PARAMETER_NUMBER,  /* a real number of the descriptor */
    DT_PARAMETER_WHOLE    /* an expression, passed as a real number */
} dt_parameter_kind;

typedef struct dt_parameter {
    int32_t kind;
    int32_t bytes;     /* as the kernel receives it */
    int32_t is_signed; /* of an integer */
    int32_t scratch;   /* its number */
    size_t offset;     /* of the tensor or number in the arguments */
    dt_expr value;
    double number;
    const char *type; /* "i32" */
} dt_parameter;

typedef struct dt_launch {
    const char *entry;
    dt_expr when; /* root -1: always */
    dt_expr grid[3], block[3], shared;
    dt_parameter parameter[DT_MODULE_PARAMETERS];
    int n_parameters;
} dt_launch;

typedef struct dt_scratch {
    const char *name;
    dt_expr bytes;
} dt_scratch;

/* How an operation is carried out. */
typedef struct dt_recipe {
    int op;
    dt_expr requires[DT_REQUIREMENTS];
    int n_requires;
    dt_scratch scratch[DT_SCRATCHES];
    int n_scratch;
    dt_launch *launch;
    int n_launches;
} dt_recipe;

typedef struct dt_descriptor {
    char *file;   /* its own name, without folders, for messages */
    char *module; /* path of the module */
    kvdk_info info;
    dt_recipe recipe[KVDK_OP_COUNT]; /* n_launches = 0: it has none. Launches may be those of another one */
    dt_expr_pool pool;
    void *json; /* owns all texts */
} dt_descriptor;

/* Does the name end in ".kernel.json"? */
int dt_is_descriptor(const char *path);
int dt_ends_with(const char *text, const char *end);

/* The caller frees *out. ERR_IO, ERR_FORMAT, ERR_NOMEM. path of the second: for messages and to find the module. */
kv_status dt_descriptor_read(const char *path, dt_descriptor **out);
kv_status dt_descriptor_take(const char *text, size_t n, const char *path, dt_descriptor **out);
void dt_descriptor_free(dt_descriptor *d); /* accepts NULL */

/* Has the module the kernels that the descriptor names, with parameters of these sizes? ERR_FORMAT. */
kv_status dt_descriptor_fits(const dt_descriptor *d, const dt_module *m);

#endif
