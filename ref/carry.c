#include "ref/carry.h"

#include "common/config.h"

#include <stdlib.h>
#include <string.h>

static size_t parts_of(const ref_carries *c) { return c->layout.bytes / sizeof(float); }

static int keeps_starts(const kv_policy *p) { return p->selection == KV_SEL_XWINDOW && p->xwindow.pred == KV_PRED_CARRY; }

kv_status REF(carry_init)(ref_carries *c, const kv_config *cfg)
{
    *c = (ref_carries){.layout = kv_carry_layout_of(cfg), .kv_width = (int64_t)cfg->n_kv_heads * cfg->head_dim,
                       .d_model = cfg->d_model, .conv = cfg->sidecar_hidden, .conv_rows = cfg->sidecar_taps - 1};
    if (!(c->nothing.parts = calloc(parts_of(c) + 1, sizeof(real)))) return kv_fail(KV_ERR_NOMEM, "out of memory");
    c->before = c->nothing;
    return KV_OK;
}

void REF(carry_free)(ref_carries *c)
{
    for (int64_t i = 0; i < c->cap; i++)
        free(c->v[i].parts);
    free(c->v);
    free(c->nothing.parts);
    *c = (ref_carries){0};
}

/* One more at the end, its parts zero. */
static kv_status append(ref_carries *c, ref_carry e)
{
    if (c->n == c->cap) {
        const int64_t cap = c->cap ? 2 * c->cap : 2;
        ref_carry *v = realloc(c->v, (size_t)cap * sizeof *v);
        if (!v) return kv_fail(KV_ERR_NOMEM, "out of memory for what the model remembers");
        c->v = v;
        for (; c->cap < cap; c->cap++)
            if (!(v[c->cap].parts = malloc(parts_of(c) * sizeof(real))))
                return kv_fail(KV_ERR_NOMEM, "out of memory for what the model remembers");
    }
    e.parts = c->v[c->n].parts;
    memset(e.parts, 0, parts_of(c) * sizeof(real));
    c->v[c->n++] = e;
    return KV_OK;
}

/* Entry i leaves; its memory goes behind the others. */
static void drop(ref_carries *c, int64_t i)
{
    const ref_carry gone = c->v[i];
    memmove(c->v + i, c->v + i + 1, (size_t)(c->cap - i - 1) * sizeof *c->v);
    c->v[c->cap - 1] = gone;
    c->n--;
}

/* ---- a piece ------------------------------------------------------------------------------------------- */

static int64_t find(const ref_carries *c, int64_t fed)
{
    for (int64_t i = 0; i < c->n; i++)
        if (c->v[i].fed == fed) return i;
    return -1;
}

int REF(carry_missing)(const ref_carries *c, const kv_policy *p, int64_t seen, int64_t start)
{
    if (c->n == 0 && start == seen) return 0; /* all is forgotten */
    return keeps_starts(p) && c->layout.bytes && start > 0 && find(c, start) < 0;
}

static kv_status leave_behind(ref_carries *c, const ref_carry_piece *p, int64_t fed)
{
    const int64_t row = fed - p->start - 1;
    return append(c, (ref_carry){.fed = fed, .token = p->tokens[row], .row = row});
}

kv_status REF(carry_begin)(ref_carries *c, const ref_carry_piece *p)
{
    if (!c->layout.bytes) return KV_OK;
    const int64_t end = p->start + p->m;
    const int starts = keeps_starts(p->policy);
    if (p->policy->selection == KV_SEL_XWINDOW && !starts) c->n = 0; /* every window forgets */
    c->kept = c->n;
    c->fresh = starts ? p->seen - p->start : 0;
    const int64_t at = starts ? find(c, p->start) : c->n - 1;
    const int64_t stride = p->policy->xwindow.stride;
    for (int64_t fed = p->start + stride; starts && fed < end; fed += stride)
        if (fed > p->seen) KV_TRY(leave_behind(c, p, fed));
    KV_TRY(leave_behind(c, p, end));
    c->before = at < 0 ? c->nothing : c->v[at];
    return KV_OK;
}

void REF(carry_end)(ref_carries *c, const ref_carry_piece *p)
{
    const int64_t stride = p->policy->xwindow.stride;
    for (int64_t i = c->n - 2; i >= 0; i--) {
        const int64_t ahead = c->v[i].fed - p->start; /* of the piece's start: coming windows start at multiples */
        if (!keeps_starts(p->policy) || ahead <= 0 || ahead % stride != 0) drop(c, i);
    }
    c->before = c->nothing;
}

static void keep(ref_carries *c, size_t part, int64_t at, int64_t width, const real *rows)
{
    for (int64_t i = c->kept; i < c->n; i++)
        memcpy(c->v[i].parts + part / sizeof(float) + at * width,
               rows + (c->v[i].row - KV_MUT(F22, c->v[i].row > 0, 0)) * width, (size_t)width * sizeof(real));
}

