/* naive.c - every operation of kvdiff_kernel.h in the plainest way, in double: a candidate that is bounded and right.
 *
 * The same text is single.c, all in fp32, and wrong.c, with bugs in it: BUG(x) is 0 here. */
#include "kvdiff_kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef BUG
#    define BUG(x) 0
#endif
#ifndef REAL
#    define REAL double
KVDK_CANDIDATE("naive", KVDK_BOUNDED)
#endif
typedef REAL real;

#include "tiles.h"

static float *at(const kvdk_tensor *t, int64_t i, int64_t j, int64_t k)
{
    return (float *)t->data + i * t->stride[0] + j * t->stride[1] + k * t->stride[2];
}

static int32_t *int_at(const kvdk_tensor *t, int64_t i, int64_t j)
{
    return (int32_t *)t->data + i * t->stride[0] + j * t->stride[1];
}
static int64_t *long_at(const kvdk_tensor *t, int64_t i, int64_t j)
{
    return (int64_t *)t->data + i * t->stride[0] + j * t->stride[1];
}

/* K and V come in three types; dead rows may be NaN, which nobody looks at. */
static real load(const kvdk_tensor *t, int64_t i, int64_t j, int64_t k)
{
    const int64_t where = i * t->stride[0] + j * t->stride[1] + k;
    if (t->dtype == KVDK_F16) return half_value(((const uint16_t *)t->data)[where]);
    if (t->dtype == KVDK_BF16) {
        union {
            uint32_t bits;
            float value;
        } u = {(uint32_t)((const uint16_t *)t->data)[where] << 16};
        return (real)u.value;
    }
    return (real)((const float *)t->data)[where];
}

/* ---- rows
 * --------------------------------------------------------------------------------------------------------------------
 */

int kvdk_rmsnorm(const kvdk_rmsnorm_args *a, kvdk_stream stream)
{
    (void)stream;
    for (int64_t t = 0; t < a->T; t++) {
        real sum = 0;
        for (int64_t i = 0; i < a->D; i++) {
            float x = *at(&a->x, t, i, 0);
            if (a->residual.data) *at(&a->residual, t, i, 0) = x = *at(&a->residual, t, i, 0) + x;
            if (!BUG(rmsnorm_tail) || i < 256) sum += (real)x * (real)x;
        }
        const real r = 1 / sqrt(sum / (real)a->D + a->eps);
        for (int64_t i = 0; i < a->D; i++) {
            const float x = a->residual.data ? *at(&a->residual, t, i, 0) : *at(&a->x, t, i, 0);
            *at(&a->y, t, i, 0) = (float)((real)x * r * (real)*at(&a->weight, i, 0, 0));
        }
    }
    return 0;
}

static real product(const kvdk_gemm_args *a, int64_t m, int64_t n)
{
    real sum = a->bias.data && !BUG(gemm_bias) ? (real)*at(&a->bias, n, 0, 0) : 0;
    for (int64_t k = 0; k < (BUG(gemm_tail) && a->K > 16 ? a->K / 16 * 16 : a->K); k++)
        sum += (real)*at(&a->a, m, k, 0) * (real)*at(&a->w, n, k, 0);
    return sum;
}

int kvdk_gemm(const kvdk_gemm_args *a, kvdk_stream stream)
{
    const int64_t width = a->epilogue == KVDK_SILU_MUL ? a->N / 2 : a->N;
    (void)stream;
    for (int64_t m = 0; m < a->M; m++)
        for (int64_t n = 0; n < width; n++) {
            const real p = product(a, m, n), r = p > 0 ? p : 0;
            float *c = at(&a->c, m, n, 0);
            if (a->epilogue == KVDK_ADD)
                *c = (float)((real)*c + p);
            else if (a->epilogue == KVDK_SILU_MUL)
                *c = (float)(p / (1 + exp(-p)) * product(a, m, BUG(gemm_interleaved) ? 2 * n + 1 : n + width));
            else
                *c = (float)(a->epilogue == KVDK_RELU2 ? r * r : BUG(gemm_beta) ? p + 0 * (real)*c : p);
        }
    return 0;
}

