/* options.h - what `kvdiff run` was asked to do. Strings point into argv or live as long as the list. */
#ifndef KV_DIFFTEST_OPTIONS_H
#define KV_DIFFTEST_OPTIONS_H

#include "common/status.h"

#include <stdint.h>

typedef enum dt_mode {
    DT_MODE_FREE,   /* errors accumulate, decisions may flip */
    DT_MODE_LOCKED, /* the device's cache is set to the reference's before every step */
    DT_MODE_FOLLOW, /* the device replays the reference's decisions */
    DT_MODE_COUNT
} dt_mode;
const char *dt_mode_name(int mode);

typedef enum dt_keep {
    DT_KEEP_ALL,  /* every token row, up to DT_ROWS_MAX in a run, then as DIFF */
    DT_KEEP_DIFF, /* rows with any difference */
    DT_KEEP_NONE
} dt_keep;

enum { DT_ROWS_MAX = 2000000, DT_MAX_LANES = 16 /* devices in one run */ };

typedef struct dt_list {
    char **v; /* owned */
    int n;
} dt_list;

typedef struct dt_options {
    const char *model;        /* name or path */
    const char *device_model; /* for the devices; NULL: the same model */
    const char *db, *label, *cache_dir;
    dt_list corpora, docs, policies, devices;
    int64_t tokens;     /* per document; 0 = all */
    int32_t q;          /* tokens per step */
    int32_t mode;       /* dt_mode */
    int32_t keep;       /* dt_keep */
    int32_t window;     /* 0: the whole text is one stream; else llama-perplexity's half-window mode:
                         * chunks of this many tokens from an empty cache, second half scored */
    int32_t threads;
    int32_t digest_every; /* tokens between comparisons of cache state; 0 = at the end only */
    int allow_long, all_events, quiet;
} dt_options;

/* Defaults for everything; lists empty. */
void dt_options_init(dt_options *o);
void dt_options_free(dt_options *o);

kv_status dt_list_add(dt_list *l, const char *text, size_t n);
void dt_list_free(dt_list *l);

/* The command line as a shell would read it again; the caller frees it. NULL: out of memory. */
char *dt_command_line(int argc, char **argv);

/* "blas,emu:seed=3,slow=1,./my.so" -> blas | emu:seed=3,slow=1 | ./my.so: a key=value without a colon
 * before it belongs to the device in front of it. */
kv_status dt_list_add_devices(dt_list *l, const char *text);

#endif
