/* policy_trace.c - `kvdiff policy trace`: what a policy keeps, token by token, as a side says it. */
#include "difftest/cmd_policy.h"

#include "common/mem.h"
#include "common/pool.h"
#include "common/state.h"
#include "corpus/corpus.h"
#include "difftest/digest.h"
#include "difftest/side.h"
#include "difftest/trace.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_FORMAT = 256, OPT_TOKENS, OPT_CORPUS, OPT_SIDE, OPT_LAYER, OPT_HEAD, OPT_SVG, OPT_ORDER, OPT_LAW,
       OPT_DIGEST };
enum { MAX_TOKENS = 1 << 20, MAX_DIGESTS = 64, TABLE_TOKENS = 64, PICTURE_TOKENS = 512 };

/* Scores of tokens when no model gives them. */
typedef struct score_law {
    int kind; /* 0: none given */
    uint64_t mul, add, mod;
} score_law;
enum { LAW_NONE, LAW_ZERO, LAW_MUL, LAW_LIN };

typedef struct request {
    const char *spec, *model, *corpus, *side, *svg;
    int64_t tokens; /* 0: not given */
    int32_t q;      /* 0: not given */
    int32_t layer, head;
    int json, by_slot;
    score_law law;
    int64_t digests[MAX_DIGESTS]; /* ascending */
    int n_digests;
} request;

/* ---- the command line --------------------------------------------------------------------------------- */

static error_t parse_law(const char *text, score_law *law)
{
    unsigned long long a, b, m;
    int used = 0;
    if (strcmp(text, "zero") == 0) {
        law->kind = LAW_ZERO;
        return 0;
    }
    if (sscanf(text, "mul:%llu%n", &a, &used) == 1 && !text[used] && a <= UINT32_MAX) {
        *law = (score_law){LAW_MUL, a, 0, 0};
        return 0;
    }
    if (sscanf(text, "lin:%llu,%llu,%llu%n", &a, &b, &m, &used) == 3 && !text[used] && m >= 1 && m <= 1 << 24 &&
        a <= UINT32_MAX && b <= UINT32_MAX) {
        *law = (score_law){LAW_LIN, a, b, m};
        return 0;
    }
    return dt_usage("--score-law=%s is unknown; use mul:M for ((t M) mod 2^32) / 65536, lin:A,B,M for (A t + B) mod M, "
                    "or zero", text);
}

