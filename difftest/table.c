/* table.c - see table.h. Cells are kept as text in one arena until their block is printed; CSV and
 * JSON have blocks of one row. */
#include "difftest/table.h"

#include "common/utf8.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

typedef enum cell_kind { CELL_MISSING, CELL_TEXT, CELL_NUMBER } cell_kind;

typedef struct cell {
    size_t at; /* of its text in the arena */
    int width;
    cell_kind kind;
} cell;

typedef struct column {
    char *name;
    dt_align align;
    int width, right; /* of the block that is printed */
} column;

struct dt_table {
    dt_format format;
    FILE *out;
    column *columns;
    size_t n_columns;
    cell *cells; /* row by row */
    size_t n_cells, cap_cells;
    char *arena;
    size_t n_arena, cap_arena;
    int begun, rows_before; /* header printed; a JSON row was printed */
    int no_memory, partial;
    int write_errno;
};

kv_status dt_format_parse(const char *text, dt_format *out)
{
    static const char *const names[] = {"table", "csv", "json"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *out = (dt_format)i;
        return KV_OK;
    }
    return kv_fail(KV_ERR_USAGE, "no output format is called '%s'; use table, csv or json", text);
}

/* ---- width of text -------------------------------------------------------------------------- */

typedef struct range {
    uint32_t first, last;
} range;

/* Blocks of combining marks, joiners and variation selectors. */
static const range narrow[] = {
    {0x0300, 0x036F}, {0x0483, 0x0489}, {0x0591, 0x05BD}, {0x064B, 0x065F}, {0x1AB0, 0x1AFF},
    {0x1DC0, 0x1DFF}, {0x200B, 0x200F}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F},
};

/* Blocks whose East_Asian_Width is W or F, and pictographs. */
static const range wide[] = {
    {0x1100, 0x115F}, {0x2E80, 0x303E},   {0x3041, 0x4DBF},   {0x4E00, 0xA4CF},
    {0xAC00, 0xD7A3}, {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},
    {0xFFE0, 0xFFE6}, {0x1F300, 0x1F64F}, {0x1F900, 0x1F9FF}, {0x20000, 0x3FFFD},
};

static int in_ranges(uint32_t cp, const range *r, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (cp >= r[i].first && cp <= r[i].last) return 1;
    return 0;
}

static int char_width(uint32_t cp)
{
    if (cp < narrow[0].first) return 1;
    if (in_ranges(cp, narrow, sizeof narrow / sizeof *narrow)) return 0;
    return in_ranges(cp, wide, sizeof wide / sizeof *wide) ? 2 : 1;
}

int dt_text_width(const char *text)
{
    int width = 0;
    for (size_t left = strlen(text); left;) {
        uint32_t cp = 0;
        const size_t n = kv_utf8_next(text, left, &cp);
        width += n ? char_width(cp) : 1;
        text += n ? n : 1;
        left -= n ? n : 1;
    }
    return width;
}

static int is_control(uint32_t cp)
{
    return cp < 0x20 || (cp >= 0x7F && cp < 0xA0);
}

/* ---- building ------------------------------------------------------------------------------- */

dt_table *dt_table_new(dt_format format, FILE *out)
{
    dt_table *t = (dt_table *)calloc(1, sizeof *t);
    if (!t) return NULL;
    t->format = format;
    t->out = out;
    return t;
}

static int failed(const dt_table *t)
{
    return !t || t->no_memory || t->write_errno;
}

static int name_taken(const dt_table *t, const char *name)
{
    for (size_t i = 0; i < t->n_columns; i++)
        if (strcmp(t->columns[i].name, name) == 0) return 1;
    return 0;
}

/* Names are the keys of JSON: a name that is there already becomes name:2, name:3, ... */
static char *free_name(const dt_table *t, const char *name)
{
    char *copy = strdup(name);
    for (int i = 2; copy && name_taken(t, copy); i++) {
        free(copy);
        if (asprintf(&copy, "%s:%d", name, i) < 0) return NULL;
    }
    return copy;
}

void dt_table_column(dt_table *t, const char *name, dt_align align)
{
    if (failed(t)) return;
    column *more = (column *)realloc(t->columns, (t->n_columns + 1) * sizeof *more);
    if (more) t->columns = more;
    char *copy = more ? free_name(t, name) : NULL;
    if (!copy) {
        t->no_memory = 1;
        return;
    }
    t->columns[t->n_columns++] = (column){.name = copy, .align = align};
}

