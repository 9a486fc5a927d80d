/* locate_dye.c - the weights that a device gives to stored entries, read off its output: values are replaced by one-hot
 * rows, a head's worth of entries at a time, so that element d of the row is the probability of entry d.
 * docs/locate.md, "Dye". */
#include "difftest/locate_study.h"

#include "common/numfmt.h"
#include "common/tile.h"
#include "difftest/locate_calc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROBES = 128 };

static void put_value(int32_t storage, uint8_t *row, int64_t d, float x)
{
    const uint16_t half = storage == KV_STORE_F16 ? kv_f2f16(x) : kv_f2bf16(x);
    if (storage == KV_STORE_F32)
        memcpy(row + 4 * d, &x, sizeof x);
    else
        memcpy(row + 2 * d, &half, sizeof half);
}

/* Values of the layer become zero, but for entries from .. from + D - 1 of every head, which become unit rows. */
static void dye(uint8_t *blob, int32_t layer, int64_t from)
{
    kv_state_head h;
    memcpy(&h, blob, sizeof h);
    const int64_t D = h.head_dim, bytes = h.record_bytes / 2;
    for (int32_t kv = 0; kv < h.n_kv_heads; kv++) {
        const kv_state_view v = dt_state_run(blob, layer, kv);
        for (int64_t i = 0; i < v.run->n; i++) {
            uint8_t *row = v.records + i * h.record_bytes + bytes;
            memset(row, 0, (size_t)bytes);
            if (from >= 0 && i >= from && i < from + D) put_value(h.storage, row, i - from, 1.0f);
        }
    }
}

/* The head's row of attention from a dyed state; *ok = 0: the side cannot. */
static kv_status probe(dt_study *s, int side, uint8_t *blob, int64_t from, float *row, int *ok)
{
    dt_flow *f = s->flow;
    const kv_config *cfg = &f->s->model->cfg;
    const int64_t width = kv_tap_width(cfg, KV_TAP_ATTN), D = cfg->head_dim;
    float *all = malloc((size_t)width * sizeof *all);
    if (!all) return kv_fail(KV_ERR_NOMEM, "out of memory");
    memcpy(blob, s->out->state.p, s->out->state_bytes);
    dye(blob, s->layer, from);
    const kv_tap tap = {
        .point = KV_TAP_ATTN, .layer = s->layer, .row = (int32_t)s->row, .width = (int32_t)width, .dst = all};
    *ok = f->side[side]->import_state(f->session[side], blob, s->out->state_bytes) == KV_OK;
    kv_status st = KV_OK;
    if (*ok) st = dt_flow_step(f, side, &tap, 1);
    *ok &= !f->device_failed;
    f->device_failed = 0;
    if (st == KV_OK && *ok) memcpy(row, all + s->out->head * D, (size_t)D * sizeof *row);
    free(all);
    return st;
}

/* p[side][entries of the run]. */
static kv_status weigh(dt_study *s, int64_t n, double *p[2], int *ok)
{
    const int64_t D = s->flow->s->model->cfg.head_dim;
    uint8_t *blob = malloc(s->out->state_bytes);
    float none[KV_MAX_HEAD_DIM], row[KV_MAX_HEAD_DIM];
    kv_status st = blob ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
    *ok = 1;
    for (int side = DT_REF; st == KV_OK && *ok && side <= DT_GOT; side++) {
        st = probe(s, side, blob, -1, none, ok);
        for (int64_t from = 0; st == KV_OK && *ok && from < n; from += D) {
            st = probe(s, side, blob, from, row, ok);
            for (int64_t d = 0; d < D && from + d < n; d++)
                p[side][from + d] = (double)row[d] - (double)none[d];
        }
    }
    free(blob);
    return st;
}

static int differs(double ref, double got)
{
    return !(fabs(ref - got) <= 2e-6 + 1e-3 * fabs(ref));
}

/* The token of entry i of the run, where it is in view. */
static const dt_entry *in_view(const dt_row_view *view, int64_t i)
{
    for (int64_t j = 0; j < view->n + view->n_gone; j++)
        if (view->v[j].stored == i) return &view->v[j];
    return NULL;
}

static void tell(dt_study *s, const dt_row_view *view, int64_t n, double *const p[2])
{
    int64_t first = -1, wrong = 0, lost = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!differs(p[DT_REF][i], p[DT_GOT][i])) continue;
        if (first < 0) first = i;
        wrong++;
        lost += p[DT_GOT][i] == 0 && p[DT_REF][i] > 1e-6;
    }
    dt_finding *out = s->out;
    const dt_entry *e = first < 0 ? NULL : in_view(view, first);
    if (!e) {
        s->dye_agrees = first < 0 && view->stored > 0;
        if (first < 0 && n > 0)
            snprintf(out->hypothesis, sizeof out->hypothesis,
                     "every stored entry has its weight: the step's own tokens, or the sums, "
                     "are wrong");
        return;
    }
    out->slot = e->slot;
    out->slot_token = dt_flow_pos(s->flow, e->og);
    snprintf(out->hypothesis, sizeof out->hypothesis,
             "head %d at token %lld gives the entry of token %lld weight %.3g, expected %.3g; "
             "%lld of %lld stored entries have another weight, %lld none",
             out->head, (long long)out->pos, (long long)out->slot_token, p[DT_GOT][first], p[DT_REF][first],
             (long long)wrong, (long long)n, (long long)lost);
}

kv_status dt_study_dye(dt_study *s, const dt_row_view *view)
{
    const dt_subject *sub = s->flow->s;
    const int32_t kv = s->out->head / (sub->model->cfg.n_heads / sub->model->cfg.n_kv_heads);
    const int64_t n = dt_state_run(s->out->state.p, s->layer, kv).run->n, D = sub->model->cfg.head_dim;
    const int plain = sub->policy->storage == KV_STORE_F32 || sub->policy->storage == KV_STORE_F16 ||
                      sub->policy->storage == KV_STORE_BF16;
    const int xsa = s->layer < 64 && (sub->model->cfg.xsa_layer_mask >> s->layer & 1);
    if (!plain || xsa || n == 0 || n > MAX_PROBES * D) return KV_OK;
    double *p[2] = {calloc(2 * (size_t)n, sizeof *p[0]), NULL};
    if (!p[0]) return kv_fail(KV_ERR_NOMEM, "out of memory");
    p[1] = p[0] + n;
    int ok;
    const kv_status st = weigh(s, n, p, &ok);
    if (st == KV_OK && ok) tell(s, view, n, p);
    free(p[0]);
    return st;
}
