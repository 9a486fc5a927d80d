#include "tests/golden/golden.h"

#include "difftest/digest.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int n_tests, n_failed;

void golden_ok(int ok, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("%sok %d - ", ok ? "" : "not ", ++n_tests);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
    n_failed += !ok;
}

void golden_skip(const char *name, const char *why) { printf("ok %d - %s # SKIP %s\n", ++n_tests, name, why); }

int golden_done(void)
{
    printf("1..%d\n", n_tests);
    return n_failed != 0;
}

void golden_die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("Bail out! ");
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    exit(2);
}

json_t *golden_load(const char *folder, const char *name)
{
    char path[4096];
    json_error_t e;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    json_t *j = json_load_file(path, 0, &e);
    if (!j) golden_die("%s: %s", path, e.text);
    return j;
}

double golden_number(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    if (!json_is_number(v)) golden_die("golden file lacks the number '%s'", key);
    return json_number_value(v);
}

const char *golden_text(const json_t *object, const char *key)
{
    const char *t = json_string_value(json_object_get(object, key));
    if (!t) golden_die("golden file lacks the text '%s'", key);
    return t;
}

const char *golden_shared(void)
{
    static char path[4096];
    const char *shared = getenv("KVDIFF_SHARED");
    if (!shared || !*shared) return NULL;
    snprintf(path, sizeof path, "%s/golden", shared);
    return path;
}

int golden_open(golden_stream *s, const dt_side *side, const kv_model *m, const char *policy, int threads)
{
    kv_policy p;
    *s = (golden_stream){.side = side->backend, .model = m, .layers = m->cfg.n_layers};
    if (kv_policy_parse(policy, &p) != KV_OK) golden_die("%s", kv_message());
    const kv_open_args a = {.model = m, .policy = &p, .options = side->options, .threads = threads,
                            .max_step = 64};
    if (s->side->open(&a, &s->session) == KV_OK) return 1;
    golden_ok(0, "%s cannot run %s: %s", side->name, policy, s->side->last_error(NULL));
    return 0;
}

void golden_close(golden_stream *s)
{
    s->side->close(s->session);
    free(s->events.v);
}

int32_t golden_feed(golden_stream *s, const int32_t *tokens, int32_t n, int32_t first, int32_t chunk,
                    float *nll, float *logits, void (*after)(void *arg, int32_t seen), void *arg)
{
    int32_t last = 0;
    int32_t *targets = malloc(((size_t)n + 1) * sizeof *targets);
    float *rows = malloc((size_t)n * sizeof *rows);
    if (!targets || !rows) golden_die("out of memory");
    memcpy(targets, tokens + 1, ((size_t)n - 1) * sizeof *targets);
    targets[n - 1] = 0;
    for (int32_t at = 0, m; at < n; at += m) {
        m = at ? chunk : first;
        if (m > n - at) m = n - at;
        const kv_step step = {.tokens = tokens + at, .n = m, .rows = nll ? KV_ROWS_ALL : KV_ROWS_NONE,
                              .logits = at + m == n ? logits : NULL,
                              .targets = targets + at, .nll = nll ? rows + at : NULL, .events = &s->events};
        if (s->side->step(s->session, &step) != KV_OK) golden_die("%s", s->side->last_error(s->session));
        if (after) after(arg, at + m);
        last = m;
    }
    if (nll) memcpy(nll, rows, ((size_t)n - 1) * sizeof *rows);
    free(targets);
    free(rows);
    return last;
}

void golden_export(golden_stream *s, int32_t layer, int32_t head, uint32_t what, golden_state *out)
{
    size_t size, offset = sizeof(kv_state_head);
    *out = (golden_state){0};
    if (dt_export(s->side, s->session, layer, what, &out->blob, &size) != KV_OK ||
        kv_state_check(out->blob.p, size) != KV_OK)
        golden_die("%s", kv_message());
    memcpy(&out->h, out->blob.p, sizeof out->h);
    for (int32_t i = 0; i <= head; i++)
        out->v = kv_state_place(&out->h, out->blob.p, &offset, -1, 0);
}

void golden_state_free(golden_state *g) { kv_buffer_free(&g->blob); }

int32_t golden_kept(golden_stream *s, int32_t layer, int32_t head, int64_t *og, int32_t *pos, int32_t cap)
{
    golden_state g;
    golden_export(s, layer, head, 0, &g);
    const int32_t n = g.v.run->n;
    if (n > cap) golden_die("more entries than any policy of this test keeps");
    memcpy(og, g.v.og, (size_t)n * sizeof *og);
    if (pos) memcpy(pos, g.v.pos, (size_t)n * sizeof *pos);
    golden_state_free(&g);
    return n;
}
