#include "difftest/ops/view.h"

#include "common/math.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- flattening
 * ------------------------------------------------------------------------------------------------------ */

static int is_valid(const kvdk_segment *s, int64_t i)
{
    return !s->valid.data || ((const uint8_t *)s->valid.data)[i] != 0;
}

static void take_segment(const kvdk_segment *s, int64_t width, dt_view *v)
{
    for (int64_t i = 0; i < s->k.dim[0]; i++, v->n_all++) {
        if (!is_valid(s, i)) continue;
        for (int64_t j = 0; j < width; j++) {
            v->k[v->n * width + j] = dt_element(&s->k, i * width + j);
            if (v->v) v->v[v->n * width + j] = dt_element(&s->v, i * width + j);
        }
        v->entry[v->n++] = v->n_all;
    }
}

kv_status dt_view_make(const kvdk_segment *segments, int64_t n_segments, int64_t Hk, int64_t hd, dt_view *out)
{
    int64_t n = 1;
    int with_v = 0;
    *out = (dt_view){0};
    for (int64_t i = 0; i < n_segments; i++) {
        n += segments[i].k.data ? segments[i].k.dim[0] : 0;
        with_v |= segments[i].v.data != NULL;
    }
    out->k = malloc((size_t)(n * Hk * hd) * sizeof(float));
    out->v = with_v ? malloc((size_t)(n * Hk * hd) * sizeof(float)) : NULL;
    out->entry = malloc((size_t)n * sizeof *out->entry);
    if (!out->k || (with_v && !out->v) || !out->entry) {
        dt_view_free(out);
        return kv_fail(KV_ERR_NOMEM, "out of memory");
    }
    for (int64_t i = 0; i < n_segments; i++) {
        if (segments[i].kind == KVDK_SELF) out->stored = out->n;
        if (segments[i].k.data) take_segment(&segments[i], Hk * hd, out);
        if (segments[i].kind != KVDK_SELF) out->stored = out->n;
    }
    return KV_OK;
}

void dt_view_free(dt_view *v)
{
    free(v->k);
    free(v->v);
    free(v->entry);
    memset(v, 0, sizeof *v);
}

void dt_view_name_entry(const kvdk_segment *segments, int64_t n_segments, int64_t entry, char *dst, size_t size)
{
    static const char *const kinds[] = {"sink", "cache", "self"};
    for (int64_t i = 0; i < n_segments; i++) {
        const int64_t n = segments[i].k.data ? segments[i].k.dim[0] : 0;
        if (entry < n) {
            snprintf(dst, size, "entry %lld of the %s", (long long)entry, kinds[segments[i].kind]);
            return;
        }
        entry -= n;
    }
    snprintf(dst, size, "an entry that there is not");
}

kv_status dt_view_answer(const dt_opcase *c, const kvdk_segment *segments, int64_t n_segments, int64_t Hk, int64_t hd,
                         const kvdk_precision *precision, dt_view_answer_fn *fn, dt_answer *out)
{
    dt_view view;
    KV_TRY(dt_view_make(segments, n_segments, Hk, hd, &view));
    const kv_status st = fn(c, &view, precision, out);
    dt_view_free(&view);
    return st;
}

/* ---- drawing
 * ----------------------------------------------------------------------------------------------------------- */

enum { Q = 1, K = 10, V = 20, VALID = 30, SHAPE = 90 };

dt_attn_shape dt_attn_shape_random(const dt_opcase *c, int64_t most)
{
    dt_attn_shape s = {.T = 1 + dt_opcase_below(c, SHAPE, 0, most), .Hk = 1 + dt_opcase_below(c, SHAPE, 1, 4)};
    s.Hq = s.Hk * (1 + dt_opcase_below(c, SHAPE, 2, 4));
    s.hd = 4 * (1 + dt_opcase_below(c, SHAPE, 3, 24));
    s.n[0] = dt_opcase_below(c, SHAPE, 4, 2) * (1 + dt_opcase_below(c, SHAPE, 5, 8));
    s.n[1] = dt_opcase_below(c, SHAPE, 6, 600);
    s.n[2] = dt_opcase_below(c, SHAPE, 7, 8) ? s.T : 0;
    s.dead = dt_opcase_below(c, SHAPE, 8, 2) * dt_opcase_below(c, SHAPE, 9, 8);
    s.dtype = (int32_t)(dt_opcase_below(c, SHAPE, 10, 2) ? 0 : dt_opcase_below(c, SHAPE, 11, 3)); /* F32, F16, BF16 */
    return s;
}

/* The number of valid entries must be a power of two for exact sums: what is too much dies. */
static void kill_entries(kvdk_tensor *valid, int64_t others)
{
    uint8_t *v = valid->data;
    int64_t alive = others, wanted = 1;
    for (int64_t i = 0; i < valid->dim[0]; i++)
        alive += v[i];
    while (2 * wanted <= alive)
        wanted *= 2;
    for (int64_t i = 0; alive > wanted && i < valid->dim[0]; i++) {
        alive -= v[i];
        v[i] = 0;
    }
}

/* Dead entries hold NaN: whoever multiplies them by zero is found out. */
static void poison_dead(kvdk_segment *s, int64_t width)
{
    for (int64_t i = 0; s->valid.data && i < s->k.dim[0]; i++)
        for (int64_t j = 0; !is_valid(s, i) && j < width; j++) {
            dt_element_set(&s->k, i * width + j, kv_bits2f(0x7fc00000));
            if (s->v.data) dt_element_set(&s->v, i * width + j, kv_bits2f(0x7fc00000));
        }
}

static kvdk_segment *segment_of(dt_opcase *c, int i)
{
    char name[24];
    snprintf(name, sizeof name, "segment%d.k", i);
    return (kvdk_segment *)((char *)dt_opcase_find(c, name) - offsetof(kvdk_segment, k));
}

