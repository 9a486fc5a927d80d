/* schema.h - what the arguments of every operation of kvdiff_kernel.h consist of: names, places and roles. Tester and
 * worker walk the same tables, so that a call crosses between processes as text. */
#ifndef KV_DIFFTEST_OPS_SCHEMA_H
#define KV_DIFFTEST_OPS_SCHEMA_H

#include "common/status.h"
#include "include/kvdiff_kernel.h"

enum { DT_OP_TENSORS = 16 }; /* most tensors of an operation */

typedef enum dt_role { DT_IN, DT_OUT, DT_INOUT } dt_role;

typedef struct dt_op_param {
    const char *name;
    size_t offset;
    int is_real; /* double, else int64_t */
} dt_op_param;

typedef struct dt_op_slot {
    const char *name;
    size_t offset; /* of the kvdk_tensor */
    dt_role role;
} dt_op_slot;

typedef struct dt_op_schema {
    const char *name;
    size_t size; /* of the arguments */
    const dt_op_param *params;
    int n_params;
    const dt_op_slot *tensors;
    int n_tensors;
} dt_op_schema;

/* Room for the arguments of any operation. */
typedef union dt_args {
    kvdk_call call;
#define X(name, type) type name;
    KVDK_OP_LIST(X)
#undef X
} dt_args;

extern const dt_op_schema dt_op_schemas[KVDK_OP_COUNT];

/* A number that is another one where operations, their arguments or their places differ: worker and tester must be of one build. */
int64_t dt_schema_print(void);

/* Index of an operation by its name; -1: there is none. */
int dt_op_find(const char *name);

static inline kvdk_tensor *dt_op_tensor(void *args, const dt_op_slot *slot)
{
    return (kvdk_tensor *)((char *)args + slot->offset);
}

static inline const kvdk_tensor *dt_op_tensor_of(const void *args, const dt_op_slot *slot)
{
    return (const kvdk_tensor *)((const char *)args + slot->offset);
}

/* Bytes of an element; "f32" ... */
size_t dt_dtype_bytes(int32_t dtype);
const char *dt_dtype_name(int32_t dtype);
int dt_dtype_find(const char *name); /* -1: unknown */

/* Elements, and elements from the first to behind the last of a strided tensor. */
int64_t dt_tensor_count(const kvdk_tensor *t);
int64_t dt_tensor_extent(const kvdk_tensor *t);

#endif