int kvdk_rope(const kvdk_rope_args *a, kvdk_stream stream)
{
    (void)stream;
    const int half = a->pairing == KVDK_HALF && !BUG(rope_pairing);
    for (int64_t t = 0; t < a->T; t++) {
        const int64_t read = *int_at(&a->pos, t, 0), pos = BUG(rope_position) && read ? read - 1 : read;
        for (int64_t h = 0; h < a->H; h++)
            for (int64_t i = 0; i < a->rd / 2; i++) {
                float *x = at(&a->x, t, h, half ? i : 2 * i), *y = at(&a->x, t, h, half ? i + a->rd / 2 : 2 * i + 1);
                const real c = (real)*at(&a->cos, pos, i, 0), s = (real)*at(&a->sin, pos, i, 0), p = (real)*x,
                           q = (real)*y;
                *x = (float)(p * c - q * s);
                *y = (float)(q * c + p * s);
            }
    }
    return 0;
}

/* ---- attention
 * ----------------------------------------------------------------------------------------------------------------------
 */

/* Entries of a segment that token t may look at. */
static int64_t seen(const kvdk_segment *s, int64_t t)
{
    if (!s->k.data) return 0;
    return s->kind == KVDK_SELF ? (BUG(attn_mask) ? t : t + 1) : s->k.dim[0];
}

static int alive(const kvdk_segment *s, int64_t i)
{
    return !s->valid.data || ((const uint8_t *)s->valid.data)[i * s->valid.stride[0]];
}

static real score(const kvdk_tensor *q, int64_t t, int64_t head, const kvdk_segment *s, int64_t i, int64_t kv,
                  int64_t hd)
{
    real sum = 0;
    for (int64_t d = 0; d < hd; d++)
        sum += load(q, t, head, d) * load(&s->k, i, kv, d);
    return sum;
}

static void attend(const kvdk_attn_args *a, int64_t t, int64_t head)
{
    const int64_t kv = BUG(attn_heads) ? head % a->Hk : head / (a->Hq / a->Hk);
    real o[512] = {0}, max = BUG(attn_max) ? 0 : -INFINITY, sum = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t g = 0; g < a->n_segments; g++)
            for (int64_t i = 0; i < seen(&a->segment[g], t); i++) {
                const kvdk_segment *s = &a->segment[g];
                if (!alive(s, i)) continue;
                const real x = score(&a->q, t, head, s, i, kv, a->hd) * a->scale;
                max = pass == 0 && x > max ? x : max;
                if (pass == 0) continue;
                const real p = exp(x - max);
                sum += p;
                for (int64_t d = 0; d < a->hd; d++)
                    o[d] += p * load(&s->v, i, kv, d);
            }
    for (int64_t d = 0; d < a->hd; d++)
        *at(&a->o, t, head, d) = (float)(sum > 0 ? o[d] / sum : 0);
    if (a->row_max.data) *at(&a->row_max, head, t, 0) = (float)max;
    if (a->row_sum.data) *at(&a->row_sum, head, t, 0) = (float)sum;
}

int kvdk_attn_decode(const kvdk_attn_args *a, kvdk_stream stream)
{
    (void)stream;
    for (int64_t t = 0; t < a->T; t++)
        for (int64_t head = 0; head < a->Hq; head++)
            attend(a, t, head);
    return 0;
}

int kvdk_attn_prefill(const kvdk_attn_args *a, kvdk_stream stream)
{
    return kvdk_attn_decode(a, stream);
}

