#include "common/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined __SANITIZE_ADDRESS__
#    define UNDER_ASAN 1
#elif defined __has_feature
#    define UNDER_ASAN __has_feature(address_sanitizer)
#else
#    define UNDER_ASAN 0
#endif

#if UNDER_ASAN

enum { CACHE_LINE = 64, HUGE_PAGE = 2 << 20 };
#    define MOST ((size_t)1 << 40)

/* AddressSanitizer does not see what mmap gave: here the array is as long as was asked for, and guarded. */
void *kv_big_alloc(size_t bytes)
{
    void *p = NULL;
    if (bytes > MOST || posix_memalign(&p, bytes >= HUGE_PAGE ? HUGE_PAGE : CACHE_LINE, bytes ? bytes : 1) != 0) return NULL;
    memset(p, 0, bytes);
    return p;
}

void kv_big_free(void *p, size_t bytes)
{
    (void)bytes;
    free(p);
}

#else

enum { HUGE_PAGE = 2 << 20, SMALL_PAGE = 4096 };

static size_t rounded(size_t bytes)
{
    const size_t page = bytes >= HUGE_PAGE ? HUGE_PAGE : SMALL_PAGE;
    return bytes ? (bytes + page - 1) / page * page : page;
}

/* Huge pages need addresses aligned to them, which mmap does not promise: map one page more and give
 * the surplus back. */
void *kv_big_alloc(size_t bytes)
{
    const size_t n = rounded(bytes);
    if (n < bytes || n > SIZE_MAX - HUGE_PAGE) return NULL;
    const size_t slack = n >= HUGE_PAGE ? HUGE_PAGE : 0;
    uint8_t *p = mmap(NULL, n + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (slack) {
        const size_t head = (size_t)(-(uintptr_t)p & (HUGE_PAGE - 1));
        if (head) munmap(p, head);
        if (slack - head) munmap(p + head + n, slack - head);
        p += head;
#ifdef MADV_HUGEPAGE
        madvise(p, n, MADV_HUGEPAGE);
#endif
    }
    return p;
}

void kv_big_free(void *p, size_t bytes)
{
    if (p) munmap(p, rounded(bytes));
}

#endif

kv_status kv_buffer_reserve(kv_buffer *b, size_t bytes)
{
    if (bytes <= b->bytes) return KV_OK;
    kv_big_free(b->p, b->bytes);
    b->bytes = 0;
    b->p = kv_big_alloc(bytes);
    if (!b->p) return kv_fail(KV_ERR_NOMEM, "out of memory: %zu bytes of scratch", bytes);
    b->bytes = bytes;
    return KV_OK;
}

void kv_buffer_free(kv_buffer *b)
{
    kv_big_free(b->p, b->bytes);
    b->p = NULL;
    b->bytes = 0;
}

kv_status kv_bytes_add(kv_bytes *b, const void *p, size_t n)
{
    if (n > b->cap - b->n) {
        const size_t cap = b->cap + b->cap / 2 + n + 64;
        char *grown = cap > n ? realloc(b->p, cap) : NULL;
        if (!grown) return kv_fail(KV_ERR_NOMEM, "out of memory: %zu bytes", n);
        b->p = grown;
        b->cap = cap;
    }
    if (n > 0) memcpy(b->p + b->n, p, n);
    b->n += n;
    return KV_OK;
}
