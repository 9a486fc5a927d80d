#include "difftest/ops/cu_lex.h"

#include <string.h>

enum { MOST_CONDITIONS = 64 };

/* An #if that is open. */
typedef enum branch { UNKNOWN, TAKEN, SKIPPED } branch;

typedef struct lexer {
    const char *text;
    unsigned char *kinds;
    size_t n, at;
    int line_is_blank; /* nothing but spaces and comments so far */
    branch open[MOST_CONDITIONS];
    int depth, depth_dead; /* conditions open; the depth at which code is left out, 0: nowhere */
} lexer;

int dt_cu_is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

int dt_cu_is(const char *text, size_t at, size_t n, const char *word)
{
    return strlen(word) == n && memcmp(text + at, word, n) == 0;
}

static int is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

size_t dt_cu_next(const char *text, const unsigned char *kinds, size_t n, size_t at)
{
    while (at < n && !(kinds[at] == DT_CU_STRING || (kinds[at] == DT_CU_CODE && !is_space(text[at]))))
        at++;
    return at;
}

ptrdiff_t dt_cu_previous(const char *text, const unsigned char *kinds, size_t at)
{
    ptrdiff_t i = (ptrdiff_t)at - 1;
    while (i >= 0 && !(kinds[i] == DT_CU_STRING || (kinds[i] == DT_CU_CODE && !is_space(text[i]))))
        i--;
    return i;
}

size_t dt_cu_word(const char *text, const unsigned char *kinds, size_t n, size_t at)
{
    const size_t from = at;
    while (at < n && kinds[at] == DT_CU_CODE && dt_cu_is_name(text[at]))
        at++;
    return at - from;
}

int dt_cu_nesting(char c)
{
    return c == '(' || c == '[' || c == '{' ? 1 : c == ')' || c == ']' || c == '}' ? -1 : 0;
}

size_t dt_cu_behind_bracket(const char *text, const unsigned char *kinds, size_t n, size_t at)
{
    int depth = 0;
    for (size_t i = at; i < n; i++) {
        if (kinds[i] != DT_CU_CODE) continue;
        depth += dt_cu_nesting(text[i]);
        if (depth == 0) return i + 1;
    }
    return n;
}

ptrdiff_t dt_cu_before_bracket(const char *text, const unsigned char *kinds, ptrdiff_t at, char opens)
{
    const char closes = opens == '(' ? ')' : '>';
    int depth = 0, others = 0; /* round and square brackets between < and > */
    for (ptrdiff_t i = at; i >= 0; i--) {
        const char c = text[i];
        if (kinds[i] != DT_CU_CODE) continue;
        if (opens == '<' && (c == ';' || c == '{' || c == '}')) return -1;
        if (opens == '<') others -= dt_cu_nesting(c);
        if (others) continue;
        depth += c == closes ? 1 : c == opens ? -1 : 0;
        if (depth == 0 && c == opens) return i;
    }
    return -1;
}

static char peek(const lexer *l, size_t ahead)
{
    return l->at + ahead < l->n ? l->text[l->at + ahead] : '\0';
}

static void take(lexer *l, size_t count, dt_cu_class kind)
{
    for (; count && l->at < l->n; count--)
        l->kinds[l->at++] = (unsigned char)(l->depth_dead && kind != DT_CU_DIRECTIVE ? DT_CU_DEAD : kind);
}

/* A backslash before the end of a line joins it with the next one. */
static size_t joint(const lexer *l)
{
    if (peek(l, 0) != '\\') return 0;
    return peek(l, 1) == '\n' ? 2 : peek(l, 1) == '\r' && peek(l, 2) == '\n' ? 3 : 0;
}

static void take_line_comment(lexer *l)
{
    while (l->at < l->n && l->text[l->at] != '\n')
        take(l, joint(l) ? joint(l) : 1, DT_CU_COMMENT);
}

static void take_block_comment(lexer *l)
{
    take(l, 2, DT_CU_COMMENT);
    while (l->at < l->n && !(peek(l, 0) == '*' && peek(l, 1) == '/'))
        take(l, 1, DT_CU_COMMENT);
    take(l, 2, DT_CU_COMMENT);
}

static void take_quoted(lexer *l, dt_cu_class kind)
{
    const char quote = l->text[l->at];
    take(l, 1, kind);
    while (l->at < l->n && l->text[l->at] != quote && l->text[l->at] != '\n')
        take(l, joint(l) ? joint(l) : l->text[l->at] == '\\' ? 2 : 1, kind);
    if (peek(l, 0) == quote) take(l, 1, kind);
}

/* R"mark( ... )mark": l->at is the quote. */
static void take_raw(lexer *l)
{
    const char *mark = l->text + l->at + 1;
    size_t m = 0;
    while (m < 17 && l->at + 1 + m < l->n && mark[m] != '(')
        m++;
    take(l, m + 2, DT_CU_STRING);
    while (l->at < l->n) {
        const size_t left = l->n - l->at;
        if (l->text[l->at] == ')' && left >= m + 2 && memcmp(l->text + l->at + 1, mark, m) == 0 &&
            l->text[l->at + 1 + m] == '"') {
            take(l, m + 2, DT_CU_STRING);
            return;
        }
        take(l, 1, DT_CU_STRING);
    }
}

