/* State digests against a construction by hand from docs/backend.md: a blob built byte by byte, its pieces
 * laid end to end and hashed in one go. */
#include "tests/unit/kvtest.h"

#include "common/hash.h"
#include "common/state.h"
#include "common/tile.h"
#include "difftest/digest.h"
#include "difftest/schedule.h"
#include "ref/backend.h"

enum { LAYERS = 2, HEADS = 2, RECORD = 24, MAX_ENTRIES = 5 };

/* ---- a cache by hand --------------------------------------------------------------------------------------- */

typedef struct entry {
    int64_t og;
    int32_t pos;
    float score;
    uint8_t record[RECORD];
} entry;

typedef struct cache {
    int32_t n[LAYERS][HEADS];
    entry e[LAYERS][HEADS][MAX_ENTRIES];
    uint32_t what;
} cache;

static cache example(uint32_t what)
{
    cache c = {.n = {{3, 5}, {0, 2}}, .what = what};
    for (int l = 0; l < LAYERS; l++)
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < c.n[l][h]; i++) {
                entry *e = &c.e[l][h][i];
                e->og = 1000 * i + 7 * h + 3 + ((int64_t)l << 33);
                e->pos = 2 * i + l;
                e->score = (float)(i + 1) / (float)(h + 3);
                for (int b = 0; b < RECORD; b++)
                    e->record[b] = (uint8_t)(31 * b + 17 * i + 5 * h + 3 * l);
            }
    return c;
}

typedef struct bytes {
    uint8_t v[4096];
    size_t n;
} bytes;

static void put(bytes *b, const void *p, size_t n)
{
    assert_true(b->n + n <= sizeof b->v);
    memcpy(b->v + b->n, p, n);
    b->n += n;
}

static void pad(bytes *b)
{
    static const uint8_t zeros[8];
    put(b, zeros, (8 - b->n % 8) % 8);
}

/* Layers first .. last - 1. */
static bytes blob_of(const cache *c, int first, int last)
{
    bytes b = {.n = 0};
    kv_state_head head = {.magic = KV_STATE_MAGIC, .version = KV_STATE_VERSION, .what = c->what, .layer0 = first,
                          .n_layers = last - first, .n_kv_heads = HEADS, .head_dim = 3, .record_bytes = RECORD,
                          .seen = 9999};
    put(&b, &head, sizeof head);
    for (int l = first; l < last; l++)
        for (int h = 0; h < HEADS; h++) {
            const kv_state_run run = {.layer = l, .head = h, .n = c->n[l][h]};
            put(&b, &run, sizeof run);
            for (int i = 0; i < run.n; i++)
                put(&b, &c->e[l][h][i].og, 8);
            for (int i = 0; i < run.n; i++)
                put(&b, &c->e[l][h][i].pos, 4);
            pad(&b);
            for (int i = 0; c->what & KV_STATE_SCORE && i < run.n; i++)
                put(&b, &c->e[l][h][i].score, 4);
            pad(&b);
            for (int i = 0; c->what & KV_STATE_KV && i < run.n; i++)
                put(&b, c->e[l][h][i].record, RECORD);
            pad(&b);
        }
    head.total_bytes = b.n;
    memcpy(b.v, &head, sizeof head);
    return b;
}

static kv_digest by_hand(const cache *c, int first, int last)
{
    bytes order = {.n = 0}, score = {.n = 0};
    kv_digest d = {0};
    for (int l = first; l < last; l++)
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < c->n[l][h]; i++) {
                const entry *e = &c->e[l][h][i];
                const int64_t pos = e->pos, key[3] = {l, h, e->og};
                put(&order, &e->og, 8);
                put(&order, &pos, 8);
                put(&score, &e->score, 4);
                d.content += kv_xxh64(e->record, RECORD, kv_xxh64(key, 24, 0));
            }
    if (!(c->what & KV_STATE_KV)) d.content = 0;
    if (!(c->what & KV_STATE_SCORE)) score.n = 0;
    d.order = kv_xxh64(order.v, order.n, 0);
    d.score = kv_xxh64(score.v, score.n, 0);
    return d;
}

static kv_digest computed(const bytes *b)
{
    kv_digest d;
    assert_ok(dt_digest_blob(b->v, b->n, &d));
    return d;
}

static void assert_same(const kv_digest *a, const kv_digest *b)
{
    assert_true(a->content == b->content);
    assert_true(a->order == b->order);
    assert_true(a->score == b->score);
}

/* ---- tests ------------------------------------------------------------------------------------------------- */

