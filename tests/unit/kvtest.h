/* kvtest.h - what the unit tests share: cmocka with the headers it wants, a few assertions in the
 * words of kvdiff, reading of witness files.
 *
 * A test program is tests/unit/test_<topic>.c; it runs in the project root, may write below
 * $TMPDIR, and ends with
 *     int main(void) { return cmocka_run_group_tests(tests, NULL, NULL); } */
#ifndef KV_TESTS_KVTEST_H
#define KV_TESTS_KVTEST_H

#include "common/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define KV_UNUSED_TEST_HELPER __attribute__((unused)) static

/* Ends the test as skipped, with the reason that tests/run shows. */
#define kvtest_skip(...)                \
    do {                                \
        printf("# skip: " __VA_ARGS__); \
        printf("\n");                   \
        fflush(stdout);                 \
        skip();                         \
    } while (0)

/* A failure without a test's own message: the reason would otherwise be lost. */
#define assert_ok(expr)                                                              \
    do {                                                                             \
        const kv_status kvtest_st_ = (expr);                                         \
        if (kvtest_st_ != KV_OK)                                                     \
            fail_msg("%s: %s: %s", #expr, kv_status_name(kvtest_st_), kv_message()); \
    } while (0)

/* The call fails with this status and its message is one line that contains the given words. */
#define assert_refused(expr, status, words) \
    kvtest_refused_((expr), (status), (words), #expr, __FILE__, __LINE__)

KV_UNUSED_TEST_HELPER void kvtest_refused_(kv_status got, kv_status wanted, const char *words,
                                           const char *expr, const char *file, int line)
{
    const char *text = kv_message();
    if (got == wanted && *text && !strchr(text, '\n') && strstr(text, words)) return;
    print_error("%s: %s with \"%s\"; wanted %s with \"%s\"\n", expr, kv_status_name(got), text,
                kv_status_name(wanted), words);
    _fail(file, line);
}

/* A whole file as bytes; the caller frees them. The test fails when it cannot be read. */
KV_UNUSED_TEST_HELPER uint8_t *kvtest_read(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s (tests run in the project root)", path);
    fseek(f, 0, SEEK_END);
    const long n = ftell(f);
    rewind(f);
    uint8_t *p = malloc((size_t)n + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, (size_t)n, f), n);
    fclose(f);
    p[n] = 0;
    *size = (size_t)n;
    return p;
}

/* $TMPDIR/name in a static buffer. */
KV_UNUSED_TEST_HELPER const char *kvtest_path(const char *name)
{
    static char path[512];
    const char *dir = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/%s", dir && *dir ? dir : "/tmp", name);
    return path;
}

KV_UNUSED_TEST_HELPER void kvtest_write(const char *path, const void *bytes, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (!f) fail_msg("cannot write %s", path);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

#endif
