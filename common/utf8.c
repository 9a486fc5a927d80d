#include "common/utf8.h"

#include "common/tokenizer.h"

#include <stdio.h>
#include <string.h>

/* Table 3-7 of the Unicode standard: what may follow a lead byte. */
typedef struct lead {
    uint8_t length;  /* bytes of the character; 0 = never leads */
    uint8_t lo, hi;  /* range of the second byte */
    uint8_t cp_bits; /* mask of the lead byte's own bits */
} lead;

static lead lead_of(uint8_t b)
{
    if (b < 0x80) return (lead){1, 0, 0, 0x7f};
    if (b < 0xc2) return (lead){0, 0, 0, 0};
    if (b < 0xe0) return (lead){2, 0x80, 0xbf, 0x1f};
    if (b < 0xf0) return (lead){3, b == 0xe0 ? 0xa0 : 0x80, b == 0xed ? 0x9f : 0xbf, 0x0f};
    if (b < 0xf5) return (lead){4, b == 0xf0 ? 0x90 : 0x80, b == 0xf4 ? 0x8f : 0xbf, 0x07};
    return (lead){0, 0, 0, 0};
}

size_t kv_utf8_next(const char *p, size_t n, uint32_t *cp)
{
    const uint8_t *u = (const uint8_t *)p;
    const lead l = lead_of(u[0]);
    if (l.length == 0 || l.length > n) return 0;
    uint32_t c = u[0] & l.cp_bits;
    for (size_t i = 1; i < l.length; i++) {
        const uint8_t lo = i == 1 ? l.lo : 0x80, hi = i == 1 ? l.hi : 0xbf;
        if (u[i] < lo || u[i] > hi) return 0;
        c = c << 6 | (u[i] & 0x3f);
    }
    *cp = c;
    return l.length;
}

size_t kv_utf8_put(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    const size_t length = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, cp >>= 6)
        out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)((0xf00 >> length & 0xff) | cp);
    return length;
}

/* ---- validity -------------------------------------------------------------------------------- */

static int continues(uint8_t b)
{
    return (b & 0xc0) == 0x80;
}

/* Names what is wrong with the bytes at u that kv_utf8_next refused. */
static const char *fault_of(const uint8_t *u, size_t n)
{
    if (continues(u[0])) return "a continuation byte without a lead byte";
    if (u[0] == 0xc0 || u[0] == 0xc1) return "an overlong sequence";
    if (u[0] >= 0xf8) return "a byte that UTF-8 never uses";
    if (u[0] >= 0xf5) return "a character beyond U+10FFFF";
    if (n > 1 && continues(u[1])) {
        const lead l = lead_of(u[0]);
        if (u[1] < l.lo) return "an overlong sequence";
        if (u[1] > l.hi) return u[0] == 0xed ? "a surrogate" : "a character beyond U+10FFFF";
    }
    for (size_t i = 1; i < n; i++)
        if (!continues(u[i])) return "a sequence that breaks off";
    return "a sequence cut off by the end of the text";
}

kv_status kv_utf8_check(const char *text, size_t n, const char *where)
{
    size_t at = 0;
    while (at < n) {
        uint32_t cp;
        const size_t step = kv_utf8_next(text + at, n - at, &cp);
        if (step == 0) {
            const uint8_t *u = (const uint8_t *)text + at;
            return kv_fail(KV_ERR_FORMAT,
                           "%s: byte %zu (0x%02X): %s; the text must be UTF-8, convert it", where,
                           at, u[0], fault_of(u, n - at));
        }
        at += step;
    }
    return KV_OK;
}

/* ---- classes --------------------------------------------------------------------------------- */

kv_char_class kv_char_class_of(uint32_t cp)
{
    if (cp < 0x80) {
        if ((cp | 0x20) - 'a' < 26) return KV_CHAR_LETTER;
        if (cp - '0' < 10) return KV_CHAR_NUMBER;
        return cp == ' ' || cp - '\t' < 5 ? KV_CHAR_SPACE : KV_CHAR_OTHER;
    }
    uint32_t lo = 0, hi = kv_unicode_n_edges; /* edges[lo] starts at or before cp */
    while (hi - lo > 1) {
        const uint32_t mid = lo + (hi - lo) / 2;
        if (kv_unicode_edges[mid] >> 2 <= cp)
            lo = mid;
        else
            hi = mid;
    }
    return (kv_char_class)(kv_unicode_edges[lo] & 3);
}

int64_t kv_utf8_words(const char *text, size_t n)
{
    int64_t words = 0;
    int inside = 0;
    for (size_t at = 0; at < n;) {
        uint32_t cp = 'x';
        const size_t step = kv_utf8_next(text + at, n - at, &cp);
        const int space = kv_char_class_of(cp) == KV_CHAR_SPACE;
        words += !space && !inside;
        inside = !space;
        at += step ? step : 1;
    }
    return words;
}

const char *kv_printable(const char *p, size_t n, char *out, size_t size)
{
    size_t used = 0;
    for (size_t at = 0; at < n;) {
        uint32_t cp = 0;
        size_t step = kv_utf8_next(p + at, n - at, &cp);
        const int plain = step > 0 && cp >= 0x20 && cp != 0x7f && (cp < 0x80 || cp >= 0xa0) &&
                          cp != 0x2028 && cp != 0x2029;
        if (used + 8 > size) { /* room for the widest entry and for the dots */
            memcpy(out + used, "...", 3);
            used += 3;
            break;
        }
        if (plain) {
            memcpy(out + used, p + at, step);
            used += step;
        } else {
            step = 1;
            used += (size_t)snprintf(out + used, size - used, "\\x%02X", (uint8_t)p[at]);
        }
        at += step;
    }
    out[used] = '\0';
    return out;
}