static void digests_are_those_of_the_construction_by_hand(void **state)
{
    (void)state;
    for (uint32_t what = 0; what < 4; what++) {
        const cache c = example(what);
        for (int first = 0; first < LAYERS; first++)
            for (int last = first + 1; last <= LAYERS; last++) {
                const bytes b = blob_of(&c, first, last);
                const kv_digest got = computed(&b), wanted = by_hand(&c, first, last);
                assert_same(&got, &wanted);
            }
    }
}

static void an_empty_cache_has_the_digests_of_nothing(void **state)
{
    (void)state;
    const cache c = {.what = KV_STATE_KV | KV_STATE_SCORE};
    const bytes b = blob_of(&c, 0, LAYERS);
    const kv_digest d = computed(&b);
    assert_true(d.content == 0);
    assert_true(d.order == UINT64_C(0xef46db3751d8e999)); /* XXH64 of zero bytes, from its specification */
    assert_true(d.score == UINT64_C(0xef46db3751d8e999));
}

static void every_bit_of_every_entry_counts(void **state)
{
    (void)state;
    const cache c = example(KV_STATE_KV | KV_STATE_SCORE);
    const bytes b = blob_of(&c, 0, LAYERS);
    const kv_digest before = computed(&b);
    for (int i = 0; i < c.n[0][1]; i++) {
        for (int bit = 0; bit < 8 * RECORD; bit++) {
            cache k = c;
            k.e[0][1][i].record[bit / 8] ^= (uint8_t)(1 << bit % 8);
            const bytes kb = blob_of(&k, 0, LAYERS);
            const kv_digest d = computed(&kb);
            assert_true(d.content != before.content && d.order == before.order && d.score == before.score);
        }
        cache og = c, pos = c, score = c;
        og.e[0][1][i].og ^= 1;
        pos.e[0][1][i].pos ^= 1;
        score.e[0][1][i].score += 1;
        const bytes ob = blob_of(&og, 0, LAYERS), pb = blob_of(&pos, 0, LAYERS), sb = blob_of(&score, 0, LAYERS);
        const kv_digest o = computed(&ob), p = computed(&pb), s = computed(&sb);
        assert_true(o.content != before.content && o.order != before.order);
        assert_true(p.content == before.content && p.order != before.order);
        assert_true(s.content == before.content && s.order == before.order && s.score != before.score);
    }
}

static void content_does_not_depend_on_the_order_and_order_does(void **state)
{
    (void)state;
    const cache c = example(KV_STATE_KV);
    cache swapped = c;
    swapped.e[0][0][0] = c.e[0][0][2];
    swapped.e[0][0][2] = c.e[0][0][0];
    const bytes a = blob_of(&c, 0, LAYERS), b = blob_of(&swapped, 0, LAYERS);
    const kv_digest x = computed(&a), y = computed(&b);
    assert_true(x.content == y.content);
    assert_true(x.order != y.order);
}

/* The same records under another head or layer are another cache. */
static void content_knows_layer_and_head(void **state)
{
    (void)state;
    cache a = {.n = {{1, 0}, {0, 0}}, .what = KV_STATE_KV}, b = {.n = {{0, 1}, {0, 0}}, .what = KV_STATE_KV},
          c = {.n = {{0, 0}, {1, 0}}, .what = KV_STATE_KV};
    const bytes x = blob_of(&a, 0, LAYERS), y = blob_of(&b, 0, LAYERS), z = blob_of(&c, 0, LAYERS);
    const kv_digest dx = computed(&x), dy = computed(&y), dz = computed(&z);
    assert_true(dx.content != dy.content && dx.content != dz.content && dy.content != dz.content);
}

static void damaged_blobs_are_refused(void **state)
{
    (void)state;
    const cache c = example(KV_STATE_KV | KV_STATE_SCORE);
    const bytes good = blob_of(&c, 0, LAYERS);
    kv_digest d;
    for (size_t n = 0; n < good.n; n++) {
        uint8_t *cut = malloc(n + 1); /* its own block, so that a read behind it shows */
        assert_non_null(cut);
        memcpy(cut, good.v, n);
        assert_int_equal(dt_digest_blob(cut, n, &d), KV_ERR_FORMAT);
        free(cut);
    }
    bytes bad = good;
    bad.v[0] ^= 1;
    assert_int_equal(dt_digest_blob(bad.v, bad.n, &d), KV_ERR_FORMAT);
}

