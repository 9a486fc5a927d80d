/* cu_lex.h - which bytes of a C++ source are code. */
#ifndef KV_DIFFTEST_OPS_CU_LEX_H
#define KV_DIFFTEST_OPS_CU_LEX_H

#include <stddef.h>

typedef enum dt_cu_class {
    DT_CU_CODE,
    DT_CU_STRING, /* a literal of characters, with its quotes */
    DT_CU_COMMENT,
    DT_CU_DIRECTIVE, /* a preprocessor line up to its end, without comments */
    DT_CU_DEAD       /* left out by a condition that is known to be false */
} dt_cu_class;

/* kinds[i] becomes the dt_cu_class of text[i]. Conditions known: #if 0, #if 1, #ifdef KVDK_SIMT, #ifndef KVDK_SIMT and
 * their #else; both branches of all others count as code. */
void dt_cu_classify(const char *text, size_t n, unsigned char *kinds);

/* First byte at or behind `at` (last byte before it) that is code and no space, or belongs to a string; n (-1): none.
 */
size_t dt_cu_next(const char *text, const unsigned char *kinds, size_t n, size_t at);
ptrdiff_t dt_cu_previous(const char *text, const unsigned char *kinds, size_t at);

/* Length of the word of code at `at`; 0: there is none. */
size_t dt_cu_word(const char *text, const unsigned char *kinds, size_t n, size_t at);

/* +1, -1 or 0: what a character does to the nesting of ( [ {. */
int dt_cu_nesting(char c);

/* Behind the bracket that closes the one at `at`; n: there is none. */
size_t dt_cu_behind_bracket(const char *text, const unsigned char *kinds, size_t n, size_t at);

/* The first byte of the ( ) or < > that end at `at`; opens is '(' or '<'. -1: there is none. */
ptrdiff_t dt_cu_before_bracket(const char *text, const unsigned char *kinds, ptrdiff_t at, char opens);

int dt_cu_is_name(char c); /* may be part of an identifier or a number */

/* Is the word [at, at + n) equal to a zero-terminated one? */
int dt_cu_is(const char *text, size_t at, size_t n, const char *word);

#endif
