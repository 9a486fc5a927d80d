/* state.c - the cache as canonical bytes (common/state.h), and back. */
#include "gpu/blas/blas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

kv_status blas_keep_error(blas_session *s, kv_status st)
{
    if (st != KV_OK) snprintf(s->error, sizeof s->error, "%s", kv_message());
    return st;
}

/* ---- export --------------------------------------------------------------------------------- */

/* Entries of kind j that are coded records, and all of its entries, when n tokens are held. */
static int64_t coded_entries(const blas_cache *c, int j, int64_t n)
{
    return blas_sealed(c, j, n) / c->kinds[j].rows;
}
static int64_t entries(const blas_cache *c, int j, int64_t n)
{
    return coded_entries(c, j, n) + n - blas_sealed(c, j, n);
}

static int64_t all_entries(const blas_cache *c, int64_t n)
{
    return entries(c, 0, n) + (c->n_kinds > 1 ? entries(c, 1, n) : 0);
}

/* One entry of kind j: its first token's view index, and its bytes. */
static int64_t entry_at(const blas_cache *c, int j, int64_t n, int64_t i, size_t *bytes)
{
    const int64_t coded = coded_entries(c, j, n);
    *bytes = i < coded ? c->kinds[j].bytes : blas_row_bytes(c, j);
    return i < coded ? i * c->kinds[j].rows : blas_sealed(c, j, n) + i - coded;
}

static size_t padded(size_t bytes)
{
    return (bytes + 7) / 8 * 8;
}

/* record_total of a run (common/state.h). */
static int64_t record_total(const blas_cache *c, const kv_state_head *h, int64_t n)
{
    size_t total = 0;
    for (int j = 0; j < c->n_kinds && h->record_bytes == 0 && (h->what & KV_STATE_KV); j++)
        total += (size_t)coded_entries(c, j, n) * padded(c->kinds[j].bytes) +
                 (size_t)(n - blas_sealed(c, j, n)) * padded(blas_row_bytes(c, j));
    return (int64_t)total;
}

static kv_state_head make_head(const blas_session *s, int32_t layer, uint32_t what)
{
    const blas_cache *c = &s->cache;
    kv_state_head h = {.magic = KV_STATE_MAGIC,
                       .version = KV_STATE_VERSION,
                       .what = what & KV_STATE_KV, /* it replays decisions and keeps no scores */
                       .key_form = blas_key_form(&c->policy),
                       .layer0 = layer < 0 ? 0 : layer,
                       .n_layers = layer < 0 ? c->n_layers : 1,
                       .n_kv_heads = c->n_kv_heads,
                       .head_dim = c->head_dim,
                       .record_bytes = c->kinds[0].encode ? 0 : (int32_t)blas_row_bytes(c, 0),
                       .storage = c->policy.storage,
                       .seen = s->seen,
                       .total_bytes = sizeof h};
    for (int32_t i = 0; i < h.n_layers * c->n_sets; i++) {
        const int64_t n = c->sets[h.layer0 * c->n_sets + i].index.n;
        h.total_bytes += (uint64_t)c->set_heads *
                         kv_state_run_bytes(&h, all_entries(c, n), record_total(c, &h, n));
    }
    if (layer < 0) h.carry_bytes = blas_carry_bytes(&s->carry);
    h.total_bytes += h.carry_bytes;
    return h;
}

/* Record of entry i of kind j, whose first token is `row` of the view. */
static void write_record(const blas_cache *c, const blas_set *set, int64_t head, int j, int64_t i, int64_t row,
                         uint8_t *dst)
{
    if (i < coded_entries(c, j, set->index.n))
        memcpy(dst, blas_record(c, set, j, head, i), c->kinds[j].bytes);
    else
        blas_row_write(c, j, blas_keys(c, set, head) + row * c->head_dim, blas_values(c, set, head) + row * c->head_dim,
                       dst);
}

static void export_run(const blas_cache *c, const kv_state_head *h, int32_t layer, int32_t head,
                       void *dst, size_t *offset)
{
    const blas_set *set = blas_set_at(c, layer, head / c->set_heads);
    const blas_index *ix = &set->index;
    const int64_t n = all_entries(c, ix->n), total = record_total(c, h, ix->n);
    memset((uint8_t *)dst + *offset, 0, kv_state_run_bytes(h, n, total)); /* the padding too */
    const kv_state_view v = kv_state_place(h, dst, offset, n, total);
    v.run->layer = layer;
    v.run->head = head;
    uint8_t *record = v.records;
    for (int64_t at = 0, j = 0; j < c->n_kinds; j++)
        for (int64_t i = 0; i < entries(c, (int)j, ix->n); i++, at++) {
            size_t bytes;
            const int64_t row = entry_at(c, (int)j, ix->n, i, &bytes);
            v.og[at] = ix->og[row] + c->kinds[j].og_offset;
            v.pos[at] = blas_counts_view(&c->policy) ? (int32_t)row : ix->pos[row];
            if (!record) continue;
            write_record(c, set, head % c->set_heads, (int)j, i, row, record);
            if (v.bytes) v.bytes[at] = (int32_t)bytes;
            record += kv_state_record_stride(h, &v, at);
        }
}

