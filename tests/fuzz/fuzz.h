/* fuzz.h - what a fuzz target offers. tests/fuzz/fuzz_<topic>.c is built twice: with driver.c,
 * which runs a fixed number of mutations in `make test` with any compiler, and with libFuzzer by
 * `make fuzz`.
 *
 * A target returns on every input, good or bad, and calls FUZZ_DEMAND for what must hold. */
#ifndef KV_TESTS_FUZZ_H
#define KV_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Optional: seed number i (0, 1, ...) as malloc'd bytes; NULL past the last. */
uint8_t *fuzz_seed(unsigned i, size_t *size) __attribute__((weak));

#define FUZZ_DEMAND(cond)                                                             \
    do {                                                                              \
        if (!(cond)) {                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #cond); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

#endif
