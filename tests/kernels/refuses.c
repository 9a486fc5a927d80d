/* refuses.c - a candidate whose only operation takes no arguments at all: a run that must not be green. */
#include "kvdiff_kernel.h"

KVDK_CANDIDATE("refuses", KVDK_BITEXACT)

int kvdk_rmsnorm(const kvdk_rmsnorm_args *a, kvdk_stream stream)
{
    (void)a;
    (void)stream;
    return -1;
}
