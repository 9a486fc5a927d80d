/* kernels_attn_back.h - backward pass of causal attention, docs/training.md. A part of ref/kernels.c.
 *
 * 32 queries at a time are the lanes: scores, probabilities and their gradients stand as [key][32], so that the sums
 * over keys (rho, dq) are vertical, one chain per lane. Queries of a group that do not see a key yet (only among the
 * group's own positions) get zeros. Those zeros come first in the chains of dk and dv, which start at +0 and stay there;
 * in the chains of rho and dq they would come last, so there the lanes are left out. */
#ifndef KV_REF_TRAIN_KERNELS_ATTN_BACK_H
#define KV_REF_TRAIN_KERNELS_ATTN_BACK_H

#include "ref/train/kernels.h"

enum { BQ = REF_BACK_QUERIES, BACK_GROUPS = GROUPS(MR) };

typedef struct back_state {
    const ref_attn_back_job *job;
    int64_t dv;
    real *p, *ds;         /* [n][BQ] probabilities; gradients of them, then of the scores */
    real *dq, *part;      /* [D][BQ] */
    real *dk_acc, *dv_acc; /* [n][dv] chains of the current block of queries */
} back_state;

/* c[rows][..] in steps of what a tile holds; columns: multiple of 16. */
INLINE void back_product(int64_t rows, int64_t columns, const operands *o, int64_t kc, tile_mode mode)
{
    for (int64_t col = 0, g; col < columns; col += 16 * g) {
        g = col + 16 * BACK_GROUPS <= columns ? BACK_GROUPS : 1;
        operands t = *o;
        t.b = (const real *)o->b + col / 16 * o->b_group;
        t.c = o->c + col;
        for (int64_t left = rows, h; left > 0; left -= h) {
            h = next_rows(left);
            tile_reals(h, g, &t, kc, mode);
            t.a += h * t.lda;
            t.c += h * t.ldc;
        }
    }
}

/* Scores and gradients of probabilities of BQ queries against keys 0 .. keys-1. */
static void back_scores(const back_state *s, int64_t q0, int64_t keys)
{
    const ref_attn_back_job *j = s->job;
    const int64_t D = j->head_dim;
    const operands scores = {j->k, s->dv, j->q + q0 * D, 16, D * 16, 0, s->p, BQ};
    const operands grads = {j->v, s->dv, j->dout + q0 * D, 16, D * 16, 0, s->ds, BQ};
    back_product(keys, BQ, &scores, D, TILE_SET);
    back_product(keys, BQ, &grads, D, TILE_SET);
}

/* Scores of 16 lanes become p, those of lanes below `first` zero; returns rho's chain one key on. */
INLINE v16 back_softmax(real *p, real *dp, v16 max, v16 sum, v16 acc, int64_t first)
{
    v16 x = v_div(v_exp(v_sub(v_load(p), max)), sum), d = v_load(dp);
    if (first <= 0) {
        acc = v_fma(d, x, acc);
    } else {
        x = v_from(v_zero(), x, first);
        d = v_from(v_zero(), d, first);
        acc = v_from(acc, v_fma(d, x, acc), first);
        v_store(dp, d);
    }
    v_store(p, x);
    return acc;
}

/* p, then dS = p * (dp - rho) over all keys, for lanes lane0 .. lane0+15 of the group. */
static void back_lanes(const back_state *s, int64_t q0, int64_t lane0, int64_t keys)
{
    const v16 max = v_load(s->job->max + q0 + lane0), sum = v_load(s->job->sum + q0 + lane0);
    real *p = s->p + lane0, *ds = s->ds + lane0;
    v16 rho = v_zero();
    for (int64_t t0 = 0; t0 < keys; t0 += REF_CH) {
        const int64_t end = ref_min(t0 + REF_CH, keys);
        v16 acc = v_zero();
        for (int64_t t = t0; t < end; t++)
            acc = back_softmax(p + t * BQ, ds + t * BQ, max, sum, acc, t - q0 - lane0);
        /* Lanes that see nothing of a later block keep their sum; within a group there is none. */
        rho = t0 ? v_add(rho, acc) : acc;
    }
    for (int64_t t = 0; t < keys; t++)
        v_store(ds + t * BQ, v_mul(v_load(p + t * BQ), v_sub(v_load(ds + t * BQ), rho)));
}

