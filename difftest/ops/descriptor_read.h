/* descriptor_read.h - for descriptor.c and descriptor_ops.c: a place in a file that is being read. */
#ifndef KV_DIFFTEST_OPS_DESCRIPTOR_READ_H
#define KV_DIFFTEST_OPS_DESCRIPTOR_READ_H

#include "difftest/ops/descriptor.h"

#include <jansson.h>

typedef struct dt_reader {
    dt_descriptor *d;
    char where[200]; /* "ops.attn_decode.launches[0]"; of a failure its place */
    char said[64];   /* a word of the file, fit for a message */
} dt_reader;

/* Goes to a member or an element; the result is for leave. After a failure nobody leaves. */
size_t dt_enter_key(dt_reader *r, const char *key);
size_t dt_enter_item(dt_reader *r, size_t i);
void dt_leave(dt_reader *r, size_t before);

/* A word of the file without control characters. Valid until the next one. */
const char *dt_said(dt_reader *r, const char *word);

/* Demands that an object has no members but those of a list that ends with NULL. */
kv_status dt_only_keys(dt_reader *r, const json_t *object, const char *const *known);

/* A string of 1 .. most printable ASCII characters. */
kv_status dt_take_text(const json_t *v, size_t most, const char **out);

/* descriptor_ops.c: the member "ops". */
kv_status dt_read_recipes(dt_reader *r, const json_t *ops);

#endif