/* The digest of all layers covers it, that of a single one or of a state without K and V does not. */
static void what_the_model_remembers_counts_with_the_content(void **state)
{
    (void)state;
    for (uint32_t what = 0; what <= (KV_STATE_KV | KV_STATE_SCORE); what++) {
        const cache c = example(what);
        bytes b = blob_of(&c, 0, LAYERS);
        kv_digest with, without;
        kv_state_head head;
        static const uint8_t carry[16] = {3, 1, 4, 1, 5, 9, 2, 6};
        assert_ok(dt_digest_blob(b.v, b.n, &without));
        put(&b, carry, sizeof carry);
        memcpy(&head, b.v, sizeof head);
        head.carry_bytes = sizeof carry;
        head.total_bytes = b.n;
        memcpy(b.v, &head, sizeof head);
        assert_ok(dt_digest_blob(b.v, b.n, &with));
        const uint64_t more = what & KV_STATE_KV ? kv_xxh64(carry, sizeof carry, kv_xxh64("carry", 5, 0)) : 0;
        assert_true(with.content == without.content + more && with.order == without.order && with.score == without.score);
    }
}

/* ---- sessions ---------------------------------------------------------------------------------------------- */

enum { FED = 150 };

static kv_session *open_ref(const kv_model *m, const kv_policy *p)
{
    kv_session *s = NULL;
    const kv_open_args args = {.model = m, .policy = p, .threads = 1, .max_step = FED};
    const kv_status st = ref_backend()->open(&args, &s);
    if (st == KV_ERR_UNSUPPORTED) return NULL;
    if (st != KV_OK) fail_msg("open: %s", ref_backend()->last_error(NULL));
    return s;
}

/* 150 tokens as `kvdiff run -q 40` feeds them. */
static void feed(kv_session *s, const kv_policy *p)
{
    int32_t tokens[FED];
    for (int i = 0; i < FED; i++)
        tokens[i] = 4 + (i * i + 7 * i) % 251;
    dt_schedule schedule = dt_schedule_begin(p, 40, 0, FED);
    dt_turn t;
    while (dt_schedule_next(&schedule, &t)) {
        const kv_step step = {.tokens = tokens + t.at, .n = t.n, .rows = KV_ROWS_NONE, .flags = t.flags, .pos0 = t.pos0};
        if (ref_backend()->step(s, &step) != KV_OK) fail_msg("step: %s", ref_backend()->last_error(s));
    }
}

static void compare_digests(kv_session *s, int32_t n_layers)
{
    kv_buffer buffer = {0};
    kv_backend plain = *ref_backend();
    plain.caps &= ~(uint32_t)KV_CAP_DIGEST;
    for (int32_t layer = -1; layer < n_layers; layer++) {
        kv_digest own, exported, without;
        assert_ok(dt_digest(ref_backend(), s, layer, 1, &buffer, &own));
        assert_ok(dt_digest(&plain, s, layer, 1, &buffer, &exported));
        assert_ok(dt_digest(&plain, s, layer, 0, &buffer, &without));
        assert_same(&own, &exported);
        assert_true(without.content == 0 && without.order == own.order && without.score == own.score);
    }
    kv_buffer_free(&buffer);
}

static void check_session(const char *model, const char *spec)
{
    kv_model *m = NULL;
    kv_policy p;
    assert_ok(kv_model_open(model, NULL, &m, NULL));
    assert_ok(kv_policy_parse(spec, &p));
    kv_session *s = open_ref(m, &p);
    if (s) {
        feed(s, &p);
        compare_digests(s, m->cfg.n_layers);
        ref_backend()->close(s);
    } else {
        print_message("# the reference has no %s on %s: not checked\n", spec, model);
    }
    kv_model_close(m);
}

/* Caches of every kind: of one length, of lengths that differ by layer and head, with scores, with records of
 * different sizes, with layers that keep nothing. */
static void a_sides_own_digest_is_the_one_of_its_export(void **state)
{
    (void)state;
    static const char *const specs[] = {
        "full", "full+f16", "full+bf16", "sink:cap=20,sinks=3", "sliding:cap=33", "sliding:cap=33,pos=absolute",
        "cascade:cap=24,n=3,sinks=2", "cascade:cap=24,n=3,homog=1,score=f16+f16", "h2o:cap=20", "h2o:cap=20,heavy=0+bf16",
        "tova:cap=20", "snapkv:cap=20,window=8,prompt=60", "pyramid:cap=20,window=8,prompt=60",
        "xwindow:window=40,stride=16,cache=32,layers=2", "xwindow:window=40,stride=16,cache=32,ver=published",
        "full+kvarn:tile=32", "sliding:cap=64,pos=absolute+kvarn:tile=32", "full+kivi:residual=32",
        "sliding:cap=64,pos=absolute+kivi:residual=32"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        check_session("nano", specs[i]);
        if (!strstr(specs[i], "kvarn") && !strstr(specs[i], "kivi")) check_session("nano-b", specs[i]);
    }
    check_session("nano-b", "xwindow:window=40,stride=16,cache=0,pred=carry");
}