/* A word or a number, in which ' separates digits. */
static void take_word(lexer *l)
{
    const size_t from = l->at;
    const int is_number = l->text[from] >= '0' && l->text[from] <= '9';
    while (dt_cu_is_name(peek(l, 0)) ||
           (is_number && (peek(l, 0) == '.' || (peek(l, 0) == '\'' && dt_cu_is_name(peek(l, 1))))))
        take(l, 1, DT_CU_CODE);
    if (!is_number && peek(l, 0) == '"' && l->text[l->at - 1] == 'R' && l->at - from <= 3) take_raw(l);
}

/* ---- directives -----------------------------------------------------------------------------------------------------
 */

/* The next word of a directive; its length. */
static size_t word_of(const lexer *l, size_t *at, size_t end)
{
    while (*at < end && !dt_cu_is_name(l->text[*at]) && l->text[*at] != '!')
        (*at)++;
    size_t n = 0;
    while (*at + n < end && dt_cu_is_name(l->text[*at + n]))
        n++;
    return n;
}

static branch judge(const lexer *l, size_t name, size_t n_name, size_t end)
{
    size_t at = name + n_name;
    const size_t n = word_of(l, &at, end);
    size_t more = at + n;
    if (word_of(l, &more, end) || more < end) return UNKNOWN; /* an expression of several words */
    if (dt_cu_is(l->text, name, n_name, "if"))
        return dt_cu_is(l->text, at, n, "0") ? SKIPPED : dt_cu_is(l->text, at, n, "1") ? TAKEN : UNKNOWN;
    if (!dt_cu_is(l->text, at, n, "KVDK_SIMT")) return UNKNOWN;
    return dt_cu_is(l->text, name, n_name, "ifdef") ? TAKEN : SKIPPED;
}

static void open_condition(lexer *l, branch b)
{
    if (l->depth < MOST_CONDITIONS) l->open[l->depth] = b;
    l->depth++;
    if (b == SKIPPED && !l->depth_dead && l->depth <= MOST_CONDITIONS) l->depth_dead = l->depth;
}

static void turn_condition(lexer *l, int is_else)
{
    if (l->depth == 0 || l->depth > MOST_CONDITIONS) return;
    branch *b = &l->open[l->depth - 1];
    if (l->depth_dead == l->depth)
        l->depth_dead = 0;
    else if (*b == TAKEN && !l->depth_dead)
        l->depth_dead = l->depth;
    *b = *b == SKIPPED && is_else ? TAKEN : *b == TAKEN ? TAKEN : UNKNOWN;
}

static void follow_condition(lexer *l, size_t from, size_t end)
{
    size_t at = from + 1;
    const size_t n = word_of(l, &at, end);
    if (n >= 2 && memcmp(l->text + at, "if", 2) == 0)
        open_condition(l, judge(l, at, n, end));
    else if (dt_cu_is(l->text, at, n, "else"))
        turn_condition(l, 1);
    else if (n >= 4 && memcmp(l->text + at, "elif", 4) == 0)
        turn_condition(l, 0);
    else if (dt_cu_is(l->text, at, n, "endif") && l->depth > 0) {
        if (l->depth_dead == l->depth) l->depth_dead = 0;
        l->depth--;
    }
}

static void take_directive(lexer *l)
{
    const size_t from = l->at;
    size_t end = from; /* of what is no comment */
    const int was_dead = l->depth_dead != 0;
    while (l->at < l->n && l->text[l->at] != '\n') {
        if (peek(l, 0) == '/' && peek(l, 1) == '/') {
            take_line_comment(l);
        } else if (peek(l, 0) == '/' && peek(l, 1) == '*') {
            take_block_comment(l);
        } else {
            if (!is_space(l->text[l->at])) end = l->at + 1;
            if (l->text[l->at] == '"')
                take_quoted(l, DT_CU_DIRECTIVE);
            else
                take(l, joint(l) ? joint(l) : 1, DT_CU_DIRECTIVE);
        }
    }
    if (was_dead) memset(l->kinds + from, DT_CU_DEAD, l->at - from);
    follow_condition(l, from, end);
}

/* ---- the whole ------------------------------------------------------------------------------------------------------
 */

void dt_cu_classify(const char *text, size_t n, unsigned char *kinds)
{
    lexer l = {.text = text, .kinds = kinds, .n = n, .line_is_blank = 1};
    while (l.at < n) {
        const char c = text[l.at];
        if (c == '/' && peek(&l, 1) == '/')
            take_line_comment(&l);
        else if (c == '/' && peek(&l, 1) == '*')
            take_block_comment(&l);
        else if (c == '#' && l.line_is_blank)
            take_directive(&l);
        else if (is_space(c)) {
            if (c == '\n') l.line_is_blank = 1;
            take(&l, 1, DT_CU_CODE);
        } else {
            l.line_is_blank = 0;
            if (c == '"' || c == '\'')
                take_quoted(&l, DT_CU_STRING);
            else if (dt_cu_is_name(c))
                take_word(&l);
            else
                take(&l, 1, DT_CU_CODE);
        }
    }
}