kv_status blas_export_state(kv_session *handle, int32_t layer, uint32_t what, void *dst, size_t cap,
                            size_t *need)
{
    blas_session *s = (blas_session *)handle;
    if (layer < -1 || layer >= s->cache.n_layers)
        return blas_keep_error(s, kv_fail(KV_ERR_USAGE, "layer %d does not exist; the model has %d",
                                          layer, s->cache.n_layers));
    const kv_state_head h = make_head(s, layer, what);
    *need = h.total_bytes;
    if (!dst) return KV_OK;
    if (cap < h.total_bytes)
        return blas_keep_error(s, kv_fail(KV_ERR_USAGE,
                                          "the state needs %llu bytes, the buffer has %zu",
                                          (unsigned long long)h.total_bytes, cap));
    memcpy(dst, &h, sizeof h);
    size_t offset = sizeof h;
    for (int32_t l = 0; l < h.n_layers; l++)
        for (int32_t head = 0; head < h.n_kv_heads; head++)
            export_run(&s->cache, &h, h.layer0 + l, head, dst, &offset);
    if (layer < 0) blas_carry_write(&s->carry, (uint8_t *)dst + offset);
    return KV_OK;
}

/* ---- import --------------------------------------------------------------------------------- */

static kv_status check_head(const blas_session *s, const kv_state_head *h)
{
    const blas_cache *c = &s->cache;
    const int32_t record_bytes = c->kinds[0].encode ? 0 : (int32_t)blas_row_bytes(c, 0);
    if (h->layer0 == 0 && h->n_layers == c->n_layers && h->n_kv_heads == c->n_kv_heads &&
        h->head_dim == c->head_dim && h->record_bytes == record_bytes && h->storage == c->policy.storage &&
        h->key_form == blas_key_form(&c->policy) && (h->what & KV_STATE_KV))
        return KV_OK;
    return kv_fail(KV_ERR_MISMATCH,
                   "cache state: of another model or policy, or without K and V; export all "
                   "layers from a session of the same model and policy");
}

/* Tokens of a run. Coded storages hold the newest ones without a gap. */
static int64_t tokens_of(const blas_cache *c, const kv_state_head *h, const kv_state_view *v)
{
    return c->kinds[0].encode && v->run->n > 0 ? h->seen - v->og[0] : v->run->n;
}

/* Every entry of a coded storage follows from the first token and from `seen`. */
static kv_status check_coded(const blas_cache *c, const kv_state_head *h, const kv_state_view *v)
{
    const int64_t n = tokens_of(c, h, v), first = v->run->n ? v->og[0] : 0;
    int ok = first >= 0 && first % c->kinds[0].rows == 0 && n >= 0 && n <= kv_policy_max_entries(&c->policy) &&
             n <= v->run->n * c->kinds[0].rows && all_entries(c, n) == v->run->n;
    for (int64_t at = 0, j = 0; ok && j < c->n_kinds; j++)
        for (int64_t i = 0; ok && i < entries(c, (int)j, n); i++, at++) {
            size_t bytes;
            const int64_t og = first + entry_at(c, (int)j, n, i, &bytes);
            ok = v->og[at] == og + c->kinds[j].og_offset && v->pos[at] == og && v->bytes[at] == (int32_t)bytes;
        }
    if (ok) return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "cache state: layer %d does not hold the coded records and rows of the newest tokens",
                   v->run->layer);
}

static kv_status check_plain(const blas_session *s, const kv_state_head *h, const kv_state_view *v)
{
    const kv_policy *p = &s->cache.policy;
    const int repeats = p->selection == KV_SEL_XWINDOW && p->xwindow.ver == KV_XW_PUBLISHED;
    const int32_t n = v->run->n;
    for (int32_t i = 0; i < n; i++)
        if (v->og[i] < 0 || v->og[i] >= h->seen || (i > 0 && v->og[i] <= v->og[i - 1] && !repeats))
            return kv_fail(KV_ERR_FORMAT, "cache state: layer %d holds tokens out of order",
                           v->run->layer);
    if (n > kv_policy_max_entries(p))
        return kv_fail(KV_ERR_FORMAT, "cache state: layer %d holds %d entries, the policy at most %lld", v->run->layer,
                       n, (long long)kv_policy_max_entries(p));
    blas_rings rings = s->rehearsal.rings;
    return rings.n ? blas_rings_at(p, h->seen, n, &rings) : KV_OK;
}

static kv_status check_run(const blas_session *s, const kv_state_head *h, const kv_state_view *first,
                           const kv_state_view *v)
{
    const size_t n = (size_t)v->run->n;
    if (first == v) return s->cache.kinds[0].encode ? check_coded(&s->cache, h, v) : check_plain(s, h, v);
    if (first->run->n == v->run->n && memcmp(first->og, v->og, n * sizeof *v->og) == 0 &&
        (!v->bytes || memcmp(first->bytes, v->bytes, n * sizeof *v->bytes) == 0))
        return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "cache state: heads of layer %d hold different tokens", v->run->layer);
}

