/* utf8.h - UTF-8 decoding and the character classes that pre-tokenizers ask for.
 *
 * kv_utf8_check (common/tokenizer.h) is the gate for text from outside; the decoder here is total
 * all the same: it never reads past the end and calls an invalid byte invalid. */
#ifndef KV_COMMON_UTF8_H
#define KV_COMMON_UTF8_H

#include "common/status.h"

#include <stdint.h>

/* The numbers are those of kv_unicode_edges. */
typedef enum kv_char_class {
    KV_CHAR_OTHER,
    KV_CHAR_LETTER, /* general category L* */
    KV_CHAR_NUMBER, /* general category N* */
    KV_CHAR_SPACE   /* property White_Space */
} kv_char_class;

/* The table of tools/gen_unicode.py: first code point << 2 | class, ascending. */
extern const char kv_unicode_version[];
extern const uint32_t kv_unicode_n_edges;
extern const uint32_t kv_unicode_edges[];

KV_EXTERN_C_BEGIN

/* Decodes the character at p, n > 0 bytes from the end. Returns its length, 1 to 4; 0 when the
 * bytes are not UTF-8 (overlong, surrogate, beyond U+10FFFF, cut off, stray). */
size_t kv_utf8_next(const char *p, size_t n, uint32_t *cp);

/* Writes cp (below 0x110000) to out and returns its length. */
size_t kv_utf8_put(uint32_t cp, char out[4]);

kv_char_class kv_char_class_of(uint32_t cp);

/* Whitespace-separated words, as manifests count them. Invalid bytes count as letters. */
int64_t kv_utf8_words(const char *text, size_t n);

/* Renders bytes of unknown origin for a message: one line, anything but printable characters as
 * \xHH, cut with "..." to what fits. Returns out. size >= 8. */
const char *kv_printable(const char *p, size_t n, char *out, size_t size);

KV_EXTERN_C_END

#endif
