/* bpe.c - merging: of all adjacent pairs that have a merge, the one of lowest rank goes first, the
 * leftmost among equals, until none is left.
 *
 * The symbols of a word form a doubly linked list; candidate pairs wait in a binary heap ordered by
 * (rank, place). A merge makes its neighbours' entries stale instead of removing them: an entry
 * counts only if the pair that stands at its place now has the rank it was queued with. Every merge
 * queues at most two pairs, so a word of n bytes costs O(n log n), however long. */
#include "common/bpe.h"

#include <stdlib.h>

/* Bytes that are printable in Latin-1 stand for themselves; the others, in order, for U+0100 on. */
static int stands_for_itself(uint32_t b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
}

uint32_t kv_bpe_byte_char(uint8_t b)
{
    if (stands_for_itself(b)) return b;
    uint32_t cp = 0x100;
    for (uint32_t i = 0; i < b; i++)
        cp += !stands_for_itself(i);
    return cp;
}

int kv_bpe_char_byte(uint32_t cp)
{
    if (cp < 0x100) return stands_for_itself(cp) ? (int)cp : -1;
    for (uint32_t b = 0, k = 0x100; b < 256; b++) {
        if (stands_for_itself(b)) continue;
        if (k++ == cp) return (int)b;
    }
    return -1;
}

/* ---- merges ---------------------------------------------------------------------------------- */

kv_status kv_merges_reserve(kv_merges *m, uint64_t n)
{
    const uint64_t slots = kv_slots_for(n);
    m->mask = slots - 1;
    m->slots = malloc(slots * sizeof *m->slots);
    if (!m->slots) return kv_fail(KV_ERR_NOMEM, "out of memory: merges of the tokenizer");
    for (uint64_t i = 0; i < slots; i++)
        m->slots[i] = (kv_merge){0, -1, -1};
    return KV_OK;
}

void kv_merges_free(kv_merges *m)
{
    free(m->slots);
    *m = (kv_merges){0};
}

kv_merge *kv_merges_slot(const kv_merges *m, int32_t left, int32_t right)
{
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint64_t i = pair * UINT64_C(0x9E3779B97F4A7C15) >> 24;; i++) {
        kv_merge *slot = &m->slots[i & m->mask];
        if (slot->rank < 0 || slot->pair == pair) return slot;
    }
}

/* ---- the heap: rank << 32 | place ------------------------------------------------------------ */

static void push(uint64_t *heap, size_t *n, uint64_t e)
{
    size_t i = (*n)++;
    for (; i > 0 && heap[(i - 1) / 2] > e; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = e;
}

static uint64_t pop(uint64_t *heap, size_t *n)
{
    const uint64_t top = heap[0], e = heap[--*n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < *n; i = child) {
        if (child + 1 < *n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= e) break;
        heap[i] = heap[child];
    }
    heap[i] = e;
    return top;
}

/* ---- merging --------------------------------------------------------------------------------- */

/* A text of n symbols queues at most n - 1 pairs at first and 2 for each of its n - 1 merges. */
kv_status kv_bpe_reserve(kv_bpe_scratch *s, size_t n)
{
    if (n > INT32_MAX)
        return kv_fail(KV_ERR_UNSUPPORTED,
                       "a word of %zu bytes: words may have %d at most; break the text up", n,
                       INT32_MAX);
    if (n <= s->cap) return KV_OK;
    const size_t cap = n < 64 ? 64 : n + n / 2;
    kv_bpe_scratch_free(s);
    s->symbols = malloc(cap * sizeof *s->symbols);
    s->heap = malloc(3 * cap * sizeof *s->heap);
    if (!s->symbols || !s->heap)
        return kv_fail(KV_ERR_NOMEM, "out of memory: tokenizing a word of %zu bytes", n);
    s->cap = cap;
    return KV_OK;
}

void kv_bpe_scratch_free(kv_bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    *s = (kv_bpe_scratch){0};
}

static void queue(const kv_merges *merges, const kv_symbol *sym, int32_t at, uint64_t *heap,
                  size_t *n)
{
    const int32_t next = sym[at].next;
    if (next < 0) return;
    const kv_merge *m = kv_merges_slot(merges, sym[at].id, sym[next].id);
    if (m->rank >= 0) push(heap, n, (uint64_t)m->rank << 32 | (uint32_t)at);
}

void kv_bpe_merge(const kv_merges *merges, kv_bpe_scratch *s, int32_t count)
{
    kv_symbol *sym = s->symbols;
    uint64_t *heap = s->heap;
    size_t n = 0;
    for (int32_t i = 0; i < count; i++) {
        sym[i].prev = i - 1;
        sym[i].next = i + 1 < count ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < count; i++)
        queue(merges, sym, i, heap, &n);
    while (n > 0) {
        const uint64_t e = pop(heap, &n);
        const int32_t at = (int32_t)(uint32_t)e, next = sym[at].next;
        if (sym[at].id < 0 || next < 0) continue; /* swallowed by its left neighbour, or last now */
        const kv_merge *m = kv_merges_slot(merges, sym[at].id, sym[next].id);
        if ((uint64_t)m->rank != e >> 32) continue; /* another pair stands here now */
        sym[at].id = m->id;
        sym[next].id = -1;
        sym[at].next = sym[next].next;
        if (sym[at].next >= 0) sym[sym[at].next].prev = at;
        if (sym[at].prev >= 0) queue(merges, sym, sym[at].prev, heap, &n);
        queue(merges, sym, at, heap, &n);
    }
}

/* ---- one word -------------------------------------------------------------------------------- */

/* Bytes without a token vanish before merging: their neighbours become adjacent. */
static int32_t fill(const kv_bpe *b, const char *p, size_t n, kv_symbol *sym, uint64_t *dropped)
{
    int32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        const int32_t id = b->byte_id[(uint8_t)p[i]];
        if (id < 0)
            ++*dropped;
        else
            sym[count++].id = id;
    }
    return count;
}

kv_status kv_bpe_word(const kv_bpe *b, const char *p, size_t n, kv_bpe_scratch *s, kv_tokens *out,
                      uint64_t *dropped)
{
    KV_TRY(kv_bpe_reserve(s, n));
    const int32_t count = fill(b, p, n, s->symbols, dropped);
    if (count == 0) return KV_OK;
    kv_bpe_merge(&b->merges, s, count);
    KV_TRY(kv_tokens_reserve(out, count));
    for (int32_t i = 0; i >= 0; i = s->symbols[i].next)
        out->v[out->n++] = s->symbols[i].id;
    return KV_OK;
}