static error_t parse_digests(request *r, char *text)
{
    char *save = NULL;
    for (char *item = strtok_r(text, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        int64_t v;
        const error_t e = dt_parse_number("digest-at", item, 1, INT32_MAX, &v);
        if (e) return e;
        if (r->n_digests == MAX_DIGESTS) return dt_usage("--digest-at: at most %d numbers of tokens", MAX_DIGESTS);
        if (r->n_digests && v <= r->digests[r->n_digests - 1])
            return dt_usage("--digest-at=%" PRId64 " stands behind %" PRId64 "; write them in ascending order", v,
                            r->digests[r->n_digests - 1]);
        r->digests[r->n_digests++] = v;
    }
    return r->n_digests ? 0 : dt_usage("--digest-at needs numbers of tokens, such as 4,68,260");
}

static error_t parse_order(request *r, const char *text)
{
    r->by_slot = strcmp(text, "slot") == 0;
    if (r->by_slot || strcmp(text, "age") == 0) return 0;
    return dt_usage("--order=%s is unknown; use age or slot", text);
}

static error_t parse_format(request *r, const char *text)
{
    r->json = strcmp(text, "json") == 0;
    if (r->json || strcmp(text, "text") == 0) return 0;
    return dt_usage("--format=%s is unknown; use text or json", text);
}

static error_t parse_small(const char *name, const char *text, int64_t min, int64_t max, int32_t *out)
{
    int64_t v;
    const error_t e = dt_parse_number(name, text, min, max, &v);
    if (!e) *out = (int32_t)v;
    return e;
}

/* What cannot be meant together. */
static error_t finish(request *r)
{
    if (!r->spec) return dt_usage("trace which policy? give one, such as cascade:cap=64,n=4");
    if (r->svg && r->json) return dt_usage("--svg and --format=json: choose one");
    if (r->n_digests && r->law.kind == LAW_NONE)
        return dt_usage("--digest-at compares a rule without a model; give --score-law too");
    if (r->n_digests && (r->svg || r->json || r->by_slot))
        return dt_usage("--digest-at prints digests alone; leave --svg, --format and --order out");
    if (r->law.kind != LAW_NONE && (r->model || r->corpus || r->q || r->layer || r->head))
        return dt_usage("--score-law works without a model, one token at a time; leave --model, --corpus, --q, --layer "
                        "and --head out");
    const int64_t last = r->n_digests ? r->digests[r->n_digests - 1] : 0;
    if (last && r->tokens)
        return dt_usage("--tokens and --digest-at: the last digest says where to end; leave --tokens out");
    if (!r->tokens) r->tokens = last ? last : r->svg ? PICTURE_TOKENS : TABLE_TOKENS;
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case 'm':
        r->model = arg;
        return 0;
    case 'q':
        return parse_small("q", arg, 1, 1 << 20, &r->q);
    case OPT_CORPUS:
        r->corpus = arg;
        return 0;
    case OPT_SIDE:
        r->side = arg;
        return 0;
    case OPT_TOKENS:
        return dt_parse_number("tokens", arg, 1, MAX_TOKENS, &r->tokens);
    case OPT_LAYER:
        return parse_small("layer", arg, 0, INT32_MAX, &r->layer);
    case OPT_HEAD:
        return parse_small("head", arg, 0, INT32_MAX, &r->head);
    case OPT_SVG:
        r->svg = arg;
        return 0;
    case OPT_ORDER:
        return parse_order(r, arg);
    case OPT_FORMAT:
        return parse_format(r, arg);
    case OPT_LAW:
        return parse_law(arg, &r->law);
    case OPT_DIGEST:
        return parse_digests(r, arg);
    case ARGP_KEY_ARG:
        if (r->spec) return dt_usage("'%s': one policy at a time", arg);
        r->spec = arg;
        return 0;
    case ARGP_KEY_END:
        return finish(r);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"side", OPT_SIDE, "SIDE", 0, "whose decisions: ref (default), emu, FILE.so, ...", 0},
    {"model", 'm', "NAME|FILE", 0, "model (default nano)", 0},
    {"corpus", OPT_CORPUS, "SPEC", 0, "its first document is read (default book)", 0},
    {"tokens", OPT_TOKENS, "N", 0, "tokens to feed (default 64; 512 for a picture)", 0},
    {"q", 'q', "N", 0, "tokens per step (default 1)", 0},
    {"layer", OPT_LAYER, "N", 0, "layer to look at (default 0)", 0},
    {"head", OPT_HEAD, "N", 0, "KV head to look at (default 0)", 0},
    {"svg", OPT_SVG, "FILE", 0, "a picture instead of a table: time to the right, the stream upwards", 0},
    {"order", OPT_ORDER, "age|slot", 0, "table by age (default), or sink's and cascade's rings slot by slot", 0},
    {"format", OPT_FORMAT, "FORMAT", 0, "text (default) or json", 0},
    {"score-law", OPT_LAW, "LAW", 0,
     "no model: token t has the score mul:M ((t M) mod 2^32) / 65536 in whole numbers, lin:A,B,M (A t + B) mod M, or "
     "zero; sink and cascade only", 0},
    {"digest-at", OPT_DIGEST, "N,N,...", 0, "with --score-law: only digests of the cache after so many tokens", 0},
    {NULL, 0, NULL, 0, NULL, 0},
};

static const struct argp parser = {options,
                                   parse,
                                   "SPEC",
                                   "Shows what a policy keeps, step by step, in one layer and KV head: which "
                                   "tokens, in which ring, coded or not.",
                                   NULL,
                                   NULL,
                                   NULL};

