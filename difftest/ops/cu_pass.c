#include "difftest/ops/cu_pass.h"

#include "difftest/ops/cu_lex.h"
#include "difftest/ops/cu_refused.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DEPTH = 256, MOST_BYTES = 16 << 20 };

/* What a pair of braces is. */
typedef enum scope { OUTSIDE, HOST_CODE, DEVICE_CODE } scope;

/* Words seen since the last ; { or }. */
enum { SAW_NAMESPACE = 1, SAW_BRACKET = 2, SAW_GLOBAL = 4, SAW_DEVICE = 8, SAW_HOST = 16 };

typedef struct span {
    size_t at, n;
} span;

typedef struct pass {
    const char *text, *name;
    unsigned char *kinds;
    size_t n, at;
    size_t statement; /* where the present statement begins */
    unsigned saw;
    scope scopes[MOST_DEPTH];
    int depth, depth_if; /* depth where the last #if stood: #else begins there again */
    char *out;
    size_t n_out, cap_out, copied; /* text before `copied` is in out */
} pass;

/* ---- output
 * ----------------------------------------------------------------------------------------------------------- */

static kv_status put(pass *p, const char *bytes, size_t n)
{
    if (p->n_out + n + 1 > p->cap_out) {
        const size_t cap = 2 * (p->n_out + n) + 4096;
        char *out = realloc(p->out, cap);
        if (!out) return kv_fail(KV_ERR_NOMEM, "out of memory");
        p->out = out;
        p->cap_out = cap;
    }
    memcpy(p->out + p->n_out, bytes, n);
    p->n_out += n;
    p->out[p->n_out] = '\0';
    return KV_OK;
}

static kv_status put_text(pass *p, const char *text)
{
    return put(p, text, strlen(text));
}

/* Code of the source on one line: without comments, line ends as spaces. */
static kv_status put_code(pass *p, span s)
{
    for (size_t i = s.at; i < s.at + s.n; i++) {
        const char c = p->kinds[i] == DT_CU_COMMENT || p->text[i] == '\n' || p->text[i] == '\r' ? ' ' : p->text[i];
        KV_TRY(put(p, &c, 1));
    }
    return KV_OK;
}

static kv_status copy_until(pass *p, size_t at)
{
    const kv_status st = put(p, p->text + p->copied, at - p->copied);
    p->copied = at;
    return st;
}

/* The source goes on behind `at`: the line ends between are made up for. */
static kv_status go_on_behind(pass *p, size_t at)
{
    for (; p->copied < at; p->copied++)
        if (p->text[p->copied] == '\n') KV_TRY(put(p, "\n", 1));
    return KV_OK;
}

static kv_status refuse(const pass *p, size_t at, const char *what)
{
    size_t line = 1;
    for (size_t i = 0; i < at && i < p->n; i++)
        line += p->text[i] == '\n';
    return kv_fail(KV_ERR_UNSUPPORTED, "%s:%zu: %s", p->name, line, what);
}

/* ---- preprocessor lines
 * ------------------------------------------------------------------------------------------------ */

static kv_status check_include(const pass *p, size_t at, size_t end)
{
    while (at < end && p->text[at] != '<' && p->text[at] != '"')
        at++;
    const char *why = at < end ? dt_cu_refused_header(p->text, at + 1, end) : NULL;
    return why ? refuse(p, at, why) : KV_OK;
}

/* A macro cannot hold what is rewritten: it is not looked into where it is used. */
static kv_status check_macro(const pass *p, size_t at, size_t end)
{
    for (size_t n; at < end; at += n ? n : 1) {
        n = 0;
        while (at + n < end && dt_cu_is_name(p->text[at + n]))
            n++;
        const char *why = dt_cu_refused_word(p->text, at, n);
        if (why) return refuse(p, at, why);
        if (dt_cu_is(p->text, at, n, "__shared__"))
            return refuse(p, at, "__shared__ inside a macro; write the declaration out");
        if (at + 3 <= end && memcmp(p->text + at, "<<<", 3) == 0)
            return refuse(p, at, "a launch inside a macro; write it out");
    }
    return KV_OK;
}

