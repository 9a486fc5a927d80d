/* cu_refused.h - words and headers of CUDA that mean nothing on a CPU, each with what to do about it. */
#ifndef KV_DIFFTEST_OPS_CU_REFUSED_H
#define KV_DIFFTEST_OPS_CU_REFUSED_H

#include <stddef.h>

/* Why the word [at, at + n) is refused, or NULL. */
const char *dt_cu_refused_word(const char *text, size_t at, size_t n);

/* The same for the path of an #include, which begins at `at`; the line ends at `end`. */
const char *dt_cu_refused_header(const char *text, size_t at, size_t end);

#endif