/* The side's own words for a failed call; session NULL: of open or trace. */
static kv_status side_failed(const dt_side *side, const kv_session *session, kv_status st)
{
    char text[KV_MESSAGE_MAX]; /* the reference's words stand where the message will */
    snprintf(text, sizeof text, "%s", side->backend->last_error(session));
    return kv_fail(st, "side '%s': %s", side->name, text);
}

/* ---- without a model ------------------------------------------------------------------------------------- */

typedef struct lone_run {
    const request *r;
    const kv_policy *policy;
    dt_trace_out *out; /* NULL: digests only */
    dt_frame frame;
    int next; /* digest */
    kv_status status;
} lone_run;

static float score_of(void *arg, int64_t token)
{
    const score_law *l = &((const lone_run *)arg)->r->law;
    const uint64_t t = (uint64_t)token;
    if (l->kind == LAW_MUL) return (float)((t * l->mul & UINT32_MAX) >> 16);
    return l->kind == LAW_LIN ? (float)((t * l->mul + l->add) % l->mod) : 0.0f;
}

static int look(void *arg, const kv_trace_state *s)
{
    lone_run *run = arg;
    if (!run->out) {
        if (s->seen == run->r->digests[run->next]) {
            printf("%" PRId64 " %016" PRIx64 "\n", s->seen, dt_trace_digest(s));
            run->next++;
        }
        return 0;
    }
    run->status = dt_frame_from_trace(&run->frame, run->policy, s);
    if (run->status == KV_OK) run->status = dt_trace_out_frame(run->out, &run->frame);
    return run->status != KV_OK;
}

static kv_status trace_alone(const request *r, const kv_policy *p, const dt_side *side, dt_trace_out *out)
{
    lone_run run = {.r = r, .policy = p, .out = out};
    const kv_trace t = {.policy = p, .n_tokens = r->tokens, .score = score_of, .look = look, .arg = &run};
    if (dt_rings_of(p).n == 0)
        return kv_fail(KV_ERR_USAGE, "--score-law: %s needs a model's attention; only sink and cascade work on scores "
                                     "alone", kv_selection_name(p->selection));
    if (!side->backend->trace)
        return kv_fail(KV_ERR_UNSUPPORTED, "side '%s' cannot run a policy without a model; leave --score-law out, or "
                                           "use --side=ref", side->name);
    const kv_status st = side->backend->trace(&t);
    free(run.frame.v);
    if (run.status != KV_OK) return run.status;
    return st == KV_OK ? KV_OK : side_failed(side, NULL, st);
}

/* ---- with a model ------------------------------------------------------------------------------------------ */

typedef struct model_run {
    const request *r;
    const kv_policy *policy;
    const dt_side *side;
    dt_trace_out *out;
    kv_model *model;
    corpus *source;
    corpus_stream stream;
    kv_session *session;
    kv_events events;
    dt_slots slots;
    kv_buffer blob;
    dt_frame frame;
} model_run;

static kv_status open_text(model_run *m)
{
    kv_tokenizer *tok = NULL;
    const request *r = m->r;
    KV_TRY(kv_model_open(r->model ? r->model : "nano", NULL, &m->model, &tok));
    kv_status st = KV_OK;
    if (!tok)
        st = kv_fail(KV_ERR_UNSUPPORTED, "model '%s' has no tokenizer, so it cannot read a document", m->model->name);
    if (st == KV_OK) st = corpus_open(r->corpus ? r->corpus : "book", &m->source);
    if (st == KV_OK) st = corpus_tokens(m->source, 0, tok, NULL, r->tokens, &m->stream);
    kv_tokenizer_free(tok);
    return st;
}

