/* reordered.c - naive.c in fp32 with the coding of tiles in another order: eight chains to a sum, fma, reciprocals,
 * expf and logf. An honest kernel, which has other bits. */
#include "kvdiff_kernel.h"

#define REAL float
#define REORDERED
KVDK_CANDIDATE("reordered", KVDK_BOUNDED)

#include "naive.c"
