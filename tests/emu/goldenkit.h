/* goldenkit.h - golden values of the golf family ($KVDIFF_SHARED/golden/golf, README there) and sessions that are fed its
 * token stream. Tests that need the values skip without them. */
#ifndef KV_TESTS_GOLDENKIT_H
#define KV_TESTS_GOLDENKIT_H

#include "tests/emu/doorkit.h"

#include <algorithm>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

namespace emutest
{
enum { GOLDEN_TOKENS = 95 }; /* inputs; one more is a target */

/* Models of the golden files: "A", "B", "U". */
struct golden_model {
    const char *key, *name;
};
const golden_model GOLDEN_MODELS[] = {{"A", "nano-a"}, {"B", "nano-b"}, {"U", "nano-u"}};

/* One of the files; not() skips the test that needs it. */
class golden
{
public:
    explicit golden(const char *file)
    {
        const char *const shared = getenv("KVDIFF_SHARED");
        const std::string path = std::string(shared ? shared : "") + "/golden/golf/" + file;
        if (shared) root_ = json_load_file(path.c_str(), 0, nullptr);
    }
    golden(const golden &) = delete;
    golden &operator=(const golden &) = delete;
    ~golden() { json_decref(root_); }

    bool absent() const
    {
        if (!root_) printf("# skip: golden values of the golf family are not here; KVDIFF_SHARED names their folder\n");
        fflush(stdout);
        return !root_;
    }

    /* The value at a path of keys. */
    template <class... Keys> const json_t *at(const char *first, Keys... rest) const { return inside(root_, first, rest...); }

    static const json_t *inside(const json_t *v) { return v; }
    template <class... Keys> static const json_t *inside(const json_t *v, const char *key, Keys... rest)
    {
        const json_t *const next = json_object_get(v, key);
        if (!next) fail_msg("golden values: no '%s'", key);
        return inside(next, rest...);
    }
    template <class... Keys> static double number(const json_t *v, Keys... keys)
    {
        return json_number_value(inside(v, keys...));
    }
    template <class... Keys> static std::vector<double> numbers(const json_t *v, Keys... keys)
    {
        const json_t *const list = inside(v, keys...);
        std::vector<double> out;
        for (size_t i = 0; i < json_array_size(list); i++) out.push_back(json_number_value(json_array_get(list, i)));
        return out;
    }

private:
    json_t *root_ = nullptr;
};

/* Token i of the golden stream. */
inline int32_t golden_token(int64_t i)
{
    if (i >= 60 && i < 72) i -= 40;
    return i % 40 == 0 ? 1 : (int32_t)(4 + (5 * i * i + 3 * i + i / 7) % 251);
}

/* Asks for tokens first .. first + n - 1 of the golden stream; flags and taps may be set before it is taken. */
struct golden_step {
    std::vector<int32_t> tokens, targets;
    std::vector<float> logits, nll;
    kv_step k = {};

    golden_step(int64_t first, int32_t n, size_t vocab) : logits((size_t)n * vocab), nll((size_t)n)
    {
        for (int64_t i = first; i < first + n; i++) {
            tokens.push_back(golden_token(i));
            targets.push_back(golden_token(i + 1));
        }
        k.tokens = tokens.data();
        k.n = n;
        k.rows = KV_ROWS_ALL;
        k.targets = targets.data();
        k.logits = logits.data();
        k.nll = nll.data();
    }
    golden_step(const golden_step &) = delete;
    golden_step &operator=(const golden_step &) = delete;
};

/* The next n tokens of the stream. */
inline result golden_feed(session *s, int32_t n, const std::vector<kv_tap> &taps = {})
{
    golden_step step(s->seen, n, s->vocab());
    step.k.taps = taps.data();
    step.k.n_taps = (int32_t)taps.size();
    assert_side(s->s, side()->step(s->s, &step.k));
    s->seen += n;
    return {step.logits, step.nll, {}};
}

/* Tokens s->seen .. end - 1, the steps being `sizes`, over and over. */
inline result golden_feed_in(session *s, int32_t end, const std::vector<int32_t> &sizes)
{
    result all;
    for (size_t i = 0; s->seen < end; i++) {
        const result r = golden_feed(s, gpu_min(end - (int32_t)s->seen, sizes[i % sizes.size()]));
        all.logits.insert(all.logits.end(), r.logits.begin(), r.logits.end());
        all.nll.insert(all.nll.end(), r.nll.begin(), r.nll.end());
    }
    return all;
}

inline double largest_difference(const std::vector<float> &got, const std::vector<double> &wanted)
{
    assert_int_equal(got.size(), wanted.size());
    double most = 0;
    for (size_t i = 0; i < got.size(); i++) {
        const double d = fabs((double)got[i] - wanted[i]);
        most = d <= most ? most : d; /* NaN too */
    }
    return most;
}

#define assert_near(difference, limit, what, ...)                                                                        \
    do {                                                                                                                 \
        const double near_d = (difference), near_limit = (limit);                                                        \
        if (!(near_d <= near_limit)) fail_msg(what ": off by %g, at most %g", __VA_ARGS__, near_d, near_limit);          \
    } while (0)
} // namespace emutest

#endif
