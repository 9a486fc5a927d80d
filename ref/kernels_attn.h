/* kernels_attn.h - attention of a block of rows: the part of kernels.c that follows docs/numerics.md,
 * section 4. Included by kernels.c only.
 *
 * The block walks the chunks of its view; inside a chunk, sub-blocks of MR rows share every vector of
 * keys and values that is loaded. Rows of a causal block see different numbers of entries: the common
 * prefix goes through the tiles, the few entries that only later rows see are added row by row, so
 * that an entry which a row may not see never enters its arithmetic. */
#ifndef KV_REF_KERNELS_ATTN_H
#define KV_REF_KERNELS_ATTN_H

enum { SCORE_STRIDE = REF_CH + 16 }; /* room for a whole vector behind the last score */

/* The part of a span that lies in the current chunk. */
typedef struct piece {
    const real *k, *v;
    int64_t slot; /* of its first entry */
    int64_t at;   /* index of its first entry inside the chunk */
    int64_t n;
    const real *token, *channel; /* of a tile: scales of its tokens and channels */
    const uint8_t *record;       /* of a tile that is not read into k and v */
} piece;

typedef struct attn_state {
    const ref_attn_job *job;
    int64_t dv;      /* value row stride: head_dim rounded up to 16 */
    real *scores;    /* [MR][SCORE_STRIDE] */
    real *max, *sum; /* [chunks][rows] */
    real *o;         /* [chunks][rows][dv] */
    piece *pieces;   /* of the current chunk */
    int64_t n_pieces;
    int direct; /* few rows that see the same entries: codes are used where they are read */
} attn_state;

/* Entries of chunk c that row r sees; 0 or less: none. */
INLINE int64_t visible(const attn_state *s, int64_t c, int64_t r)
{
    return ref_min(REF_CH, s->job->hi[r] - c * REF_CH);
}

/* The tiles of a piece of coded slots, each a piece of its own. They never straddle a chunk. */
static void read_tiles(attn_state *s, const piece *coded)
{
    const ref_tiles *t = s->job->tiles;
    const kv_kvarn_layout *l = &t->layout;
    const int64_t T = l->T, lanes = ref_round_up(T, 16), area = lanes * l->D + T * s->dv + lanes + s->dv;
    for (int64_t i = 0; i < coded->n; i += T) {
        const uint8_t *record = t->records + (coded->slot + i) / T * l->bytes;
        real *k = s->job->decoded + (coded->at + i) / T * area, *v = k + lanes * l->D, *token = v + T * s->dv;
        piece p = {.k = k, .v = v, .at = coded->at + i, .n = ref_min(T, coded->n - i), .token = token,
                         .channel = token + lanes};
        widen(record + l->k_col, T, token);
        widen(record + l->v_col, l->D, token + lanes);
        if (s->direct && p.n == T) {
            p.record = record;
        } else {
            read_keys(t, record, p.n, k);
            read_values(t, record, p.n, s->dv, v);
        }
        s->pieces[s->n_pieces++] = p;
    }
}

static void find_pieces(attn_state *s, int64_t c)
{
    const int64_t lo = c * REF_CH, hi = ref_min(lo + REF_CH, s->job->hi[s->job->rows - 1]);
    int64_t view = 0;
    s->n_pieces = 0;
    for (int64_t i = 0; i < s->job->n_spans; view += s->job->spans[i].n, i++) {
        const ref_span *sp = &s->job->spans[i];
        const int64_t a = ref_max(lo, view), b = ref_min(hi, view + sp->n);
        if (a >= b) continue;
        const piece p = {.k = sp->k, .v = sp->v, .slot = sp->slot0 + (a - view), .at = a - lo, .n = b - a};
        if (p.k)
            s->pieces[s->n_pieces++] = p;
        else
            read_tiles(s, &p);
    }
}

/* Scores of h rows from r0 against one piece. Whole key panels are computed; lanes that lie before the
 * piece must not reach the scores that are already there, lanes behind it are overwritten by the next
 * piece or never read. */
