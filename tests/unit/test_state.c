/* The canonical cache layout: what is laid out can be read back, and a blob that is not whole is
 * refused before anybody follows a pointer into it. */
#include "tests/unit/kvtest.h"

#include "common/state.h"

enum { LAYERS = 2, HEADS = 3, RECORD = 24 };

/* Entries of run i: 0, 1, 2, ... so that empty and odd runs occur. */
static int64_t run_length(int i)
{
    return i;
}

static kv_state_head make_head(uint32_t what)
{
    kv_state_head h;
    memset(&h, 0, sizeof h);
    h.magic = KV_STATE_MAGIC;
    h.version = KV_STATE_VERSION;
    h.what = what;
    h.layer0 = 4;
    h.n_layers = LAYERS;
    h.n_kv_heads = HEADS;
    h.head_dim = RECORD / 8;
    h.record_bytes = RECORD;
    h.seen = 99;
    h.total_bytes = sizeof h;
    for (int i = 0; i < LAYERS * HEADS; i++)
        h.total_bytes += kv_state_run_bytes(&h, run_length(i), 0);
    return h;
}

/* A complete state; the caller frees it. */
static uint8_t *make_state(uint32_t what, size_t *size)
{
    const kv_state_head h = make_head(what);
    *size = (size_t)h.total_bytes;
    uint8_t *blob = calloc(1, *size);
    assert_non_null(blob);
    memcpy(blob, &h, sizeof h);
    size_t offset = sizeof h;
    for (int i = 0; i < LAYERS * HEADS; i++) {
        const int64_t n = run_length(i);
        kv_state_view v = kv_state_place(&h, blob, &offset, n, 0);
        *v.run = (kv_state_run){h.layer0 + i / HEADS, i % HEADS, (int32_t)n, 0};
        for (int64_t k = 0; k < n; k++) {
            v.og[k] = 100 * i + k;
            v.pos[k] = (int32_t)(10 * i + k);
            if (v.score) v.score[k] = (float)(i + k);
            if (v.records) memset(v.records + k * RECORD, (int)(i + k + 1), RECORD);
        }
    }
    assert_int_equal(offset, *size);
    return blob;
}

static void run_sizes_follow_the_layout(void **state)
{
    (void)state;
    kv_state_head h = make_head(0);
    assert_int_equal(kv_state_run_bytes(&h, 0, 0), 16);
    assert_int_equal(kv_state_run_bytes(&h, 1, 0), 16 + 8 + 8); /* positions padded to 8 */
    assert_int_equal(kv_state_run_bytes(&h, 2, 0), 16 + 16 + 8);
    h.what = KV_STATE_SCORE;
    assert_int_equal(kv_state_run_bytes(&h, 3, 0), 16 + 24 + 16 + 16);
    h.what = KV_STATE_SCORE | KV_STATE_KV;
    h.record_bytes = 6;
    assert_int_equal(kv_state_run_bytes(&h, 3, 0), 16 + 24 + 16 + 16 + 24);
}

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    for (uint32_t what = 0; what < 4; what++) {
        size_t size, offset = sizeof(kv_state_head);
        uint8_t *blob = make_state(what, &size);
        assert_ok(kv_state_check(blob, size));
        const kv_state_head *h = (const kv_state_head *)(const void *)blob;
        for (int i = 0; i < LAYERS * HEADS; i++) {
            const kv_state_view v = kv_state_place(h, blob, &offset, -1, 0);
            assert_int_equal(v.run->n, run_length(i));
            assert_int_equal(v.score != NULL, (what & KV_STATE_SCORE) != 0);
            assert_int_equal(v.records != NULL, (what & KV_STATE_KV) != 0);
            for (int k = 0; k < v.run->n; k++) {
                assert_int_equal(v.og[k], 100 * i + k);
                assert_int_equal(v.pos[k], 10 * i + k);
                if (v.score) assert_true(v.score[k] == (float)(i + k));
                if (v.records) assert_int_equal(v.records[k * RECORD + RECORD - 1], i + k + 1);
            }
        }
        assert_int_equal(offset, size);
        free(blob);
    }
}

