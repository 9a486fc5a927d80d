/* The liar as a side that promises to stay within a bound. */
#define LIAR_CONTRACT KV_CONTRACT_BOUNDED
#include "tests/sides/liar.c"