static void resident_tokens_are_counted_by_their_index(void **state)
{
    (void)state;
    kv_model *m = NULL;
    kv_policy p;
    kv_buffer buffer = {0};
    int32_t n;
    assert_ok(kv_model_open("nano", NULL, &m, NULL));
    assert_ok(kv_policy_parse("sink:cap=20,sinks=3", &p));
    kv_session *s = open_ref(m, &p);
    assert_non_null(s);
    feed(s, &p);
    assert_ok(dt_count_resident(ref_backend(), s, 0, FED, &buffer, &n));
    assert_int_equal(n, 23);
    assert_ok(dt_count_resident(ref_backend(), s, 0, 4, &buffer, &n)); /* sinks 0, 1, 2; token 3 has left */
    assert_int_equal(n, 3);
    assert_ok(dt_count_resident(ref_backend(), s, 129, 132, &buffer, &n)); /* the ring holds 130 to 149 */
    assert_int_equal(n, 2);
    kv_buffer_free(&buffer);
    ref_backend()->close(s);
    kv_model_close(m);
}

/* A side whose export is the blob that a test built. */
static bytes given;

static kv_status give(kv_session *s, int32_t layer, uint32_t what, void *dst, size_t cap, size_t *need)
{
    (void)s, (void)layer, (void)what;
    *need = given.n;
    if (dst) memcpy(dst, given.v, cap < given.n ? cap : given.n);
    return KV_OK;
}

static int32_t counted(int32_t storage, const int64_t *og, int32_t n, int64_t seen, int64_t from, int64_t to)
{
    const kv_state_head head = {.magic = KV_STATE_MAGIC, .version = KV_STATE_VERSION, .n_layers = 1, .n_kv_heads = 1,
                                .head_dim = 32, .storage = storage, .seen = seen};
    const kv_state_run run = {.n = n};
    const int32_t pos = 0;
    given.n = 0;
    put(&given, &head, sizeof head);
    put(&given, &run, sizeof run);
    put(&given, og, (size_t)n * sizeof *og);
    for (int32_t i = 0; i < n; i++)
        put(&given, &pos, sizeof pos);
    pad(&given);
    ((kv_state_head *)(void *)given.v)->total_bytes = given.n;
    const kv_backend side = {.name = "given", .export_state = give};
    kv_buffer buffer = {0};
    int32_t count = -1;
    assert_ok(dt_count_resident(&side, NULL, from, to, &buffer, &count));
    kv_buffer_free(&buffer);
    return count;
}

/* Two tiles of 32 tokens and a tail of three, the first tile dropped; then without a tail; then kivi, whose
 * values are entries of their own. */
static void tokens_inside_tiles_are_resident(void **state)
{
    (void)state;
    static const int64_t tiles[] = {32, 64, 96, 97, 98}, bare[] = {32, 64};
    static const int64_t kivi[] = {0, 32, 33, KV_KIVI_V, KV_KIVI_V + 1, KV_KIVI_V + 2};
    assert_int_equal(counted(KV_STORE_KVARN, tiles, 5, 99, 0, 99), 67);
    assert_int_equal(counted(KV_STORE_KVARN, tiles, 5, 99, 30, 40), 8);
    assert_int_equal(counted(KV_STORE_KVARN, tiles, 5, 99, 60, 98), 38);
    assert_int_equal(counted(KV_STORE_KVARN, tiles, 5, 99, 0, 32), 0);
    assert_int_equal(counted(KV_STORE_KVARN, bare, 2, 96, 0, 1000), 64);
    assert_int_equal(counted(KV_STORE_KIVI, kivi, 6, 34, 0, 34), 34);
    assert_int_equal(counted(KV_STORE_KIVI, kivi, 6, 34, 31, 33), 2);
    assert_int_equal(counted(KV_STORE_F32, tiles, 5, 99, 0, 99), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digests_are_those_of_the_construction_by_hand),
        cmocka_unit_test(an_empty_cache_has_the_digests_of_nothing),
        cmocka_unit_test(every_bit_of_every_entry_counts),
        cmocka_unit_test(content_does_not_depend_on_the_order_and_order_does),
        cmocka_unit_test(content_knows_layer_and_head),
        cmocka_unit_test(what_the_model_remembers_counts_with_the_content),
        cmocka_unit_test(damaged_blobs_are_refused),
        cmocka_unit_test(tokens_inside_tiles_are_resident),
        cmocka_unit_test(a_sides_own_digest_is_the_one_of_its_export),
        cmocka_unit_test(resident_tokens_are_counted_by_their_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
