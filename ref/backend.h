/* backend.h - the reference as a side: what the tester links instead of loading. */
#ifndef KV_REF_BACKEND_H
#define KV_REF_BACKEND_H

#include "common/backend.h"

KV_EXTERN_C_BEGIN

/* The oracle in fp32, and the same source in double, the yardstick for rounding (docs/numerics.md 5).
 * Options of both: "isa=scalar|avx2|avx512" (best of this CPU when left out). */
const kv_backend *ref_backend(void);
const kv_backend *ref64_backend(void);

/* Seconds a session of ref_backend() spent in each operation since it was opened, for `make bench`. */
typedef enum ref_op {
    REF_OP_MATMUL,
    REF_OP_HEAD,
    REF_OP_ATTENTION,
    REF_OP_ROTATE,
    REF_OP_OTHER,
    REF_OP_COUNT
} ref_op;
void ref_session_seconds(const kv_session *s, double seconds[REF_OP_COUNT]);

KV_EXTERN_C_END

#endif
