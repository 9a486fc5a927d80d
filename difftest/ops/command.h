/* command.h - runs a program of the machine, a compiler, and takes what it prints. */
#ifndef KV_DIFFTEST_OPS_COMMAND_H
#define KV_DIFFTEST_OPS_COMMAND_H

#include "common/status.h"

typedef struct dt_command {
    char *argv[64]; /* ends with NULL; each owned */
    int n;
    char *text; /* stdout and stderr of the last run, zero-terminated */
    size_t n_text;
    int code; /* its exit code; 127: it could not be started, or was killed */
} dt_command;

/* Appends a word, as printf makes it. Words beyond 63 are an error of the caller that dt_command_run reports. */
void dt_command_add(dt_command *c, const char *fmt, ...) KV_PRINTF(2, 3);

/* Appends the words of a text that are separated by spaces. */
void dt_command_add_words(dt_command *c, const char *text);

/* Runs argv[0] (searched in PATH) with the given bytes as stdin and waits. ERR_NOMEM, ERR_DEVICE when no process can be
 * made. */
kv_status dt_command_run(dt_command *c, const char *input, size_t n_input);

/* The first line of the text that tells of an error, without control characters. */
void dt_command_first_error(const dt_command *c, char *dst, size_t size);

void dt_command_free(dt_command *c);

/* Is there such a program in PATH, or under this path? */
int dt_command_exists(const char *program);

#endif
