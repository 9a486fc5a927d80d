/* cascade: whole steps on the tiny model against docs/policy/cascade.md, written down here as plain loops; its laws. */
#include "tests/emu/probekit.h"

using namespace emutest;

namespace
{
struct held {
    int64_t og;
    float score;
};

/* The page's insertion, for one list. */
class rings
{
public:
    rings(const kv_cascade_params &p, int32_t layer, int32_t head) : p_(p), layer_(layer), head_(head), slots_((size_t)p.n)
    {
        for (std::vector<held> &ring : slots_) ring.resize((size_t)p.window);
        count_.assign((size_t)p.n, 0);
        start_.assign((size_t)p.n, 0);
    }

    void insert(int64_t t, float score, std::vector<kv_event> *events)
    {
        const auto note = [&](kv_event_kind kind, int64_t og, int32_t slot, float m) {
            events->push_back({og, t, layer_, head_, kind, slot, m, 0});
        };
        if ((int32_t)sinks_.size() < p_.sinks) {
            note(KV_EVENT_ADMIT, t, (int32_t)sinks_.size(), kv_inf());
            sinks_.push_back({t, 0.0f});
            return;
        }
        const int64_t n = t - p_.sinks;
        held cur = {t, score};
        int32_t was = -1; /* where cur came from */
        for (int32_t i = 0; i < p_.n; i++) {
            std::vector<held> &ring = slots_[(size_t)i];
            int32_t &count = count_[(size_t)i], &start = start_[(size_t)i];
            const int32_t base = p_.sinks + i * p_.window;
            const kv_event_kind enters = i == 0 ? KV_EVENT_ADMIT : KV_EVENT_MOVE;
            const bool accepts = (p_.eager && t <= (int64_t)p_.sinks + p_.cap) || n % period(i) == 0;
            if ((accepts && count < p_.window) || (!accepts && count == 0)) {
                note(enters, cur.og, base + start + count, kv_inf());
                ring[(size_t)(start + count++)] = cur;
                return;
            }
            if (!accepts) {
                const int32_t at = (start + count - 1) % count;
                held &other = ring[(size_t)at];
                bool wins = p_.compat == KV_COMPAT_STRICT ? cur.score > other.score : cur.score >= other.score;
                if (p_.select != KV_SELECT_EMA) wins = p_.select == KV_SELECT_NEWEST;
                float m = wins ? margin(cur.score, other.score) : margin(other.score, cur.score);
                if (p_.select != KV_SELECT_EMA) m = kv_inf();
                if (wins) {
                    note(KV_EVENT_MOVE, cur.og, base + at, kv_inf());
                    note(KV_EVENT_EVICT, other.og, base + at, m);
                    other = cur;
                } else {
                    note(KV_EVENT_EVICT, cur.og, was, m);
                }
                return;
            }
            note(enters, cur.og, base + start, kv_inf());
            std::swap(cur, ring[(size_t)start]);
            was = base + start;
            start = (start + 1) % p_.window;
        }
        note(KV_EVENT_EVICT, cur.og, was, kv_inf());
    }

    /* Sinks, then ring n-1 from its oldest to its newest, ..., ring 0. */
    std::vector<held *> view()
    {
        std::vector<held *> v;
        for (held &h : sinks_) v.push_back(&h);
        for (int32_t i = p_.n - 1; i >= 0; i--)
            for (int32_t k = 0; k < count_[(size_t)i]; k++)
                v.push_back(&slots_[(size_t)i][(size_t)((start_[(size_t)i] + k) % p_.window)]);
        return v;
    }

    /* Occupied slots in canonical order. */
    std::vector<held *> physical()
    {
        std::vector<held *> v;
        for (held &h : sinks_) v.push_back(&h);
        for (int32_t i = 0; i < p_.n; i++)
            for (int32_t k = 0; k < count_[(size_t)i]; k++) v.push_back(&slots_[(size_t)i][(size_t)k]);
        return v;
    }

private:
    int64_t period(int32_t i) const
    {
        int64_t two = 1, three = 1;
        for (int32_t k = 0; k < i; k++) two *= 2, three *= 3;
        switch (p_.accept) {
        case KV_ACCEPT_POW3: return three;
        case KV_ACCEPT_POW4: return two * two;
        case KV_ACCEPT_IPLUS1: return i + 1;
        case KV_ACCEPT_1_THEN_2: return i ? 2 : 1;
        case KV_ACCEPT_POW2_1: return i + 1 == p_.n ? two : 1;
        case KV_ACCEPT_POW2_3_4: return i < p_.n / 4 ? 1 : two;
        case KV_ACCEPT_POW2_2_4: return i < p_.n / 2 ? 1 : two;
        case KV_ACCEPT_POW2_1_4: return i < 3 * p_.n / 4 ? 1 : two;
        default: return two;
        }
    }

