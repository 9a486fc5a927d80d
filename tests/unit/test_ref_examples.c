/* The worked examples of docs/policy/, read from the pages, against the decisions of the reference: cascade through a
 * trace, the policies that decide by attention with the sums that the example gives, xwindow with its windows. */
#include "tests/unit/kvtest.h"

#define REF_BITS 32

#include "ref/cache.h"
#include "ref/trace.h"

#include <stdlib.h>
#include <string.h>

enum { CELLS = 8, ROWS = 32, CELL = 512 };

typedef struct example {
    char policy[128];
    char cell[ROWS][CELLS][CELL];
    int rows, cells;
} example;

/* ---- the page ----------------------------------------------------------------------------------------------- */

static void split(char *line, example *e)
{
    int n = 0;
    char *at = line + 1;
    for (char *p = at; *p && n < CELLS; p++) {
        if (*p == '\\' && p[1] == '|') {
            *p++ = ' ';
            continue;
        }
        if (*p != '|') continue;
        *p = '\0';
        while (*at == ' ')
            at++;
        snprintf(e->cell[e->rows][n], CELL, "%s", at);
        char *end = e->cell[e->rows][n] + strlen(e->cell[e->rows][n]);
        while (end > e->cell[e->rows][n] && end[-1] == ' ')
            *--end = '\0';
        at = p + 1;
        n++;
    }
    e->cells = n;
    e->rows++;
}

/* The first table behind "## Worked example", whose first code span is the policy. */
static example *read_example(const char *page)
{
    size_t size;
    char *text = (char *)kvtest_read(page, &size), *save = NULL;
    example *e = calloc(1, sizeof *e);
    assert_non_null(e);
    char *at = strstr(text, "## Worked example");
    if (!at) fail_msg("%s has no worked example", page);
    assert_int_equal(sscanf(strchr(at, '`') + 1, "%127[^`]", e->policy), 1);
    int header = 2;
    for (char *line = strtok_r(at, "\n", &save); line && e->rows < ROWS; line = strtok_r(NULL, "\n", &save)) {
        if (line[0] != '|' && header < 2) break;
        if (line[0] != '|') continue;
        if (header > 0)
            header--;
        else
            split(line, e);
    }
    free(text);
    assert_true(e->rows >= 2);
    return e;
}

static void same_text(const example *e, int row, int cell, const char *got)
{
    if (strcmp(e->cell[row][cell], got) != 0)
        fail_msg("%s, row %d: the page says '%s', the reference '%s'", e->policy, row + 1, e->cell[row][cell], got);
}

static void describe_events(const kv_events *list, size_t from, char *dst)
{
    static const char letter[] = {[KV_EVENT_ADMIT] = 'A', [KV_EVENT_EVICT] = 'E', [KV_EVENT_MOVE] = 'M'};
    size_t used = 0;
    dst[0] = '\0';
    for (size_t i = from; i < list->n; i++) {
        const kv_event *e = &list->v[i];
        used += (size_t)snprintf(dst + used, CELL - used, "%s%c%lld/%d", used ? " " : "", letter[e->kind],
                                 (long long)e->og, e->slot);
        if (e->margin != kv_inf()) used += (size_t)snprintf(dst + used, CELL - used, "=%g", (double)e->margin);
    }
}

/* ---- cascade ---------------------------------------------------------------------------------------------------- */

typedef struct traced {
    const example *e;
    kv_events events;
    size_t reported;
} traced;

static float score_of(void *arg, int64_t token)
{
    const traced *t = arg;
    return strtof(t->e->cell[token][1], NULL);
}

/* Entries by position; a sink stands at its own index. */
static int look(void *arg, const kv_trace_state *s)
{
    traced *t = arg;
    const int row = (int)s->seen - 1;
    char text[CELL];
    size_t used = 0;
    describe_events(&t->events, t->reported, text);
    same_text(t->e, row, 2, text);
    t->reported = t->events.n;
    text[0] = '\0';
    for (int32_t pos = 0;; pos++) {
        int64_t og = pos < s->n_sink ? pos : -1;
        for (int32_t j = 0; j < s->n_slots; j++)
            if (s->pos[j] == pos) og = s->og[j];
        if (og < 0) break;
        used += (size_t)snprintf(text + used, CELL - used, "%s%lld@%d", used ? " " : "", (long long)og, pos);
    }
    same_text(t->e, row, 3, text);
    return 0;
}

