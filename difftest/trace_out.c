/* trace_out.c - frames as a table or as JSON; pictures go on to trace_svg.c. */
#include "difftest/trace.h"

#include "difftest/cli_output.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct dt_trace_out {
    dt_trace_head head;
    dt_trace_form form;
    const char *path;
    json_t *frames;
    dt_picture *picture;
    int begun;
};

kv_status dt_trace_out_open(const dt_trace_head *h, dt_trace_form form, const char *path, dt_trace_out **out)
{
    dt_trace_out *o = calloc(1, sizeof *o);
    if (!o) return kv_fail(KV_ERR_NOMEM, "out of memory");
    *o = (dt_trace_out){.head = *h, .form = form, .path = path};
    kv_status st = KV_OK;
    if (form == DT_TRACE_JSON && !(o->frames = json_array())) st = kv_fail(KV_ERR_NOMEM, "out of memory");
    if (form == DT_TRACE_SVG) st = dt_picture_new(&o->head, &o->picture);
    if (st != KV_OK) {
        free(o);
        return st;
    }
    *out = o;
    return KV_OK;
}

/* ---- the table ------------------------------------------------------------------------------------------ */

static void print_head(const dt_trace_head *h)
{
    printf("policy %s, side %s, ", h->spec, h->side);
    if (h->model)
        printf("model %s, corpus %s, layer %d, KV head %d, %d tokens per step\n", h->model, h->corpus, h->layer,
               h->head, h->q);
    else
        printf("no model, one token at a time\n");
    printf("tokens   kept  %s\n", h->by_slot ? "rings: tokens by slot, - empty; start" : "tokens by age, oldest first");
}

/* Tokens of one zone, runs of successive ones as "3-17". */
static size_t print_zone(const dt_frame *f, size_t from)
{
    size_t i = from;
    const char *name = dt_zone_name(f->v[from].zone);
    if (*name) printf(" %s:", name);
    while (i < f->n && f->v[i].zone == f->v[from].zone) {
        size_t last = i;
        while (last + 1 < f->n && f->v[last + 1].zone == f->v[from].zone && f->v[last + 1].og == f->v[last].og + 1)
            last++;
        printf(last > i ? " %" PRId64 "-%" PRId64 : " %" PRId64, f->v[i].og, f->v[last].og);
        i = last + 1;
    }
    return i;
}

static void print_by_age(const dt_frame *f)
{
    for (size_t i = 0; i < f->n;) {
        if (i) printf(" |");
        i = print_zone(f, i);
    }
}

/* "[22 23 20 21]2 [19 13 - -]0": every ring in physical order, then the offset of its oldest token. */
static void print_ring(const dt_frame *f, const dt_rings *r, int32_t ring)
{
    const int32_t first = r->sinks + ring * r->window;
    int32_t start = -1;
    for (int32_t k = 0; k < r->window; k++) {
        const dt_held *found = NULL;
        for (size_t i = 0; i < f->n; i++) {
            if (f->v[i].slot == first + k) found = &f->v[i];
            if (start < 0 && f->v[i].zone == DT_ZONE_RING + ring) start = f->v[i].slot - first;
        }
        printf(k ? " " : " [");
        if (found)
            printf("%" PRId64, found->og);
        else
            printf("-");
    }
    printf("]%d", start < 0 ? 0 : start);
}

static void print_row(const dt_trace_out *o, const dt_frame *f)
{
    const dt_rings r = dt_rings_of(&o->head.policy);
    printf("%6" PRId64 " %6zu ", f->seen, f->n);
    for (int32_t i = 0; o->head.by_slot && i < r.n; i++)
        print_ring(f, &r, i);
    if (!o->head.by_slot) print_by_age(f);
    putchar('\n');
}

/* ---- JSON ------------------------------------------------------------------------------------------------- */

static kv_status add_json(dt_trace_out *o, const dt_frame *f)
{
    json_t *og = json_array(), *pos = json_array(), *zone = json_array(), *slot = json_array();
    for (size_t i = 0; i < f->n; i++) {
        const dt_held *h = &f->v[i];
        json_array_append_new(og, json_integer(h->og));
        json_array_append_new(pos, json_integer(h->pos));
        json_array_append_new(zone, json_string(dt_zone_name(h->zone)));
        json_array_append_new(slot, h->slot < 0 ? json_null() : json_integer(h->slot));
    }
    json_t *j = json_pack("{s:I, s:I, s:o, s:o, s:o, s:o}", "tokens", (json_int_t)f->seen, "kept", (json_int_t)f->n,
                          "og", og, "pos", pos, "zone", zone, "slot", slot);
    if (!j || json_array_append_new(o->frames, j) != 0) return kv_fail(KV_ERR_NOMEM, "out of memory");
    return KV_OK;
}

static json_t *whole_json(dt_trace_out *o)
{
    const dt_trace_head *h = &o->head;
    json_t *j = json_pack("{s:s, s:s, s:s?, s:s?, s:i, s:i, s:i, s:O}", "policy", h->spec, "side", h->side, "model",
                          h->model, "corpus", h->corpus, "layer", h->layer, "head", h->head, "q", h->q, "frames",
                          o->frames);
    return j;
}

/* ---- all of them ------------------------------------------------------------------------------------------ */

kv_status dt_trace_out_frame(dt_trace_out *o, const dt_frame *f)
{
    if (o->form == DT_TRACE_JSON) return add_json(o, f);
    if (o->form == DT_TRACE_SVG) return dt_picture_frame(o->picture, f);
    if (!o->begun) print_head(&o->head);
    o->begun = 1;
    print_row(o, f);
    return KV_OK;
}

static kv_status finish(dt_trace_out *o)
{
    if (o->form == DT_TRACE_SVG) {
        KV_TRY(dt_picture_write(o->picture, o->path));
        printf("%s: %s, %" PRId64 " tokens\n", o->path, o->head.spec, o->head.tokens);
    }
    if (o->form == DT_TRACE_JSON) {
        json_t *j = whole_json(o);
        if (!j) return kv_fail(KV_ERR_NOMEM, "out of memory for the output");
        json_dumpf(j, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
        putchar('\n');
        json_decref(j);
    }
    if (fflush(stdout) == 0 && !ferror(stdout)) return KV_OK;
    return kv_fail(KV_ERR_IO, "cannot write the output: %s", strerror(errno));
}

kv_status dt_trace_out_close(dt_trace_out *o, int keep)
{
    if (!o) return KV_OK;
    const kv_status st = keep ? finish(o) : KV_OK;
    dt_picture_free(o->picture);
    json_decref(o->frames);
    free(o);
    return st;
}