static void score_piece(const attn_state *s, int64_t r0, int64_t h, const piece *p)
{
    const int64_t D = s->job->head_dim, groups = GROUPS(h);
    operands o = {s->job->q + r0 * D, D, NULL, 16, D * 16, groups * D * 16, NULL, SCORE_STRIDE};
    int64_t panel = p->slot / 16;
    const int64_t end = p->record ? 0 : (p->slot + p->n + 15) / 16;
    if (p->record) score_keys(h, s->job->tiles, p->record, o.a, s->scores + p->at, SCORE_STRIDE);
    if (p->slot % 16) {
        real side[MR * 16];
        const int64_t skip = p->slot % 16;
        o.b = p->k + panel * D * 16;
        o.c = side;
        o.ldc = 16;
        tile_reals(h, 1, &o, D, TILE_SET);
        for (int64_t i = 0; i < h; i++)
            memcpy(s->scores + i * SCORE_STRIDE + p->at, side + 16 * i + skip,
                   (size_t)(16 - skip) * sizeof *side);
        o.ldc = SCORE_STRIDE;
        panel++;
    }
    for (int64_t g; panel < end; panel += g) {
        g = panel + groups <= end ? groups : 1;
        o.b = p->k + panel * D * 16;
        o.c = s->scores + p->at + (panel * 16 - p->slot);
        tile_reals(h, g, &o, D, TILE_SET);
    }
    for (int64_t i = 0; p->token && i < h; i++)
        for (int64_t t = 0; t < p->n; t += 16) {
            real *x = s->scores + i * SCORE_STRIDE + p->at + t;
            v_store(x, v_mul(v_load(x), v_load(p->token + t)));
        }
}

/* Scores of one row become exp(score - max) in place; returns the maximum. */
INLINE real softmax_row(real *x, int64_t n)
{
    const int64_t padded = ref_round_up(n, 16);
    const real m = exact_max(x, n);
    const v16 max = v_set1(m);
    for (int64_t t = 0; t < padded; t += 16) /* lanes behind n are never read */
        v_store(x + t, v_exp(v_sub(v_load(x + t), max)));
    return m;
}

/* Row sums in ascending order. The rows' chains are independent and run side by side. */
INLINE void sum_rows(const real *x, const int64_t *n, int64_t common, int64_t h, real *sum)
{
    real acc[MR];
    for (int64_t i = 0; i < h; i++)
        acc[i] = 0;
    if (h == MR) {
        for (int64_t t = 0; t < common; t++) {
            UNROLL
            for (int i = 0; i < MR; i++)
                acc[i] = acc[i] + x[i * SCORE_STRIDE + t];
        }
    } else {
        for (int64_t t = 0; t < common; t++)
            for (int64_t i = 0; i < h; i++)
                acc[i] = acc[i] + x[i * SCORE_STRIDE + t];
    }
    for (int64_t i = 0; i < h; i++) {
        for (int64_t t = common; t < n[i]; t++)
            acc[i] = acc[i] + x[i * SCORE_STRIDE + t];
        sum[i] = acc[i];
    }
}

/* o[i][d] = chain over the first n entries of a piece of fma(p, v, acc), for h rows. */
static void weigh_piece(const attn_state *s, const piece *p, int64_t h, int64_t n, tile_mode mode, real *o)
{
    const int64_t groups = GROUPS(h);
    if (p->record) {
        weigh_values(h, s->job->tiles, p->record, s->scores + p->at, SCORE_STRIDE, o, s->dv);
        return;
    }
    for (int64_t d = 0, g; d < s->dv; d += 16 * g) {
        g = d + 16 * groups <= s->dv ? groups : 1;
        const operands op = {s->scores + p->at, SCORE_STRIDE, p->v + p->slot * s->dv + d, s->dv, 16,
                             AHEAD * s->dv, o + d, s->dv};
        tile_reals(h, g, &op, n, mode);
    }
}

/* The same over the first `common` entries of the chunk. */
static void weigh_common(const attn_state *s, int64_t h, int64_t common, real *o)
{
    for (int64_t i = 0; i < s->n_pieces; i++) {
        const piece *p = &s->pieces[i];
        const int64_t n = ref_min(p->n, common - p->at);
        if (n <= 0) break;
        weigh_piece(s, p, h, n, i ? TILE_CONTINUE : TILE_SET, o);
    }
}

/* The entries from..to-1 of one row that lie in a piece. */
static void weigh_rest(const attn_state *s, const piece *pc, const real *p, int64_t from, int64_t to, real *o)
{
    const int64_t a = ref_max(from, pc->at), b = ref_min(to, pc->at + pc->n);
    for (int64_t t = a; t < b; t++) {
        const real *v = pc->v + (pc->slot + t - pc->at) * s->dv;
        for (int64_t d = 0; d < s->dv; d += 16)
            v_store(o + d, v_fma(v_set1(p[t]), v_load(v + d), v_load(o + d)));
    }
}

/* Partial output of a chunk for h rows, row i sees n[i] entries, all see `common`: one chain. */
static void weigh_rows(const attn_state *s, int64_t h, int64_t common, const int64_t *n, real *o)
{
    weigh_common(s, h, common, o);
    for (int64_t i = 0; i < h; i++)
        for (int64_t k = 0; n[i] > common && k < s->n_pieces; k++)
            weigh_rest(s, &s->pieces[k], s->scores + i * SCORE_STRIDE, common, n[i], o + i * s->dv);
}