void REF(carry_norm)(ref_carries *c, const real *norm)
{
    if (c->layout.norm) keep(c, c->layout.norm, 0, c->d_model, norm);
}

void REF(carry_kv)(ref_carries *c, int32_t layer, const real *k, const real *v)
{
    if (c->layout.k) keep(c, c->layout.k, layer, c->kv_width, k);
    if (c->layout.v) keep(c, c->layout.v, layer, c->kv_width, v);
}

/* The value row of a site, `row` of the piece: the piece's own when it is new, else as it was remembered when it was. */
static const real *value_row(const ref_carries *c, int32_t site, const real *w, int64_t row)
{
    if (row >= c->fresh) return w + row * c->conv;
    const ref_carry *newest = c->kept ? &c->v[c->kept - 1] : &c->nothing;
    const int64_t back = c->fresh - row; /* at most the rows that are remembered */
    return newest->parts + c->layout.conv / sizeof(float) + (site * c->conv_rows + c->conv_rows - back) * c->conv;
}

void REF(carry_conv)(ref_carries *c, int32_t site, const real *w)
{
    for (int64_t i = c->kept; c->layout.conv && i < c->n; i++)
        for (int32_t r = 0; r < c->conv_rows; r++)
            memcpy(c->v[i].parts + c->layout.conv / sizeof(float) + (site * c->conv_rows + r) * c->conv,
                   value_row(c, site, w, c->v[i].row + 1 - c->conv_rows + r), (size_t)c->conv * sizeof(real));
}

/* ---- as bytes ---------------------------------------------------------------------------------------------- */

enum { IDS = 2 }; /* in front of the parts: tokens fed, newest token */

static int32_t fed_number(int64_t fed) { return fed < INT32_MAX ? (int32_t)fed : INT32_MAX; }

size_t REF(carry_bytes)(const ref_carries *c) { return c->layout.bytes * (size_t)(c->n ? c->n : 1); }

static void write_one(const ref_carries *c, const ref_carry *e, void *dst)
{
    const int32_t ids[IDS] = {fed_number(e->fed), e->token};
    float *to = dst;
    memcpy(to, ids, sizeof ids);
    for (size_t i = IDS; i < parts_of(c); i++)
        to[i] = (float)e->parts[i];
}

void REF(carry_write)(const ref_carries *c, void *dst)
{
    if (!c->layout.bytes) return;
    for (int64_t i = 0; i < c->n; i++)
        write_one(c, &c->v[i], (uint8_t *)dst + (size_t)i * c->layout.bytes);
    if (c->n == 0) write_one(c, &c->nothing, dst);
}

static kv_status bad(const char *what)
{
    return kv_fail(KV_ERR_FORMAT, "cache state: what the model remembers: %s", what);
}

kv_status REF(carry_read)(ref_carries *c, const kv_policy *p, int32_t vocab, int64_t seen, const void *src, size_t bytes)
{
    const size_t n = c->layout.bytes ? bytes / c->layout.bytes : 0;
    c->n = 0;
    if (bytes != n * c->layout.bytes || (c->layout.bytes && (n == 0 || (n > 1 && !keeps_starts(p)))))
        return kv_fail(KV_ERR_MISMATCH, "cache state: %zu bytes of what the model remembers; this model and policy have %s%zu",
                       bytes, keeps_starts(p) ? "a multiple of " : "", c->layout.bytes);
    for (size_t i = 0; i < n; i++) {
        const float *from = (const float *)(const void *)((const uint8_t *)src + i * c->layout.bytes);
        int32_t ids[IDS];
        memcpy(ids, from, sizeof ids);
        const int64_t last = c->n ? c->v[c->n - 1].fed : 0, fed = ids[0] == fed_number(seen) ? seen : ids[0];
        if (fed < 0 || fed > seen || (fed == 0 && n > 1) || (i > 0 && fed <= last) || (i + 1 == n && fed > 0 && fed < seen))
            return bad("it belongs to another moment");
        if (ids[1] < 0 || ids[1] >= vocab) return bad("a token outside the vocabulary");
        if (fed == 0) return KV_OK; /* nothing, or all forgotten */
        KV_TRY(append(c, (ref_carry){.fed = fed, .token = ids[1]}));
        for (size_t d = IDS; d < parts_of(c); d++)
            c->v[c->n - 1].parts[d] = (real)from[d];
    }
    return KV_OK;
}

kv_status REF(carry_copy)(const ref_carries *from, ref_carries *to)
{
    to->n = 0;
    for (int64_t i = 0; i < from->n; i++) {
        KV_TRY(append(to, from->v[i]));
        memcpy(to->v[i].parts, from->v[i].parts, parts_of(to) * sizeof(real));
    }
    return KV_OK;
}
