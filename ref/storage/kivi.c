/* kivi.c - storage kivi (docs/policy/kivi.md): blocks of keys per channel, rows of values per token, coded behind the
 * attention of the step that completes them. The store's rows of coded tokens hold what the codes stand for, so that
 * attention is that of f32. Of the n tokens in view the oldest n / R * R have coded keys, all but the newest R coded
 * values: what leaves the front leaves in multiples of R.
 *
 * In double, records are written with fp32 scales and minima, the layout that all sides share; the store keeps more. */
#include "ref/storage.h"
#include "ref/storage/code.h"
#include "ref/storage/kivi.h"

#include <string.h>

enum { KEYS, VALUES }; /* kinds of records */

static void init(ref_cache *c)
{
    c->block = kv_kivi_layout_of(&c->policy.kivi, c->head_dim);
    c->coded_tokens[KEYS] = c->block.R;
    c->coded_bytes[KEYS] = c->block.k_bytes;
    c->coded_tokens[VALUES] = 1;
    c->coded_bytes[VALUES] = c->block.v_bytes;
}

static int64_t coded_keys(const ref_cache *c, int64_t n) { return n / c->block.R * c->block.R; }
static int64_t coded_values(const ref_cache *c, int64_t n) { return ref_max(0, n - c->block.R + KV_MUT(F20, 1, 0)); }

/* ---- one group ------------------------------------------------------------------------------------------------ */

/* Group g of channel d of the block whose first token is in `slot`. */
static ref_kivi_group key_group(const ref_cache *c, const ref_layer *l, int64_t head, int64_t slot, int64_t d,
                                int64_t g)
{
    const kv_kivi_layout *b = &c->block;
    uint8_t *record = ref_coded_at(c, l, KEYS, head, slot);
    const int64_t at = 4 * (d * (b->R / b->G) + g);
    return (ref_kivi_group){record + d * b->k_row, (int32_t)g * b->G, b->G, c->policy.kivi.bits,
                            record + b->k_scale + at, record + b->k_min + at};
}

/* Group g of the value in `slot`. */
static ref_kivi_group value_group(const ref_cache *c, const ref_layer *l, int64_t head, int64_t slot, int64_t g)
{
    const kv_kivi_layout *b = &c->block;
    uint8_t *record = ref_coded_at(c, l, VALUES, head, slot);
    return (ref_kivi_group){record, (int32_t)g * b->G, b->G, c->policy.kivi.bits, record + b->v_scale + 4 * g,
                            record + b->v_min + 4 * g};
}

/* What the codes stand for. */
static void read_group(const ref_kivi_group *j, real scale, real min, real *x)
{
    for (int32_t i = 0; i < j->n; i++) {
        const real product = (real)kv_code_get(j->codes, j->k + i, j->bits) * scale;
        x[i] = scale == 0 ? min : product + min;
    }
}

void REF(kivi_code_group)(const ref_kivi_group *j, real *x)
{
    const real n = (real)((1 << j->bits) - 1);
    real lo, hi;
    ref_range_of(x, j->n, 1, &lo, &hi);
    const real scale = (hi - lo) / n;
    const float s = (float)scale, m = (float)lo;
    for (int32_t i = 0; i < j->n; i++) {
        const real y = (x[i] - lo) / scale, inside = y > 0 ? y < n ? y : KV_MUT(F27, n - 1, n) : 0;
        kv_code_put(j->codes, j->k + i, j->bits, scale == 0 ? 0 : (uint32_t)ref_whole(inside));
    }
    memcpy(j->scale, &s, sizeof s);
    memcpy(j->min, &m, sizeof m);
    read_group(j, scale, lo, x);
}

static void read_record_group(const ref_kivi_group *j, real *x)
{
    float s, m;
    memcpy(&s, j->scale, sizeof s);
    memcpy(&m, j->min, sizeof m);
    read_group(j, (real)s, (real)m, x);
}

/* ---- one record: coded from the store's rows, or read back into them --------------------------------------------- */