/* p->at is the first byte of a directive. */
static kv_status take_directive(pass *p)
{
    const size_t from = p->at;
    while (p->at < p->n && (p->kinds[p->at] == DT_CU_DIRECTIVE || p->kinds[p->at] == DT_CU_COMMENT))
        p->at++;
    size_t word = from + 1, n = 0;
    while (word < p->at && !dt_cu_is_name(p->text[word]))
        word++;
    while (word + n < p->at && dt_cu_is_name(p->text[word + n]))
        n++;
    if (n >= 2 && memcmp(p->text + word, "if", 2) == 0) p->depth_if = p->depth;
    if (n >= 4 && memcmp(p->text + word, "el", 2) == 0) p->depth = p->depth_if;
    if (dt_cu_is(p->text, word, n, "include")) return check_include(p, word + n, p->at);
    return dt_cu_is(p->text, word, n, "define") ? check_macro(p, word + n, p->at) : KV_OK;
}

/* ---- walking over code
 * --------------------------------------------------------------------------------------------------- */

static size_t next(const pass *p, size_t at)
{
    return dt_cu_next(p->text, p->kinds, p->n, at);
}
static ptrdiff_t previous(const pass *p, size_t at)
{
    return dt_cu_previous(p->text, p->kinds, at);
}
static int is_code(const pass *p, size_t at)
{
    return at < p->n && p->kinds[at] == DT_CU_CODE;
}
static size_t word_at(const pass *p, size_t at)
{
    return dt_cu_word(p->text, p->kinds, p->n, at);
}
static size_t behind_bracket(const pass *p, size_t at)
{
    return dt_cu_behind_bracket(p->text, p->kinds, p->n, at);
}
static ptrdiff_t before_bracket(const pass *p, ptrdiff_t at, char opens)
{
    return dt_cu_before_bracket(p->text, p->kinds, at, opens);
}

/* ---- launches
 * ------------------------------------------------------------------------------------------------------------ */

/* Where the kernel begins whose last byte is `last`: ns::kernel<T, 4>, or anything in round brackets. -1: there is
 * none. *name is its last word. */
static ptrdiff_t kernel_begin(const pass *p, ptrdiff_t last, span *name)
{
    *name = (span){(size_t)last, 0};
    if (last >= 0 && p->text[last] == ')') {
        const ptrdiff_t at = before_bracket(p, last, '(');
        *name = (span){(size_t)(at < 0 ? 0 : at), at < 0 ? 0 : (size_t)(last - at + 1)};
        return at;
    }
    for (int parts = 0; last >= 0; parts++) {
        if (p->text[last] == '>') {
            const ptrdiff_t open = before_bracket(p, last, '<');
            if (open < 0) return -1;
            last = previous(p, (size_t)open);
        }
        ptrdiff_t at = last;
        while (at >= 0 && is_code(p, (size_t)at) && dt_cu_is_name(p->text[at]))
            at--;
        if (at == last || last < 0) return -1;
        if (parts == 0) *name = (span){(size_t)(at + 1), (size_t)(last - at)};
        const ptrdiff_t colon = previous(p, (size_t)(at + 1));
        if (colon < 1 || p->text[colon] != ':' || p->text[colon - 1] != ':') return at + 1;
        last = previous(p, (size_t)(colon - 1));
        if (last < 0 || !(dt_cu_is_name(p->text[last]) || p->text[last] == '>')) return colon - 1;
    }
    return -1;
}

/* The first byte of >>> at no bracket's depth; p->n: there is none. */
static size_t launch_end(const pass *p, size_t at)
{
    int depth = 0;
    for (; at < p->n; at++) {
        if (!is_code(p, at)) continue;
        depth += dt_cu_nesting(p->text[at]);
        if (depth < 0 || p->text[at] == ';') return p->n;
        if (depth == 0 && p->n - at >= 3 && memcmp(p->text + at, ">>>", 3) == 0) return at;
    }
    return p->n;
}

/* The kernel's name as a literal. */
static kv_status put_name(pass *p, span name)
{
    KV_TRY(put_text(p, "\""));
    for (size_t i = name.at; i < name.at + name.n && i < name.at + 60; i++)
        if (dt_cu_is_name(p->text[i])) KV_TRY(put(p, p->text + i, 1));
    return put_text(p, "\"");
}

