/* The cases of test_train_kernels.c in double. */
#define REF_BITS 64
#include "tests/unit/test_train_kernels.c"
