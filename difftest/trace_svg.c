/* trace_svg.c - a picture of what a cache holds: time to the right, the stream upwards, one colour per ring or
 * precision. A token that stays is one rectangle, so a picture is as large as what happens in it. */
#include "difftest/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct box {
    int64_t x, og;  /* first column and first token */
    int64_t width, height;
} box;

typedef struct box_list {
    box *v;
    size_t n, cap;
} box_list;

struct dt_picture {
    const dt_trace_head *head;
    int32_t *zone;   /* [tokens] where the token is; -1: not kept */
    int32_t *next;   /* [tokens] the same after the frame that is being added */
    int64_t *since;  /* [tokens] column in which it came there */
    int64_t column;  /* tokens fed before the frame that is being added */
    box_list boxes[DT_ZONE_COUNT];
};

kv_status dt_picture_new(const dt_trace_head *h, dt_picture **out)
{
    const size_t n = (size_t)h->tokens;
    dt_picture *p = calloc(1, sizeof *p);
    if (!p) return kv_fail(KV_ERR_NOMEM, "out of memory");
    p->head = h;
    p->zone = malloc(n * sizeof *p->zone);
    p->next = malloc(n * sizeof *p->next);
    p->since = calloc(n, sizeof *p->since);
    if (!p->zone || !p->next || !p->since) {
        dt_picture_free(p);
        return kv_fail(KV_ERR_NOMEM, "out of memory");
    }
    memset(p->zone, 0xff, n * sizeof *p->zone);
    *out = p;
    return KV_OK;
}

void dt_picture_free(dt_picture *p)
{
    if (!p) return;
    for (int z = 0; z < DT_ZONE_COUNT; z++)
        free(p->boxes[z].v);
    free(p->zone);
    free(p->next);
    free(p->since);
    free(p);
}

/* Token og was in a zone from column x to before column end; neighbours of the same time become one box. */
static kv_status add_box(box_list *l, int64_t og, int64_t x, int64_t end)
{
    box *last = l->n ? &l->v[l->n - 1] : NULL;
    if (last && last->x == x && last->width == end - x && last->og + last->height == og) {
        last->height++;
        return KV_OK;
    }
    if (l->n == l->cap) {
        const size_t cap = l->cap ? 2 * l->cap : 64;
        box *v = realloc(l->v, cap * sizeof *v);
        if (!v) return kv_fail(KV_ERR_NOMEM, "out of memory");
        l->v = v;
        l->cap = cap;
    }
    l->v[l->n++] = (box){x, og, end - x, 1};
    return KV_OK;
}

static kv_status close_token(dt_picture *p, int64_t og, int32_t to)
{
    if (p->zone[og] >= 0) KV_TRY(add_box(&p->boxes[p->zone[og]], og, p->since[og], p->column));
    p->zone[og] = to;
    p->since[og] = p->column;
    return KV_OK;
}

/* A frame fills the columns of the tokens that its step fed. */
kv_status dt_picture_frame(dt_picture *p, const dt_frame *f)
{
    const int64_t n = p->head->tokens;
    memset(p->next, 0xff, (size_t)n * sizeof *p->next);
    for (size_t i = 0; i < f->n; i++) {
        if (f->v[i].og < 0 || f->v[i].og >= n)
            return kv_fail(KV_ERR_FORMAT, "the cache holds token %" PRId64 ", which was never fed", f->v[i].og);
        p->next[f->v[i].og] = f->v[i].zone;
    }
    for (int64_t og = 0; og < n; og++)
        if (p->next[og] != p->zone[og]) KV_TRY(close_token(p, og, p->next[og]));
    p->column = f->seen;
    return KV_OK;
}

/* ---- writing -------------------------------------------------------------------------------------------- */

enum { LEFT = 70, TOP = 50, SIDE = 720, RIGHT = 120, BOTTOM = 50 };

/* ROW, TAIL, KEY, TILE, SINK, then the rings from the newest on */
static const char *const colours[DT_ZONE_COUNT] = {"#4477aa", "#4477aa", "#ccbb44", "#cc6677", "#222222", "#4477aa",
                                                   "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#997700",
                                                   "#bbbbbb"};