static void flush_block(dt_table *t);

/* Room for n more elements of `size` bytes; the capacity doubles. */
static void *grown(void *array, size_t used, size_t n, size_t *cap, size_t size)
{
    if (used + n <= *cap) return array;
    size_t want = *cap ? *cap : 256;
    while (want < used + n)
        want *= 2;
    void *more = realloc(array, want * size);
    if (more) *cap = want;
    return more;
}

static void add_cell(dt_table *t, cell_kind kind, const char *text)
{
    if (failed(t) || !t->n_columns) return;
    const size_t n = strlen(text) + 1;
    char *arena = (char *)grown(t->arena, t->n_arena, n, &t->cap_arena, 1);
    if (arena) t->arena = arena;
    cell *cells = (cell *)grown(t->cells, t->n_cells, 1, &t->cap_cells, sizeof *cells);
    if (cells) t->cells = cells;
    if (!arena || !cells) {
        t->no_memory = 1;
        return;
    }
    memcpy(arena + t->n_arena, text, n);
    const int width = t->format == DT_FORMAT_TABLE ? dt_text_width(text) : 0;
    cells[t->n_cells++] = (cell){.at = t->n_arena, .width = width, .kind = kind};
    t->n_arena += n;
    const size_t block = t->format == DT_FORMAT_TABLE ? DT_TABLE_BLOCK : 1;
    if (t->n_cells == block * t->n_columns) flush_block(t);
}

void dt_table_text(dt_table *t, const char *text)
{
    const char *missing = t && t->format == DT_FORMAT_TABLE ? "-" : "";
    add_cell(t, text ? CELL_TEXT : CELL_MISSING, text ? text : missing);
}

void dt_table_number(dt_table *t, const char *fmt, ...)
{
    char text[64];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    add_cell(t, CELL_NUMBER, text);
}

void dt_table_int(dt_table *t, int64_t value)
{
    dt_table_number(t, "%lld", (long long)value);
}

void dt_table_real(dt_table *t, double value)
{
    char text[40];
    if (!t || isnan(value)) {
        dt_table_text(t, NULL);
    } else if (t->format == DT_FORMAT_TABLE) {
        dt_table_number(t, "%.6g", value);
    } else if (isinf(value)) {
        const char *word = t->format == DT_FORMAT_JSON ? "9e999" : "inf";
        dt_table_number(t, "%s%s", value < 0 ? "-" : "", word);
    } else {
        for (int digits = 15; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, value);
            const double back = strtod(text, NULL);
            if (memcmp(&back, &value, sizeof back) == 0) break;
        }
        dt_table_number(t, "%s", text);
    }
}

/* ---- printing: table ------------------------------------------------------------------------ */

static void measure(dt_table *t)
{
    const size_t n_rows = t->n_cells / t->n_columns;
    for (size_t c = 0; c < t->n_columns; c++) {
        column *col = &t->columns[c];
        int width = t->begun ? col->width : dt_text_width(col->name), numbers = 0, texts = 0;
        for (size_t r = 0; r < n_rows; r++) {
            const cell *x = &t->cells[r * t->n_columns + c];
            if (x->width > width) width = x->width;
            numbers += x->kind == CELL_NUMBER;
            texts += x->kind == CELL_TEXT;
        }
        col->width = width;
        col->right = col->align == DT_RIGHT || (col->align == DT_AUTO && numbers && !texts);
    }
}

/* A terminal obeys control characters; a table only shows that there was one. */
static void put_visible(const char *text, FILE *out)
{
    for (size_t left = strlen(text); left;) {
        uint32_t cp = 0;
        const size_t n = kv_utf8_next(text, left, &cp), step = n ? n : 1;
        if (!n || is_control(cp))
            fputc('?', out);
        else
            fwrite(text, 1, n, out);
        text += step;
        left -= step;
    }
}

static void put_padded(const dt_table *t, size_t c, const char *text, int width)
{
    const column *col = &t->columns[c];
    const int pad = col->width - width, last = c + 1 == t->n_columns;
    if (col->right) fprintf(t->out, "%*s", pad, "");
    put_visible(text, t->out);
    if (!col->right && !last) fprintf(t->out, "%*s", pad, "");
    fputs(last ? "\n" : "  ", t->out);
}