static void cascade_follows_its_page(void **state)
{
    (void)state;
    example *e = read_example("docs/policy/cascade.md");
    kv_policy p;
    traced t = {.e = e};
    assert_ok(kv_policy_parse(e->policy, &p));
    const kv_trace args = {.policy = &p, .n_tokens = e->rows, .score = score_of, .look = look, .arg = &t, .events = &t.events};
    assert_ok(REF(trace)(&args));
    free(t.events.v);
    free(e);
}

/* ---- policies that are given sums --------------------------------------------------------------------------------- */

static int count_words(const char *s)
{
    int n = 0;
    for (const char *p = s; *p; p++)
        n += *p != ' ' && (p == s || p[-1] == ' ');
    return n;
}

/* "1 2 / 3 4": the sums of each query head; returns the number of heads. */
static int64_t read_sums(const char *text, real *acc, int64_t stride)
{
    int64_t head = 0, i = 0;
    for (const char *p = text; *p;) {
        char *end;
        if (*p == '/') {
            head++;
            i = 0;
        }
        const float v = strtof(p, &end);
        if (end == p) {
            p++;
            continue;
        }
        acc[head * stride + i++] = v;
        p = end;
    }
    return head + 1;
}

static void describe_entries(const ref_cache *c, char *dst)
{
    const ref_layer *l = &c->layers[0];
    size_t used = 0;
    for (int64_t i = 0; i < l->n; i++) {
        const ref_entry e = c->ops->entry(c, l, 0, i);
        used += (size_t)snprintf(dst + used, CELL - used, "%s%lld@%d", used ? " " : "", (long long)e.og, e.pos);
    }
}

static void describe_scores(const ref_cache *c, char *dst)
{
    const ref_layer *l = &c->layers[0];
    size_t used = 0;
    for (int64_t i = 0; i < l->n; i++)
        used += (size_t)snprintf(dst + used, CELL - used, "%s%g", used ? " " : "", (double)l->score[i]);
}

/* Scores of the entries that stayed, taken from the page's list of all. */
static void same_scores(const example *e, int row, const ref_cache *c, const real *all, const int64_t *og, int64_t n)
{
    char want[CELL] = "", got[CELL] = "";
    size_t used = 0;
    for (int64_t i = 0, k = 0; i < n && k < c->layers[0].n; i++)
        if (c->layers[0].og[k] == og[i]) {
            used += (size_t)snprintf(want + used, CELL - used, "%s%g", used ? " " : "", (double)all[i]);
            k++;
        }
    describe_scores(c, got);
    if (strcmp(want, got) != 0) fail_msg("%s, row %d: scores '%s', the page says '%s'", e->policy, row + 1, got, want);
}

static void run_example(const char *page, int scores)
{
    enum { STRIDE = 32 };
    example *e = read_example(page);
    const kv_config one = {.n_layers = 1, .n_kv_heads = 1, .head_dim = 1};
    kv_policy p;
    ref_cache c;
    assert_ok(kv_policy_parse(e->policy, &p));
    assert_ok(REF(cache_init)(&c, &one, &p));
    c.record_events = 1;
    for (int row = 0; row < e->rows; row++) {
        char text[CELL] = "";
        real acc[4 * STRIDE] = {0}, all[STRIDE] = {0};
        int64_t og[STRIDE];
        const int64_t m = count_words(e->cell[row][1]), n = c.layers[0].n + m;
        for (int64_t i = 0; i < n; i++)
            og[i] = i < c.layers[0].n ? c.layers[0].og[i] : c.layers[0].seen + i - c.layers[0].n;
        const int64_t heads = read_sums(e->cell[row][2], acc, STRIDE);
        const ref_sums s = {.acc = acc, .stride = STRIDE, .stored = c.layers[0].n, .m = m, .base = c.layers[0].seen,
                            .n_heads = heads, .group = heads};
        c.moves[0].n = 0;
        c.layers[0].events.n = 0;
        assert_ok(c.ops->settle(&c, 0, &s));
        describe_events(&c.layers[0].events, 0, text);
        same_text(e, row, e->cells - 2, text);
        describe_entries(&c, text);
        same_text(e, row, e->cells - 1, text);
        if (!scores) continue;
        read_sums(e->cell[row][3], all, STRIDE);
        same_scores(e, row, &c, all, og, n);
    }
    REF(cache_free)(&c);
    free(e);
}

static void h2o_follows_its_page(void **state)
{
    (void)state;
    run_example("docs/policy/h2o.md", 1);
}

