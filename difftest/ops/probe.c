#include "difftest/ops/probe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Weights of all entries in all rows, as found and as they should be, with their bounds. */
typedef struct weights {
    int64_t rows, n;             /* T * Hq; entries */
    double *got, *right, *bound; /* [rows][n] */
    double *sorted;              /* [n] */
} weights;

static int64_t entries(const kvdk_attn_args *a)
{
    int64_t n = 0;
    for (int64_t i = 0; i < a->n_segments; i++)
        n += a->segment[i].k.dim[0];
    return n;
}

static int is_dead(const kvdk_segment *s, int64_t i)
{
    return s->valid.data && ((const uint8_t *)s->valid.data)[i] == 0;
}

/* Dead entries are coloured as well: a kernel that reads them shows which. */
static void colour(kvdk_attn_args *a, int64_t part)
{
    int64_t at = 0;
    for (int64_t i = 0; i < a->n_segments; i++)
        for (int64_t e = 0; e < a->segment[i].k.dim[0]; e++, at++)
            for (int64_t h = 0; h < a->Hk; h++)
                for (int64_t d = 0; d < a->hd; d++)
                    dt_element_set(&a->segment[i].v, (e * a->Hk + h) * a->hd + d,
                                   at - part * a->hd == d ? (float)(1 << h % 8) : 0);
}

/* Keys of dead entries are NaN: they become those of the first entry, so that reading one gives it a weight. */
static void revive_keys(kvdk_segment *s, int64_t width)
{
    for (int64_t e = 0; e < s->k.dim[0]; e++)
        for (int64_t j = 0; is_dead(s, e) && j < width; j++)
            dt_element_set(&s->k, e * width + j, 0.0f);
}

static kv_status copy_tensor(const kvdk_tensor *from, kvdk_tensor *to)
{
    const size_t bytes = (size_t)dt_tensor_count(from) * dt_dtype_bytes(from->dtype);
    to->data = malloc(bytes + 1);
    if (!to->data) return kv_fail(KV_ERR_NOMEM, "out of memory");
    memcpy(to->data, from->data, bytes);
    return KV_OK;
}

static void take_part(const dt_opcase *c, const dt_answer *right, const dt_result *r, int slot, weights *w)
{
    const kvdk_attn_args *a = &c->args.attn_prefill;
    for (int64_t row = 0; row < w->rows; row++) {
        const double unit = 1 << row % a->Hq / (a->Hq / a->Hk) % 8;
        for (int64_t d = 0; d < a->hd; d++) {
            const int64_t e = c->part * a->hd + d, from = row * a->hd + d;
            if (e >= w->n) break;
            w->got[row * w->n + e] = (double)((const float *)r->out[slot])[from] / unit;
            w->right[row * w->n + e] = right->value[slot][from] / unit;
            w->bound[row * w->n + e] = right->bound[slot][from] / unit;
        }
    }
}

static kv_status fill(dt_opcase *c, const kvdk_precision *precision, dt_recall_fn *recall, void *ctx, weights *w)
{
    kv_status st = KV_OK;
    int slot = 0;
    while (strcmp(dt_op_schemas[c->op].tensors[slot].name, "o") != 0)
        slot++;
    for (c->part = 0; c->part * c->args.attn_prefill.hd < w->n && st == KV_OK; c->part++) {
        dt_answer right = {0};
        dt_result r = {0};
        colour(&c->args.attn_prefill, c->part);
        st = recall(ctx, c, &r);
        if (st == KV_OK && !r.out[slot]) st = kv_fail(KV_ERR_DEVICE, "%s", r.reply.why);
        if (st == KV_OK) st = dt_op_impl_of(c->op)->answer(c, precision, &right);
        if (st == KV_OK) take_part(c, &right, &r, slot, w);
        dt_answer_free(&right);
        dt_result_free(&r);
    }
    return st;
}

/* ---- the verdict
 * ------------------------------------------------------------------------------------------------------------ */

