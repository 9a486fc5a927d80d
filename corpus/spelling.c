/* spelling.c - parameters of a corpus: "len=4k/16k,depth=0/50/100,seeds=3". Every refusal names the
 * spelling, the parameter and what is legal. */
#include "corpus/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void join_params(const corpus_param *params, int n, char *dst, size_t size)
{
    size_t used = 0;
    snprintf(dst, size, "none");
    for (int i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(dst + used, size - used, "%s%s", used ? ", " : "", params[i].name);
}

static int64_t power(int64_t base, int n)
{
    int64_t r = 1;
    while (n-- > 0)
        r *= base;
    return r;
}

/* A value in the units of p, as a person writes it. */
static const char *show(const corpus_param *p, int64_t v, char *dst, size_t size)
{
    const int64_t unit = power(10, p->decimals);
    int used = snprintf(dst, size, "%lld", (long long)(v / unit));
    int64_t rest = v % unit;
    if (rest > 0 && used > 0 && (size_t)used < size) {
        int digits = p->decimals;
        for (; rest % 10 == 0; rest /= 10)
            digits--;
        snprintf(dst + used, size - (size_t)used, ".%0*lld", digits, (long long)rest);
    }
    return dst;
}

/* Reads digits into *v, at most `most` of them; returns how many there were, -1 on overflow. */
static int read_digits(const char **s, int most, int64_t *v)
{
    int n = 0;
    for (; **s >= '0' && **s <= '9'; ++*s, n++) {
        const int digit = **s - '0';
        if (n == most || *v > (INT64_MAX - digit) / 10) return -1;
        *v = *v * 10 + digit;
    }
    return n;
}

static int suffix_shift(char c)
{
    return c == 'k' ? 10 : c == 'M' ? 20 : c == 'G' ? 30 : 0;
}

/* One number in the units of p; 0 when it is not one. */
static int read_number(const corpus_param *p, const char *s, int64_t *out)
{
    int64_t v = 0;
    if (read_digits(&s, 40, &v) <= 0) return 0;
    int missing = p->decimals;
    if (*s == '.' && p->decimals > 0) {
        s++;
        const int n = read_digits(&s, p->decimals, &v);
        if (n <= 0) return 0;
        missing -= n;
    } else if (p->decimals == 0 && suffix_shift(*s)) {
        const int shift = suffix_shift(*s++);
        if (v > INT64_MAX >> shift) return 0;
        v <<= shift;
    }
    if (*s || v > INT64_MAX / power(10, missing)) return 0;
    *out = v * power(10, missing);
    return 1;
}

static kv_status parse_number(const char *spec, const corpus_param *p, const char *text,
                              corpus_values *out)
{
    int64_t v;
    char lo[32], hi[32];
    if (!read_number(p, text, &v))
        return kv_fail(KV_ERR_USAGE, "corpus '%s': %s=%s is not a %snumber (%s)", spec, p->name,
                       text, p->decimals ? "" : "whole ", p->about);
    if (v < p->min || v > p->max)
        return kv_fail(KV_ERR_USAGE, "corpus '%s': %s=%s is outside %s..%s (%s)", spec, p->name,
                       text, show(p, p->min, lo, sizeof lo), show(p, p->max, hi, sizeof hi),
                       p->about);
    for (int32_t i = 0; i < out->n; i++)
        if (out->v[i] == v)
            return kv_fail(KV_ERR_USAGE, "corpus '%s': %s has %s twice; keep one", spec, p->name,
                           text);
    if (out->n == CORPUS_LIST_MAX)
        return kv_fail(KV_ERR_USAGE,
                       "corpus '%s': %s has more than %d values; open several corpora", spec,
                       p->name, CORPUS_LIST_MAX);
    out->v[out->n++] = v;
    return KV_OK;
}

/* text is modified in place. */
static kv_status parse_value(const char *spec, const corpus_param *p, char *text,
                             corpus_values *out)
{
    if (!p->is_list) return parse_number(spec, p, text, out);
    for (char *end; text; text = end) {
        end = strchr(text, '/');
        if (end) *end++ = '\0';
        KV_TRY(parse_number(spec, p, text, out));
    }
    return KV_OK;
}

static kv_status parse_pair(const char *spec, char *pair, const corpus_param *params, int n,
                            corpus_values *out)
{
    char list[128];
    char *value = strchr(pair, '=');
    if (value) *value++ = '\0';
    for (int i = 0; i < n; i++) {
        if (strcmp(params[i].name, pair) != 0) continue;
        if (!value || !*value)
            return kv_fail(KV_ERR_USAGE, "corpus '%s': '%s' needs a value (%s)", spec, pair,
                           params[i].about);
        if (out[i].n > 0)
            return kv_fail(KV_ERR_USAGE, "corpus '%s': %s is given twice; keep one", spec, pair);
        return parse_value(spec, &params[i], value, &out[i]);
    }
    join_params(params, n, list, sizeof list);
    return kv_fail(KV_ERR_USAGE, "corpus '%s': there is no parameter '%s'; known: %s", spec, pair,
                   list);
}

kv_status corpus_parse(const char *spec, const char *text, const corpus_param *params, int n,
                       corpus_values *out)
{
    memset(out, 0, (size_t)n * sizeof *out);
    char *copy = strdup(text ? text : "");
    if (!copy) return kv_fail(KV_ERR_NOMEM, "out of memory: corpus '%s'", spec);
    kv_status st = KV_OK;
    char *pair = text ? copy : NULL;
    for (char *end; st == KV_OK && pair; pair = end) {
        end = strchr(pair, ',');
        if (end) *end++ = '\0';
        st = parse_pair(spec, pair, params, n, out);
    }
    free(copy);
    for (int i = 0; st == KV_OK && i < n; i++) {
        if (out[i].n > 0) continue;
        if (params[i].def < 0)
            return kv_fail(KV_ERR_USAGE, "corpus '%s': %s=... is missing (%s)", spec,
                           params[i].name, params[i].about);
        out[i] = (corpus_values){1, {params[i].def}};
    }
    return st;
}
