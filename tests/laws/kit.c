#include "tests/laws/kit.h"

#include "common/tile.h"

const kv_backend *law_side;
kv_model *law_model;

const char *const law_policies[] = {
    "full",
    "full+f16",
    "full+bf16",
    "full+kvarn:tile=32",
    "full+kvarn:dialect=B,kbits=3,tile=32,tie=rel,vbits=3",
    "full+kivi:group=16,residual=32",
    "sliding:cap=32",
    "sliding:cap=32,pos=absolute",
    "sliding:cap=32,pos=saturate",
    "sliding:cap=32+f16",
    "sliding:cap=32,pos=absolute+bf16",
    "sliding:cap=64,pos=absolute+kvarn:tile=32",
    "sliding:cap=64,pos=absolute+kivi:bits=4,group=16,residual=32",
    "sink:cap=28",
    "sink:cap=28+f16",
    "cascade:cap=32",
    "cascade:cap=32,eager=0",
    "cascade:cap=32,homog=1,reduce=mean",
    "cascade:cap=24,n=8,reduce=median,score=f16,sinks=2",
    "cascade:cap=32,select=newest",
    "cascade:cap=32+bf16",
    "h2o:cap=32",
    "h2o:cap=32,gqa=max,heavy=20,recent=12",
    "h2o:cap=32+f16",
    "tova:cap=32",
    "tova:cap=32+bf16",
    "snapkv:cap=32,prompt=48,window=8",
    "snapkv:cap=32,prompt=48,window=8+f16",
    "pyramid:cap=32,prompt=64,window=8",
    "dilated:every=4,window=16",
    "dilated:every=7,sinks=0,window=9+f16",
    "xwindow:cache=20,stride=8,window=24",
    "xwindow:cache=20,layers=1,stride=8,window=24+f16",
    "xwindow:cache=20,stride=8,ver=published,window=24",
    "xwindow:cache=20,pred=carry,stride=8,window=24",
    NULL,
};

/* ---- schedules ----------------------------------------------------------------------------------------------- */

static void add_step(law_run *r, law_step s)
{
    r->steps = realloc(r->steps, (size_t)(r->n_steps + 1) * sizeof *r->steps);
    assert_non_null(r->steps);
    r->steps[r->n_steps++] = s;
}

static void schedule_windows(law_run *r)
{
    const kv_xwindow_params *x = &r->policy.xwindow;
    for (int32_t ws = 0, done = 0; done < r->n; ws += x->stride) {
        const int32_t end = ws + x->window < r->n ? ws + x->window : r->n;
        add_step(r, (law_step){ws, end - ws, done, KV_STEP_RECOMPUTE});
        done = end;
    }
}

static void schedule(law_run *r, int32_t q)
{
    if (r->policy.selection == KV_SEL_XWINDOW) {
        schedule_windows(r);
        return;
    }
    const int32_t first = kv_policy_first_step(&r->policy);
    for (int32_t at = 0, m; at < r->n; at += m) {
        m = !at && first ? first : q;
        if (m > r->n - at) m = r->n - at;
        add_step(r, (law_step){at, m, at, 0});
    }
}

/* ---- runs ---------------------------------------------------------------------------------------------------------- */

law_run law_open_threads(const char *spec, uint32_t doc, int32_t n, int32_t q, int threads)
{
    const int32_t V = law_model->cfg.vocab_size;
    law_run r = {.spec = spec, .n = n};
    assert_ok(kv_policy_parse(spec, &r.policy));
    r.k = refkit_open_with(law_side, law_model, spec, NULL, threads);
    schedule(&r, q);
    r.tokens = malloc(((size_t)n + 1) * sizeof *r.tokens);
    r.rows = calloc((size_t)n * (size_t)V, sizeof *r.rows);
    r.nll = calloc((size_t)n, sizeof *r.nll);
    r.events_end = calloc((size_t)r.n_steps, sizeof *r.events_end);
    assert_true(r.tokens && r.rows && r.nll && r.events_end);
    for (int32_t i = 0; i <= n; i++)
        r.tokens[i] = (int32_t)kv_philox_below(31, doc, (uint64_t)i, (uint32_t)V);
    return r;
}

law_run law_open(const char *spec, uint32_t doc, int32_t n, int32_t q) { return law_open_threads(spec, doc, n, q, 1); }

void law_close(law_run *r)
{
    refkit_close(&r->k);
    free(r->tokens);
    free(r->steps);
    free(r->rows);
    free(r->nll);
    free(r->events_end);
    free(r->events.v);
}

