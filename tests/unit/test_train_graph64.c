/* The cases of test_train_graph.c in double, and finite differences. */
#define REF_BITS 64
#include "tests/unit/test_train_graph.c"
