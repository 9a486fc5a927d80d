/* table.h - rows of text and numbers as an aligned table, as CSV or as JSON lines.
 *
 * Usage: dt_table_new, dt_table_column for every column, then the cells of the rows from left to
 * right, dt_table_finish. A row ends with its last cell. Failures (memory, writing) are kept and
 * returned by dt_table_finish; calls after the first failure do nothing.
 *
 * Formats. DT_FORMAT_TABLE: for reading. Columns are padded to the width of their widest cell in
 * characters, two blanks apart; a missing value is "-"; control characters are shown as '?'. Rows
 * are kept back and printed in blocks of DT_TABLE_BLOCK, so that any number of them needs little
 * memory. DT_FORMAT_CSV: RFC 4180 with LF line ends and a header; a missing value is an empty
 * field, an empty text is "". DT_FORMAT_JSON: one array of objects, one object per line; a missing
 * value is null, an infinity +-9e999, which is beyond every double. CSV and JSON are written row by
 * row. */
#ifndef KV_DIFFTEST_TABLE_H
#define KV_DIFFTEST_TABLE_H

#include "common/status.h"

#include <stdint.h>
#include <stdio.h>

typedef struct dt_table dt_table;

typedef enum dt_format { DT_FORMAT_TABLE, DT_FORMAT_CSV, DT_FORMAT_JSON } dt_format;

typedef enum dt_align {
    DT_LEFT,
    DT_RIGHT,
    DT_AUTO /* right when every value of the block is a number */
} dt_align;

enum { DT_TABLE_BLOCK = 4096 };

/* Reads "table", "csv" or "json"; ERR_USAGE with one line otherwise. */
kv_status dt_format_parse(const char *text, dt_format *out);

/* The table writes to out, which stays the caller's. NULL when out of memory. */
dt_table *dt_table_new(dt_format format, FILE *out);

/* Adds a column; all of them before the first cell. The name is copied. */
void dt_table_column(dt_table *t, const char *name, dt_align align);

/* The next cell: a text (copied; NULL = missing), ... */
void dt_table_text(dt_table *t, const char *text);

/* ... an integer, a double (6 digits in a table, as many as it takes to read the same double back
 * elsewhere; NaN = missing), ... */
void dt_table_int(dt_table *t, int64_t value);
void dt_table_real(dt_table *t, double value);

/* ... or a number formatted by the caller, who keeps to JSON's syntax of numbers. */
void dt_table_number(dt_table *t, const char *fmt, ...) KV_PRINTF(2, 3);

/* Prints what is still kept back, frees t (NULL is accepted: out of memory). */
kv_status dt_table_finish(dt_table *t);

/* Columns that a terminal needs for UTF-8 text: combining marks take none, East Asian wide
 * characters two, every byte that is not UTF-8 one. */
int dt_text_width(const char *text);

#endif