int kvdk_attn_colsum(const kvdk_colsum_args *a, kvdk_stream stream)
{
    (void)stream;
    for (int64_t head = 0; head < a->Hq; head++)
        for (int64_t g = 0, entry = 0; g < a->n_segments; g++)
            for (int64_t i = 0; i < (a->segment[g].k.data ? a->segment[g].k.dim[0] : 0); i++, entry++) {
                const kvdk_segment *s = &a->segment[g];
                real sum = 0;
                const int64_t first = s->kind == KVDK_SELF && !BUG(colsum_causal) ? i : 0;
                const int64_t end = BUG(colsum_block) && a->T > 256 ? 256 : a->T;
                for (int64_t t = first; alive(s, i) && t < end; t++) {
                    const real x = score(&a->q, t, head, s, i, head / (a->Hq / a->Hk), a->hd) * a->scale;
                    const real w = a->weights.data && !BUG(colsum_weights) ? (real)*at(&a->weights, t, 0, 0) : 1;
                    sum += w * exp(x - (real)*at(&a->row_max, head, t, 0)) / (real)*at(&a->row_sum, head, t, 0);
                }
                *at(&a->colsum, head, entry, 0) = (float)sum;
            }
    return 0;
}

/* ---- the cache
 * -------------------------------------------------------------------------------------------------------------------------
 */

int kvdk_window_append(const kvdk_append_args *a, kvdk_stream stream)
{
    int64_t *start = long_at(&a->ring, 0, 0), *count = long_at(&a->ring, 1, 0);
    (void)stream;
    for (int64_t t = 0; t < a->n; t++) {
        const int64_t slot = (*start + *count) % a->cap;
        for (int64_t h = 0; h < a->Hk; h++)
            for (int64_t d = 0; d < a->hd; d++) {
                *at(&a->k_cache, BUG(append_start) && *count < a->cap ? *count : slot, h, d) = *at(&a->k, t, h, d);
                *at(&a->v_cache, BUG(append_start) && *count < a->cap ? *count : slot, h, d) =
                    *at(BUG(append_value) ? &a->k : &a->v, t, h, d);
            }
        if (*count < a->cap)
            ++*count;
        else if (!BUG(append_ring))
            *start = (*start + 1) % a->cap;
    }
    return 0;
}

/* One list of a cascade while tokens come in. src[s]: where the row of slot s comes from. */
typedef struct list {
    const kvdk_plan_args *a;
    int64_t g, S;
    int32_t sinks, count[8], start[8];
    real *score;
    int64_t *og;
    int32_t *src;
} list;

typedef struct token {
    real score;
    int64_t og;
    int32_t src;
} token;

static void swap(list *l, int64_t slot, token *t)
{
    const token out = {l->score[slot], l->og[slot], l->src[slot]};
    l->score[slot] = t->score;
    l->og[slot] = t->og;
    l->src[slot] = t->src;
    *t = out;
}

/* Original index of the token that leaves; -1: none. */
static int64_t insert(list *l, token t)
{
    const kvdk_plan_args *a = l->a;
    const int64_t index = t.og, C = a->W * a->levels;
    if (l->sinks < a->sinks) {
        swap(l, l->sinks++, &t);
        return -1;
    }
    for (int64_t i = 0; i < a->levels; i++) {
        const int64_t base = a->sinks + i * a->W;
        const int accepts = (a->eager && (BUG(plan_eager) ? index < a->sinks + C : index <= a->sinks + C)) ||
                            (index - a->sinks) % (1LL << i) == 0;
        if (l->count[i] < a->W && (accepts || l->count[i] == 0)) {
            swap(l, base + l->start[i] + l->count[i]++, &t);
            return -1;
        }
        if (!accepts) {
            const int64_t newest = base + (l->start[i] + l->count[i] - 1) % a->W;
            if (BUG(plan_tie) ? t.score > l->score[newest] : t.score >= l->score[newest]) swap(l, newest, &t);
            return t.og;
        }
        swap(l, base + l->start[i], &t);
        l->start[i] = (int32_t)((l->start[i] + 1) % a->W);
    }
    return t.og;
}

static void begin_list(list *l)
{
    const kvdk_plan_args *a = l->a;
    l->sinks = *int_at(&a->rings, 0, 0);
    for (int64_t i = 0; i < a->levels; i++) {
        l->count[i] = *int_at(&a->rings, 1 + 2 * i, 0);
        l->start[i] = *int_at(&a->rings, 2 + 2 * i, 0);
    }
    for (int64_t s = 0; s < l->S; s++) {
        l->score[s] = (real)*at(&a->score, l->g, s, 0);
        l->og[s] = *long_at(&a->og, l->g, s);
        l->src[s] = (int32_t)s;
    }
}

