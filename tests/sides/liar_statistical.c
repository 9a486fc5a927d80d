/* The liar as a side whose figures are comparable by their distribution only. */
#define LIAR_CONTRACT KV_CONTRACT_STATISTICAL
#include "tests/sides/liar.c"