    const kv_cascade_params &p_;
    int32_t layer_, head_;
    std::vector<held> sinks_;
    std::vector<std::vector<held>> slots_;
    std::vector<int32_t> count_, start_;
};

/* acc_h(j) of the page. */
float accumulated(const kv_cascade_params &p, const attention_rows &rows, size_t n_stored, size_t j)
{
    const size_t m = rows.size();
    std::vector<double> b = {1.0};
    for (size_t k = 0; k < m; k++) b.push_back(b[k] * p.beta);
    float total = 0.0f;
    for (size_t block = 0; block < m; block += 256) {
        float acc = 0.0f;
        for (size_t r = block; r < m && r < block + 256; r++) {
            if (j >= rows[r].size()) continue;
            const bool backwards = p.compat == KV_COMPAT_REVERSED && j >= n_stored;
            const float w = kv_d2f((1.0 - p.beta) * b[backwards ? r - (j - n_stored) : m - 1 - r]);
            acc = kv_fma(w, rows[r][j], acc);
        }
        total = total + acc;
    }
    return total;
}

float reduced(int32_t how, std::vector<float> v)
{
    float sum = 0.0f;
    for (const float x : v) sum = sum + x;
    if (how == KV_REDUCE_MEAN) return sum / (float)v.size();
    std::sort(v.begin(), v.end());
    return how == KV_REDUCE_MAX ? v.back() : v[(v.size() - 1) / 2];
}

/* The policy as the page has it, for all lists of the tiny model (2 layers, 4 query heads, 2 KV heads). */
class by_hand
{
public:
    explicit by_hand(const kv_cascade_params &p) : p_(p), alike_(p.homog || p.select != KV_SELECT_EMA)
    {
        for (int32_t l = 0; l < 2; l++)
            for (int32_t h = 0; h < (alike_ ? 1 : 2); h++) lists_.emplace_back(p_, l, alike_ ? -1 : h);
    }

    rings &list(size_t run) { return lists_[alike_ ? run / 2 : run]; }

    std::vector<kv_event> step(const probed_step &st, int64_t seen, int32_t m)
    {
        std::vector<kv_event> events;
        for (size_t i = 0; i < lists_.size(); i++) {
            const size_t layer = alike_ ? i : i / 2;
            std::vector<size_t> heads = {0, 1, 2, 3};
            if (!alike_) heads = {i % 2 * 2, i % 2 * 2 + 1};
            std::vector<held *> view = lists_[i].view(), slots = lists_[i].physical();
            std::vector<float> before, fresh;
            for (const held *h : view) before.push_back(p_.select == KV_SELECT_EMA ? decayed(st, layer, heads, view, slots, h, m) : 0.0f);
            for (int32_t x = 0; x < m; x++) {
                const float s = p_.select == KV_SELECT_EMA ? mass(st, layer, heads, view.size(), view.size() + (size_t)x) : 0.0f;
                fresh.push_back(p_.score == KV_SCORE_F16 ? kv_f162f(kv_f2f16(s)) : s);
            }
            for (size_t e = 0; e < view.size(); e++) view[e]->score = before[e];
            for (int32_t x = 0; x < m; x++) lists_[i].insert(seen + x, fresh[(size_t)x], &events);
        }
        return events;
    }

private:
    float mass(const probed_step &st, size_t layer, const std::vector<size_t> &heads, size_t n_stored, size_t j) const
    {
        std::vector<float> v;
        for (const size_t h : heads) v.push_back(accumulated(p_, st.p[layer][h], n_stored, j));
        return reduced(p_.reduce, v);
    }

    float decayed(const probed_step &st, size_t layer, const std::vector<size_t> &heads, const std::vector<held *> &view,
                  const std::vector<held *> &slots, const held *h, int32_t m) const
    {
        if (h->og < p_.sinks) return 0.0f;
        size_t at = (size_t)(std::find(slots.begin(), slots.end(), h) - slots.begin());
        if (p_.compat == KV_COMPAT_SHIFTED && m > 1) at -= (size_t)p_.sinks;
        const size_t j = (size_t)(std::find(view.begin(), view.end(), slots[at]) - view.begin());
        double b = 1.0;
        for (int32_t k = 0; k < m; k++) b = b * p_.beta;
        const float s = kv_fma(kv_d2f(b), h->score, mass(st, layer, heads, view.size(), j));
        return p_.score == KV_SCORE_F16 ? kv_f162f(kv_f2f16(s)) : s;
    }