static kv_status put_launch(pass *p, span kernel, span name, span config)
{
    KV_TRY(put_text(p, "simt::UserLaunch("));
    KV_TRY(put_name(p, name));
    KV_TRY(put_text(p, ", SIMT_ADDRESS(("));
    KV_TRY(put_code(p, kernel));
    KV_TRY(put_text(p, ")), __FILE__, __LINE__, "));
    KV_TRY(put_code(p, config));
    KV_TRY(put_text(p, ").kernel([&](const auto &...simt_arg) { ("));
    KV_TRY(put_code(p, kernel));
    return put_text(p, ")(simt_arg...); })");
}

/* p->at is the first byte of <<<. */
static kv_status take_launch(pass *p)
{
    span name;
    const ptrdiff_t last = previous(p, p->at), begin = kernel_begin(p, last, &name);
    if (begin < (ptrdiff_t)p->copied || name.n == 0)
        return refuse(p, p->at, "<<< stands behind nothing that could be a kernel");
    if (p->depth > 0 && p->scopes[p->depth - 1] == DEVICE_CODE)
        return refuse(p, p->at, "a kernel launches a kernel: dynamic parallelism is not modelled");
    const size_t end = launch_end(p, p->at + 3);
    if (end == p->n) return refuse(p, p->at, "<<< has no >>>");
    const size_t args = next(p, end + 3);
    if (args == p->n || p->text[args] != '(') return refuse(p, end, "behind >>> the kernel's arguments are missing");
    const span kernel = {(size_t)begin, (size_t)(last + 1 - begin)}, config = {p->at + 3, end - p->at - 3};
    for (size_t i = kernel.at; i < end; i++)
        if (p->kinds[i] == DT_CU_DIRECTIVE || p->kinds[i] == DT_CU_DEAD)
            return refuse(p, i, "a preprocessor line inside a launch");
    KV_TRY(copy_until(p, kernel.at));
    KV_TRY(put_launch(p, kernel, name, config));
    p->at = end + 3;
    return go_on_behind(p, p->at);
}

/* ---- shared memory
 * -------------------------------------------------------------------------------------------------------- */

/* A declaration cut into its parts. */
typedef struct shared {
    size_t at, end;      /* of the declaration, ; excluded */
    span name, rest;     /* rest: the dimensions behind the name */
    span drop[4], align; /* words that are no part of the type; what stands in the brackets of __align__ */
    int n_drop, is_extern;
} shared;

static kv_status drop_word(const pass *p, shared *s, size_t at, size_t end)
{
    if (s->n_drop == 4)
        return refuse(p, at, "a __shared__ declaration with more attributes than this pass understands");
    s->drop[s->n_drop++] = (span){at, end - at};
    return KV_OK;
}

/* One word of the declaration at i; *behind: where to go on. */
static kv_status take_shared_word(const pass *p, shared *s, size_t i, size_t *behind)
{
    const size_t n = word_at(p, i);
    *behind = i + n;
    if (dt_cu_is(p->text, i, n, "extern")) s->is_extern = 1;
    if (dt_cu_is(p->text, i, n, "extern") || dt_cu_is(p->text, i, n, "static") || dt_cu_is(p->text, i, n, "__shared__"))
        return drop_word(p, s, i, i + n);
    if (dt_cu_is(p->text, i, n, "__align__") || dt_cu_is(p->text, i, n, "alignas")) {
        const size_t open = next(p, i + n),
                     close = open < p->n && p->text[open] == '(' ? behind_bracket(p, open) : p->n;
        if (close == p->n) return refuse(p, i, "an alignment without its number");
        s->align = (span){open, close - open};
        *behind = close;
        return drop_word(p, s, i, close);
    }
    if (!s->rest.n) s->name = (span){i, n};
    return KV_OK;
}