/* The same with tiles: a chain per piece, times the scales of its channels; rows behind the tiles are a piece without. */
static void weigh_tiles(const attn_state *s, int64_t h, int64_t common, const int64_t *n, real *o)
{
    const int64_t dv = s->dv;
    real *part = s->job->decoded + REF(attn_decoded)(&s->job->tiles->layout) - 16 * dv;
    memset(o, 0, (size_t)(h * dv) * sizeof *o);
    for (int64_t k = 0; k < s->n_pieces; k++) {
        const piece *p = &s->pieces[k];
        memset(part, 0, (size_t)(h * dv) * sizeof *part);
        if (common > p->at) weigh_piece(s, p, h, ref_min(p->n, common - p->at), TILE_SET, part);
        for (int64_t i = 0; i < h; i++) {
            if (n[i] <= p->at) continue;
            weigh_rest(s, p, s->scores + i * SCORE_STRIDE, common, n[i], part + i * dv);
            for (int64_t d = 0; d < dv; d += 16) {
                const v16 a = v_load(part + i * dv + d), sum = v_load(o + i * dv + d);
                v_store(o + i * dv + d, p->channel ? v_fma(a, v_load(p->channel + d), sum) : v_add(sum, a));
            }
        }
    }
}

/* h rows from r0 in chunk c; the first of them sees at least one entry of it. */
static void attend_sub_block(const attn_state *s, int64_t c, int64_t r0, int64_t h)
{
    const int64_t rows = s->job->rows, common = visible(s, c, r0);
    int64_t n[MR];
    for (int64_t i = 0; i < s->n_pieces; i++)
        score_piece(s, r0, h, &s->pieces[i]);
    for (int64_t i = 0; i < h; i++) {
        n[i] = visible(s, c, r0 + i);
        s->max[c * rows + r0 + i] = softmax_row(s->scores + i * SCORE_STRIDE, n[i]);
    }
    sum_rows(s->scores, n, common, h, s->sum + c * rows + r0);
    (s->job->tiles ? weigh_tiles : weigh_rows)(s, h, common, n, s->o + (c * rows + r0) * s->dv);
}

/* Chunks of row r, ascending, become its output. */
static void combine_row(const attn_state *s, int64_t r)
{
    const ref_attn_job *job = s->job;
    const int64_t rows = job->rows, chunks = (job->hi[r] + REF_CH - 1) / REF_CH;
    real M = s->max[r], L = 0, *O = s->scores, *out = job->out[r];
    for (int64_t c = 1; c < chunks; c++) {
        const real m[2] = {M, s->max[c * rows + r]};
        M = exact_max(m, 2);
    }
    for (int64_t d = 0; d < s->dv; d += 16)
        v_store(O + d, v_zero());
    for (int64_t c = 0; c < chunks; c++) {
        const real w = r_exp(s->max[c * rows + r] - M), *o = s->o + (c * rows + r) * s->dv;
        L = r_fma(s->sum[c * rows + r], w, L);
        for (int64_t d = 0; d < s->dv; d += 16)
            v_store(O + d, v_fma(v_load(o + d), v_set1(w), v_load(O + d)));
    }
    for (int64_t d = 0; d < job->head_dim; d++)
        out[d] = O[d] / L + 0;
    if (job->lse) job->lse[r] = M + r_log(L);
    if (job->max) {
        job->max[r] = M;
        job->sum[r] = L;
    }
}

/* Scratch: scores, pieces, then per chunk maxima, sums and partial outputs. */
static void attn(const ref_attn_job *job)
{
    const int64_t rows = job->rows, chunks = (job->hi[rows - 1] + REF_CH - 1) / REF_CH;
    attn_state s = {.job = job, .dv = ref_round_up(job->head_dim, 16), .scores = job->scratch};
    piece pieces[REF_MAX_SPANS];
    s.pieces = pieces;
    s.max = s.scores + MR * SCORE_STRIDE;
    s.sum = s.max + chunks * rows;
    s.o = s.sum + chunks * rows;
    s.direct = job->tiles && rows <= READ_ROWS && rows <= MR && job->hi[0] == job->hi[rows - 1] &&
               reads_directly(&job->tiles->layout);
    for (int64_t c = 0; c < chunks; c++) {
        find_pieces(&s, c);
        int64_t r = 0;
        while (visible(&s, c, r) <= 0)
            r++; /* rows that end before this chunk; the last row never does */
        for (int64_t h; r < rows; r += h) {
            h = next_rows(rows - r);
            attend_sub_block(&s, c, r, h);
        }
    }
    for (int64_t r = 0; r < rows; r++)
        combine_row(&s, r);
}

#endif