typedef void group_fn(const ref_kivi_group *j, real *x);

static void over_block(const ref_cache *c, ref_layer *l, int64_t head, int64_t slot, group_fn *fn)
{
    const int32_t G = c->block.G;
    real x[KV_MAX_HEAD_DIM];
    for (int64_t d = 0; d < c->head_dim; d++)
        for (int32_t g = 0; g < c->block.R / G; g++) {
            const ref_kivi_group j = key_group(c, l, head, slot, d, g);
            for (int32_t i = 0; i < G; i++)
                x[i] = ref_slot_k(c, l, head, slot + j.k + i)[d * REF_PANEL];
            fn(&j, x);
            for (int32_t i = 0; i < G; i++)
                ref_slot_k(c, l, head, slot + j.k + i)[d * REF_PANEL] = x[i];
        }
}

static void over_value(const ref_cache *c, ref_layer *l, int64_t head, int64_t slot, group_fn *fn)
{
    for (int32_t g = 0; g < c->head_dim / c->block.G; g++) {
        const ref_kivi_group j = value_group(c, l, head, slot, g);
        fn(&j, ref_slot_v(c, l, head, slot) + j.k);
    }
}

/* ---- behind a step --------------------------------------------------------------------------------------------- */

/* View indices that become coded. */
typedef struct coding {
    const ref_cache *c;
    ref_layer *l;
    int64_t k0, k1, v0, v1;
} coding;

static int64_t slot_of(const coding *j, int64_t head, int64_t i) { return j->c->ops->entry(j->c, j->l, head, i).slot; }

static kv_status check_finite(const coding *j, int32_t layer)
{
    const ref_cache *c = j->c;
    for (int64_t h = 0; h < c->n_kv_heads; h++)
        for (int64_t i = ref_min(j->k0, j->v0); i < ref_max(j->k1, j->v1); i++) {
            const int64_t slot = slot_of(j, h, i);
            const int k = i >= j->k0 && i < j->k1, v = i >= j->v0 && i < j->v1;
            if ((!k || ref_all_finite(ref_slot_k(c, j->l, h, slot), c->head_dim, REF_PANEL)) &&
                (!v || ref_all_finite(ref_slot_v(c, j->l, h, slot), c->head_dim, 1)))
                continue;
            return kv_fail(KV_ERR_NONFINITE, "storage kivi: NaN or infinity in layer %d, token %lld, KV head %lld; it cannot "
                                             "be coded, and the forward pass was wrong before", layer,
                           (long long)c->ops->entry(c, j->l, h, i).og, (long long)h);
        }
    return KV_OK;
}

/* One block of keys of one KV head, then the values of one. */
static void code_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const coding *j = arg;
    const ref_cache *c = j->c;
    const int64_t R = c->block.R, blocks = (j->k1 - j->k0) / R, h = task / (blocks + 1), b = task % (blocks + 1);
    if (b < blocks) {
        const int64_t slot = slot_of(j, h, j->k0 + b * R);
        memset(ref_coded_at(c, j->l, KEYS, h, slot), 0, (size_t)c->block.k_bytes);
        over_block(c, j->l, h, slot, REF(kivi_code_group));
        return;
    }
    for (int64_t i = j->v0; i < j->v1; i++) {
        const int64_t slot = slot_of(j, h, i);
        memset(ref_coded_at(c, j->l, VALUES, h, slot), 0, (size_t)c->block.v_bytes);
        over_value(c, j->l, h, slot, REF(kivi_code_group));
    }
}