static void tova_follows_its_page(void **state)
{
    (void)state;
    run_example("docs/policy/tova.md", 0);
}

static void dilated_follows_its_page(void **state)
{
    (void)state;
    run_example("docs/policy/dilated.md", 0);
}

static void snapkv_follows_its_page(void **state)
{
    (void)state;
    run_example("docs/policy/snapkv.md", 0);
}

/* ---- budgets ------------------------------------------------------------------------------------------------------- */

static void pyramid_follows_its_page(void **state)
{
    (void)state;
    enum { STRIDE = 160 };
    example *e = read_example("docs/policy/pyramid.md");
    static const real acc[STRIDE];
    for (int row = 0; row < e->rows; row++) {
        const int32_t layers = (int32_t)strtol(e->cell[row][1], NULL, 10);
        const kv_config cfg = {.n_layers = layers, .n_kv_heads = 1, .head_dim = 1};
        char policy[128], text[CELL] = "";
        size_t used = 0;
        kv_policy p;
        ref_cache c;
        assert_int_equal(sscanf(e->cell[row][0], "`%127[^`]", policy), 1);
        assert_ok(kv_policy_parse(policy, &p));
        assert_ok(REF(cache_init)(&c, &cfg, &p));
        const ref_sums s = {.acc = acc, .stride = STRIDE, .m = p.snapkv.prompt, .n_heads = 1, .group = 1};
        for (int32_t l = 0; l < layers; l++) {
            assert_ok(c.ops->settle(&c, l, &s));
            used += (size_t)snprintf(text + used, CELL - used, "%s%lld", used ? " " : "",
                                     (long long)(c.layers[l].n - p.snapkv.window));
        }
        same_text(e, row, 2, text);
        REF(cache_free)(&c);
    }
    free(e);
}

/* ---- windows --------------------------------------------------------------------------------------------------------- */

static void describe_view(const ref_cache *c, int64_t base, int64_t m, char *dst)
{
    const ref_layer *l = &c->layers[0];
    ref_range ranges[REF_MAX_SPANS];
    size_t used = 0;
    int64_t pos = 0;
    const int64_t n = c->ops->view(c, l, ranges);
    for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < ranges[r].n; i++)
            used += (size_t)snprintf(dst + used, CELL - used, "%lld@%lld ", (long long)l->og[ranges[r].slot0 + i],
                                     (long long)pos++);
    used += (size_t)snprintf(dst + used, CELL - used, " |");
    for (int64_t x = 0; x < m; x++)
        used += (size_t)snprintf(dst + used, CELL - used, " %lld@%lld", (long long)(c->window + x), (long long)(base + x));
}

static void xwindow_follows_its_page(void **state)
{
    (void)state;
    example *e = read_example("docs/policy/xwindow.md");
    const kv_config one = {.n_layers = 1, .n_kv_heads = 1, .head_dim = 1};
    kv_policy p;
    ref_cache c;
    assert_ok(kv_policy_parse(e->policy, &p));
    assert_ok(REF(cache_init)(&c, &one, &p));
    c.record_events = 1;
    for (int row = 0; row < e->rows; row++) {
        char text[CELL] = "";
        const int64_t m = count_words(e->cell[row][1]);
        c.window = strtol(e->cell[row][1], NULL, 10);
        const ref_sums s = {.m = m, .base = c.ops->begin(&c, 0, m), .n_heads = 1, .group = 1};
        describe_view(&c, s.base, m, text);
        same_text(e, row, 2, text[0] == ' ' ? text + 1 : text);
        c.moves[0].n = 0;
        c.layers[0].events.n = 0;
        assert_ok(c.ops->settle(&c, 0, &s));
        describe_events(&c.layers[0].events, 0, text);
        same_text(e, row, 3, text);
        size_t used = 0;
        for (int64_t i = 0; i < c.layers[0].n; i++)
            used += (size_t)snprintf(text + used, CELL - used, "%s%lld", used ? " " : "",
                                     (long long)c.ops->entry(&c, &c.layers[0], 0, i).og);
        same_text(e, row, 4, text);
    }
    REF(cache_free)(&c);
    free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cascade_follows_its_page), cmocka_unit_test(h2o_follows_its_page),
        cmocka_unit_test(tova_follows_its_page),    cmocka_unit_test(snapkv_follows_its_page),
        cmocka_unit_test(pyramid_follows_its_page), cmocka_unit_test(dilated_follows_its_page),
        cmocka_unit_test(xwindow_follows_its_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