static int64_t tick_of(int64_t n)
{
    int64_t step = 1;
    for (int i = 0; n / step > 8; i++)
        step = step / (i % 3 == 1 ? 2 : 1) * (i % 3 == 1 ? 5 : 2);
    return step;
}

static void write_axes(FILE *f, int64_t n)
{
    fprintf(f, "<g fill=\"#333\" font-size=\"12\">\n<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" "
               "stroke=\"#333\"/>\n", LEFT, TOP, SIDE, SIDE);
    for (int64_t t = 0; t <= n; t += tick_of(n)) {
        const double at = (double)t / (double)n * SIDE;
        fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%" PRId64 "</text>\n", LEFT + at, TOP + SIDE + 16,
                t);
        fprintf(f, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%" PRId64 "</text>\n", LEFT - 6, TOP + SIDE - at + 4,
                t);
    }
    fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">tokens fed</text>\n", LEFT + SIDE / 2, TOP + SIDE + 38);
    fprintf(f, "<text x=\"16\" y=\"%d\" text-anchor=\"middle\" transform=\"rotate(-90 16 %d)\">token of the stream"
               "</text>\n", TOP + SIDE / 2, TOP + SIDE / 2);
    fprintf(f, "</g>\n");
}

static void write_zone(FILE *f, const box_list *l, const char *colour)
{
    if (!l->n) return;
    fprintf(f, "<path fill=\"%s\" d=\"", colour);
    for (size_t i = 0; i < l->n; i++) {
        const box *b = &l->v[i];
        fprintf(f, "M%" PRId64 " %" PRId64 "h%" PRId64 "v%" PRId64 "h-%" PRId64 "z", b->x, b->og, b->width, b->height,
                b->width);
    }
    fprintf(f, "\"/>\n");
}

static void write_legend(FILE *f, const dt_picture *p)
{
    int row = 0;
    for (int z = 0; z < DT_ZONE_COUNT; z++) {
        const char *name = dt_zone_name(z);
        if (!p->boxes[z].n) continue;
        const int x = LEFT + SIDE + 14, y = TOP + 8 + 20 * row++;
        fprintf(f, "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"%d\" "
                   "font-size=\"12\">%s</text>\n", x, y, colours[z], x + 18, y + 10, *name ? name : "kept");
    }
}

/* Names of files may hold what XML keeps for itself. */
static void write_text(FILE *f, const char *text)
{
    for (; *text; text++) {
        if (*text == '<' || *text == '>' || *text == '&')
            fprintf(f, "&#%d;", *text);
        else
            fputc(*text, f);
    }
}

static void write_title(FILE *f, const dt_trace_head *h)
{
    fprintf(f, "<text x=\"%d\" y=\"20\" font-size=\"15\">%s</text>\n<text x=\"%d\" y=\"38\" font-size=\"12\">side ",
            LEFT, h->spec, LEFT);
    write_text(f, h->side);
    fprintf(f, h->model ? ", model " : ", no model");
    if (h->model) {
        write_text(f, h->model);
        fprintf(f, ", layer %d, KV head %d, %d tokens per step", h->layer, h->head, h->q);
    }
    fprintf(f, "</text>\n");
}

static void write_all(FILE *f, const dt_picture *p)
{
    const int64_t n = p->head->tokens;
    const double unit = (double)SIDE / (double)n;
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\">\n"
               "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM);
    write_title(f, p->head);
    fprintf(f, "<g transform=\"translate(%d %d) scale(%.9g -%.9g)\" shape-rendering=\"crispEdges\">\n", LEFT,
            TOP + SIDE, unit, unit);
    for (int z = 0; z < DT_ZONE_COUNT; z++)
        write_zone(f, &p->boxes[z], colours[z]);
    fprintf(f, "</g>\n");
    write_axes(f, n);
    write_legend(f, p);
    fprintf(f, "</svg>\n");
}

kv_status dt_picture_write(dt_picture *p, const char *path)
{
    for (int64_t og = 0; og < p->head->tokens; og++)
        KV_TRY(close_token(p, og, -1));
    FILE *f = fopen(path, "w");
    if (!f) return kv_fail(KV_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
    write_all(f, p);
    const int bad = ferror(f);
    if (fclose(f) != 0 || bad) return kv_fail(KV_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
    return KV_OK;
}