static kv_status code(ref_attn_layer *a, int32_t layer)
{
    ref_cache *c = &a->s->cache;
    ref_layer *l = a->layer;
    const int64_t n = l->n, before = n - a->m, R = c->block.R;
    coding j = {c, l, coded_keys(c, before), coded_keys(c, n), coded_values(c, before), coded_values(c, n)};
    if (j.k0 == j.k1 && j.v0 == j.v1) return KV_OK;
    KV_TRY(check_finite(&j, layer));
    kv_pool_run(a->s->pool, c->n_kv_heads * ((j.k1 - j.k0) / R + 1), code_task, &j);
    for (int64_t i = j.k0; i < j.k1; i += R) {
        const int64_t og = c->ops->entry(c, l, 0, i).og;
        REF(cache_event)(c, layer, KV_EVENT_SEAL, og, og + R - 1, i);
    }
    for (int64_t i = j.v0; i < j.v1; i++) {
        const int64_t og = c->ops->entry(c, l, 0, i).og;
        REF(cache_event)(c, layer, KV_EVENT_SEAL, og + KV_KIVI_V, og, i);
    }
    return c->event_status;
}

/* ---- state ------------------------------------------------------------------------------------------------------ */

static int32_t record_bytes(const ref_cache *c)
{
    (void)c;
    return 0;
}

static int64_t records(const ref_cache *c, const ref_layer *l) { return l->n / c->block.R + l->n % c->block.R + l->n; }

/* Blocks of keys, uncoded keys, then values, the coded ones first. */
static ref_record record(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i)
{
    const int32_t R = c->block.R, row = c->head_dim * (int32_t)sizeof(float);
    const int64_t blocks = l->n / R, keys = blocks + l->n % R;
    const int64_t token = i < blocks ? i * R : i < keys ? blocks * R + i - blocks : i - keys;
    const ref_entry e = c->ops->entry(c, l, head, token);
    if (i >= keys)
        return (ref_record){e.slot, e.og + KV_KIVI_V, e.pos, token < coded_values(c, l->n) ? c->block.v_bytes : row};
    return (ref_record){e.slot, e.og, e.pos, i < blocks ? c->block.k_bytes : row};
}

static int kind_of(const ref_record *r) { return r->og < KV_KIVI_V ? KEYS : VALUES; }
static int is_coded(const ref_cache *c, const ref_record *r) { return r->bytes == c->coded_bytes[kind_of(r)]; }

static const void *read(const ref_cache *c, const ref_layer *l, int64_t head, const ref_record *r, void *row)
{
    const int kind = kind_of(r);
    if (is_coded(c, r)) return ref_coded_at(c, l, kind, head, r->slot);
    const real *x = kind == KEYS ? ref_slot_k(c, l, head, r->slot) : ref_slot_v(c, l, head, r->slot);
    for (int64_t d = 0; d < c->head_dim; d++)
        ((float *)row)[d] = (float)x[kind == KEYS ? d * REF_PANEL : d];
    return row;
}

static void write(const ref_cache *c, ref_layer *l, int64_t head, const ref_record *r, const void *bytes)
{
    const int kind = kind_of(r);
    if (is_coded(c, r)) {
        memcpy(ref_coded_at(c, l, kind, head, r->slot), bytes, (size_t)r->bytes);
        (kind == KEYS ? over_block : over_value)(c, l, head, r->slot, read_record_group);
        return;
    }
    real *x = kind == KEYS ? ref_slot_k(c, l, head, r->slot) : ref_slot_v(c, l, head, r->slot);
    for (int64_t d = 0; d < c->head_dim; d++)
        x[kind == KEYS ? d * REF_PANEL : d] = (real)((const float *)bytes)[d];
}

static kv_status adopt(ref_cache *c, ref_layer *l, int64_t head, const kv_state_view *v, int64_t seen)
{
    int64_t tokens = 0;
    for (int64_t i = 0; i < v->run->n && v->og[i] < KV_KIVI_V; i++)
        tokens += v->bytes[i] == c->block.k_bytes ? c->block.R : 1;
    return REF(adopt_tokens)(c, l, head, v->run->n ? v->og[0] : 0, tokens, seen, c->block.R);
}

const ref_storage REF(storage_kivi) = {.init = init, .record_bytes = record_bytes, .records = records, .record = record,
                                       .read = read, .write = write, .adopt = adopt, .code = code};
