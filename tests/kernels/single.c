/* single.c - naive.c in fp32, one term after the other: what an honest kernel does must stay inside the bounds. */
#include "kvdiff_kernel.h"

#define REAL float
KVDK_CANDIDATE("single", KVDK_BOUNDED)

#include "naive.c"
