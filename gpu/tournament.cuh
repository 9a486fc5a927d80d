/* tournament.cuh - insertion into rings behind rings (docs/policy/cascade.md) for all lists at once.
 *
 * Which ring accepts, which slot is taken, where two tokens duel: all that follows from the number of tokens alone and is
 * planned once, on the host. Only the duels differ between lists. A list holds its entries by canonical slot: sinks,
 * ring 0, ring 1, ...; rings fill in that order, so that the occupied slots are 0 .. n - 1. */
#ifndef GPU_TOURNAMENT_CUH
#define GPU_TOURNAMENT_CUH

#include "gpu/lists.cuh"

enum gpu_ring_step {
    GPU_RING_PUT,  /* the token goes to a free slot; the next token of the step follows */
    GPU_RING_SWAP, /* it takes the slot, and the one that was there goes on in its place */
    GPU_RING_DUEL, /* it meets the one in the slot: the winner stays there, the loser is gone; next token */
    GPU_RING_DROP  /* it is gone; next token */
};
struct gpu_ring_move {
    int32_t step; /* gpu_ring_step */
    int32_t slot;
};

/* What the rings look like: the same for all lists. */
struct gpu_rings {
    int32_t sinks, window, n; /* S, W, N */
    int32_t n_sinks;          /* sinks stored */
    int32_t count[KV_CASCADE_MAX], start[KV_CASCADE_MAX]; /* entries; ring offset of the oldest */
};

KV_HD int32_t gpu_rings_entries(const gpu_rings &r)
{
    int32_t n = r.n_sinks;
    for (int32_t i = 0; i < r.n; i++) n += r.count[i];
    return n;
}

/* View index of an occupied slot: sinks, the last ring from its oldest to its newest entry, ..., ring 0. */
KV_HD int32_t gpu_rings_view_of(const gpu_rings &r, int32_t slot)
{
    if (slot < r.n_sinks) return slot;
    const int32_t ring = (slot - r.sinks) / r.window, offset = (slot - r.sinks) % r.window;
    int32_t view = r.n_sinks + KV_MUT(P16, offset, (offset - r.start[ring] + r.window) % r.window);
    for (int32_t i = ring + 1; i < r.n; i++) view += r.count[i];
    return view;
}

/* Rows of a view: out[list][view index] of the entries, then of the m tokens of a piece (elements n .. n + m - 1 of the
 * lists); view_of[slot] for the entries. */
kv_status gpu_rings_view(const gpu_rings &r, const gpu_list_view &lists, int32_t n_lists, int32_t m, int32_t *out,
                         int32_t *view_of, cudaStream_t stream);

enum gpu_duel_rule {
    GPU_DUEL_SCORE,  /* the higher score wins, a tie is won by the token that comes; NaN: the one in the slot stays */
    GPU_DUEL_STRICT, /* a tie is won by the one in the slot */
    GPU_DUEL_COMES,  /* always the token that comes */
    GPU_DUEL_STAYS,  /* always the one in the slot */
    GPU_DUEL_GIVEN   /* as `won` says */
};

/* Inserts the elements n .. n + m - 1 of every list in order. */
struct gpu_tournament {
    gpu_list_view from, to;     /* to: entries by slot, then what has left in the order of leaving, then free rows */
    int32_t n_lists, n, m;
    int32_t n_after;            /* entries afterwards */
    const gpu_ring_move *moves; /* [n_moves] */
    int32_t n_moves, n_duels;
    gpu_duel_rule rule;
    int32_t *source;            /* workspace: [n_lists][stride] */
    uint8_t *won;               /* [n_lists][n_duels]: 1 when the token that came won; read for GPU_DUEL_GIVEN, else
                                 * written */
    float *margin;              /* [n_lists][n_duels]: winner's score - loser's */
};
kv_status gpu_tournament_run(const gpu_tournament &t, cudaStream_t stream);

#endif
