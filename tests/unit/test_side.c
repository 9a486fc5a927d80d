/* Finding and loading sides. The bad ones are tests/sides/NAME.c, built as shared objects. */
#include "tests/unit/sidekit.h"

#include "common/fpenv.h"
#include "common/hash.h"

#include <unistd.h>

/* Folder of this build, from the place of this program: BUILD/tests/unit/test_side. */
static char build[1024];

static int set_up(void **state)
{
    (void)state;
    return sidekit_build(build, sizeof build) == 0 ? sidekit_folder() : -1;
}

static const char *bad_side(const char *name)
{
    static char path[1200];
    snprintf(path, sizeof path, "%s/tests/sides/%s.so", build, name);
    return path;
}

static dt_side side;

static void linked_in_sides_need_no_file(void **state)
{
    (void)state;
    assert_ok(dt_side_open("ref", &side));
    assert_string_equal(side.backend->name, "ref");
    assert_int_equal(side.backend->contract, KV_CONTRACT_BITEXACT);
    assert_false(side.has_sha);
    assert_ok(dt_side_open("ref64:isa=scalar", &side));
    assert_string_equal(side.backend->name, "ref64");
    assert_string_equal(side.name, "ref64:isa=scalar");
    assert_string_equal(side.options, "isa=scalar");
    dt_side_close(&side);
}

static void shipped_side_comes_from_the_sides_folder(void **state)
{
    (void)state;
    size_t size;
    char path[1200];
    uint8_t sha[32];
    assert_ok(dt_side_open("blas", &side));
    assert_string_equal(side.backend->name, "blas");
    assert_string_equal(side.name, "blas");
    snprintf(path, sizeof path, "%s/sides/blas.so", build);
    uint8_t *bytes = kvtest_read(path, &size);
    kv_sha256(bytes, size, sha);
    free(bytes);
    assert_true(side.has_sha);
    assert_memory_equal(side.so_sha, sha, 32);
}

/* A side in another process is given its file and, on the next line, the user's options. */
static void assert_private(const char *options, const char *of_user)
{
    const char *end = strchr(options, '\n');
    assert_non_null(end);
    assert_string_equal(end + 1, of_user);
}

static void path_is_named_by_its_stem(void **state)
{
    (void)state;
    char spec[1300];
    assert_ok(dt_side_open(bad_side("stub"), &side));
    assert_string_equal(side.name, "stub");
    assert_private(side.options, "");
    snprintf(spec, sizeof spec, "%s:a=1,b:c", bad_side("stub"));
    assert_ok(dt_side_open(spec, &side));
    assert_string_equal(side.name, "stub:a=1,b:c");
    assert_private(side.options, "a=1,b:c");
}

static void folder_with_a_colon_is_no_option(void **state)
{
    (void)state;
    char dir[512], spec[600];
    size_t size;
    snprintf(dir, sizeof dir, "%s", kvtest_path("kv.XXXXXX"));
    assert_non_null(mkdtemp(dir));
    snprintf(spec, sizeof spec, "%s/a:b.so", dir);
    uint8_t *bytes = kvtest_read(bad_side("stub"), &size);
    kvtest_write(spec, bytes, size);
    free(bytes);
    assert_ok(dt_side_open(spec, &side));
    assert_string_equal(side.name, "a:b");
    unlink(spec);
    rmdir(dir);
}

static void unknown_names_are_usage_errors(void **state)
{
    (void)state;
    assert_refused(dt_side_open("blass", &side), KV_ERR_USAGE, "'blass' is unknown");
    assert_refused(dt_side_open("", &side), KV_ERR_USAGE, "empty");
    assert_refused(dt_side_open(":seed=1", &side), KV_ERR_USAGE, "empty");
    assert_refused(dt_side_open("a|b", &side), KV_ERR_USAGE, "'|'");
    assert_refused(dt_side_open("two\nlines", &side), KV_ERR_USAGE, "control character");
    char spec[6000];
    memset(spec, 'x', sizeof spec);
    spec[sizeof spec - 1] = '\0';
    assert_refused(dt_side_open(spec, &side), KV_ERR_USAGE, "too long");
    spec[400] = '\0';
    assert_refused(dt_side_open(spec, &side), KV_ERR_USAGE, "longer than");
}

static void unknown_options_are_usage_errors(void **state)
{
    (void)state;
    assert_refused(dt_side_open("ref:isa=mmx", &side), KV_ERR_USAGE, "isa=mmx");
    assert_refused(dt_side_open("blas:fast", &side), KV_ERR_USAGE, "'fast' is unknown");
}

