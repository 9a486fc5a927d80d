/* coded.c - memory of coded records (ref/cache.h). */
#include "ref/cache.h"

#include "common/mem.h"

#include <string.h>

static void copy_kind(const ref_cache *c, int kind, const uint8_t *from, int64_t n, uint8_t *to, int64_t to_n)
{
    const size_t bytes = (size_t)c->coded_bytes[kind];
    for (int64_t h = 0; h < c->n_kv_heads; h++)
        memcpy(to + (size_t)(h * to_n) * bytes, from + (size_t)(h * n) * bytes, (size_t)n * bytes);
}

/* Room for n records of a kind; what was there stays. */
static kv_status reserve_kind(const ref_cache *c, ref_layer *l, int kind, int64_t n)
{
    const int64_t had = l->coded.n[kind];
    const size_t bytes = (size_t)(c->n_kv_heads * n * c->coded_bytes[kind]) + REF_CODE_SLACK;
    uint8_t *p = kv_big_alloc(bytes);
    if (!p) return kv_fail(KV_ERR_NOMEM, "out of memory: %zu MiB for one layer's coded records", bytes >> 20);
    if (had) copy_kind(c, kind, l->coded.p[kind], had, p, n);
    kv_big_free(l->coded.p[kind], l->coded.bytes[kind]);
    l->coded.bytes[kind] = bytes;
    l->coded.p[kind] = p;
    l->coded.n[kind] = n;
    return KV_OK;
}

kv_status REF(coded_reserve)(const ref_cache *c, ref_layer *l, int64_t slots)
{
    for (int kind = 0; kind < 2; kind++) {
        if (!c->coded_tokens[kind]) continue;
        const int64_t had = l->coded.n[kind], need = (slots + c->coded_tokens[kind] - 1) / c->coded_tokens[kind];
        if (need > had) KV_TRY(reserve_kind(c, l, kind, ref_max(need, 2 * had)));
    }
    return KV_OK;
}

kv_status REF(coded_clone)(const ref_cache *c, const ref_layer *from, ref_layer *to)
{
    to->coded = (ref_coded){0};
    for (int kind = 0; kind < 2; kind++)
        if (from->coded.n[kind]) KV_TRY(reserve_kind(c, to, kind, from->coded.n[kind]));
    REF(coded_copy)(c, from, to);
    return KV_OK;
}

void REF(coded_copy)(const ref_cache *c, const ref_layer *from, ref_layer *to)
{
    for (int kind = 0; kind < 2; kind++)
        if (from->coded.n[kind])
            copy_kind(c, kind, from->coded.p[kind], from->coded.n[kind], to->coded.p[kind], to->coded.n[kind]);
}

void REF(coded_free)(ref_layer *l)
{
    for (int kind = 0; kind < 2; kind++)
        kv_big_free(l->coded.p[kind], l->coded.bytes[kind]);
}