size_t law_events_begin(const law_run *r, int32_t step) { return step ? r->events_end[step - 1] : 0; }

void law_rewind(law_run *r, int32_t step)
{
    r->events.n = law_events_begin(r, step);
    r->at = step;
}

static void take_step(law_run *r)
{
    const int32_t V = law_model->cfg.vocab_size;
    const law_step *s = &r->steps[r->at];
    float *rows = calloc((size_t)s->n * (size_t)V, sizeof *rows), *nll = calloc((size_t)s->n, sizeof *nll);
    assert_true(rows && nll);
    const kv_step step = {.tokens = r->tokens + s->pos0, .n = s->n, .rows = KV_ROWS_ALL, .flags = s->flags,
                          .pos0 = s->flags & KV_STEP_RECOMPUTE ? s->pos0 : 0, .logits = rows, .nll = nll,
                          .targets = r->tokens + s->pos0 + 1, .events = &r->events};
    const kv_status st = r->k.side->step(r->k.s, &step);
    if (st != KV_OK)
        fail_msg("%s: %s: step of %d tokens at %d: %s: %s", r->k.side->name, r->spec, s->n, s->pos0,
                 kv_status_name(st), r->k.side->last_error(r->k.s));
    const int32_t skip = s->scored - s->pos0;
    memcpy(r->rows + (int64_t)s->scored * V, rows + (int64_t)skip * V, (size_t)(s->n - skip) * (size_t)V * sizeof *rows);
    memcpy(r->nll + s->scored, nll + skip, (size_t)(s->n - skip) * sizeof *nll);
    free(rows);
    free(nll);
    r->events_end[r->at++] = r->events.n;
}

void law_advance(law_run *r, int32_t steps)
{
    for (; steps > 0 && r->at < r->n_steps; steps--)
        take_step(r);
}

void law_finish(law_run *r) { law_advance(r, r->n_steps); }

/* ---- comparing ------------------------------------------------------------------------------------------------------ */

void law_same_rows(const law_run *a, const law_run *b, int32_t from, int32_t to, const char *what)
{
    const int32_t V = law_model->cfg.vocab_size;
    for (int32_t i = from; i < to; i++)
        if (memcmp(a->rows + (int64_t)i * V, b->rows + (int64_t)i * V, (size_t)V * sizeof *a->rows) != 0)
            fail_msg("%s: %s: the logits of token %d of %s and %s have other bits", law_side->name, what, i, a->spec,
                     b->spec);
}

void law_same(const law_run *a, const law_run *b, const char *what)
{
    char where[600];
    snprintf(where, sizeof where, "%s: %s and %s", what, a->spec, b->spec);
    law_same_rows(a, b, 0, a->n, what);
    if (memcmp(a->nll, b->nll, (size_t)a->n * sizeof *a->nll) != 0) fail_msg("%s: the NLLs have other bits", where);
    refkit_same_events(&a->events, &b->events, where);
    refkit_same_state(&a->k, &b->k, where);
}

/* Tokens of an entry: tiles of kvarn and blocks of kivi have a size of their own. */
static int32_t tokens_of(const law_run *r, int32_t bytes)
{
    const int32_t D = law_model->cfg.head_dim;
    if (r->policy.storage == KV_STORE_KVARN && bytes == kv_kvarn_layout_of(&r->policy.kvarn, D).bytes)
        return r->policy.kvarn.tile;
    if (r->policy.storage == KV_STORE_KIVI && bytes == kv_kivi_layout_of(&r->policy.kivi, D).k_bytes)
        return r->policy.kivi.residual;
    return 1;
}

int32_t law_kept(const law_run *r, int32_t layer, int32_t head, int64_t *og)
{
    refkit_blob b = refkit_export(&r->k, layer, KV_STATE_KV);
    const kv_state_view v = refkit_run(&b, head);
    int32_t n = 0;
    for (int32_t i = 0; i < v.run->n; i++) {
        const int32_t tokens = v.bytes ? tokens_of(r, v.bytes[i]) : 1;
        if (r->policy.storage == KV_STORE_KIVI && v.og[i] >= KV_KIVI_V) continue;
        for (int32_t t = 0; t < tokens; t++, n++) {
            assert_true(n < LAW_MAX_KEPT);
            og[n] = v.og[i] + t;
        }
    }
    free(b.p);
    return n;
}