static kv_status check_sizes(const model_run *m)
{
    const request *r = m->r;
    const kv_config *c = &m->model->cfg;
    const int64_t most = kv_policy_max_position(m->policy, r->tokens, r->q ? r->q : 1);
    if (r->layer >= c->n_layers || r->head >= c->n_kv_heads)
        return kv_fail(KV_ERR_USAGE, "--layer=%d --head=%d: model '%s' has %d layers and %d KV heads, counted from 0",
                       r->layer, r->head, m->model->name, c->n_layers, c->n_kv_heads);
    if (m->stream.tokens.n < r->tokens)
        return kv_fail(KV_ERR_USAGE, "--tokens=%" PRId64 ": the document has only %" PRId64 "; use so many, or another "
                                     "--corpus", r->tokens, (int64_t)m->stream.tokens.n);
    if (r->tokens < kv_policy_first_step(m->policy))
        return kv_fail(KV_ERR_USAGE, "--tokens=%" PRId64 " is less than the policy's prompt=%d", r->tokens,
                       kv_policy_first_step(m->policy));
    if (c->max_pos && most >= c->max_pos)
        return kv_fail(KV_ERR_CONTEXT, "position %" PRId64 " is reached, but model '%s' was trained for %d; use fewer "
                                       "--tokens, or a policy whose positions stay in the cache", most, m->model->name,
                       c->max_pos);
    return kv_policy_fit(m->policy, c);
}

static kv_status open_session(model_run *m)
{
    const request *r = m->r;
    const kv_open_args a = {.model = m->model, .policy = m->policy, .options = m->side->options,
                            .threads = kv_cpu_count(), .max_step = r->q ? r->q : 1};
    m->slots = (dt_slots){malloc((size_t)r->tokens * sizeof *m->slots.of), r->tokens};
    if (!m->slots.of) return kv_fail(KV_ERR_NOMEM, "out of memory");
    memset(m->slots.of, 0xff, (size_t)r->tokens * sizeof *m->slots.of);
    const kv_status st = m->side->backend->open(&a, &m->session);
    if (st == KV_OK) return KV_OK;
    m->session = NULL;
    return side_failed(m->side, NULL, st);
}

static void follow_slots(model_run *m)
{
    for (size_t i = 0; i < m->events.n; i++) {
        const kv_event *e = &m->events.v[i];
        if (e->layer != m->r->layer || (e->head != -1 && e->head != m->r->head)) continue;
        if ((e->kind == KV_EVENT_ADMIT || e->kind == KV_EVENT_MOVE) && e->og >= 0 && e->og < m->slots.n)
            m->slots.of[e->og] = e->slot;
    }
}

/* The layer's state, which must be of the `seen` tokens fed. */
static kv_status export_layer(model_run *m, int64_t seen)
{
    const int tiles = m->policy->storage == KV_STORE_KVARN || m->policy->storage == KV_STORE_KIVI;
    size_t size;
    kv_state_head h;
    KV_TRY(dt_export(m->side->backend, m->session, m->r->layer, tiles ? KV_STATE_KV : 0, &m->blob, &size));
    KV_TRY(kv_state_check(m->blob.p, size));
    memcpy(&h, m->blob.p, sizeof h);
    if (h.seen == seen) return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "the exported state has seen %" PRId64 " tokens of %" PRId64, h.seen, seen);
}

static kv_status one_step(model_run *m, int64_t at, int64_t n, uint32_t flags)
{
    const kv_backend *b = m->side->backend;
    const kv_step step = {.tokens = m->stream.tokens.v + at, .n = (int32_t)n, .rows = KV_ROWS_NONE, .flags = flags,
                          .pos0 = at, .events = &m->events};
    m->events.n = 0;
    kv_status st = b->step(m->session, &step);
    if (st != KV_OK) return side_failed(m->side, m->session, st);
    follow_slots(m);
    st = export_layer(m, at + n);
    if (st == KV_OK) st = dt_frame_from_state(&m->frame, m->policy, m->blob.p, m->r->head, &m->slots);
    if (st == KV_OK) return dt_trace_out_frame(m->out, &m->frame);
    kv_prefix_message("side '%s'", m->side->name);
    return st;
}

