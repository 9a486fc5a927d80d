/* storage.c - how rows are kept: plain (f32, f16, bf16) or as coded records (kvarn, kivi), and what of it is
 * an entry of a state. The store always holds fp32 rows: those of f16 and bf16 are rounded on arrival, those
 * of a coded record are overwritten by what the record says, so attention reads all alike. */
#include "gpu/blas/blas.h"

#include "common/numfmt.h"
#include "common/tile.h"

#include <stdlib.h>
#include <string.h>

static blas_kind tile_kind(const kv_policy *p, int32_t D)
{
    return (blas_kind){.rows = p->kvarn.tile,
                       .bytes = (size_t)kv_kvarn_layout_of(&p->kvarn, D).bytes,
                       .has_k = 1,
                       .has_v = 1,
                       .encode = blas_kvarn_encode,
                       .decode = blas_kvarn_decode};
}

static void kivi_kinds(const kv_policy *p, int32_t D, blas_kind *k, blas_kind *v)
{
    const kv_kivi_layout l = kv_kivi_layout_of(&p->kivi, D);
    *k = (blas_kind){.rows = l.R,
                     .bytes = (size_t)l.k_bytes,
                     .has_k = 1,
                     .encode = blas_kivi_encode_k,
                     .decode = blas_kivi_decode_k};
    *v = (blas_kind){.rows = 1,
                     .bytes = (size_t)l.v_bytes,
                     .has_v = 1,
                     .lag = l.R,
                     .og_offset = KV_KIVI_V,
                     .encode = blas_kivi_encode_v,
                     .decode = blas_kivi_decode_v};
}

void blas_storage_init(blas_cache *c)
{
    const kv_policy *p = &c->policy;
    c->n_kinds = p->storage == KV_STORE_KIVI ? 2 : 1;
    c->kinds[0] = (blas_kind){.rows = 1, .has_k = 1, .has_v = 1};
    if (p->storage == KV_STORE_KVARN) c->kinds[0] = tile_kind(p, c->head_dim);
    if (p->storage == KV_STORE_KIVI) kivi_kinds(p, c->head_dim, &c->kinds[0], &c->kinds[1]);
}

/* ---- plain rows --------------------------------------------------------------------------------------- */

void blas_narrow(const kv_policy *p, float *row, int64_t n)
{
    if (p->storage == KV_STORE_F16)
        for (int64_t i = 0; i < n; i++)
            row[i] = kv_f162f(kv_f2f16(row[i]));
    if (p->storage == KV_STORE_BF16)
        for (int64_t i = 0; i < n; i++)
            row[i] = kv_bf162f(kv_f2bf16(row[i]));
}

size_t blas_row_bytes(const blas_cache *c, int j)
{
    const blas_kind *kind = &c->kinds[j];
    return (size_t)((kind->has_k + kind->has_v) * c->head_dim * kv_storage_value_bytes(c->policy.storage));
}

static uint8_t *write_values(const blas_cache *c, const float *row, uint8_t *dst)
{
    for (int32_t d = 0; d < c->head_dim; d++) {
        const uint16_t h = c->policy.storage == KV_STORE_F16 ? kv_f2f16(row[d]) : kv_f2bf16(row[d]);
        const size_t bytes = (size_t)kv_storage_value_bytes(c->policy.storage);
        memcpy(dst, bytes == 2 ? (const void *)&h : (const void *)&row[d], bytes);
        dst += bytes;
    }
    return dst;
}

static const uint8_t *read_values(const blas_cache *c, const uint8_t *src, float *row)
{
    for (int32_t d = 0; d < c->head_dim; d++) {
        const size_t bytes = (size_t)kv_storage_value_bytes(c->policy.storage);
        uint16_t h = 0;
        memcpy(bytes == 2 ? (void *)&h : (void *)&row[d], src, bytes);
        if (bytes == 2) row[d] = c->policy.storage == KV_STORE_F16 ? kv_f162f(h) : kv_bf162f(h);
        src += bytes;
    }
    return src;
}

void blas_row_write(const blas_cache *c, int j, const float *k, const float *v, uint8_t *dst)
{
    if (c->kinds[j].has_k) dst = write_values(c, k, dst);
    if (c->kinds[j].has_v) write_values(c, v, dst);
}

void blas_row_read(const blas_cache *c, int j, const uint8_t *src, float *k, float *v)
{
    if (c->kinds[j].has_k) src = read_values(c, src, k);
    if (c->kinds[j].has_v) read_values(c, src, v);
}