static void print_aligned(dt_table *t)
{
    measure(t);
    for (size_t c = 0; c < t->n_columns && !t->begun; c++)
        put_padded(t, c, t->columns[c].name, dt_text_width(t->columns[c].name));
    for (size_t i = 0; i < t->n_cells; i++)
        put_padded(t, i % t->n_columns, t->arena + t->cells[i].at, t->cells[i].width);
}

/* ---- printing: CSV and JSON ----------------------------------------------------------------- */

static void put_csv(const char *text, cell_kind kind, FILE *out)
{
    const int quote = kind == CELL_TEXT && (!*text || text[strcspn(text, ",\"\r\n")]);
    if (!quote) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"') fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static void print_csv(const dt_table *t)
{
    for (size_t c = 0; c < t->n_columns && !t->begun; c++) {
        put_csv(t->columns[c].name, CELL_TEXT, t->out);
        fputc(c + 1 < t->n_columns ? ',' : '\n', t->out);
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        put_csv(t->arena + t->cells[i].at, t->cells[i].kind, t->out);
        fputc((i + 1) % t->n_columns ? ',' : '\n', t->out);
    }
}

/* A JSON string (RFC 8259, section 7); bytes that are not UTF-8 become U+FFFD. */
static void put_json_string(const char *text, FILE *out)
{
    fputc('"', out);
    for (size_t left = strlen(text); left;) {
        uint32_t cp = 0;
        const size_t n = kv_utf8_next(text, left, &cp), step = n ? n : 1;
        if (!n)
            fputs("\\ufffd", out);
        else if (is_control(cp))
            fprintf(out, "\\u%04x", (unsigned)cp);
        else
            fprintf(out, "%s%.*s", cp == '"' || cp == '\\' ? "\\" : "", (int)n, text);
        text += step;
        left -= step;
    }
    fputc('"', out);
}

static void put_json(const dt_table *t, const cell *x)
{
    const char *text = t->arena + x->at;
    if (x->kind == CELL_TEXT)
        put_json_string(text, t->out);
    else
        fputs(x->kind == CELL_NUMBER ? text : "null", t->out);
}

static void print_json(dt_table *t)
{
    if (!t->begun) fputs("[\n", t->out);
    for (size_t i = 0; i < t->n_cells; i++) {
        const size_t c = i % t->n_columns;
        if (c == 0) fputs(t->rows_before ? ",\n{" : "{", t->out);
        put_json_string(t->columns[c].name, t->out);
        fputc(':', t->out);
        put_json(t, &t->cells[i]);
        fputc(c + 1 < t->n_columns ? ',' : '}', t->out);
        t->rows_before = 1;
    }
}

/* ---- the end -------------------------------------------------------------------------------- */

static void flush_block(dt_table *t)
{
    errno = 0;
    if (t->format == DT_FORMAT_TABLE)
        print_aligned(t);
    else if (t->format == DT_FORMAT_CSV)
        print_csv(t);
    else
        print_json(t);
    t->begun = 1;
    t->n_cells = t->n_arena = 0;
    if (ferror(t->out)) t->write_errno = errno ? errno : EIO;
}

static void print_end(dt_table *t)
{
    if (t->n_columns && (!t->begun || t->n_cells)) flush_block(t);
    if (t->format == DT_FORMAT_JSON && t->begun) fputs(t->rows_before ? "\n]\n" : "]\n", t->out);
    errno = 0;
    if (fflush(t->out) != 0 || ferror(t->out)) t->write_errno = errno ? errno : EIO;
}

static kv_status verdict(const dt_table *t)
{
    if (!t || t->no_memory) return kv_fail(KV_ERR_NOMEM, "out of memory for a table");
    if (t->write_errno)
        return kv_fail(KV_ERR_IO, "cannot write the table: %s", strerror(t->write_errno));
    if (t->partial) return kv_fail(KV_ERR_INTERNAL, "a table ends inside a row");
    return KV_OK;
}

kv_status dt_table_finish(dt_table *t)
{
    if (!failed(t)) {
        t->partial = t->n_columns && t->n_cells % t->n_columns != 0;
        if (!t->partial) print_end(t);
    }
    const kv_status st = verdict(t);
    if (!t) return st;
    for (size_t i = 0; i < t->n_columns; i++)
        free(t->columns[i].name);
    free(t->columns);
    free(t->cells);
    free(t->arena);
    free(t);
    return st;
}