static void end_list(const list *l, int last)
{
    const kvdk_plan_args *a = l->a;
    for (int64_t s = 0; s < l->S; s++)
        *int_at(&a->src, l->g, s) = l->src[s];
    if (!last) return;
    *int_at(&a->rings, 0, 0) = l->sinks;
    for (int64_t i = 0; i < a->levels; i++) {
        *int_at(&a->rings, 1 + 2 * i, 0) = l->count[i];
        *int_at(&a->rings, 2 + 2 * i, 0) = l->start[i];
    }
}

int kvdk_cascade_plan(const kvdk_plan_args *a, kvdk_stream stream)
{
    list l = {.a = a, .S = a->sinks + a->W * a->levels};
    (void)stream;
    l.score = malloc((size_t)l.S * sizeof *l.score);
    l.og = malloc((size_t)l.S * sizeof *l.og);
    l.src = malloc((size_t)l.S * sizeof *l.src);
    if (!l.score || !l.og || !l.src) return 1;
    for (l.g = 0; l.g < a->G; l.g++) {
        begin_list(&l);
        for (int64_t t = 0; t < a->T; t++)
            *long_at(&a->dropped, l.g, t) =
                insert(&l, (token){(real)*at(&a->new_score, l.g, t, 0), a->seen + t, (int32_t)(-1 - t)});
        end_list(&l, l.g == a->G - 1);
    }
    free(l.score);
    free(l.og);
    free(l.src);
    return 0;
}

static int move(const kvdk_move_args *a, const kvdk_tensor *fresh, const kvdk_tensor *cache)
{
    float *old = malloc((size_t)(a->S * a->G * a->hd) * sizeof *old);
    if (!old) return 1;
    for (int64_t i = 0; i < a->S * a->G * a->hd; i++)
        old[i] = *at(cache, i / (a->G * a->hd), i / a->hd % a->G, i % a->hd);
    for (int64_t s = 0; s < a->S; s++)
        for (int64_t g = 0; g < a->G; g++)
            for (int64_t d = 0; d < a->hd; d++) {
                const int64_t from = *int_at(&a->src, g, s);
                if (BUG(move_in_place))
                    *at(cache, s, g, d) = from < 0 ? *at(fresh, -1 - from, g, d) : *at(cache, from, g, d);
                else
                    *at(cache, s, g, d) = from < 0 ? *at(fresh, -1 - from, g, d) : old[(from * a->G + g) * a->hd + d];
            }
    free(old);
    return 0;
}

int kvdk_cascade_move(const kvdk_move_args *a, kvdk_stream stream)
{
    (void)stream;
    return move(a, &a->k, &a->k_cache) || move(a, BUG(move_value) ? &a->k : &a->v, &a->v_cache);
}

/* ---- coded tiles
 * ----------------------------------------------------------------------------------------------------------------------
 */

/* A block of keys, then the rows of its values. */
static int quant_kivi(const kvdk_tile_args *a)
{
    const int64_t T = a->tile, D = a->hd, G = a->group, key_row = T * a->kbits / 8;
    const int64_t key_codes = (D * key_row + 3) / 4 * 4, value_row = (D * a->vbits / 8 + 3) / 4 * 4;
    uint8_t *p = a->record.data, *scale = p + key_codes, *min = scale + 4 * D * (T / G),
            *values = min + 4 * D * (T / G);
    memset(p, 0, (size_t)(values - p + T * (value_row + 8 * (D / G))));
    for (int64_t d = 0; d < D; d++) {
        const int64_t at_row = 4 * d * (T / G);
        const kivi_row row = {p + d * key_row, scale + at_row, min + at_row, G, T / G, a->kbits};
        for (int64_t g = 0; g < T / G; g++)
            code_kivi(at(&a->k, g * G, d, 0), a->k.stride[0], &row, g);
    }
    for (int64_t t = 0; t < T; t++) {
        uint8_t *row_at = values + t * (value_row + 8 * (D / G)), *numbers = row_at + value_row;
        const kivi_row row = {row_at, numbers, numbers + 4 * (D / G), G, D / G, a->vbits};
        for (int64_t g = 0; g < D / G; g++)
            code_kivi(at(&a->v, t, g * G, 0), 1, &row, g);
    }
    return 0;
}

