/* carry.c - what the model remembers of the newest tokens (docs/golf.md, "State"), kept in the bytes of common/state.h. */
#include "gpu/blas/blas.h"

#include <stdlib.h>
#include <string.h>

static int keeps_starts(const kv_policy *p)
{
    return p->selection == KV_SEL_XWINDOW && p->xwindow.pred == KV_PRED_CARRY;
}

kv_status blas_carry_init(blas_carry *c, const kv_config *cfg)
{
    *c = (blas_carry){.layout = kv_carry_layout_of(cfg), .conv_rows = cfg->sidecar_taps - 1, .conv = cfg->sidecar_hidden};
    c->before = calloc(1, c->layout.bytes + 1);
    return c->before ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
}

void blas_carry_free(blas_carry *c)
{
    free(c->v);
    free(c->fed);
    free(c->before);
}

static float *block(const blas_carry *c, int64_t i) { return (float *)(void *)(c->v + (size_t)i * c->layout.bytes); }

/* A block of zeros for the moment behind token `token`, when `fed` were fed. */
static kv_status append(blas_carry *c, int64_t fed, int32_t token)
{
    if (c->n == c->cap) {
        const int64_t cap = 2 * c->cap + 2;
        uint8_t *v = realloc(c->v, (size_t)cap * c->layout.bytes);
        if (v) c->v = v;
        int64_t *f = realloc(c->fed, (size_t)cap * sizeof *f);
        if (f) c->fed = f;
        if (!v || !f) return kv_fail(KV_ERR_NOMEM, "out of memory for what the model remembers");
        c->cap = cap;
    }
    const int32_t ids[2] = {fed < INT32_MAX ? (int32_t)fed : INT32_MAX, token};
    memset(block(c, c->n), 0, c->layout.bytes);
    memcpy(block(c, c->n), ids, sizeof ids);
    c->fed[c->n++] = fed;
    return KV_OK;
}

static int64_t find(const blas_carry *c, int64_t fed)
{
    int64_t i = c->n - 1;
    while (i >= 0 && c->fed[i] != fed)
        i--;
    return i;
}

int blas_carry_missing(const blas_carry *c, const kv_policy *p, int64_t seen, int64_t start)
{
    if (c->n == 0 && start == seen) return 0; /* all is forgotten */
    return c->layout.bytes && keeps_starts(p) && start > 0 && find(c, start) < 0;
}

kv_status blas_carry_begin(blas_session *s, const blas_piece_info *p)
{
    blas_carry *c = &s->carry;
    const kv_policy *policy = &s->cache.policy;
    const int32_t *tokens = p->step->tokens + p->row0;
    const int64_t end = p->first + p->m;
    if (!c->layout.bytes) return KV_OK;
    if (policy->selection == KV_SEL_XWINDOW && !keeps_starts(policy)) c->n = 0; /* a window begins with nothing */
    c->old = c->n;
    c->first = p->first;
    c->fresh = keeps_starts(policy) ? s->seen - p->first : 0;
    const int64_t at = keeps_starts(policy) ? find(c, p->first) : c->n - 1;
    memset(c->before, 0, c->layout.bytes);
    if (at >= 0) memcpy(c->before, block(c, at), c->layout.bytes);
    for (int64_t fed = p->first + 1; keeps_starts(policy) && fed < end; fed++)
        if (fed > s->seen && (fed - p->first) % policy->xwindow.stride == 0)
            KV_TRY(append(c, fed, tokens[fed - p->first - 1]));
    return append(c, end, tokens[p->m - 1]);
}

/* Blocks that no coming window begins with go; the newest stays. */
void blas_carry_end(blas_session *s)
{
    blas_carry *c = &s->carry;
    const kv_policy *policy = &s->cache.policy;
    int64_t to = 0;
    for (int64_t i = 0; i < c->n; i++) {
        const int64_t ahead = c->fed[i] - c->first;
        const int start = keeps_starts(policy) && ahead > 0 && ahead % policy->xwindow.stride == 0;
        if (i + 1 < c->n && !start) continue;
        memmove(block(c, to), block(c, i), c->layout.bytes);
        c->fed[to++] = c->fed[i];
    }
    c->n = to;
}

void blas_carry_keep(blas_carry *c, size_t part, int64_t at, int64_t width, const float *rows, int64_t stride)
{
    for (int64_t i = c->old; part && i < c->n; i++)
        memcpy(block(c, i) + part / sizeof(float) + at * width, rows + (c->fed[i] - 1 - c->first) * stride,
               (size_t)width * sizeof *rows);
}

/* Rows of a site that were new in an earlier window count as they were then. */
void blas_carry_keep_conv(blas_carry *c, int32_t site, const float *rows)
{
    for (int64_t i = c->old; c->layout.conv && i < c->n; i++)
        for (int64_t r = 0; r < c->conv_rows; r++) {
            const int64_t x = c->fed[i] - c->first - c->conv_rows + r, back = c->fresh - x;
            const float *from = rows + x * c->conv;
            if (back > 0) from = c->old ? blas_carry_conv(c, block(c, c->old - 1), site, back) : NULL;
            float *to = block(c, i) + c->layout.conv / sizeof(float) + (site * c->conv_rows + r) * c->conv;
            if (from) memcpy(to, from, (size_t)c->conv * sizeof *to);
        }
}

/* ---- in a state ------------------------------------------------------------------------------------------ */

size_t blas_carry_bytes(const blas_carry *c) { return c->layout.bytes * (size_t)(c->n ? c->n : 1); }

void blas_carry_write(const blas_carry *c, void *dst)
{
    memset(dst, 0, blas_carry_bytes(c));
    if (c->n) memcpy(dst, c->v, (size_t)c->n * c->layout.bytes);
}

static kv_status bad(const char *what)
{
    return kv_fail(KV_ERR_FORMAT, "cache state: what the model remembers of the newest tokens: %s", what);
}

kv_status blas_carry_read(blas_carry *c, const kv_policy *p, int32_t vocab, int64_t seen, const void *src, size_t bytes)
{
    const size_t size = c->layout.bytes, n = size ? bytes / size : 0;
    const int64_t shown = seen < INT32_MAX ? seen : INT32_MAX;
    c->n = 0;
    if (bytes != n * size || (size && n == 0) || (n > 1 && !keeps_starts(p)))
        return kv_fail(KV_ERR_MISMATCH, "cache state: %zu bytes of what the model remembers of the newest tokens, which is not what "
                                        "this model and policy have", bytes);
    for (size_t i = 0; i < n; i++) {
        int32_t ids[2];
        memcpy(ids, (const uint8_t *)src + i * size, sizeof ids);
        if (ids[0] == 0 && n == 1 && ids[1] >= 0 && ids[1] < vocab) return KV_OK; /* nothing, or forgotten */
        const int newest = i + 1 == n;
        if (ids[0] < 1 || ids[0] > shown || (newest && ids[0] != shown) || (i > 0 && ids[0] <= c->fed[i - 1]))
            return bad("it belongs to another moment");
        if (ids[1] < 0 || ids[1] >= vocab) return bad("a token outside the vocabulary");
        KV_TRY(append(c, newest ? seen : ids[0], ids[1]));
        memcpy(block(c, (int64_t)i), (const uint8_t *)src + i * size, size);
    }
    return KV_OK;
}
