/* doorkit.h - sessions of the side through its door, fed with one test document. */
#ifndef KV_TESTS_DOORKIT_H
#define KV_TESTS_DOORKIT_H

#include "tests/emu/emutest.h"

#include "common/state.h"

extern "C" const kv_backend *kv_side_entry(uint32_t abi);

namespace emutest
{
inline const kv_backend *side() { return kv_side_entry(KV_BACKEND_ABI); }

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
        const kv_open_args args = {model, &p, options, threads, 64};
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
    const kv_open_args args = {m, &p, options, 1, 1};
    kv_session *s = nullptr;
    const kv_status st = side()->open(&args, &s);
    assert_true((st == KV_OK) == (s != nullptr));
    side()->close(s);
    return st;
}
} // namespace emutest

#endif
