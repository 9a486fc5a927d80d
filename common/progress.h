/* progress.h - one line of progress on stderr, only on a terminal. */
#ifndef KV_COMMON_PROGRESS_H
#define KV_COMMON_PROGRESS_H

#include <stdint.h>

typedef struct kv_progress {
    const char *what;  /* unit: "tok" */
    int64_t total;     /* 0 = unknown */
    int64_t done;
    double start, last; /* seconds */
    int enabled;
    int shown;
} kv_progress;

/* mode: 0 never, 1 when stderr is a terminal. total may be 0. */
void kv_progress_begin(kv_progress *p, const char *what, int64_t total, int mode);

/* Advances and, at most ten times a second, redraws "label 37 % 1234/5678 tok 41.2k tok/s eta 0:08". */
void kv_progress_add(kv_progress *p, int64_t n, const char *label);

/* Removes the line. */
void kv_progress_end(kv_progress *p);

/* Monotonic seconds. */
double kv_now(void);

#endif