static void missing_files_are_io_errors(void **state)
{
    (void)state;
    assert_refused(dt_side_open("./no/such.so", &side), KV_ERR_IO, "cannot open './no/such.so'");
    assert_refused(dt_side_open("such.so", &side), KV_ERR_IO, "cannot open './such.so'");
    assert_refused(dt_side_open("/tmp", &side), KV_ERR_IO, "it is not a file");
    char old[1100];
    snprintf(old, sizeof old, "%s", getenv("KVDIFF_SIDES"));
    setenv("KVDIFF_SIDES", "/no/such/folder", 1);
    assert_refused(dt_side_open("blas", &side), KV_ERR_IO, "/no/such/folder/blas.so");
    assert_refused(dt_side_open("cuda:exact", &side), KV_ERR_IO, "nvcc");
    setenv("KVDIFF_SIDES", old, 1);
}

static void what_is_no_side_is_refused(void **state)
{
    (void)state;
    const struct {
        const char *name, *words;
    } bad[] = {
        {"no_entry", "exports no kv_side_entry"},
        {"other_abi", "does not speak ABI 2"},
        {"wrong_number", "speaks ABI 43"},
        {"incomplete", "no step"},
        {"no_digest", "no digest"},
        {"bad_contract", "contract 7"},
        {"undefined", "kv_nobody_has_this"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_refused(dt_side_open(bad_side(bad[i].name), &side), KV_ERR_MISMATCH, bad[i].words);
}

static void unavailable_side_gives_its_reason_on_one_line(void **state)
{
    (void)state;
    char spec[1300];
    assert_refused(dt_side_open(bad_side("unavailable"), &side), KV_ERR_DEVICE,
                   "no abacus in this machine buy one");
    assert_ok(dt_side_load(bad_side("unavailable"), &side));
    snprintf(spec, sizeof spec, "%s:slow", bad_side("unavailable"));
    assert_refused(dt_side_open(spec, &side), KV_ERR_USAGE, "'slow' is unknown");
}

static void library_that_flushes_subnormals_is_refused(void **state)
{
    (void)state;
#if defined(__x86_64__)
    assert_refused(dt_side_open(bad_side("flush_to_zero"), &side), KV_ERR_MISMATCH, "fast-math");
    assert_ok(kv_fpenv_check("after the refusal"));
#else
    kvtest_skip("the library plays its trick on x86-64 only");
#endif
}

/* Every prefix of a shared object, and bytes of other kinds, end in a message. */
static void files_that_are_no_complete_objects_are_refused(void **state)
{
    (void)state;
    char path[512];
    size_t size;
    snprintf(path, sizeof path, "%s.%d.so", kvtest_path("kv_truncated"), (int)getpid());
    uint8_t *bytes = kvtest_read(bad_side("stub"), &size);
    for (size_t n = 0; n < 0x1000 && n < size; n = n < 200 ? n + 1 : n * 3 / 2) {
        kvtest_write(path, bytes, n);
        assert_refused(dt_side_open(path, &side), KV_ERR_MISMATCH,
                       "not a complete 64-bit shared object");
    }
    bytes[4] = 1; /* 32 bits */
    kvtest_write(path, bytes, size);
    assert_refused(dt_side_open(path, &side), KV_ERR_MISMATCH,
                   "not a complete 64-bit shared object");
    free(bytes);
    kvtest_write(path, "#!/bin/sh\necho no\n", 18);
    assert_refused(dt_side_open(path, &side), KV_ERR_MISMATCH,
                   "not a complete 64-bit shared object");
    unlink(path);
}

static void folder_is_next_to_the_program_unless_told_otherwise(void **state)
{
    (void)state;
    char folder[1200], want[1200], old[1100];
    assert_ok(dt_side_folder(folder, sizeof folder));
    assert_string_equal(folder, getenv("KVDIFF_SIDES"));
    snprintf(old, sizeof old, "%s", folder);
    unsetenv("KVDIFF_SIDES");
    assert_ok(dt_side_folder(folder, sizeof folder));
    snprintf(want, sizeof want, "%s/tests/unit/sides", build);
    assert_string_equal(folder, want);
    assert_refused(dt_side_folder(folder, 4), KV_ERR_USAGE, "KVDIFF_SIDES");
    setenv("KVDIFF_SIDES", old, 1);
    assert_refused(dt_side_folder(folder, 4), KV_ERR_USAGE, "KVDIFF_SIDES");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linked_in_sides_need_no_file),
        cmocka_unit_test(shipped_side_comes_from_the_sides_folder),
        cmocka_unit_test(path_is_named_by_its_stem),
        cmocka_unit_test(folder_with_a_colon_is_no_option),
        cmocka_unit_test(unknown_names_are_usage_errors),
        cmocka_unit_test(unknown_options_are_usage_errors),
        cmocka_unit_test(missing_files_are_io_errors),
        cmocka_unit_test(what_is_no_side_is_refused),
        cmocka_unit_test(unavailable_side_gives_its_reason_on_one_line),
        cmocka_unit_test(library_that_flushes_subnormals_is_refused),
        cmocka_unit_test(files_that_are_no_complete_objects_are_refused),
        cmocka_unit_test(folder_is_next_to_the_program_unless_told_otherwise),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