/* The keys among the group's own positions, behind its first: one chain step for the lanes that see them. */
static void back_diagonal(const back_state *s, int64_t q0, int64_t keys)
{
    const int64_t D = s->job->head_dim, ldk = s->job->n;
    for (int64_t t = q0 + 1; t < keys; t++)
        for (int64_t lane0 = 0; lane0 < BQ; lane0 += 16) {
            const int64_t first = t - q0 - lane0;
            const v16 ds = v_load(s->ds + t * BQ + lane0);
            if (first >= 16) continue;
            for (int64_t d = 0; d < D; d++) {
                real *acc = s->part + d * BQ + lane0;
                const v16 old = v_load(acc), now = v_fma(ds, v_set1(s->job->k_cols[d * ldk + t]), old);
                v_store(acc, first > 0 ? v_from(old, now, first) : now);
            }
        }
}

static void back_queries(const back_state *s, int64_t q0, int64_t nq, int64_t keys)
{
    const ref_attn_back_job *j = s->job;
    const int64_t D = j->head_dim, last = q0 / REF_CH * REF_CH;
    operands o = {j->k_cols, j->n, s->ds, BQ, 16, 0, s->dq, BQ};
    for (int64_t t0 = 0; t0 < last; t0 += REF_CH) {
        o.a = j->k_cols + t0;
        o.b = s->ds + t0 * BQ;
        back_product(D, BQ, &o, REF_CH, t0 ? TILE_ADD : TILE_SET);
    }
    o.a = j->k_cols + last;
    o.b = s->ds + last * BQ;
    o.c = s->part;
    back_product(D, BQ, &o, q0 + 1 - last, TILE_SET);
    back_diagonal(s, q0, keys);
    for (int64_t d = 0; d < D; d++)
        for (int64_t l = 0; l < nq; l++) {
            const real part = s->part[d * BQ + l], sum = last ? s->dq[d * BQ + l] + part : part;
            j->dq[(q0 + l) * D + d] = sum * j->scale;
        }
}

/* dk and dv of all keys take nq queries more. */
static void back_keys(const back_state *s, int64_t q0, int64_t nq, int64_t keys)
{
    const ref_attn_back_job *j = s->job;
    const operands dk = {s->ds, BQ, j->q_rows + q0 * s->dv, s->dv, 16, 0, s->dk_acc, s->dv};
    const operands dv = {s->p, BQ, j->dout_rows + q0 * s->dv, s->dv, 16, 0, s->dv_acc, s->dv};
    back_product(keys, s->dv, &dk, nq, TILE_CONTINUE);
    back_product(keys, s->dv, &dv, nq, TILE_CONTINUE);
}

/* A block of queries from q0 on is complete: its chains join the totals; keys of the block itself begin them. */
static void back_fold(const back_state *s, int64_t q0, int64_t keys, const real *acc, real *total)
{
    const int64_t old = q0 * s->dv;
    for (int64_t i = 0; i < old; i += 16)
        v_store(total + i, v_add(v_load(total + i), v_load(acc + i)));
    memcpy(total + old, acc + old, (size_t)(keys * s->dv - old) * sizeof *total);
}

static void attn_back(const ref_attn_back_job *job)
{
    const int64_t n = job->n, dv = ref_round_up(job->head_dim, 16);
    back_state s = {.job = job, .dv = dv, .p = job->scratch};
    s.ds = s.p + n * BQ;
    s.dq = s.ds + n * BQ;
    s.part = s.dq + job->head_dim * BQ;
    s.dk_acc = s.part + job->head_dim * BQ;
    s.dv_acc = s.dk_acc + n * dv;
    for (int64_t b0 = 0; b0 < n; b0 += REF_TB) {
        const int64_t end = ref_min(b0 + REF_TB, n);
        memset(s.dk_acc, 0, (size_t)(end * dv) * sizeof(real));
        memset(s.dv_acc, 0, (size_t)(end * dv) * sizeof(real));
        for (int64_t q0 = b0; q0 < end; q0 += BQ) {
            const int64_t nq = ref_min(BQ, end - q0), keys = q0 + nq;
            back_scores(&s, q0, keys);
            for (int64_t lane0 = 0; lane0 < BQ; lane0 += 16)
                back_lanes(&s, q0, lane0, keys);
            back_queries(&s, q0, nq, keys);
            back_keys(&s, q0, nq, keys);
        }
        back_fold(&s, b0, end, s.dk_acc, job->dk);
        back_fold(&s, b0, end, s.dv_acc, job->dv);
    }
}

#endif
