/* trainkit.h - what the tests of training share: golden files of the golf family, numbers in them, relative differences.
 * REF_BITS as in refnaive.h. */
#ifndef KV_TESTS_TRAINKIT_H
#define KV_TESTS_TRAINKIT_H

#include "tests/unit/refnaive.h"

#include "ref/train/optim.h"

#include <jansson.h>

/* A golden file; the test is skipped without the folder of golden values. The caller decrefs. */
KV_UNUSED_TEST_HELPER json_t *trainkit_golden(const char *name)
{
    char path[1024];
    const char *dir = getenv("KVDIFF_SHARED");
    if (!dir || !*dir) kvtest_skip("KVDIFF_SHARED does not name the folder of golden values");
    snprintf(path, sizeof path, "%s/golden/golf/%s", dir, name);
    json_error_t e;
    json_t *root = json_load_file(path, 0, &e);
    if (!root) fail_msg("%s:%d: %s", path, e.line, e.text);
    return root;
}

/* The value at a path of keys, "presets/A/fp64"; whole numbers are places in an array. */
KV_UNUSED_TEST_HELPER const json_t *trainkit_at(const json_t *root, const char *path)
{
    const char *whole = path;
    while (root && *path) {
        char key[96];
        const size_t n = strcspn(path, "/");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        root = json_is_array(root) ? json_array_get(root, (size_t)atoi(key)) : json_object_get(root, key);
        path += n + (path[n] == '/');
    }
    if (!root) fail_msg("the golden file has no '%s'", whole);
    return root;
}

KV_UNUSED_TEST_HELPER double trainkit_number(const json_t *root, const char *path)
{
    return json_number_value(trainkit_at(root, path));
}

KV_UNUSED_TEST_HELPER double trainkit_abs(double x) { return x < 0 ? -x : x; }

/* |got - want| <= limit * max(|want|, floor) */
#define assert_near(got, want, limit, floor, ...)                                                                     \
    do {                                                                                                              \
        const double got_ = (got), want_ = (want), size_ = trainkit_abs(want_), floor_ = (floor);                     \
        if (!(trainkit_abs(got_ - want_) <= (limit) * (size_ > floor_ ? size_ : floor_))) {                           \
            print_error(__VA_ARGS__);                                                                                 \
            fail_msg(": %.17g, not %.17g", got_, want_);                                                              \
        }                                                                                                             \
    } while (0)

KV_UNUSED_TEST_HELPER const ref_kernels *trainkit_kernels(void)
{
    const ref_kernels *k;
    assert_ok(REF(kernels_find)(NULL, &k));
    return k;
}

#endif
