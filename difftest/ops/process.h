/* process.h - a child process with limits that answers lines with lines. */
#ifndef KV_DIFFTEST_OPS_PROCESS_H
#define KV_DIFFTEST_OPS_PROCESS_H

#include "common/status.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

typedef struct dt_process {
    pid_t pid;    /* 0: none */
    int socket;   /* -1: none */
    int log;      /* a file in memory that takes what the child prints; -1: none */
    char *buffer; /* bytes behind the last answer */
    size_t n, cap;
} dt_process;

typedef enum dt_ending { DT_ANSWERED, DT_ENDED, DT_SILENT } dt_ending;

void dt_process_none(dt_process *p);

/* Runs argv[0] (searched in PATH) with the socket as descriptor 3 and memory_fd as 4, in a process group of its own
 * that dies with the tester. address_bytes: limit of its address space on top of `block` bytes; 0: none. ERR_DEVICE
 * when it cannot be started. */
kv_status dt_process_start(dt_process *p, char *const argv[], int memory_fd, int64_t address_bytes, int64_t block);

/* Sends a line (without its end) and waits for one; *answer is the caller's to free. */
dt_ending dt_process_ask(dt_process *p, const char *line, double seconds, char **answer, double *wall);

/* After DT_ENDED or DT_SILENT: what became of the child, in words, with the last line that it printed. It is gone then.
 */
void dt_process_reap(dt_process *p, dt_ending end, const char *doing, double seconds, char *why, size_t size);

int dt_process_lives(const dt_process *p);
/* Closes the socket, on which a child ends; after a second it and its group are killed. Frees what p holds; accepts one
 * that never started. */
void dt_process_stop(dt_process *p);

/* Path of another program in the folder of this one. ERR_IO when it is not there. */
kv_status dt_process_beside(const char *name, char *path, size_t size);

#endif
