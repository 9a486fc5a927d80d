/* pretok.c - cuts text into the pieces inside which BPE merges.
 *
 * GPT-2's pattern, alternatives in this order:
 *
 *     's|'t|'re|'ve|'m|'ll|'d    contractions: lower case, ASCII apostrophe
 *     ' '?\p{L}+                 one space may lead a word,
 *     ' '?\p{N}+                 a number
 *     ' '?[^\s\p{L}\p{N}]+       or a run of anything else
 *     \s+(?!\S)                  white space, but for its last character when something follows
 *     \s+
 *
 * smollm isolates every \p{N} first and applies the pattern to what lies between, so that a number
 * is one piece per digit and the white space before a digit ends at the end of "its" text. */
#include "common/bpe.h"
#include "common/utf8.h"

#include <string.h>

/* The character at p; a byte that is not UTF-8 stands alone and is of class "other". */
static kv_char_class class_at(const char *p, size_t n, size_t *step)
{
    uint32_t cp;
    *step = kv_utf8_next(p, n, &cp);
    if (*step > 0) return kv_char_class_of(cp);
    *step = 1;
    return KV_CHAR_OTHER;
}

static size_t contraction(const char *p, size_t n)
{
    static const char *const tails[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (p[0] != '\'') return 0;
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        const size_t length = strlen(tails[i]);
        if (length < n && memcmp(p + 1, tails[i], length) == 0) return length + 1;
    }
    return 0;
}

/* End of the run of class k that starts at `at`; *last = where its last character starts. */
static size_t run(kv_char_class k, const char *p, size_t n, size_t at, size_t *last)
{
    size_t step;
    for (; at < n && class_at(p + at, n - at, &step) == k; at += step)
        *last = at;
    return at;
}

static size_t white_space(kv_pretok kind, const char *p, size_t n)
{
    size_t last = 0, step;
    const size_t end = run(KV_CHAR_SPACE, p, n, 0, &last);
    if (end == n || last == 0) return end;
    if (kind == KV_PRETOK_SMOLLM && class_at(p + end, n - end, &step) == KV_CHAR_NUMBER) return end;
    return last;
}

size_t kv_pretok_next(kv_pretok kind, const char *p, size_t n)
{
    const size_t c = contraction(p, n);
    if (c > 0) return c;
    size_t step, last = 0, at = 0;
    kv_char_class k = class_at(p, n, &step);
    if (p[0] == ' ' && n > 1) { /* a space leads what follows, unless that is a digit alone */
        const kv_char_class next = class_at(p + 1, n - 1, &step);
        if (next != KV_CHAR_SPACE && !(next == KV_CHAR_NUMBER && kind == KV_PRETOK_SMOLLM)) {
            k = next;
            at = 1;
        }
    }
    if (k == KV_CHAR_SPACE) return white_space(kind, p, n);
    if (k == KV_CHAR_NUMBER && kind == KV_PRETOK_SMOLLM) return step;
    return run(k, p, n, at, &last);
}