int kvdk_kv_quant_tile(const kvdk_tile_args *a, kvdk_stream stream)
{
    if (a->format == KVDK_KIVI) return quant_kivi(a);
    const layout l = layout_of(a->tile, a->hd, a->kbits, a->vbits);
    uint8_t *p = a->record.data;
    matrix *m = calloc(1, sizeof *m);
    (void)stream;
    if (!m) return 1;
    m->rows = a->hd;
    m->cols = a->tile;
    for (int64_t i = 0; i < a->tile * a->hd; i++)
        m->x[i] = (real)*at(&a->k, i % a->tile, i / a->tile, 0);
    balance(m, a->iters);
    code_matrix(m, &(target){p + l.k_codes, p + l.k_s, p + l.k_z, p + l.k_c, l.k_row, a->kbits, a->tile});
    m->rows = a->tile;
    m->cols = a->hd;
    for (int64_t i = 0; i < a->tile * a->hd; i++)
        m->x[i] = (real)*at(&a->v, i / a->hd, i % a->hd, 0);
    balance(m, a->iters);
    code_matrix(m, &(target){p + l.v_codes, p + l.v_s, p + l.v_z, p + l.v_c, l.v_row, a->vbits, l.g});
    free(m);
    return 0;
}

static void hadamard(real *x, int64_t D)
{
    for (int64_t h = 1; h < D; h *= 2)
        for (int64_t i = 0; i < D; i++)
            if (!(i & h)) {
                const real p = x[i], q = x[i + h];
                x[i] = p + q;
                x[i + h] = p - q;
            }
    for (int64_t i = 0; i < D; i++)
        x[i] /= sqrt((real)D);
}

static real key_of(const kvdk_attn_quant_args *a, const layout *l, int64_t kv, int64_t i, int64_t d)
{
    const int64_t t = i - a->tiles * a->tile, j = i % a->tile;
    if (t >= 0) return (real)*at(&a->tail_k, t, kv, d);
    const uint8_t *p =
        (const uint8_t *)a->records.data + i / a->tile * a->records.stride[0] + kv * a->records.stride[1];
    const real c = BUG(quant_token_scale) ? 1 : get_half(p + l->k_c, j);
    return (get_code(p + l->k_codes + d * l->k_row, j, a->kbits) * get_half(p + l->k_s, d) + get_half(p + l->k_z, d)) *
           c;
}

static real value_of(const kvdk_attn_quant_args *a, const layout *l, int64_t kv, int64_t i, int64_t d)
{
    const int64_t t = i - a->tiles * a->tile, j = i % a->tile, group = j * (a->hd / l->g) + d / l->g;
    if (t >= 0) return (real)*at(&a->tail_v, t, kv, d);
    const uint8_t *p =
        (const uint8_t *)a->records.data + i / a->tile * a->records.stride[0] + kv * a->records.stride[1];
    return (get_code(p + l->v_codes + j * l->v_row, d, a->vbits) * get_half(p + l->v_s, group) +
            get_half(p + l->v_z, group)) *
           get_half(p + l->v_c, d);
}

