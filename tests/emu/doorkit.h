/* doorkit.h - sessions of the side through its door, fed with one test document. */
#ifndef KV_TESTS_DOORKIT_H
#define KV_TESTS_DOORKIT_H

#include "tests/emu/emutest.h"

#include "common/state.h"

extern "C" const kv_backend *kv_side_entry(uint32_t abi);

namespace emutest
{
inline const kv_backend *side() { return kv_side_entry(KV_BACKEND_ABI); }

/* On a GPU nobody can choose the order of threads. */
#ifdef GPU_SIMT
inline const char *options_here(const char *options) { return options; }
#else
inline const char *options_here(const char *) { return "exact"; }
#endif

#define assert_side(s, expr)                                                                       \
    do {                                                                                           \
        const kv_status side_st = (expr);                                                          \
        if (side_st != KV_OK)                                                                      \
            fail_msg("%s: %s: %s", #expr, kv_status_name(side_st), side()->last_error(s));         \
    } while (0)

/* An open model and a session on it. */
struct session {
    kv_model *model = nullptr;
    kv_session *s = nullptr;
    int64_t seen = 0;

    session(const char *name, const char *policy, const char *options = nullptr, int32_t threads = 2)
    {
        assert_ok(kv_model_open(name, nullptr, &model, nullptr));
        open(policy, options, threads);
    }
    session(const session &) = delete;
    session &operator=(const session &) = delete;
    ~session()
    {
        side()->close(s);
        kv_model_close(model);
    }

    void open(const char *policy, const char *options, int32_t threads)
    {
        kv_policy p;
        assert_ok(kv_policy_parse(policy, &p));
        const kv_open_args args = {model, &p, options_here(options), threads, 64};
        assert_side(nullptr, side()->open(&args, &s));
    }
    size_t vocab() const { return (size_t)model->cfg.vocab_size; }
};

/* Token i of the test document. */
inline int32_t token(const session &s, int64_t i) { return (int32_t)kv_philox_below(7, 7, (uint64_t)i, (uint32_t)s.vocab()); }

/* What a step gave. */
struct result {
    std::vector<float> logits, nll;
    std::vector<kv_event> events;
};

/* Feeds the next n tokens of the document; appends what comes out. */
inline void step(session *s, int32_t n, result *out, int32_t rows = KV_ROWS_ALL, const std::vector<kv_tap> &taps = {})
{
    std::vector<int32_t> tokens, targets;
    for (int32_t i = 0; i < n; i++) {
        tokens.push_back(token(*s, s->seen + i));
        targets.push_back(token(*s, s->seen + i + 1));
    }
    if (rows == KV_ROWS_LAST) targets = {token(*s, s->seen + n)};
    const size_t n_rows = rows == KV_ROWS_ALL ? (size_t)n : rows == KV_ROWS_LAST ? 1 : 0;
    std::vector<float> logits(n_rows * s->vocab() + 1, 77.0f), nll(n_rows + 1, 77.0f);
    kv_events events = {};
    kv_step k = {};
    k.tokens = tokens.data();
    k.n = n;
    k.rows = rows;
    k.logits = logits.data();
    k.targets = targets.data();
    k.nll = nll.data();
    k.events = &events;
    k.taps = taps.data();
    k.n_taps = (int32_t)taps.size();
    assert_side(s->s, side()->step(s->s, &k));
    assert_true(logits.back() == 77.0f && nll.back() == 77.0f);
    out->logits.insert(out->logits.end(), logits.begin(), logits.end() - 1);
    out->nll.insert(out->nll.end(), nll.begin(), nll.end() - 1);
    out->events.insert(out->events.end(), events.v, events.v + events.n);
    free(events.v);
    s->seen += n;
}

inline result feed(session *s, int32_t n, int32_t per_step)
{
    result r;
    for (int32_t i = 0; i < n; i += per_step) step(s, gpu_min(per_step, n - i), &r);
    return r;
}

inline std::vector<uint64_t> state_of(const session &s, int32_t layer = -1)
{
    size_t need = 0;
    assert_side(s.s, side()->export_state(s.s, layer, KV_STATE_KV | KV_STATE_SCORE, nullptr, 0, &need));
    std::vector<uint64_t> blob(need / 8);
    assert_int_equal(need % 8, 0);
    assert_side(s.s, side()->export_state(s.s, layer, KV_STATE_KV | KV_STATE_SCORE, blob.data(), need, &need));
    assert_ok(kv_state_check(blob.data(), need));
    return blob;
}

inline bool same_events(const std::vector<kv_event> &a, const std::vector<kv_event> &b)
{
    return a.size() == b.size() && (a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0);
}

inline void assert_same(const result &a, const result &b, const char *what)
{
    assert_bits(a.logits, b.logits, what, 0);
    assert_bits(a.nll, b.nll, what, 0);
    if (!same_events(a.events, b.events)) fail_msg("%s: other events", what);
}

inline void assert_text(kv_status got, kv_status wanted, const char *text, const char *words)
{
    if (got != wanted || !strstr(text, words) || strchr(text, '\n'))
        fail_msg("%s with \"%s\"; wanted %s with \"%s\"", kv_status_name(got), text, kv_status_name(wanted), words);
}

/* s: whose error text it is; NULL for a failed open. */
inline void assert_refusal(kv_status got, kv_status wanted, const kv_session *s, const char *words)
{
    assert_text(got, wanted, side()->last_error(s), words);
}

inline kv_status try_open(const kv_model *m, const char *policy, const char *options)
{
    kv_policy p;
    assert_ok(kv_policy_parse(policy, &p));
    const kv_open_args args = {m, &p, options_here(options), 1, 1};
    kv_session *s = nullptr;
    const kv_status st = side()->open(&args, &s);
    assert_true((st == KV_OK) == (s != nullptr));
    side()->close(s);
    return st;
}
/* Run number i (layers, then heads) of a state. */
inline kv_state_view run_of(std::vector<uint64_t> *blob, int32_t i)
{
    kv_state_head h;
    memcpy(&h, blob->data(), sizeof h);
    size_t offset = sizeof h;
    kv_state_view v = {};
    for (int32_t at = 0; at <= i; at++) v = kv_state_place(&h, blob->data(), &offset, -1, 0);
    return v;
}

/* After n tokens: another session goes on from the state, the same one from a snapshot, and after a reset like a new
 * one. */
inline void check_continuation(const char *policy, int32_t n)
{
    session a("nano", policy), b("nano", policy, "seed=5");
    feed(&a, n, 30);
    feed(&b, 40, 17); /* something else was there before */
    const std::vector<uint64_t> blob = state_of(a);
    assert_side(b.s, side()->import_state(b.s, blob.data(), blob.size() * 8));
    b.seen = n;
    assert_true(state_of(b) == blob);
    void *snap = nullptr;
    assert_side(a.s, side()->snapshot(a.s, &snap));
    const result wanted = feed(&a, 40, 20);
    assert_same(feed(&b, 40, 20), wanted, policy);
    assert_true(state_of(b) == state_of(a));
    assert_side(a.s, side()->restore(a.s, snap));
    a.seen = n;
    assert_true(state_of(a) == blob);
    assert_same(feed(&a, 40, 20), wanted, policy);
    side()->snapshot_free(a.s, snap);
    assert_side(a.s, side()->reset(a.s));
    a.seen = 0;
    session fresh("nano", policy);
    assert_same(feed(&a, 40, 30), feed(&fresh, 40, 30), policy);
}

/* Another order of threads and another number of them: the same bits. */
inline void check_seeds_and_threads(const char *policy, int32_t per_step)
{
    session first("nano", policy, "seed=0", 1), second("nano", policy, "seed=7", 2);
    assert_same(feed(&first, 130, per_step), feed(&second, 130, per_step), policy);
    assert_true(state_of(first) == state_of(second));
}

/* 70 steps of one token have the logits of a model that feeds itself token by token. */
template <class model> void check_by_hand(session *s, model *by_hand, const char *policy)
{
    std::vector<float> wanted;
    for (int32_t i = 0; i < 70; i++) {
        const std::vector<float> row = by_hand->feed(token(*s, i));
        wanted.insert(wanted.end(), row.begin(), row.end());
    }
    assert_bits(feed(s, 70, 1).logits, wanted, policy, 0);
}

/* After a reset: as at first. */
inline void check_reset(const char *policy, int32_t n, int32_t per_step)
{
    session s("tiny", policy);
    const result first = feed(&s, n, per_step);
    assert_side(s.s, side()->reset(s.s));
    s.seen = 0;
    assert_same(feed(&s, n, per_step), first, policy);
}

/* A snapshot after n tokens comes back twice. */
inline void check_snapshots(const char *policy, int32_t n, int32_t per_step)
{
    session s("tiny", policy);
    feed(&s, n, per_step);
    void *snap = nullptr;
    assert_side(s.s, side()->snapshot(s.s, &snap));
    const std::vector<uint64_t> before = state_of(s);
    const result wanted = feed(&s, 15, 3);
    for (int i = 0; i < 2; i++) {
        assert_side(s.s, side()->restore(s.s, snap));
        s.seen = n;
        assert_true(state_of(s) == before);
        assert_same(feed(&s, 15, 3), wanted, policy);
    }
    side()->snapshot_free(s.s, snap);
    side()->snapshot_free(s.s, nullptr);
}

/* A session with another past takes over the state after n tokens and goes on for `more`, per_step at a time. */
inline void check_import(const char *policy, int32_t n, int32_t more, int32_t per_step)
{
    session a("tiny", policy), b("tiny", policy);
    feed(&b, 12, 12);
    feed(&a, n, per_step);
    const std::vector<uint64_t> blob = state_of(a);
    assert_side(b.s, side()->import_state(b.s, blob.data(), blob.size() * 8));
    b.seen = n;
    assert_true(state_of(b) == blob);
    assert_same(feed(&b, more, per_step), feed(&a, more, per_step), policy);
    assert_true(state_of(b) == state_of(a));
}

} // namespace emutest

#endif
