#include "difftest/locate_study.h"

#include <stdlib.h>
#include <string.h>

enum { TAP_BYTES = 96 << 20 }; /* of one side in one portion */

/* ---- planes ----------------------------------------------------------------------------------------------- */

static int is_layerwise(int32_t point)
{
    return point != KV_TAP_EMBED && point != KV_TAP_FINAL_NORM;
}

static void add_plane(dt_study *s, int32_t point, int32_t layer, int64_t *at)
{
    const int64_t width = kv_tap_width(&s->flow->s->model->cfg, point);
    s->planes[s->n_planes++] = (dt_plane){point, layer, width, *at};
    *at += width * s->flow->turn.n;
}

static kv_status lay_out(dt_study *s, int32_t layer0, int32_t layer1, int64_t *floats)
{
    const int32_t layers = s->flow->s->model->cfg.n_layers;
    KV_TRY(kv_buffer_reserve(&s->plane_memory, (size_t)((layer1 - layer0) * KV_TAP_COUNT + 2) * sizeof *s->planes));
    s->planes = s->plane_memory.p;
    s->n_planes = 0;
    s->layer0 = layer0;
    s->layer1 = layer1;
    *floats = 0;
    if (layer0 == 0) add_plane(s, KV_TAP_EMBED, -1, floats);
    for (int32_t l = layer0; l < layer1; l++)
        for (int32_t p = 0; p < KV_TAP_COUNT; p++)
            if (is_layerwise(p)) add_plane(s, p, l, floats);
    if (layer1 == layers) add_plane(s, KV_TAP_FINAL_NORM, -1, floats);
    return KV_OK;
}

const float *dt_study_row(const dt_study *s, int side, int32_t point, int32_t layer, int64_t row)
{
    for (int32_t i = 0; i < s->n_planes; i++)
        if (s->planes[i].point == point && (s->planes[i].layer == layer || !is_layerwise(point)))
            return (const float *)s->taps[side].p + s->planes[i].at + row * s->planes[i].width;
    return NULL;
}

/* ---- tapping ---------------------------------------------------------------------------------------------- */

static kv_status step_tapped(dt_study *s, int side, int64_t floats)
{
    const int32_t rows = s->flow->turn.n;
    KV_TRY(kv_buffer_reserve(&s->taps[side], (size_t)floats * sizeof(float)));
    KV_TRY(kv_buffer_reserve(&s->request, (size_t)(s->n_planes * rows) * sizeof(kv_tap)));
    memset(s->taps[side].p, 0xff, (size_t)floats * sizeof(float));
    kv_tap *t = s->request.p;
    for (int32_t i = 0; i < s->n_planes; i++)
        for (int32_t r = 0; r < rows; r++)
            *t++ = (kv_tap){.point = s->planes[i].point,
                            .layer = s->planes[i].layer < 0 ? 0 : s->planes[i].layer,
                            .row = r,
                            .width = (int32_t)s->planes[i].width,
                            .dst = (float *)s->taps[side].p + s->planes[i].at + r * s->planes[i].width};
    return dt_flow_step(s->flow, side, s->request.p, s->n_planes * rows);
}

/* The first wrong row: the earliest token, then the order of the forward pass. */
static void find_wrong(dt_study *s)
{
    const float *ref = s->taps[DT_REF].p, *got = s->taps[DT_GOT].p,
                *truth = s->flow->session[DT_TRUTH] ? s->taps[DT_TRUTH].p : NULL;
    const int64_t end =
        s->row < 0 ? s->flow->turn.n : s->row; /* of the same row an earlier portion's point comes first */
    for (int64_t r = 0; r < end; r++)
        for (int32_t i = 0; i < s->n_planes; i++) {
            const dt_plane *p = &s->planes[i];
            const int64_t at = p->at + r * p->width;
            double bound;
            const int64_t elem = dt_row_wrong(ref + at, got + at, truth ? truth + at : NULL, p->width, s->flow->factor, &bound);
            if (elem < 0) continue;
            s->row = r;
            s->point = p->point;
            s->layer = p->layer;
            s->elem = elem;
            s->bound = bound;
            return;
        }
}

kv_status dt_study_tap(dt_study *s, int32_t layer0, int32_t layer1)
{
    dt_flow *f = s->flow;
    int64_t floats;
    KV_TRY(lay_out(s, layer0, layer1, &floats));
    KV_TRY(dt_flow_before(f, -1));
    for (int side = 0; side < DT_SIDES && !f->device_failed; side++)
        if (f->session[side]) KV_TRY(step_tapped(s, side, floats));
    if (!f->device_failed) find_wrong(s);
    return KV_OK;
}

kv_status dt_study_all(dt_study *s)
{
    const int32_t layers = s->flow->s->model->cfg.n_layers;
    int64_t floats;
    KV_TRY(lay_out(s, 0, 1, &floats));
    const int64_t portion = TAP_BYTES / (floats * (int64_t)sizeof(float));
    const int32_t step = portion < 1 ? 1 : portion > layers ? layers : (int32_t)portion;
    s->row = -1;
    for (int32_t l = 0; l < layers && !s->flow->device_failed; l += step)
        KV_TRY(dt_study_tap(s, l, l + step < layers ? l + step : layers));
    return KV_OK;
}

void dt_study_free(dt_study *s)
{
    kv_buffer_free(&s->plane_memory);
    kv_buffer_free(&s->request);
    for (int i = 0; i < DT_SIDES; i++)
        kv_buffer_free(&s->taps[i]);
    dt_rotation_free(&s->rotation);
}
