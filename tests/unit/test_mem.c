/* Large zeroed arrays and growing buffers. */
#include "tests/unit/kvtest.h"

#include "common/mem.h"

static void arrays_are_zeroed_aligned_and_writable_to_the_last_byte(void **state)
{
    (void)state;
    const size_t sizes[] = {0, 1, 4095, 4096, 4097, (2 << 20) - 1, 2 << 20, (5 << 20) + 3};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const size_t n = sizes[i];
        uint8_t *p = kv_big_alloc(n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % (n >= 2 << 20 ? 2 << 20 : 64), 0);
        for (size_t k = 0; k < n; k++)
            assert_int_equal(p[k], 0);
        memset(p, 0xa5, n);
        kv_big_free(p, n);
    }
    kv_big_free(NULL, 123);
}

static void impossible_sizes_give_null(void **state)
{
    (void)state;
    assert_null(kv_big_alloc(SIZE_MAX));
    assert_null(kv_big_alloc(SIZE_MAX - 4096));
    assert_null(kv_big_alloc(SIZE_MAX / 2));
}

static void buffers_grow_and_never_shrink(void **state)
{
    (void)state;
    kv_buffer b = {NULL, 0};
    assert_ok(kv_buffer_reserve(&b, 100));
    void *first = b.p;
    memset(b.p, 1, 100);
    assert_ok(kv_buffer_reserve(&b, 50));
    assert_ptr_equal(b.p, first);
    assert_int_equal(b.bytes, 100);
    assert_ok(kv_buffer_reserve(&b, 1 << 20));
    assert_int_equal(b.bytes, 1 << 20);
    memset(b.p, 1, 1 << 20);
    kv_buffer_free(&b);
    assert_null(b.p);
    assert_int_equal(b.bytes, 0);
    kv_buffer_free(&b);
}

static void a_buffer_that_cannot_grow_says_so_and_stays_usable(void **state)
{
    (void)state;
    kv_buffer b = {NULL, 0};
    assert_ok(kv_buffer_reserve(&b, 10));
    assert_refused(kv_buffer_reserve(&b, SIZE_MAX / 2), KV_ERR_NOMEM, "out of memory");
    assert_int_equal(b.bytes, 0);
    assert_ok(kv_buffer_reserve(&b, 10));
    kv_buffer_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrays_are_zeroed_aligned_and_writable_to_the_last_byte),
        cmocka_unit_test(impossible_sizes_give_null),
        cmocka_unit_test(buffers_grow_and_never_shrink),
        cmocka_unit_test(a_buffer_that_cannot_grow_says_so_and_stays_usable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