    const kv_cascade_params &p_;
    bool alike_;
    std::vector<rings> lists_;
};

void check_cascade(const char *policy, int32_t q, int32_t n_tokens)
{
    kv_policy p;
    assert_ok(kv_policy_parse(policy, &p));
    session s("tiny", policy, "seed=8");
    by_hand wanted(p.cascade);
    for (int32_t at = 0; at < n_tokens; at += q) {
        const int64_t seen = s.seen;
        const int32_t m = gpu_min(q, n_tokens - at);
        const probed_step st = probe(&s, m);
        assert_events(st.out.events, wanted.step(st, seen, m), policy);
        for (size_t i = 0; i < st.after.size(); i++) {
            std::vector<int64_t> og;
            std::vector<float> score;
            for (const held *h : wanted.list(i).view()) {
                og.push_back(h->og);
                score.push_back(h->score);
            }
            assert_run(st.after[i], og, score, policy);
            for (size_t e = 0; e < og.size(); e++) assert_int_equal(st.after[i].pos[e], e);
        }
    }
}

void test_steps_follow_the_page(void **)
{
    check_cascade("cascade:n=3,sinks=2,window=4,beta=0.9", 1, 40);
    check_cascade("cascade:n=3,sinks=2,window=4,beta=0.9", 5, 52);
    check_cascade("cascade:n=2,sinks=0,window=3", 7, 40);
    check_cascade("cascade:n=4,sinks=3,window=2,eager=0", 4, 60);
    check_cascade("cascade:n=2,sinks=1,window=130,beta=0.99", 290, 580); /* blocks of queries, chunks of entries */
}

void test_every_reduction_and_selection_follows_the_page(void **)
{
    for (const char *how : {"reduce=mean", "reduce=median", "homog=1", "homog=1,reduce=mean", "homog=1,reduce=median",
                            "select=newest", "select=oldest", "score=f16,beta=0.9999999"})
        check_cascade((std::string("cascade:n=3,sinks=2,window=4,") + how).c_str(), 6, 54);
}

void test_every_period_follows_the_page(void **)
{
    for (const char *accept : {"pow2", "pow3", "pow4", "iplus1", "1-then-2", "pow2-1", "pow2-1-4", "pow2-2-4", "pow2-3-4"})
        for (const char *n : {"1", "4", "5"})
            check_cascade((std::string("cascade:sinks=1,window=2,n=") + n + ",accept=" + accept).c_str(), 9, 63);
}

void test_known_bad_variants_follow_the_page(void **)
{
    for (const char *compat : {"shifted", "reversed", "strict"})
        for (const int32_t q : {1, 6})
            check_cascade((std::string("cascade:n=3,sinks=2,window=4,beta=0.9,compat=") + compat).c_str(), q, 48);
}

/* ---- laws ---- */

void test_with_room_for_everything_it_is_full(void **)
{
    session full("tiny", "full");
    const result wanted = feed(&full, 40, 5);
    for (const char *policy : {"cascade:cap=36,n=4", "cascade:cap=40,n=1,sinks=0", "cascade:cap=45,n=5,select=oldest"}) {
        session s("tiny", policy);
        assert_bits(feed(&s, 40, 5).logits, wanted.logits, policy, 0);
    }
}

/* Steps do not matter as long as each begins before something has left. */
void test_steps_do_not_matter_before_the_first_eviction(void **)
{
    session one("tiny", "cascade:n=2,window=8,sinks=2,reduce=mean"), many("tiny", "cascade:n=2,window=8,sinks=2,reduce=mean");
    const result a = feed(&one, 18, 1), b = feed(&many, 18, 7);
    assert_bits(a.logits, b.logits, "before the first eviction", 0);
    const std::vector<run> x = runs_of(one), y = runs_of(many);
    for (size_t i = 0; i < x.size(); i++) assert_run(x[i], y[i].og, {}, "before the first eviction");
}

void test_one_ring_is_sink(void **)
{
    session ring("tiny", "cascade:n=1,cap=6,sinks=3,select=newest"), sink("tiny", "sink:cap=6,sinks=3");
    assert_same(feed(&ring, 40, 5), feed(&sink, 40, 5), "one ring");
    session scored("tiny", "cascade:n=1,cap=6,sinks=3"), again("tiny", "sink:cap=6,sinks=3");
    assert_bits(feed(&scored, 40, 7).logits, feed(&again, 40, 7).logits, "one ring with scores", 0);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_follow_the_page),
        cmocka_unit_test(test_every_reduction_and_selection_follows_the_page),
        cmocka_unit_test(test_every_period_follows_the_page),
        cmocka_unit_test(test_known_bad_variants_follow_the_page),
        cmocka_unit_test(test_with_room_for_everything_it_is_full),
        cmocka_unit_test(test_steps_do_not_matter_before_the_first_eviction),
        cmocka_unit_test(test_one_ring_is_sink),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