static void attend_codes(const kvdk_attn_quant_args *a, const layout *l, int64_t head, real *scores)
{
    const int64_t kv = head / (a->Hq / a->Hk), n = a->tiles * a->tile + (BUG(quant_tail) ? 0 : a->tail);
    real q[256], o[256] = {0}, max = -INFINITY, sum = 0;
    for (int64_t d = 0; d < a->hd; d++)
        q[d] = (real)*at(&a->q, head, d, 0);
    hadamard(q, a->hd);
    for (int64_t i = 0; i < n; i++) {
        scores[i] = 0;
        for (int64_t d = 0; d < a->hd; d++)
            scores[i] += q[d] * a->scale * key_of(a, l, kv, i, d);
        max = scores[i] > max ? scores[i] : max;
    }
    for (int64_t i = 0; i < n; i++) {
        const real p = exp(scores[i] - max);
        sum += p;
        for (int64_t d = 0; d < a->hd; d++)
            o[d] += p * value_of(a, l, kv, i, d);
    }
    for (int64_t d = 0; d < a->hd; d++)
        o[d] /= sum;
    if (!BUG(quant_unrotated)) hadamard(o, a->hd);
    for (int64_t d = 0; d < a->hd; d++)
        *at(&a->o, head, d, 0) = (float)o[d];
}

int kvdk_attn_quant(const kvdk_attn_quant_args *a, kvdk_stream stream)
{
    const layout l = layout_of(a->tile, a->hd, a->kbits, a->vbits);
    real *scores = malloc((size_t)(a->tiles * a->tile + a->tail + 1) * sizeof *scores);
    (void)stream;
    if (!scores) return 1;
    for (int64_t head = 0; head < a->Hq; head++)
        attend_codes(a, &l, head, scores);
    free(scores);
    return 0;
}

/* ---- logits
 * ------------------------------------------------------------------------------------------------------------------------------
 */

static void row_nll(const kvdk_nll_args *a, int64_t t, real *z)
{
    real max = -INFINITY, sum = 0;
    for (int64_t v = 0; v < a->V; v++) {
        z[v] = 0;
        for (int64_t d = 0; d < a->D; d++)
            z[v] += (real)*at(&a->h, t, d, 0) * (real)*at(&a->w, v, d, 0);
        if (a->softcap != 0 && !BUG(nll_softcap)) z[v] = a->softcap * tanh(z[v] / a->softcap);
        max = z[v] > max ? z[v] : max;
    }
    for (int64_t v = 0; v < (BUG(nll_block) && a->V > 4096 ? 4096 : a->V); v++)
        sum += exp(z[v] - max);
    const int64_t target = *int_at(&a->target, t, 0);
    *at(&a->nll, t, 0, 0) = (float)(log(sum) - (z[target] - max));
    *at(&a->row_max, t, 0, 0) = (float)max;
    *at(&a->row_sum, t, 0, 0) = (float)sum;
}

int kvdk_logits_nll(const kvdk_nll_args *a, kvdk_stream stream)
{
    real *z = malloc((size_t)a->V * sizeof *z);
    (void)stream;
    if (!z) return 1;
    for (int64_t t = 0; t < a->T; t++)
        row_nll(a, t, z);
    free(z);
    return 0;
}

/* Whether x beats the best so far, whose index is lower. */
static int beats(float x, float best)
{
    if (isnan(best)) return BUG(topk_nan) ? 0 : !isnan(x);
    return BUG(topk_tie) ? x >= best : x > best;
}

static void row_topk(const kvdk_topk_args *a, int64_t r, uint8_t *taken)
{
    memset(taken, 0, (size_t)a->V);
    for (int64_t n = 0; n < a->k; n++) {
        int64_t best = -1;
        for (int64_t i = 0; i < a->V; i++)
            if (!taken[i] && (best < 0 || beats(*at(&a->z, r, i, 0), *at(&a->z, r, best, 0)))) best = i;
        if (best >= 0) taken[best] = 1;
    }
    for (int64_t i = 0, n = 0; i < a->V; i++)
        if (taken[i]) {
            *int_at(&a->index, r, n) = (int32_t)i;
            *at(&a->value, r, n++, 0) = *at(&a->z, r, i, 0);
        }
}

int kvdk_topk(const kvdk_topk_args *a, kvdk_stream stream)
{
    uint8_t *taken = malloc((size_t)a->V);
    (void)stream;
    if (!taken) return 1;
    for (int64_t r = 0; r < a->R; r++)
        row_topk(a, r, taken);
    free(taken);
    return 0;
}