/* Windows of xwindow: docs/policy/xwindow.md. */
static kv_status feed_windows(model_run *m)
{
    const int64_t n = m->r->tokens, window = m->policy->xwindow.window;
    for (int64_t at = 0;; at += m->policy->xwindow.stride) {
        const int64_t end = at + window < n ? at + window : n;
        KV_TRY(one_step(m, at, end - at, KV_STEP_RECOMPUTE));
        if (end == n) return KV_OK;
    }
}

static kv_status feed(model_run *m)
{
    const int64_t q = m->r->q ? m->r->q : 1, first = kv_policy_first_step(m->policy);
    if (m->policy->selection == KV_SEL_XWINDOW) return feed_windows(m);
    for (int64_t at = 0, n; at < m->r->tokens; at += n) {
        n = at == 0 && first ? first : q;
        if (n > m->r->tokens - at) n = m->r->tokens - at;
        KV_TRY(one_step(m, at, n, 0));
    }
    return KV_OK;
}

static kv_status trace_model(const request *r, const kv_policy *p, const dt_side *side, dt_trace_out *out)
{
    model_run m = {.r = r, .policy = p, .side = side, .out = out};
    kv_status st = open_text(&m);
    if (st == KV_OK) st = check_sizes(&m);
    if (st == KV_OK) st = open_session(&m);
    if (st == KV_OK) st = feed(&m);
    if (m.session) side->backend->close(m.session);
    corpus_stream_free(&m.stream);
    corpus_close(m.source);
    kv_model_close(m.model);
    kv_buffer_free(&m.blob);
    free(m.events.v);
    free(m.slots.of);
    free(m.frame.v);
    return st;
}

/* ---- both ------------------------------------------------------------------------------------------------- */

static kv_status open_out(const request *r, const kv_policy *p, const dt_side *side, dt_trace_out **out)
{
    const int alone = r->law.kind != LAW_NONE;
    dt_trace_head h = {.policy = *p, .side = side->name, .layer = r->layer, .head = r->head, .q = r->q ? r->q : 1,
                       .tokens = r->tokens, .by_slot = r->by_slot};
    if (r->n_digests) return KV_OK;
    if (!alone) {
        h.model = r->model ? r->model : "nano";
        h.corpus = r->corpus ? r->corpus : "book";
    }
    if (r->by_slot && dt_rings_of(p).n == 0)
        return kv_fail(KV_ERR_USAGE, "--order=slot: %s has no rings; only sink and cascade have",
                       kv_selection_name(p->selection));
    kv_policy_format(p, h.spec);
    return dt_trace_out_open(&h, r->svg ? DT_TRACE_SVG : r->json ? DT_TRACE_JSON : DT_TRACE_TABLE, r->svg, out);
}

static kv_status trace(const request *r)
{
    kv_policy p;
    dt_side side;
    dt_trace_out *out = NULL;
    KV_TRY(kv_policy_parse(r->spec, &p));
    KV_TRY(dt_side_open_here(r->side, &side));
    kv_status st = KV_OK;
    if (strcmp(side.backend->name, "policy") == 0)
        st = kv_fail(KV_ERR_USAGE, "--side=%s is the reference under another policy; trace that one", r->side);
    if (st == KV_OK) st = open_out(r, &p, &side, &out);
    if (st == KV_OK) st = r->law.kind != LAW_NONE ? trace_alone(r, &p, &side, out) : trace_model(r, &p, &side, out);
    const kv_status closed = dt_trace_out_close(out, st == KV_OK);
    if (st == KV_OK) st = closed;
    dt_side_close(&side);
    return st;
}

int dt_policy_trace(int argc, char **argv)
{
    request r = {.side = "ref"};
    int done;
    const int code = dt_argp(&parser, argc, argv, &r, &done);
    if (done) return code;
    const kv_status st = trace(&r);
    return st == KV_OK ? DT_EXIT_PASS : dt_report_failure(st);
}