static void every_shorter_or_longer_blob_is_refused(void **state)
{
    (void)state;
    size_t size;
    uint8_t *blob = make_state(KV_STATE_SCORE | KV_STATE_KV, &size);
    for (size_t n = 0; n < size; n++) {
        uint8_t *cut = malloc(n ? n : 1); /* exact size: ASan sees every read behind the end */
        assert_non_null(cut);
        memcpy(cut, blob, n);
        assert_refused(kv_state_check(cut, n), KV_ERR_FORMAT, "cache state: ");
        if (n >= sizeof(kv_state_head)) { /* also when the header agrees with the shorter size */
            const uint64_t total = n;
            memcpy(cut + offsetof(kv_state_head, total_bytes), &total, sizeof total);
            assert_refused(kv_state_check(cut, n), KV_ERR_FORMAT, "cache state: ");
        }
        free(cut);
    }
    uint8_t *longer = calloc(1, size + 8);
    assert_non_null(longer);
    memcpy(longer, blob, size);
    const uint64_t total = size + 8;
    memcpy(longer + offsetof(kv_state_head, total_bytes), &total, sizeof total);
    assert_refused(kv_state_check(longer, size + 8), KV_ERR_FORMAT, "left over");
    free(longer);
    free(blob);
}

#define HEAD_FIELD(field, value, words)              \
    {                                                \
        offsetof(kv_state_head, field), value, words \
    }

static void impossible_headers_are_refused(void **state)
{
    (void)state;
    static const struct {
        size_t offset;
        int32_t value;
        const char *words;
    } bad[] = {
        HEAD_FIELD(magic, 0x4b56, "magic"),
        HEAD_FIELD(version, 1, "version"),
        HEAD_FIELD(layer0, -1, "dimensions"),
        HEAD_FIELD(n_layers, 0, "dimensions"),
        HEAD_FIELD(n_layers, INT32_MAX, "dimensions"),
        HEAD_FIELD(n_kv_heads, 0, "dimensions"),
        HEAD_FIELD(n_kv_heads, INT32_MAX, "dimensions"),
        HEAD_FIELD(head_dim, 0, "dimensions"),
        HEAD_FIELD(record_bytes, -1, "dimensions"),
        HEAD_FIELD(record_bytes, INT32_MAX, "dimensions"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t size;
        uint8_t *blob = make_state(KV_STATE_KV, &size);
        memcpy(blob + bad[i].offset, &bad[i].value, sizeof bad[i].value);
        assert_refused(kv_state_check(blob, size), KV_ERR_FORMAT, bad[i].words);
        free(blob);
    }
}

static void runs_out_of_order_or_of_impossible_length_are_refused(void **state)
{
    (void)state;
    static const struct {
        size_t offset;
        int32_t value;
        const char *words;
    } bad[] = {
        {offsetof(kv_state_run, layer), 5, "out of order"},
        {offsetof(kv_state_run, head), 1, "out of order"},
        {offsetof(kv_state_run, n), -1, "cut off"},
        {offsetof(kv_state_run, n), INT32_MAX, "cut off"},
    };
    for (size_t i = 0; i < 2 * sizeof bad / sizeof *bad; i++) {
        size_t size;
        uint8_t *blob = make_state(i % 2 ? KV_STATE_KV : 0, &size);
        memcpy(blob + sizeof(kv_state_head) + bad[i / 2].offset, &bad[i / 2].value,
               sizeof bad->value);
        assert_refused(kv_state_check(blob, size), KV_ERR_FORMAT, bad[i / 2].words);
        free(blob);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(run_sizes_follow_the_layout),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(every_shorter_or_longer_blob_is_refused),
        cmocka_unit_test(impossible_headers_are_refused),
        cmocka_unit_test(runs_out_of_order_or_of_impossible_length_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