/* Cuts the declaration that begins at s->at. */
static kv_status cut_shared(const pass *p, shared *s)
{
    int angle = 0;
    for (size_t i = s->at; i < p->n;) {
        const char c = p->text[i];
        if (p->kinds[i] == DT_CU_DIRECTIVE || p->kinds[i] == DT_CU_DEAD)
            return refuse(p, i, "a preprocessor line inside a __shared__ declaration");
        if (!is_code(p, i)) {
            i++;
        } else if (dt_cu_is_name(c)) {
            KV_TRY(take_shared_word(p, s, i, &i));
        } else if (c == '[') {
            if (angle == 0 && !s->rest.n) s->rest.at = i;
            i = behind_bracket(p, i);
            if (angle == 0) s->rest.n = i - s->rest.at;
        } else if (c == ';') {
            s->end = i;
            return s->name.n ? KV_OK : refuse(p, s->at, "a __shared__ declaration without a name");
        } else {
            angle += c == '<' ? 1 : c == '>' ? -1 : 0;
            if (c == ',' && angle == 0)
                return refuse(p, i, "several __shared__ variables in one declaration; write one declaration each");
            if (c == '(' && angle > 0) {
                i = behind_bracket(p, i);
                continue;
            }
            if (c == '=' || c == '{' || c == '(' || c == ')')
                return refuse(
                    p, i,
                    "a __shared__ variable can have no initial value, and its declaration no round or curly brackets");
            i++;
        }
    }
    return refuse(p, s->at, "a __shared__ declaration without an end");
}

/* The type: what stands before the name, without the words that are dropped. */
static kv_status put_type(pass *p, const shared *s)
{
    size_t at = s->at;
    for (int i = 0; i < s->n_drop; i++) {
        if (s->drop[i].at > s->name.at) continue;
        KV_TRY(put_code(p, (span){at, s->drop[i].at - at}));
        at = s->drop[i].at + s->drop[i].n;
    }
    return put_code(p, (span){at, s->name.at - at});
}

/* typedef T simt_type_NAME[..]; */
static kv_status put_typedef(pass *p, const shared *s, span dimensions)
{
    KV_TRY(put_text(p, "typedef "));
    KV_TRY(put_type(p, s));
    KV_TRY(put_text(p, " simt_type_"));
    KV_TRY(put_code(p, s->name));
    KV_TRY(put_code(p, dimensions));
    return put_text(p, "; ");
}

/* The parts of a declaration around its name, as many as there are. */
static kv_status put_with_name(pass *p, const shared *s, const char *const *parts)
{
    for (int i = 0; parts[i]; i++) {
        KV_TRY(put_text(p, parts[i]));
        if (parts[i + 1]) KV_TRY(put_code(p, s->name));
    }
    return KV_OK;
}

static kv_status put_dynamic(pass *p, const shared *s)
{
    static const char *const parts[] = {"simt_type_", " *const ", " = (simt_type_", " *)simt::self->block->dynamic",
                                        NULL};
    const size_t first = behind_bracket(p, s->rest.at);
    if (s->rest.n == 0 || next(p, s->rest.at + 1) + 1 != first)
        return refuse(p, s->at, "dynamic shared memory is declared as extern __shared__ T name[]");
    KV_TRY(put_typedef(p, s, (span){first, s->rest.at + s->rest.n - first}));
    return put_with_name(p, s, parts);
}

static kv_status put_static(pass *p, const shared *s)
{
    static const char *const head[] = {"static const char simt_site_",
                                       " = 0; simt_type_",
                                       " &",
                                       " = *(simt_type_",
                                       " *)simt::shared_array(&simt_site_",
                                       ", sizeof(simt_type_",
                                       "), simt::alignment(alignof(simt_type_",
                                       "), ",
                                       NULL};
    KV_TRY(put_typedef(p, s, s->rest));
    KV_TRY(put_with_name(p, s, head));
    KV_TRY(s->align.n ? put_code(p, s->align) : put_text(p, "1"));
    return put_text(p, "))");
}

/* p->at is __shared__ in a statement that has begun at p->statement. */
static kv_status take_shared(pass *p)
{
    shared s = {.at = next(p, p->statement)};
    if (p->depth == 0 || p->scopes[p->depth - 1] == OUTSIDE)
        return refuse(p, p->at, "a __shared__ variable outside of functions; declare it in the kernel");
    if (s.at < p->copied) return refuse(p, p->at, "a __shared__ declaration inside another statement");
    KV_TRY(cut_shared(p, &s));
    if (s.name.at < p->at) return refuse(p, p->at, "__shared__ behind the name that it belongs to");
    KV_TRY(copy_until(p, s.at));
    KV_TRY(s.is_extern ? put_dynamic(p, &s) : put_static(p, &s));
    p->at = s.end;
    return go_on_behind(p, s.end);
}