static kv_status draw_segment(dt_opcase *c, const dt_attn_shape *s, int i, int64_t n, int kind, int with_v)
{
    char k[24], v[24], valid[24];
    snprintf(k, sizeof k, "segment%d.k", i);
    snprintf(v, sizeof v, "segment%d.v", i);
    snprintf(valid, sizeof valid, "segment%d.valid", i);
    KV_TRY(dt_opcase_tensor(c, k, s->dtype, n, s->Hk, s->hd));
    dt_opcase_fill(c, k, (uint64_t)(K + i), 1, s->hd);
    if (with_v) {
        KV_TRY(dt_opcase_tensor(c, v, s->dtype, n, s->Hk, s->hd));
        dt_opcase_fill(c, v, (uint64_t)(V + i), 1, s->hd);
    }
    segment_of(c, i)->kind = kind;
    if (kind != KVDK_CACHE || (!s->dead && c->dist != DT_DIST_exact)) return KV_OK;
    KV_TRY(dt_opcase_tensor(c, valid, KVDK_U8, n, 1, 1));
    uint8_t *alive = dt_opcase_find(c, valid)->data;
    for (int64_t j = 0; j < n; j++)
        alive[j] = dt_opcase_below(c, VALID, (uint64_t)j, 8) >= s->dead;
    return KV_OK;
}

/* Scores are what the distribution wants them to be: key component 0 carries the rank of an entry. */
static void shape_scores(dt_opcase *c, const dt_attn_shape *s, int n_segments, double scale)
{
    kvdk_tensor *q = dt_opcase_find(c, "q");
    int64_t at = 0;
    if (c->dist != DT_DIST_ascending && c->dist != DT_DIST_low) return;
    for (int64_t i = 0; i < s->T * s->Hq; i++)
        dt_element_set(q, i * s->hd, 1);
    for (int i = 0; i < n_segments; i++) {
        kvdk_tensor *k = &segment_of(c, i)->k;
        for (int64_t j = 0; j < k->dim[0]; j++, at++)
            for (int64_t h = 0; h < s->Hk; h++) {
                for (int64_t d = 1; d < s->hd; d++)
                    dt_element_set(k, (j * s->Hk + h) * s->hd + d, 0.1f * dt_element(k, (j * s->Hk + h) * s->hd + d));
                dt_element_set(k, (j * s->Hk + h) * s->hd,
                               (float)((c->dist == DT_DIST_low ? -150.0 : 0.25 * (double)at) / scale));
            }
    }
}

static void shape_queries(dt_opcase *c, const dt_attn_shape *s, double scale)
{
    kvdk_tensor *q = dt_opcase_find(c, "q");
    const int64_t n = s->T * s->Hq * s->hd;
    const double factor = c->dist == DT_DIST_uniform ? 1e-3
                          : c->dist == DT_DIST_peak  ? 12
                          : c->dist == DT_DIST_exact ? 0
                                                     : 1;
    (void)scale;
    for (int64_t i = 0; factor != 1 && i < n; i++)
        dt_element_set(q, i, (float)(factor * (double)dt_element(q, i)));
}

/* V of entry e is 2^head in dimension e - part * hd and 0 elsewhere: the output is the weight of every entry. */
static void colour(dt_opcase *c, const dt_attn_shape *s, int n_segments)
{
    int64_t at = 0, n = 0;
    for (int i = 0; i < n_segments; i++)
        n += segment_of(c, i)->k.dim[0];
    c->n_parts = (n + s->hd - 1) / s->hd;
    for (int i = 0; i < n_segments; i++) {
        kvdk_tensor *v = &segment_of(c, i)->v;
        for (int64_t j = 0; v->data && j < v->dim[0]; j++, at++)
            for (int64_t h = 0; h < s->Hk; h++)
                for (int64_t d = 0; d < s->hd; d++)
                    dt_element_set(v, (j * s->Hk + h) * s->hd + d, at - c->part * s->hd == d ? (float)(1 << h) : 0);
    }
}

kv_status dt_view_draw(dt_opcase *c, const dt_attn_shape *s, double *scale, int64_t *n_segments, int with_v)
{
    int n = 0;
    *scale = (double)(float)(1.0 / kv_dsqrt((double)s->hd));
    KV_TRY(dt_opcase_tensor(c, "q", KVDK_F32, s->T, s->Hq, s->hd));
    dt_opcase_fill(c, "q", Q, 1, s->hd);
    for (int kind = KVDK_SINK; kind <= KVDK_SELF; kind++)
        if (s->n[kind] || kind == KVDK_CACHE) KV_TRY(draw_segment(c, s, n++, s->n[kind], kind, with_v));
    *n_segments = n;
    shape_queries(c, s, *scale);
    shape_scores(c, s, n, *scale);
    if (c->dist == DT_DIST_dye) colour(c, s, n);
    for (int i = 0; i < n; i++) {
        kvdk_segment *g = segment_of(c, i);
        if (c->dist == DT_DIST_exact && g->valid.data) kill_entries(&g->valid, s->n[KVDK_SINK] + s->n[KVDK_SELF]);
        poison_dead(g, s->Hk * s->hd);
    }
    snprintf(c->title, sizeof c->title, "T=%lld Hq=%lld Hk=%lld hd=%lld sink=%lld cache=%lld self=%lld%s %s",
             (long long)s->T, (long long)s->Hq, (long long)s->Hk, (long long)s->hd, (long long)s->n[0],
             (long long)s->n[1], (long long)s->n[2], s->dead ? " dead" : "", dt_dtype_name(s->dtype));
    return KV_OK;
}