/* ---- coded records -------------------------------------------------------------------------------------- */

int64_t blas_sealed(const blas_cache *c, int j, int64_t n)
{
    const blas_kind *kind = &c->kinds[j];
    return !kind->encode || n < kind->lag ? 0 : (n - kind->lag) / kind->rows * kind->rows;
}

kv_status blas_records_reserve(const blas_cache *c, blas_set *set, int j, int64_t n)
{
    blas_records *r = &set->records[j];
    if (r->start + n <= r->room) return KV_OK;
    const size_t bytes = c->kinds[j].bytes;
    const int64_t room = 2 * n + 8;
    uint8_t *v = calloc((size_t)(c->set_heads * room), bytes);
    if (!v) return kv_fail(KV_ERR_NOMEM, "cache: out of memory for %lld coded records", (long long)room);
    for (int64_t h = 0; r->n && h < c->set_heads; h++)
        memcpy(v + (size_t)(h * room) * bytes, blas_record(c, set, j, h, 0), (size_t)r->n * bytes);
    free(r->v);
    *r = (blas_records){0, r->n, room, v};
    return KV_OK;
}

/* The records of a layer that n tokens should have and have not. */
typedef struct seal_job {
    blas_session *s;
    blas_set *set;
    int j;
    int64_t from, to;
} seal_job;

/* First of n values of a record's rows that is not finite, as a token of the view; -1: none. */
static int64_t find_odd(const blas_cache *c, const blas_kind *kind, const float *k, const float *v, int64_t i)
{
    for (int64_t at = 0; at < kind->rows * c->head_dim; at++)
        if ((kind->has_k && !kv_is_finite(k[at])) || (kind->has_v && !kv_is_finite(v[at])))
            return i * kind->rows + at / c->head_dim;
    return -1;
}

static void seal_task(void *arg, int64_t head, int worker)
{
    const seal_job *job = arg;
    blas_session *s = job->s;
    const blas_cache *c = &s->cache;
    const blas_kind *kind = &c->kinds[job->j];
    for (int64_t i = job->from; i < job->to; i++) {
        float *k = blas_keys(c, job->set, head) + i * kind->rows * c->head_dim;
        float *v = blas_values(c, job->set, head) + i * kind->rows * c->head_dim;
        uint8_t *record = blas_record(c, job->set, job->j, head, i);
        s->odd[head] = find_odd(c, kind, k, v, i);
        if (s->odd[head] >= 0) return;
        memset(record, 0, kind->bytes);
        kind->encode(&c->policy, c->head_dim, k, v, s->scratch[worker].p, record);
        kind->decode(&c->policy, c->head_dim, record, k, v);
    }
}

static kv_status refuse_odd(const blas_cache *c, int32_t layer, int32_t head, int64_t token)
{
    const char *name = kv_storage_name(c->policy.storage);
    const int tiles = c->policy.storage == KV_STORE_KVARN;
    return kv_fail(KV_ERR_NONFINITE, "storage %s: layer %d, %s %lld, KV head %d: NaN or infinity cannot be coded", name,
                   layer, tiles ? "tile" : "token", (long long)(tiles ? token / c->policy.kvarn.tile : token), head);
}

/* What is coded is shared by all heads of a layer: one set. */
static kv_status seal_kind(blas_session *s, int32_t layer, int j, int64_t n, int64_t end)
{
    const blas_cache *c = &s->cache;
    blas_set *set = blas_set_at(c, layer, 0);
    seal_job job = {s, set, j, set->records[j].n, blas_sealed(c, j, n) / c->kinds[j].rows};
    if (job.to <= job.from) return KV_OK;
    KV_TRY(blas_records_reserve(c, set, j, job.to));
    for (int i = 0; i < kv_pool_threads(s->pool); i++)
        KV_TRY(kv_buffer_reserve(&s->scratch[i], (size_t)(BLAS_SCRATCH * c->head_dim) * sizeof(float)));
    kv_pool_run(s->pool, c->set_heads, seal_task, &job);
    for (int32_t h = 0; h < c->set_heads; h++)
        if (s->odd[h] >= 0) return refuse_odd(c, layer, h, end - n + s->odd[h]);
    set->records[j].n = job.to;
    return KV_OK;
}

kv_status blas_seal(blas_session *s, int32_t layer, int64_t n, int64_t end)
{
    for (int j = 0; j < s->cache.n_kinds; j++)
        KV_TRY(seal_kind(s, layer, j, n, end));
    return KV_OK;
}
