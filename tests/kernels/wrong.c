/* wrong.c - naive.c with the bug that $KVDIFF_TEST_BUG names; tests/cli/ops.sh demands that each one is found. */
#include "kvdiff_kernel.h"

#include <stdlib.h>
#include <string.h>

static int has_bug(const char *name)
{
    static const char *wanted;
    if (!wanted) wanted = getenv("KVDIFF_TEST_BUG");
    return wanted && strcmp(wanted, name) == 0;
}

#define BUG(x) has_bug(#x)
#define REAL   double
KVDK_CANDIDATE("wrong", KVDK_BOUNDED)

#include "naive.c"