/* ---- words and braces
 * ------------------------------------------------------------------------------------------------------- */

static unsigned flag_of(const pass *p, size_t at, size_t n)
{
    static const struct {
        const char *word;
        unsigned flag;
    } flags[] = {
        {"namespace", SAW_NAMESPACE}, {"__global__", SAW_GLOBAL}, {"__device__", SAW_DEVICE}, {"__host__", SAW_HOST}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (dt_cu_is(p->text, at, n, flags[i].word)) return flags[i].flag;
    return 0;
}

static kv_status take_word(pass *p)
{
    const size_t n = word_at(p, p->at);
    const char *why = dt_cu_refused_word(p->text, p->at, n);
    if (why) return refuse(p, p->at, why);
    if (dt_cu_is(p->text, p->at, n, "__shared__")) return take_shared(p);
    p->saw |= flag_of(p, p->at, n);
    if (dt_cu_is(p->text, p->at, n, "__noinline__")) {
        const ptrdiff_t before = previous(p, p->at);
        KV_TRY(copy_until(p, p->at));
        if (before < 0 || p->text[before] != '(') {
            KV_TRY(put_text(p, "__attribute__((noinline))"));
            p->copied = p->at + n;
        }
    }
    p->at += n;
    return KV_OK;
}

static scope scope_of(const pass *p)
{
    const scope around = p->depth ? p->scopes[p->depth - 1] : OUTSIDE;
    if (around != OUTSIDE) return around;
    if (p->saw & SAW_NAMESPACE || !(p->saw & SAW_BRACKET)) return OUTSIDE;
    if (p->saw & SAW_GLOBAL) return DEVICE_CODE;
    return p->saw & SAW_DEVICE && !(p->saw & SAW_HOST) ? DEVICE_CODE : HOST_CODE;
}

static kv_status take_character(pass *p)
{
    const char c = p->text[p->at];
    if (c == '{') {
        if (p->depth == MOST_DEPTH) return refuse(p, p->at, "braces are nested too deeply");
        p->scopes[p->depth] = scope_of(p);
        p->depth++;
    }
    if (c == '}' && p->depth > 0) p->depth--;
    if (c == '(') p->saw |= SAW_BRACKET;
    p->at++;
    if (c == '{' || c == '}' || c == ';') {
        p->saw = 0;
        p->statement = p->at;
    }
    return KV_OK;
}

static kv_status take_next(pass *p)
{
    if (p->kinds[p->at] == DT_CU_DIRECTIVE) return take_directive(p);
    if (!is_code(p, p->at)) {
        p->at++;
        return KV_OK;
    }
    if (dt_cu_is_name(p->text[p->at])) return take_word(p);
    if (p->n - p->at >= 3 && memcmp(p->text + p->at, "<<<", 3) == 0) return take_launch(p);
    return take_character(p);
}

static kv_status walk(pass *p)
{
    if (p->n > MOST_BYTES)
        return kv_fail(KV_ERR_UNSUPPORTED, "%s: a source of more than %d bytes", p->name, MOST_BYTES);
    const char *zero = p->n ? memchr(p->text, 0, p->n) : NULL;
    if (zero) return refuse(p, (size_t)(zero - p->text), "a zero byte: this is no text");
    p->kinds = malloc(p->n + 1);
    if (!p->kinds) return kv_fail(KV_ERR_NOMEM, "out of memory");
    dt_cu_classify(p->text, p->n, p->kinds);
    while (p->at < p->n)
        KV_TRY(take_next(p));
    return copy_until(p, p->n);
}

kv_status dt_cu_pass(const char *text, size_t n, const char *name, char **out, size_t *n_out)
{
    pass p = {.text = text, .name = name, .n = n};
    kv_status st = walk(&p);
    free(p.kinds);
    *out = NULL;
    if (st != KV_OK) {
        free(p.out);
        return st;
    }
    *out = p.out;
    *n_out = p.n_out;
    return KV_OK;
}