/* Index of a set from its first head's run. */
static kv_status take_index(blas_session *s, const kv_state_head *h, const kv_state_view *v, blas_set *set)
{
    const blas_cache *c = &s->cache;
    const int64_t n = tokens_of(c, h, v);
    KV_TRY(blas_set_reserve(c, set, n));
    for (int j = 0; c->kinds[0].encode && j < c->n_kinds; j++) {
        KV_TRY(blas_records_reserve(c, set, j, coded_entries(c, j, n)));
        set->records[j].n = coded_entries(c, j, n);
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t og = c->kinds[0].encode ? v->og[0] + i : v->og[i];
        blas_index_append(&set->index, og, c->kinds[0].encode ? og : v->pos[i]);
    }
    if (set->index.rings.n == 0) return KV_OK;
    KV_TRY(blas_rings_at(&c->policy, h->seen, n, &set->index.rings));
    blas_rings_fill(&set->index);
    return KV_OK;
}

static void take_records(const blas_cache *c, const kv_state_head *h, const kv_state_view *v, blas_set *set,
                         int64_t head)
{
    const uint8_t *record = v->records;
    for (int64_t at = 0, j = 0; j < c->n_kinds; j++)
        for (int64_t i = 0; i < entries(c, (int)j, set->index.n); i++, at++) {
            size_t bytes;
            const int64_t row = entry_at(c, (int)j, set->index.n, i, &bytes) * c->head_dim;
            float *key = blas_keys(c, set, head) + row, *value = blas_values(c, set, head) + row;
            if (i < coded_entries(c, (int)j, set->index.n)) {
                memcpy(blas_record(c, set, (int)j, head, i), record, bytes);
                c->kinds[j].decode(&c->policy, c->head_dim, record, key, value);
            } else {
                blas_row_read(c, (int)j, record, key, value);
            }
            record += kv_state_record_stride(h, v, at);
        }
}

/* Reads all runs; with apply = 0 only checks them. */
static kv_status read_runs(blas_session *s, const kv_state_head *h, void *src, int apply)
{
    const blas_cache *c = &s->cache;
    kv_state_view first = {0};
    size_t offset = sizeof *h;
    for (int32_t i = 0; i < c->n_layers * c->n_kv_heads; i++) {
        const int32_t head = i % c->n_kv_heads, inner = head % c->set_heads;
        blas_set *set = blas_set_at(c, i / c->n_kv_heads, head / c->set_heads);
        const kv_state_view v = kv_state_place(h, src, &offset, -1, 0);
        if (inner == 0) first = v;
        if (!apply) {
            KV_TRY(check_run(s, h, inner == 0 ? &v : &first, &v));
            continue;
        }
        if (inner == 0) KV_TRY(take_index(s, h, &v, set));
        take_records(c, h, &v, set, inner);
    }
    return KV_OK;
}

static kv_status import_bytes(blas_session *s, void *src, size_t size)
{
    kv_state_head h;
    KV_TRY(kv_state_check(src, size));
    memcpy(&h, src, sizeof h);
    KV_TRY(check_head(s, &h));
    KV_TRY(read_runs(s, &h, src, 0));
    blas_cache_reset(&s->cache);
    s->broken = 1;
    KV_TRY(read_runs(s, &h, src, 1));
    KV_TRY(blas_carry_read(&s->carry, &s->cache.policy, s->model->cfg.vocab_size, h.seen,
                           (const uint8_t *)src + h.total_bytes - h.carry_bytes, h.carry_bytes));
    s->seen = h.seen;
    s->window = -1;
    s->broken = 0;
    return KV_OK;
}

/* kv_state_place hands out writable pointers; a const source is only read. */
kv_status blas_import_state(kv_session *handle, const void *src, size_t size)
{
    blas_session *s = (blas_session *)handle;
    return blas_keep_error(s, import_bytes(s, (void *)(uintptr_t)src, size));
}

/* ---- snapshots: an export with its size in front -------------------------------------------- */

typedef struct snapshot {
    size_t size;
    int64_t window;
    uint64_t blob[]; /* 8-byte aligned */
} snapshot;

kv_status blas_snapshot(kv_session *handle, void **out)
{
    blas_session *s = (blas_session *)handle;
    size_t need;
    KV_TRY(blas_export_state(handle, -1, KV_STATE_KV, NULL, 0, &need));
    snapshot *snap = malloc(sizeof *snap + need);
    *out = snap;
    if (!snap) return blas_keep_error(s, kv_fail(KV_ERR_NOMEM, "out of memory for a snapshot"));
    snap->size = need;
    snap->window = s->window;
    return blas_export_state(handle, -1, KV_STATE_KV, snap->blob, need, &need);
}

kv_status blas_restore(kv_session *s, const void *snap)
{
    const snapshot *p = snap;
    KV_TRY(blas_import_state(s, p->blob, p->size));
    ((blas_session *)s)->window = p->window;
    return KV_OK;
}

void blas_snapshot_free(kv_session *s, void *snap)
{
    (void)s;
    free(snap);
}
