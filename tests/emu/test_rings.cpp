/* The insertion rule of cascade and sink: through the side's trace, and step by step with scores that the test makes.
 * Expected states come from the tables, and digests from the simulators, that docs/policy/cascade.md was checked with. */
#include "tests/emu/doorkit.h"

#include "gpu/policy/cascade.cuh"

#include <algorithm>
#include <functional>
#include <map>

using namespace emutest;

namespace
{
/* "[22 23 20 21]2 [18 12 14 16]1": rings slot by slot with their starts. */
std::string text_of(const kv_trace_state &s)
{
    std::string text;
    const int32_t window = s.n_slots / s.n_rings;
    for (int32_t i = 0; i < s.n_rings; i++) {
        text += i ? " [" : "[";
        for (int32_t k = 0; k < window; k++) {
            const int64_t og = s.og[i * window + k];
            text += (k ? " " : "") + (og < 0 ? std::string("--") : std::to_string(og));
        }
        text += "]" + std::to_string(s.start[i]);
    }
    return text;
}

/* FNV-1a 64 over little-endian 64-bit integers. */
uint64_t digest_of(const kv_trace_state &s, const std::vector<int64_t> &scores)
{
    std::vector<int64_t> v = {s.seen, s.n_sink};
    for (int32_t i = 0; i < s.n_rings; i++) v.insert(v.end(), {s.count[i], s.start[i]});
    v.insert(v.end(), s.og, s.og + s.n_slots);
    v.insert(v.end(), s.pos, s.pos + s.n_slots);
    v.insert(v.end(), scores.begin(), scores.end());
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (const int64_t x : v)
        for (int b = 0; b < 64; b += 8) h = (h ^ ((uint64_t)x >> b & 255)) * UINT64_C(0x100000001b3);
    return h;
}

/* ---- traces ---- */

struct traced {
    std::function<float(int64_t)> score;
    std::function<void(const kv_trace_state &)> look;
};

std::vector<kv_event> trace(const char *policy, int64_t n, const traced &t)
{
    kv_policy p;
    assert_ok(kv_policy_parse(policy, &p));
    kv_events events = {};
    kv_trace args = {};
    args.policy = &p;
    args.n_tokens = n;
    args.arg = const_cast<traced *>(&t);
    args.score = [](void *arg, int64_t token) { return static_cast<traced *>(arg)->score(token); };
    args.look = [](void *arg, const kv_trace_state *s) {
        static_cast<traced *>(arg)->look(*s);
        return 0;
    };
    args.events = &events;
    assert_side(nullptr, side()->trace(&args));
    const std::vector<kv_event> list(events.v, events.v + events.n);
    free(events.v);
    return list;
}

std::string dropped(const std::vector<kv_event> &events)
{
    std::string s;
    for (const kv_event &e : events)
        if (e.kind == KV_EVENT_EVICT) s += (s.empty() ? "" : " ") + std::to_string(e.og);
    return s;
}

float law(int64_t t) { return (float)((37 * t + 11) % 10); }

/* States after the last tokens of `states`. */
void check_states(const char *policy, std::function<float(int64_t)> score, int64_t n, const std::vector<const char *> &states,
                  const char *gone)
{
    const int64_t first = n - (int64_t)states.size();
    const std::vector<kv_event> events = trace(policy, n, {score, [&](const kv_trace_state &s) {
        if (s.seen > first) assert_string_equal(text_of(s).c_str(), states[(size_t)(s.seen - 1 - first)]);
    }});
    if (gone) assert_string_equal(dropped(events).c_str(), gone);
}

void test_scores_that_never_change(void **)
{
    check_states("cascade:sinks=2,n=3,window=4", law, 24,
                 {"[6 7 8 9]0 [2 3 4 5]0 [-- -- -- --]0", "[10 7 8 9]1 [6 3 4 5]1 [2 -- -- --]0",
                  "[10 11 8 9]2 [6 7 4 5]2 [2 3 -- --]0", "[10 11 12 9]3 [6 7 8 5]3 [2 3 4 --]0",
                  "[10 11 12 13]0 [6 7 8 9]0 [2 3 4 5]0", "[14 11 12 13]1 [10 7 8 9]1 [6 3 4 5]1",
                  "[14 15 12 13]2 [11 7 8 9]1 [6 3 4 5]1", "[14 15 16 13]3 [11 12 8 9]2 [6 3 4 5]1",
                  "[14 15 16 17]0 [11 12 8 9]2 [6 3 4 5]1", "[18 15 16 17]1 [11 12 14 9]3 [6 8 4 5]2",
                  "[18 19 16 17]2 [11 12 14 9]3 [6 8 4 5]2", "[18 19 20 17]3 [11 12 14 16]0 [6 8 4 5]2",
                  "[18 19 20 21]0 [11 12 14 16]0 [6 8 4 5]2", "[22 19 20 21]1 [18 12 14 16]1 [6 8 11 5]3",
                  "[22 23 20 21]2 [18 12 14 16]1 [6 8 11 5]3"},
                 "2 10 7 13 3 15 9 17 4 19");
    check_states("cascade:sinks=2,n=3,window=4", law, 40, {"[38 39 36 37]2 [34 28 31 32]1 [21 24 26 14]3"}, nullptr);
}

void test_rings_that_are_not_filled_first(void **)
{
    check_states("cascade:sinks=2,n=2,window=4,eager=0", law, 24,
                 {"[6 3 4 5]1 [2 -- -- --]0", "[6 7 4 5]2 [2 -- -- --]0", "[6 7 8 5]3 [2 4 -- --]0", "[6 7 8 9]0 [2 4 -- --]0",
                  "[10 7 8 9]1 [2 4 6 --]0", "[10 11 8 9]2 [2 4 6 --]0", "[10 11 12 9]3 [2 4 6 8]0",
                  "[10 11 12 13]0 [2 4 6 8]0", "[14 11 12 13]1 [10 4 6 8]1", "[14 15 12 13]2 [11 4 6 8]1",
                  "[14 15 16 13]3 [11 12 6 8]2", "[14 15 16 17]0 [11 12 6 8]2", "[18 15 16 17]1 [11 12 14 8]3",
                  "[18 19 16 17]2 [11 12 14 8]3", "[18 19 20 17]3 [11 12 14 16]0", "[18 19 20 21]0 [11 12 14 16]0",
                  "[22 19 20 21]1 [18 12 14 16]1", "[22 23 20 21]2 [18 12 14 16]1"},
                 "3 5 7 9 2 10 4 13 6 15 8 17 11 19");
}

void test_ties_are_won_by_the_token_that_comes(void **)
{
    const auto zero = [](int64_t) { return 0.0f; };
    check_states("cascade:sinks=2,n=3,window=4", zero, 24, {"[22 23 20 21]2 [19 13 15 17]1 [7 9 11 5]3"},
                 "2 10 6 12 3 14 8 16 4 18");
    check_states("cascade:sinks=2,n=3,window=4,compat=strict", zero, 24, {"[22 23 20 21]2 [18 12 14 16]1 [6 8 10 5]3"},
                 "2 11 7 13 3 15 9 17 4 19");
    check_states("cascade:sinks=2,n=3,window=4,select=newest", law, 24, {"[22 23 20 21]2 [19 13 15 17]1 [7 9 11 5]3"}, nullptr);
    check_states("cascade:sinks=2,n=3,window=4,select=oldest", law, 24, {"[22 23 20 21]2 [18 12 14 16]1 [6 8 10 5]3"}, nullptr);
}

void test_one_ring_is_a_ring_of_the_newest(void **)
{
    for (const char *policy : {"cascade:sinks=2,n=1,cap=12", "sink:sinks=2,cap=12"}) {
        std::string positions;
        check_states(policy, law, 24, {"[14 15 16 17 18 19 20 21 22 23 12 13]10"}, "2 3 4 5 6 7 8 9 10 11");
        trace(policy, 24, {law, [&](const kv_trace_state &s) {
            positions.clear();
            for (int32_t i = 0; i < s.n_slots; i++) positions += std::to_string(s.pos[i]) + " ";
        }});
        assert_string_equal(positions.c_str(), "4 5 6 7 8 9 10 11 12 13 2 3 ");
    }
}

void test_no_tokens_leave_no_events(void **)
{
    for (const char *policy : {"cascade:sinks=2,n=3,window=4", "sink:sinks=2,cap=12"})
        assert_true(trace(policy, 0, {law, [](const kv_trace_state &) { fail_msg("a state of no token"); }}).empty());
}

/* A token without a number never wins and never loses its place. */
void test_what_is_no_number_stays_where_it_is(void **)
{
    const auto score = [](int64_t t) { return t == 10 || t == 13 ? kv_nan() : (float)t; };
    const std::vector<kv_event> events = trace("cascade:sinks=2,n=3,window=4", 18, {score, [](const kv_trace_state &) {}});
    std::string duels;
    for (const kv_event &e : events)
        if (e.kind == KV_EVENT_EVICT && e.margin != kv_inf()) {
            char s[40];
            snprintf(s, sizeof s, "%lld/%08x ", (long long)e.og, (unsigned)kv_f2bits(e.margin));
            duels += s;
        }
    /* 11 meets 10, 7 beats 6 by one, 13 meets 12 */
    assert_string_equal(duels.c_str(), "11/7fc00000 6/3f800000 13/7fc00000 ");
}

void test_digests_of_long_runs(void **)
{
    const struct {
        const char *policy;
        std::map<int64_t, uint64_t> digests;
    } cases[] = {
        {"cascade:sinks=4,n=4,window=64",
         {{4, 0xe2202c911fb1a0e5}, {68, 0xe8dc271ab8631965}, {260, 0xe024fee0a4cf7b1a}, {261, 0xca22fab0df21cc6c},
          {262, 0xb88c6152b9d52832}, {2048, 0x3d0e81e07857e3d7}, {4096, 0xfe632cd5d13336f6}}},
        {"cascade:sinks=4,n=4,window=64,eager=0",
         {{260, 0x0fa129d3b52b954f}, {261, 0xf3c22aaa2a577944}, {262, 0x502ca008d66fa1e6}, {2048, 0xc0f8fe3a2c2198df},
          {4096, 0x3f6cd4cd6912738a}}},
        {"cascade:sinks=64,n=4,window=256",
         {{64, 0x01a9a12e6f73e1e5}, {320, 0x01782096bfdcbea5}, {1088, 0xce57292b2d18a579}, {1089, 0x75a104b93c39558c},
          {1090, 0x978c7cfe17436820}, {4096, 0xad450954a5f7fb32}, {8192, 0x78fe94f48cd3b98d}}},
        {"cascade:sinks=4,n=8,window=32",
         {{260, 0xf72bf82a803e139a}, {262, 0x35e02543728ae193}, {10000, 0x091f5dd9dadffbef}}},
        {"cascade:sinks=3,n=3,window=5",
         {{3, 0xe2dddf152f30f215}, {8, 0xbe6e42fc5e37e9cb}, {18, 0x3b1ce39f9f062791}, {19, 0x598e8ef8c815ad00},
          {20, 0x41855415297f10d3}, {250, 0xc843f1e7ca0e9e94}, {500, 0xf12bb0e05799a453}}},
        {"cascade:sinks=3,n=3,window=5,eager=0",
         {{18, 0x7faeb22c623b0655}, {19, 0x284b64b65adf82aa}, {20, 0x1b569729d748a7d3}, {250, 0xc843f1e7ca0e9e94},
          {500, 0xf12bb0e05799a453}}},
    };
    for (const auto &c : cases) {
        size_t n = 0;
        trace(c.policy, c.digests.rbegin()->first,
              {[](int64_t t) { return (float)((t * INT64_C(2654435761) & UINT32_MAX) >> 16); }, [&](const kv_trace_state &s) {
                   if (!c.digests.count(s.seen)) return;
                   n++;
                   if (digest_of(s, {}) != c.digests.at(s.seen))
                       fail_msg("%s after %lld tokens: digest %016llx", c.policy, (long long)s.seen,
                                (unsigned long long)digest_of(s, {}));
               }});
        assert_int_equal(n, c.digests.size());
    }
}

/* ---- steps, with scores from the test ---- */

/* One list of a cascade, with scores of type T that only their order matters of: the policy gets their ranks. */
template <class T> class driven
{
public:
    typedef std::function<void(driven *, int64_t first, int32_t m)> rule; /* updates score[] by original index */
    std::map<int64_t, T> score;

    driven(int32_t sinks, int32_t n, int32_t window) : sinks_(sinks), window_(window), n_(n)
    {
        char spec[80];
        kv_policy p;
        snprintf(spec, sizeof spec, "cascade:sinks=%d,n=%d,window=%d", sinks, n, window);
        assert_ok(kv_policy_parse(spec, &p));
        policy_ = std::make_unique<gpu_cascade>(p.cascade, gpu_site{1, 1, 1, on_.s});
        og_.assign((size_t)(n * window), -1);
    }

    std::vector<int64_t> held() const /* original indices: sinks, then slots that are occupied */
    {
        std::vector<int64_t> v;
        for (int64_t i = 0; i < std::min<int64_t>(seen_, sinks_); i++) v.push_back(i);
        for (const int64_t og : og_)
            if (og >= 0) v.push_back(og);
        return v;
    }

    void step(int32_t m, const rule &update)
    {
        gpu_view view;
        kv_events events = {};
        assert_ok(policy_->begin(seen_, m, &view, nullptr));
        std::vector<int64_t> elements = held();
        for (int32_t x = 0; x < m; x++) elements.push_back(seen_ + x);
        for (const int64_t og : elements) score.insert({og, T()});
        update(this, seen_, m);
        std::vector<T> sorted;
        for (const int64_t og : elements) sorted.push_back(score[og]);
        std::sort(sorted.begin(), sorted.end());
        std::vector<float> ranks;
        for (const int64_t og : elements)
            ranks.push_back((float)(std::lower_bound(sorted.begin(), sorted.end(), score[og]) - sorted.begin()));
        assert_ok(policy_->impose(0, 0, ranks));
        assert_ok(policy_->finish(seen_, m, &events));
        for (size_t i = 0; i < events.n; i++) {
            const kv_event &e = events.v[i];
            if (e.kind == KV_EVENT_EVICT) score.erase(e.og);
            else if (e.slot >= sinks_) og_[(size_t)(e.slot - sinks_)] = e.og;
        }
        free(events.v);
        seen_ += m;
    }

    template <class F> void look(F f)
    {
        std::vector<gpu_entry> entries;
        assert_ok(policy_->list(0, 0, &entries));
        std::vector<int32_t> count((size_t)n_), start((size_t)n_), pos(og_.size(), -1);
        for (size_t i = 0; i < og_.size(); i++)
            for (const gpu_entry &e : entries)
                if (e.og == og_[i]) pos[i] = e.pos;
        for (size_t i = 0; i < og_.size(); i++) {
            const size_t ring = i / (size_t)window_, first = ring * (size_t)window_;
            count[ring] += og_[i] >= 0;
            if (pos[i] >= 0 && pos[i] < pos[first + (size_t)start[ring]]) start[ring] = (int32_t)(i - first);
        }
        f(kv_trace_state{seen_, (int32_t)std::min<int64_t>(seen_, sinks_), n_, (int32_t)og_.size(), count.data(),
                         start.data(), og_.data(), pos.data()});
    }

    std::string text()
    {
        std::string s;
        look([&](const kv_trace_state &state) { s = text_of(state); });
        return s;
    }

    std::vector<int64_t> slot_scores() const
    {
        std::vector<int64_t> v;
        for (const int64_t og : og_) v.push_back(og < 0 ? -1 : (int64_t)score.at(og));
        return v;
    }

private:
    stream on_;
    int32_t sinks_, window_, n_;
    std::unique_ptr<gpu_cascade> policy_;
    std::vector<int64_t> og_;
    int64_t seen_ = 0;
};

int64_t f1(int64_t t, int64_t j) { return (7 * t + 13 * j) % 31 + 1; }

int64_t f2(int64_t t, int64_t j)
{
    uint32_t x = (uint32_t)((uint64_t)t * 2654435761u ^ ((uint64_t)j * 40503 + 1) * 2246822519u);
    x ^= x >> 15;
    x = x * 2654435761u;
    x ^= x >> 13;
    return (int64_t)(x & 1023) + 1;
}

/* s <- s - (s >> 7) + floor(f 2^24 / total), query by query. */
void integer_ema(driven<int64_t> *d, int64_t first, int32_t m, int64_t (*f)(int64_t, int64_t))
{
    std::vector<int64_t> visible = d->held();
    for (int64_t t = first; t < first + m; t++) {
        visible.push_back(t);
        int64_t total = 0;
        for (const int64_t j : visible) total += f(t, j);
        for (const int64_t j : visible) d->score[j] += -(d->score[j] >> 7) + (f(t, j) << 24) / total;
    }
}

void test_selection_by_integer_averages(void **)
{
    const struct {
        int64_t (*f)(int64_t, int64_t);
        int32_t sinks, n, window, m;
        std::map<int64_t, uint64_t> digests;
    } cases[] = {
        {f1, 2, 3, 4, 1, {{12, 0xefa6d82eed6d556c}, {24, 0x3298a994997624f9}}},
        {f1, 2, 3, 4, 4, {{12, 0xefa6d82eed6d556c}, {24, 0x9666e2554446a74c}}},
        {f1, 4, 4, 16, 1,
         {{24, 0x809d0a2addabe33d}, {256, 0x2ac8e26ef9ac09ca}, {512, 0xed6b9021dc28b57f}, {1024, 0xa5f1761760e10f83}}},
        {f1, 4, 4, 16, 16, {{256, 0xb2efa6be1e8bb006}, {512, 0x9bdcc5aa9b5a3d58}, {1024, 0x34f607aa7226483f}}},
        {f1, 4, 4, 16, 48, {{1000, 0x36bd1405a6d0b3eb}}},
        {f1, 64, 4, 64, 128,
         {{256, 0x1cee87fb5c71f7d8}, {512, 0x3cbeaab603b5e76e}, {768, 0x361a93af556bfee0}, {1536, 0xfd050fc0093ac682}}},
        {f2, 2, 3, 4, 1, {{12, 0xe62bbb3dd6c12b32}, {24, 0x89d672fc0987a954}}},
        {f2, 2, 3, 4, 4, {{12, 0xe62bbb3dd6c12b32}, {24, 0x4b7b73471b105721}}},
        {f2, 4, 4, 16, 1, {{256, 0x754e0c32493f56bb}, {512, 0x62e8d9d80fbff16c}, {1024, 0x810e8ed599ec54d8}}},
        {f2, 4, 4, 16, 16, {{256, 0x72089b5fad47765c}, {512, 0x9b7656a3095a0f61}, {1024, 0x50ca148a6b53c2f1}}},
        {f2, 4, 4, 16, 48, {{1000, 0xf22acb14c8ee6559}}},
        {f2, 64, 4, 64, 128,
         {{256, 0x395c231eb67833c7}, {512, 0x16c6a2f76a134d39}, {768, 0x96bce8ffa02446d1}, {1536, 0x5e1c3e6ce1cf8f05}}},
    };
    for (const auto &c : cases) {
        driven<int64_t> d(c.sinks, c.n, c.window);
        const int64_t end = c.digests.rbegin()->first;
        for (int64_t seen = 0; seen < end;) {
            const int32_t m = (int32_t)std::min<int64_t>(c.m, end - seen);
            d.step(m, [&](driven<int64_t> *p, int64_t first, int32_t n) { integer_ema(p, first, n, c.f); });
            seen += m;
            if (!c.digests.count(seen)) continue;
            d.look([&](const kv_trace_state &s) {
                if (digest_of(s, d.slot_scores()) != c.digests.at(seen))
                    fail_msg("sinks %d, steps of %d, after %lld tokens: %s", c.sinks, c.m, (long long)seen, text_of(s).c_str());
            });
        }
    }
}

/* s <- beta s + (1 - beta) p in double, over the whole step at once. */
void double_ema(driven<double> *d, int64_t first, int32_t m)
{
    const double beta = 0.9, ob = 1.0 - beta;
    std::vector<int64_t> visible = d->held();
    for (int64_t t = first; t < first + m; t++) {
        visible.push_back(t);
        int64_t total = 0;
        for (const int64_t j : visible) total += f1(t, j);
        for (const int64_t j : visible) d->score[j] = beta * d->score[j] + ob * ((double)f1(t, j) / (double)total);
    }
}

void check_doubles(int32_t m, const std::vector<const char *> &states, double margin_of_error, const std::vector<double> &last)
{
    driven<double> d(2, 3, 4);
    size_t at = 0;
    for (int64_t seen = m; seen <= 40; seen += m) {
        d.step(m, double_ema);
        const bool shown = seen >= 12 && (seen <= 24 || seen == 40);
        if (shown) assert_string_equal(d.text().c_str(), states[at++]);
    }
    std::vector<int64_t> held = d.held();
    std::sort(held.begin(), held.end());
    for (size_t i = 0; i < last.size(); i++) {
        const double x = d.score.at(held[i + 2]) - last[i];
        assert_true(x < margin_of_error && -x < margin_of_error);
    }
}

void test_selection_by_exponential_averages(void **)
{
    check_doubles(1,
                  {"[10 11 8 9]2 [6 7 4 5]2 [2 3 -- --]0", "[10 11 12 9]3 [6 7 8 5]3 [2 3 4 --]0",
                   "[10 11 12 13]0 [6 7 8 9]0 [2 3 4 5]0", "[14 11 12 13]1 [10 7 8 9]1 [6 3 4 5]1",
                   "[14 15 12 13]2 [10 7 8 9]1 [6 3 4 5]1", "[14 15 16 13]3 [10 12 8 9]2 [7 3 4 5]1",
                   "[14 15 16 17]0 [10 12 8 9]2 [7 3 4 5]1", "[18 15 16 17]1 [10 12 14 9]3 [7 8 4 5]2",
                   "[18 19 16 17]2 [10 12 14 9]3 [7 8 4 5]2", "[18 19 20 17]3 [10 12 14 16]0 [7 8 4 5]2",
                   "[18 19 20 21]0 [10 12 14 17]0 [7 8 4 5]2", "[22 19 20 21]1 [18 12 14 17]1 [7 8 10 5]3",
                   "[22 23 20 21]2 [18 12 14 17]1 [7 8 10 5]3", "[38 39 36 37]2 [34 28 31 32]1 [18 23 26 14]3"},
                  1e-9, {0.061610727, 0.059607295, 0.051857963, 0.050350806, 0.048245346, 0.042966520, 0.033452036, 0.034285151,
                         0.029992711, 0.016811324, 0.017405041, 0.002429150});
    check_doubles(4,
                  {"[10 11 8 9]2 [6 7 4 5]2 [2 3 -- --]0", "[14 15 12 13]2 [10 7 8 9]1 [6 3 4 5]1",
                   "[18 19 16 17]2 [10 12 14 9]3 [6 8 4 5]2", "[22 23 20 21]2 [18 12 14 16]1 [6 9 10 5]3",
                   "[38 39 36 37]2 [34 28 30 33]1 [18 24 26 14]3"},
                  1e-9, {0.053402829, 0.053792319, 0.057612955, 0.043884160, 0.044936131, 0.039885486, 0.035757426, 0.028618888,
                         0.026162531, 0.014123807, 0.015257762, 0.002214022});
}

void test_other_policies_have_no_trace(void **)
{
    kv_policy p;
    assert_ok(kv_policy_parse("h2o:cap=8", &p));
    kv_trace t = {};
    t.policy = &p;
    t.n_tokens = 1;
    t.score = [](void *, int64_t) { return 0.0f; };
    assert_refusal(side()->trace(&t), KV_ERR_UNSUPPORTED, nullptr, "sink and cascade");
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores_that_never_change),
        cmocka_unit_test(test_rings_that_are_not_filled_first),
        cmocka_unit_test(test_ties_are_won_by_the_token_that_comes),
        cmocka_unit_test(test_no_tokens_leave_no_events),
        cmocka_unit_test(test_one_ring_is_a_ring_of_the_newest),
        cmocka_unit_test(test_what_is_no_number_stays_where_it_is),
        cmocka_unit_test(test_digests_of_long_runs),
        cmocka_unit_test(test_selection_by_integer_averages),
        cmocka_unit_test(test_selection_by_exponential_averages),
        cmocka_unit_test(test_other_policies_have_no_trace),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