static int is_off(const weights *w, int64_t i)
{
    return !(fabs(w->got[i] - w->right[i]) <= w->bound[i]);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* By what the weights of a row are too large in common: the median. */
static double common_factor(const weights *w, int64_t row)
{
    int64_t n = 0;
    for (int64_t e = 0; e < w->n; e++)
        if (w->right[row * w->n + e] > 1e-30 && isfinite(w->got[row * w->n + e]))
            w->sorted[n++] = w->got[row * w->n + e] / w->right[row * w->n + e];
    qsort(w->sorted, (size_t)n, sizeof *w->sorted, by_size);
    return n ? w->sorted[n / 2] : 1;
}

static void name_entry(const kvdk_attn_args *a, int64_t entry, char *dst, size_t size)
{
    static const char *const kinds[] = {"sinks", "cache", "step itself"};
    for (int64_t i = 0; i < a->n_segments; i++) {
        if (entry < a->segment[i].k.dim[0]) {
            snprintf(dst, size, "entry %lld of the %s", (long long)entry, kinds[a->segment[i].kind]);
            return;
        }
        entry -= a->segment[i].k.dim[0];
    }
}

static void describe(const kvdk_attn_args *a, int64_t token0, dt_probe *p)
{
    char entry[64] = "", row[64];
    if (p->entry >= 0) name_entry(a, p->entry, entry, sizeof entry);
    snprintf(row, sizeof row, "token %lld head %lld", (long long)(p->token + token0), (long long)p->head);
    switch (p->kind) {
    case DT_PROBE_NOT_READ:
        snprintf(p->text, sizeof p->text, "%s does not read %s, which has the weight %.4g", row, entry, p->right);
        break;
    case DT_PROBE_READ:
        snprintf(p->text, sizeof p->text, "%s reads %s, which it must not see, with the weight %.4g", row, entry,
                 p->got);
        break;
    case DT_PROBE_WEIGHT:
        snprintf(p->text, sizeof p->text, "%s gives %s the weight %.6g, right is %.6g", row, entry, p->got, p->right);
        break;
    case DT_PROBE_ALL:
        snprintf(p->text, sizeof p->text,
                 "%s: most weights are wrong, the first is %.6g, right is %.6g: scale, maximum or sum", row, p->got,
                 p->right);
        break;
    default:
        break;
    }
}

/* The entry that is most out of proportion. */
static void judge_row(const weights *w, int64_t row, dt_probe *p)
{
    const double f = common_factor(w, row);
    double worst = -1;
    int64_t odd = 0;
    for (int64_t e = 0; e < w->n; e++) {
        const int64_t i = row * w->n + e;
        const double dev = isfinite(w->got[i]) ? fabs(w->got[i] - f * w->right[i]) : HUGE_VAL;
        odd += dev > 2 * (f > 1 ? f : 1) * w->bound[i];
        if (dev > worst) worst = dev, p->entry = e;
    }
    const int64_t i = row * w->n + p->entry;
    p->right = w->right[i];
    p->got = w->got[i];
    if (2 * odd > w->n && w->n > 3) {
        p->kind = DT_PROBE_ALL;
        p->entry = -1;
        p->right = w->right[row * w->n];
        p->got = w->got[row * w->n];
    } else
        p->kind = fabs(p->got) <= w->bound[i] ? DT_PROBE_NOT_READ : p->right <= 0 ? DT_PROBE_READ : DT_PROBE_WEIGHT;
}

static void judge(const weights *w, const kvdk_attn_args *a, int64_t token0, dt_probe *p)
{
    for (int64_t row = 0; row < w->rows; row++)
        for (int64_t e = 0; e < w->n; e++) {
            if (!is_off(w, row * w->n + e)) continue;
            p->token = row / a->Hq;
            p->head = row % a->Hq;
            judge_row(w, row, p);
            describe(a, token0, p);
            return;
        }
}

kv_status dt_probe_weights(const dt_opcase *c, const kvdk_precision *precision, int64_t token0, dt_recall_fn *recall,
                           void *ctx, dt_probe *out)
{
    dt_opcase copy = *c;
    kvdk_attn_args *a = &copy.args.attn_prefill;
    weights w = {.rows = a->T * a->Hq, .n = entries(a)};
    kv_status st = KV_OK;
    *out = (dt_probe){.entry = -1};
    copy.dist = DT_DIST_dye;
    for (int64_t i = 0; i < 3; i++)
        a->segment[i].k.data = a->segment[i].v.data = NULL;
    for (int64_t i = 0; i < a->n_segments && st == KV_OK; i++) {
        st = copy_tensor(&c->args.attn_prefill.segment[i].k, &a->segment[i].k);
        if (st == KV_OK) st = copy_tensor(&c->args.attn_prefill.segment[i].v, &a->segment[i].v);
        if (st == KV_OK) revive_keys(&a->segment[i], a->Hk * a->hd);
    }
    const size_t n = (size_t)(w.rows * w.n + 1);
    w.got = calloc(3 * n + (size_t)w.n + 1, sizeof *w.got);
    if (!w.got) st = st == KV_OK ? kv_fail(KV_ERR_NOMEM, "out of memory") : st;
    w.right = w.got + n;
    w.bound = w.right + n;
    w.sorted = w.bound + n;
    if (st == KV_OK) st = fill(&copy, precision, recall, ctx, &w);
    if (st == KV_OK) judge(&w, &c->args.attn_prefill, token0, out);
    free(w.got);
    for (int64_t i = 0; i < 3; i++) {
        free(a->segment[i].k.data);
        free(a->segment[i].v.data);
    }
    return st;
}
