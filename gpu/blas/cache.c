/* cache.c - rows of K and V in view order, so that attention is two matrix products on them as they
 * lie.
 *
 *   store of one KV head:   | free | entries start .. start + n - 1 | free, own tokens of a step |
 *
 * Eviction closes its gap by moving the shorter side: the sinks forward, or nothing at all for a
 * window. Heads that decide alike share one index (a set of all heads); heads that decide for themselves
 * are sets of one. */
#include "gpu/blas/blas.h"

#include <stdlib.h>
#include <string.h>

int32_t blas_key_form(const kv_policy *p)
{
    const int raw = p->selection == KV_SEL_SINK || p->selection == KV_SEL_CASCADE ||
                    (p->selection == KV_SEL_SLIDING && p->sliding.pos == KV_SLIDING_REROTATE) ||
                    (p->selection == KV_SEL_XWINDOW && p->xwindow.ver == KV_XW_FIXED);
    return raw ? KV_KEY_RAW : KV_KEY_ROTATED;
}

int blas_counts_view(const kv_policy *p)
{
    return blas_key_form(p) == KV_KEY_RAW && p->selection != KV_SEL_XWINDOW;
}

kv_status blas_cache_init(blas_cache *c, const kv_config *cfg, const kv_policy *p)
{
    c->policy = *p;
    c->n_layers = cfg->n_layers;
    c->n_kv_heads = cfg->n_kv_heads;
    c->head_dim = cfg->head_dim;
    c->n_sets = kv_policy_heads_agree(p) ? 1 : cfg->n_kv_heads;
    c->set_heads = c->n_kv_heads / c->n_sets;
    blas_storage_init(c);
    c->sets = calloc((size_t)(c->n_layers * c->n_sets), sizeof *c->sets);
    if (!c->sets) return kv_fail(KV_ERR_NOMEM, "cache: out of memory");
    for (int32_t i = 0; i < c->n_layers * c->n_sets; i++)
        KV_TRY(blas_index_init(&c->sets[i].index, p));
    return KV_OK;
}

static size_t store_bytes(const blas_cache *c, int64_t cap)
{
    return (size_t)(c->set_heads * cap * c->head_dim) * sizeof(float);
}

void blas_cache_free(blas_cache *c)
{
    for (int32_t i = 0; c->sets && i < c->n_layers * c->n_sets; i++) {
        blas_set *set = &c->sets[i];
        kv_big_free(set->k, store_bytes(c, set->cap));
        kv_big_free(set->v, store_bytes(c, set->cap));
        for (int j = 0; j < 2; j++)
            free(set->records[j].v);
        blas_index_free(&set->index);
    }
    free(c->sets);
    c->sets = NULL;
}

void blas_cache_reset(blas_cache *c)
{
    for (int32_t i = 0; i < c->n_layers * c->n_sets; i++) {
        blas_set *set = &c->sets[i];
        blas_index_clear(&set->index);
        set->start = 0;
        for (int j = 0; j < 2; j++)
            set->records[j].start = set->records[j].n = 0;
    }
}

/* ---- the index ------------------------------------------------------------------------------ */

static int64_t ring_slots(const blas_rings *r)
{
    return r->sinks + (int64_t)r->n * r->window;
}

kv_status blas_index_init(blas_index *ix, const kv_policy *p)
{
    blas_rings *r = &ix->rings;
    if (p->selection == KV_SEL_SINK)
        *r = (blas_rings){.sinks = p->sink.sinks, .n = 1, .window = p->sink.cap};
    if (p->selection == KV_SEL_CASCADE)
        *r = (blas_rings){.sinks = p->cascade.sinks, .n = p->cascade.n, .window = p->cascade.window};
    if (r->n == 0) return KV_OK;
    r->og = malloc((size_t)ring_slots(r) * sizeof *r->og);
    if (!r->og) return kv_fail(KV_ERR_NOMEM, "cache: out of memory");
    blas_index_clear(ix);
    return KV_OK;
}

void blas_index_clear(blas_index *ix)
{
    blas_rings *r = &ix->rings;
    ix->n = 0;
    for (int64_t i = 0; r->n && i < ring_slots(r); i++)
        r->og[i] = -1;
    memset(r->count, 0, sizeof r->count);
    memset(r->start, 0, sizeof r->start);
}

kv_status blas_index_reserve(blas_index *ix, int64_t room)
{
    if (room <= ix->room) return KV_OK;
    room += room / 2;
    int64_t *og = realloc(ix->og, (size_t)room * sizeof *og);
    if (og) ix->og = og;
    int32_t *pos = realloc(ix->pos, (size_t)room * sizeof *pos);
    if (pos) ix->pos = pos;
    uint8_t *dead = realloc(ix->dead, (size_t)room);
    if (dead) ix->dead = dead;
    if (!og || !pos || !dead) return kv_fail(KV_ERR_NOMEM, "cache: out of memory");
    ix->room = room;
    return KV_OK;
}

