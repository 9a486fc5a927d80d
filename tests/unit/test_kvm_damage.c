/* Artifacts: whatever is damaged, with wrong checksums or with right ones, is refused in one line. */
#include "tests/unit/kvmkit.h"
#include "tests/unit/kvtest.h"

#include "common/config_fields.h"
#include "common/math.h"

static void refused_in_one_line(const uint8_t *p, size_t n)
{
    kv_kvm *k;
    uint8_t *exact = malloc(n ? n : 1);
    assert_non_null(exact);
    if (n) memcpy(exact, p, n);
    const kv_status st = kv_kvm_parse(exact, n, "bad.kvm", &k);
    free(exact);
    assert_true(st == KV_ERR_FORMAT || st == KV_ERR_UNSUPPORTED);
    assert_null(k);
    assert_true(strncmp(kv_message(), "bad.kvm: ", 9) == 0 && !strchr(kv_message(), '\n'));
}

static void every_truncation_and_every_flipped_bit_is_refused(void **state)
{
    (void)state;
    const kv_config cfg = kvmkit_config();
    const kv_kvm_extras e = kvmkit_extras(0);
    kv_model *m = kvmkit_model(&cfg);
    kvmkit_bytes b = kvmkit_packed(m, &e);
    for (size_t n = 0; n < b.n; n++)
        refused_in_one_line(b.p, n);
    for (size_t bit = 0; bit < 8 * b.n; bit++) {
        b.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
        refused_in_one_line(b.p, b.n);
        b.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    b.p = realloc(b.p, b.n + 1);
    assert_non_null(b.p);
    b.p[b.n] = 0;
    refused_in_one_line(b.p, b.n + 1);
    free(b.p);
    kv_model_close(m);
}

/* Offsets inside the meta part of an artifact without tokenizer. */
enum { AT_QUANT = 4 + KV_CONFIG_BYTES, AT_TOKENIZER = AT_QUANT + 16, AT_NOTES = AT_TOKENIZER + 8 };
static size_t at_table(const kv_kvm *k) { return AT_NOTES + 4 + strlen(k->extras.notes); }

/* Offset of a tensor's entry behind its name: class, number of dims, dims, places. */
static size_t at_entry(const kv_kvm *k, const char *name)
{
    const uint8_t *p = memmem(k->meta, (size_t)k->meta_bytes, name, strlen(name));
    assert_non_null(p);
    return (size_t)(p - k->meta) + strlen(name);
}

/* A damaged copy of the artifact, with right checksums: `bytes` bytes of the meta part at `at` become x. */
static kv_status damaged(const kv_kvm *k, size_t at, int width, uint64_t x)
{
    uint8_t *meta = malloc((size_t)k->meta_bytes);
    kv_kvm *bad;
    size_t n;
    assert_non_null(meta);
    assert_true(at + (size_t)width <= k->meta_bytes);
    memcpy(meta, k->meta, (size_t)k->meta_bytes);
    kv_put_le(meta + at, width, x);
    uint8_t *file = kvmkit_file(meta, (size_t)k->meta_bytes, k->payload, (size_t)k->payload_bytes, &n);
    const kv_status st = kv_kvm_parse(file, n, "x", &bad);
    kv_kvm_close(bad);
    free(file);
    free(meta);
    return st;
}

static size_t at_field(const char *name)
{
    int n;
    size_t at = 4;
    const kv_config_field *f = kv_config_fields(&n);
    for (int i = 0; i < n; at += f[i++].bytes)
        if (strcmp(f[i].name, name) == 0) return at;
    fail_msg("no field %s", name);
    return 0;
}

static void the_kit_makes_good_files(void **state)
{
    (void)state;
    kv_kvm *k = kvmkit_artifact(0);
    assert_ok(damaged(k, 0, 4, KV_CONFIG_BYTES));
    assert_int_equal(at_entry(k, "tok_emb.weight"), at_table(k) + 4 + 1 + strlen("tok_emb.weight"));
    kv_kvm_close(k);
}

static void damage_of_the_meta_part_is_named(void **state)
{
    (void)state;
    kv_kvm *k = kvmkit_artifact(0);
    const size_t emb = at_entry(k, "tok_emb.weight"), scale = at_entry(k, "bigram.scale"), last = at_entry(k, "shared_sparse_scale");
    const struct {
        size_t at;
        int width;
        uint64_t x;
        kv_status status;
        const char *words;
    } cases[] = {
        {0, 4, KV_CONFIG_BYTES + 1, KV_ERR_FORMAT, "x: a config of 212 bytes"},
        {at_field("vocab_size"), 4, 9, KV_ERR_FORMAT, "has 8 in dimension 0; the config demands 9"},
        {at_field("n_layers"), 4, 0x7fffffff, KV_ERR_FORMAT, "x: model config: n_layers"},
        {at_field("n_layers"), 4, 3, KV_ERR_FORMAT, "tensors; the config demands"},
        {at_field("smear"), 1, 2, KV_ERR_FORMAT, "smear is 2"},
        {at_field("embed_norm"), 1, 0, KV_ERR_UNSUPPORTED, "golf family"},
        {at_field("norm_eps"), 4, 0x7fc00000, KV_ERR_FORMAT, "norm_eps is nan"},
        {AT_QUANT, 8, UINT64_MAX, KV_ERR_FORMAT, "x: quantiser: passthrough_max is -1"},
        {AT_QUANT + 8, 4, 2, KV_ERR_FORMAT, "floors is 2"},
        {AT_QUANT + 12, 4, 0, KV_ERR_FORMAT, "clip_quantile is 0"},
        {AT_TOKENIZER, 4, 3, KV_ERR_UNSUPPORTED, "tokenizer of kind 3"},
        {AT_TOKENIZER, 4, KV_KVM_SENTENCEPIECE, KV_ERR_FORMAT, "a tokenizer whose size does not fit its kind"},
        {AT_TOKENIZER + 4, 4, 4, KV_ERR_FORMAT, "a tokenizer whose size does not fit its kind"},
        {AT_TOKENIZER + 4, 4, 0xffffffff, KV_ERR_FORMAT, "ends inside the tokenizer"},
        {AT_NOTES, 4, 0xffffffff, KV_ERR_FORMAT, "ends inside the notes"},
        {AT_NOTES + 4, 1, 'S', KV_ERR_FORMAT, "x: note 1 is not key=value"},
        {at_table(k), 4, 0xffffffff, KV_ERR_FORMAT, "4294967295 tensors; the config demands"},
        {emb - 3, 1, 'x', KV_ERR_FORMAT, "tensor 'tok_emb.weixht' where the config demands 'tok_emb.weight'"},
        {emb - 15, 1, 13, KV_ERR_FORMAT, "tensor 'tok_emb.weigh' where"},
        {emb - 3, 1, '\n', KV_ERR_FORMAT, "where the config demands 'tok_emb.weight'"},
        {emb, 1, KV_QUANT_CLASS_COUNT, KV_ERR_FORMAT, "'tok_emb.weight' has class 6"},
        {emb, 1, KV_QUANT_F16, KV_ERR_FORMAT, "bytes of values are 64; 128 is demanded"},
        {emb + 1, 1, 3, KV_ERR_FORMAT, "has 3 dimensions; the config demands 2"},
        {emb + 2, 4, 0, KV_ERR_FORMAT, "has 0 in dimension 0; the config demands 8"},
        {emb + 6, 4, 0xffffffff, KV_ERR_FORMAT, "has 4294967295 in dimension 1"},
        {emb + 10, 4, 1, KV_ERR_FORMAT, "values begin at 1; 0 is demanded"},
        {emb + 14, 4, 63, KV_ERR_FORMAT, "bytes of values are 63; 64 is demanded"},
        {emb + 18, 4, 0, KV_ERR_FORMAT, "scales begin at 0; 64 is demanded"},
        {emb + 22, 4, 0xffffffff, KV_ERR_FORMAT, "bytes of scales are 4294967295; 16 is demanded"},
        {scale + 1, 1, 2, KV_ERR_FORMAT, "'bigram.scale' has 2 dimensions; the config demands 0"},
        {last + 10, 4, 0, KV_ERR_FORMAT, "'shared_sparse_scale': values begin at 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(damaged(k, cases[i].at, cases[i].width, cases[i].x), cases[i].status, cases[i].words);
    kv_kvm_close(k);
}

static void damage_of_codes_and_scales_is_named(void **state)
{
    (void)state;
    kv_kvm *k = kvmkit_artifact(0), *bad;
    for (int32_t i = 0; i < k->n_tensors; i++) {
        const kv_kvm_tensor *t = &k->tensors[i];
        uint8_t *at = k->payload + (t->scale_bytes ? t->scale_at : t->value_at + t->value_bytes - 4), kept[4];
        const size_t width = t->cls == KV_QUANT_INT8 || t->cls == KV_QUANT_INT6 ? 2 : 4;
        memcpy(kept, at, width);
        memcpy(at, width == 2 ? "\0\x7e" : "\0\0\xc0\x7f", width); /* NaN */
        size_t n;
        uint8_t *file = kvmkit_file(k->meta, (size_t)k->meta_bytes, k->payload, (size_t)k->payload_bytes, &n);
        assert_refused(kv_kvm_parse(file, n, "x", &bad), KV_ERR_FORMAT, t->name);
        memcpy(at, kept, width);
        free(file);
    }
    k->payload[k->tensors[0].value_at] = 0x80;
    size_t n;
    uint8_t *file = kvmkit_file(k->meta, (size_t)k->meta_bytes, k->payload, (size_t)k->payload_bytes, &n);
    assert_refused(kv_kvm_parse(file, n, "x", &bad), KV_ERR_FORMAT, "tensor 'tok_emb.weight': row 0, column 0: code -128");
    free(file);
    kv_kvm_close(k);
}

/* Sizes that a file merely claims: refused before memory is taken for them. */
static void claimed_sizes_are_refused_at_once(void **state)
{
    (void)state;
    kv_kvm *k = kvmkit_artifact(0), *bad;
    size_t n;
    uint8_t *file = kvmkit_file(k->meta, (size_t)k->meta_bytes, k->payload, (size_t)k->payload_bytes, &n);
    const struct {
        int at, width;
        uint64_t x;
        const char *words;
    } cases[] = {
        {KV_KVM_AT_META, 4, 0xffffffff, "at most 16777216 and"},
        {KV_KVM_AT_META, 4, KV_KVM_MAX_META, "the file is truncated"},
        {KV_KVM_AT_META, 4, k->meta_bytes - 1, "the file is truncated"},
        {KV_KVM_AT_PACKED, 8, UINT64_MAX, "the file is truncated"},
        {KV_KVM_AT_PAYLOAD, 8, UINT64_MAX, "268435456 are possible"},
        {KV_KVM_AT_PAYLOAD, 8, KV_KVM_MAX_PAYLOAD, "claims 268435456 bytes of payload; its tensors have"},
        {KV_KVM_AT_PAYLOAD, 8, k->payload_bytes - 1, "its tensors have"},
        {KV_KVM_AT_PAYLOAD_SUM, 8, 1, "wrong checksum of the weights"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t kept[KV_KVM_HEADER];
        memcpy(kept, file, sizeof kept);
        kv_put_le(file + cases[i].at, cases[i].width, cases[i].x);
        kvmkit_reseal(file, n);
        assert_refused(kv_kvm_parse(file, n, "x", &bad), KV_ERR_FORMAT, cases[i].words);
        memcpy(file, kept, sizeof kept);
    }
    free(file);
    kv_kvm_close(k);
}

/* A frame that unpacks to more, or less, than the tensors need; two frames; a frame that does not say its size. */
static void frames_of_another_size_are_refused(void **state)
{
    (void)state;
    kv_kvm *k = kvmkit_artifact(0), *bad;
    const size_t payload = (size_t)k->payload_bytes;
    uint8_t *large = calloc(1, 2 * payload);
    assert_non_null(large);
    memcpy(large, k->payload, payload);
    for (int i = 0; i < 3; i++) {
        size_t n;
        const size_t frame = i == 0 ? 2 * payload : i == 1 ? payload - 1 : payload;
        uint8_t *file = kvmkit_file(k->meta, (size_t)k->meta_bytes, large, frame, &n);
        kv_put_le(file + KV_KVM_AT_PAYLOAD, 8, payload);
        if (i == 2) { /* an empty frame behind it */
            static const uint8_t empty[] = {0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00};
            file = realloc(file, n + sizeof empty);
            assert_non_null(file);
            memcpy(file + n, empty, sizeof empty);
            n += sizeof empty;
            kv_put_le(file + KV_KVM_AT_PACKED, 8, n - KV_KVM_HEADER - k->meta_bytes);
        }
        kvmkit_reseal(file, n);
        assert_refused(kv_kvm_parse(file, n, "x", &bad), KV_ERR_FORMAT, "not one zstd frame of the size");
        free(file);
    }
    free(large);
    kv_kvm_close(k);
}

/* A few thousand bytes that stand for 2^38 weights: the config is legal, the limit is not kept. */
static void a_bomb_is_refused_by_its_table(void **state)
{
    (void)state;
    kv_config cfg = kvmkit_config();
    cfg.vocab_size = 1 << 22;
    cfg.bigram_mul_cur = cfg.bigram_mul_prev = 1;
    cfg.d_model = 1 << 16;
    int32_t n;
    kv_kvm_tensor *t = kv_kvm_tensors_of(&cfg, &n);
    assert_non_null(t);
    uint8_t meta[4 + KV_CONFIG_BYTES + 16 + 8 + 4 + 4 + 1 + 14 + 2 + 8 + 16] = {0}, *p = meta;
    kv_kvm *bad;
    kv_put_le(p, 4, KV_CONFIG_BYTES);
    kv_config_put(&cfg, p + 4);
    kv_put_le(p + AT_QUANT + 12, 4, 0x3f800000);
    p += AT_NOTES + 4;
    kv_put_le(p, 4, (uint64_t)n);
    p[4] = 14;
    memcpy(p + 5, "tok_emb.weight", 14);
    p[19] = KV_QUANT_INT8;
    p[20] = 2;
    kv_put_le(p + 21, 4, (uint64_t)cfg.vocab_size);
    kv_put_le(p + 25, 4, (uint64_t)cfg.d_model);
    size_t size;
    uint8_t *file = kvmkit_file(meta, sizeof meta, "x", 1, &size);
    assert_refused(kv_kvm_parse(file, size, "x", &bad), KV_ERR_FORMAT, "would end behind 268435456 bytes");
    free(file);
    free(t);
}

static void other_files_and_versions_are_refused(void **state)
{
    (void)state;
    kv_kvm *k = kvmkit_artifact(0), *bad;
    size_t n;
    assert_refused(kv_kvm_parse("", 0, "x", &bad), KV_ERR_FORMAT, "x: not an artifact");
    assert_refused(kv_kvm_parse("GGUF....................", 24, "x", &bad), KV_ERR_FORMAT, "not an artifact");
    uint8_t *file = kvmkit_file(k->meta, (size_t)k->meta_bytes, k->payload, (size_t)k->payload_bytes, &n);
    file[KV_KVM_AT_VERSION] = 2;
    kvmkit_reseal(file, n);
    assert_refused(kv_kvm_parse(file, n, "x", &bad), KV_ERR_UNSUPPORTED, "version 2 of the format");
    assert_refused(kv_kvm_open("no/such.kvm", &bad), KV_ERR_IO, "no/such.kvm");
    assert_refused(kv_kvm_open("tests", &bad), KV_ERR_IO, "tests");
    free(file);
    kv_kvm_close(k);
    kv_kvm_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_truncation_and_every_flipped_bit_is_refused),
        cmocka_unit_test(the_kit_makes_good_files),
        cmocka_unit_test(damage_of_the_meta_part_is_named),
        cmocka_unit_test(damage_of_codes_and_scales_is_named),
        cmocka_unit_test(claimed_sizes_are_refused_at_once),
        cmocka_unit_test(frames_of_another_size_are_refused),
        cmocka_unit_test(a_bomb_is_refused_by_its_table),
        cmocka_unit_test(other_files_and_versions_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
