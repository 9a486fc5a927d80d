/* cli_output.h - what the commands that only describe something share: --format=text|json, the
 * nearest name for a mistyped one. */
#ifndef KV_DIFFTEST_CLI_OUTPUT_H
#define KV_DIFFTEST_CLI_OUTPUT_H

#include "difftest/cli.h"

#include <jansson.h>

#define DT_FORMAT_OPTION(key)                                   \
    {                                                           \
        "format", key, "FORMAT", 0, "text (default) or json", 0 \
    }

/* Reads "text" or "json"; a usage failure otherwise. */
error_t dt_output_parse(const char *text, int *json);

/* Prints root (stolen; NULL = out of memory) and returns the exit code. */
int dt_print_json(json_t *root);

/* Flushes stdout: DT_EXIT_PASS, or a reported failure when something could not be written. */
int dt_close_output(void);

/* The best of several names for a mistyped one. Zero-initialise; name stays NULL when none is near.
 */
typedef struct dt_nearest {
    const char *name;
    int distance; /* edits */
} dt_nearest;
void dt_nearest_offer(dt_nearest *best, const char *text, size_t n, const char *name);

#endif