void blas_index_free(blas_index *ix)
{
    free(ix->og);
    free(ix->pos);
    free(ix->dead);
    free(ix->rings.og);
    *ix = (blas_index){0};
}

void blas_index_copy(blas_index *to, const blas_index *from)
{
    const size_t n = (size_t)from->n;
    int64_t *slots = to->rings.og;
    to->n = from->n;
    to->rings = from->rings;
    to->rings.og = slots;
    if (from->rings.n) memcpy(slots, from->rings.og, (size_t)ring_slots(&from->rings) * sizeof *slots);
    if (n == 0) return;
    memcpy(to->og, from->og, n * sizeof *to->og);
    memcpy(to->pos, from->pos, n * sizeof *to->pos);
    memcpy(to->dead, from->dead, n);
}

void blas_index_append(blas_index *ix, int64_t og, int64_t pos)
{
    const int64_t i = ix->n++;
    ix->og[i] = og;
    ix->pos[i] = (int32_t)pos;
    ix->dead[i] = 0;
}

int64_t blas_index_find(const blas_index *ix, int64_t og)
{
    int64_t lo = 0, hi = ix->n;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (ix->og[mid] < og)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < ix->n && ix->og[lo] == og && !ix->dead[lo] ? lo : -1;
}

static void index_remove(blas_index *ix, int64_t i, int64_t j)
{
    const size_t tail = (size_t)(ix->n - j);
    memmove(ix->og + i, ix->og + j, tail * sizeof *ix->og);
    memmove(ix->pos + i, ix->pos + j, tail * sizeof *ix->pos);
    memmove(ix->dead + i, ix->dead + j, tail);
    ix->n -= j - i;
}

/* ---- the store ------------------------------------------------------------------------------ */

/* Moves `rows` rows of every head. */
static void move_rows(const blas_cache *c, const blas_set *set, int64_t from, int64_t to,
                      int64_t rows)
{
    const size_t bytes = (size_t)(rows * c->head_dim) * sizeof(float);
    for (int64_t h = 0; h < c->set_heads; h++) {
        const int64_t head = h * set->cap;
        memmove(set->k + (head + to) * c->head_dim, set->k + (head + from) * c->head_dim, bytes);
        memmove(set->v + (head + to) * c->head_dim, set->v + (head + from) * c->head_dim, bytes);
    }
}

/* Records of coded rows leave from the front only: whole multiples of the oldest. */
static void records_remove(const blas_cache *c, blas_set *set, int64_t n)
{
    for (int j = 0; j < c->n_kinds; j++) {
        blas_records *r = &set->records[j];
        const int64_t gone = n / c->kinds[j].rows < r->n ? n / c->kinds[j].rows : r->n;
        r->start += gone;
        r->n -= gone;
    }
}

static void store_remove(const blas_cache *c, blas_set *set, int64_t n, int64_t i, int64_t j)
{
    if (i == 0) records_remove(c, set, j);
    if (i <= n - j) {
        move_rows(c, set, set->start, set->start + (j - i), i);
        set->start += j - i;
    } else {
        move_rows(c, set, set->start + j, set->start + i, n - j);
    }
}

void blas_remove_dead(const blas_cache *c, blas_index *ix, blas_set *set)
{
    for (int64_t j = ix->n; j > 0;) {
        if (!ix->dead[j - 1]) {
            j--;
            continue;
        }
        int64_t i = j;
        while (i > 0 && ix->dead[i - 1])
            i--;
        if (set) store_remove(c, set, ix->n, i, j);
        index_remove(ix, i, j);
        j = i;
    }
}

static kv_status grow(const blas_cache *c, blas_set *set, int64_t cap)
{
    float *k = kv_big_alloc(store_bytes(c, cap)), *v = kv_big_alloc(store_bytes(c, cap));
    if (!k || !v) {
        kv_big_free(k, store_bytes(c, cap));
        kv_big_free(v, store_bytes(c, cap));
        return kv_fail(KV_ERR_NOMEM, "cache: out of memory for %lld entries", (long long)cap);
    }
    const size_t bytes = (size_t)(set->index.n * c->head_dim) * sizeof(float);
    for (int64_t h = 0; bytes && h < c->set_heads; h++) {
        memcpy(k + h * cap * c->head_dim, blas_keys(c, set, h), bytes);
        memcpy(v + h * cap * c->head_dim, blas_values(c, set, h), bytes);
    }
    kv_big_free(set->k, store_bytes(c, set->cap));
    kv_big_free(set->v, store_bytes(c, set->cap));
    set->k = k;
    set->v = v;
    set->cap = cap;
    set->start = 0;
    return KV_OK;
}

kv_status blas_set_reserve(const blas_cache *c, blas_set *set, int64_t m)
{
    const int64_t n = set->index.n, want = n + m;
    KV_TRY(blas_index_reserve(&set->index, want));
    if (set->start + want <= set->cap) return KV_OK;
    if (2 * want > set->cap) return grow(c, set, 2 * want + 64);
    move_rows(c, set, set->start, 0, n); /* at most once per cap / 2 rows */
    set->start = 0;
    return KV_OK;
}
