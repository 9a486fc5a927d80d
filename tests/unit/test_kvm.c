/* Artifacts: what goes in comes out as the quantiser says, to the bit; packing what was unpacked gives the same bytes; what
 * cannot be packed is refused. Damage: test_kvm_damage.c. */
#include "tests/unit/kvmkit.h"
#include "tests/unit/kvtest.h"
#include "tests/unit/spmkit.h"

#include "common/config_fields.h"
#include "common/math.h"
#include "common/tokenizer.h"

#include <unistd.h>

/* ---- configs in files ---------------------------------------------------------------------------------------------- */

static void every_field_of_a_config_survives(void **state)
{
    (void)state;
    uint8_t raw[KV_CONFIG_BYTES], again[KV_CONFIG_BYTES];
    int n;
    const kv_config_field *f = kv_config_fields(&n);
    kv_config in, out;
    memset(&in, 0, sizeof in);
    uint32_t covered = 0;
    for (int i = 0; i < n; i++) {
        const float f32 = 1.5f + (float)i;
        const double f64 = -2.25 * i;
        const uint64_t whole = UINT64_C(0x0102030405060708) * (uint64_t)(i + 1);
        const void *v = f[i].type == KV_FIELD_F32 ? (const void *)&f32 : f[i].type == KV_FIELD_F64 ? (const void *)&f64 : &whole;
        memcpy((uint8_t *)&in + f[i].offset, v, f[i].bytes);
        if (f[i].type == KV_FIELD_FLAG) ((uint8_t *)&in)[f[i].offset] = 1;
        covered += f[i].bytes;
    }
    assert_int_equal(covered, KV_CONFIG_BYTES);
    assert_true(sizeof in - covered < 24); /* only padding is left over: a new field must enter the list */
    kv_config_put(&in, raw);
    assert_ok(kv_config_get(raw, &out));
    assert_memory_equal(&in, &out, sizeof in);
    kv_config_put(&out, again);
    assert_memory_equal(raw, again, sizeof raw);
}

static void odd_flags_and_numbers_of_a_config_are_refused(void **state)
{
    (void)state;
    int n;
    const kv_config_field *f = kv_config_fields(&n);
    uint32_t at = 0;
    for (int i = 0; i < n; at += f[i++].bytes) {
        uint8_t raw[KV_CONFIG_BYTES] = {0};
        kv_config cfg;
        memset(raw + at, 0xff, f[i].bytes); /* 255, -1, NaN */
        const kv_status st = kv_config_get(raw, &cfg);
        assert_int_equal(st, f[i].type == KV_FIELD_I32 || f[i].type == KV_FIELD_U64 ? KV_OK : KV_ERR_FORMAT);
        if (st != KV_OK) assert_non_null(strstr(kv_message(), f[i].name));
    }
}

static void only_models_of_the_family_fit(void **state)
{
    (void)state;
    const kv_config good = kvmkit_config();
    assert_ok(kv_kvm_check_config(&good));
    kv_config c = good;
    c.embed_norm = 0;
    assert_refused(kv_kvm_check_config(&c), KV_ERR_UNSUPPORTED, "golf family");
    c = good;
    c.qkv_bias = 1;
    assert_refused(kv_kvm_check_config(&c), KV_ERR_UNSUPPORTED, "qkv_bias");
    c = good;
    c.norm_weight = 1;
    assert_refused(kv_kvm_check_config(&c), KV_ERR_UNSUPPORTED, "norm_weight");
    c = good;
    c.ffn_kind = KV_FFN_SWIGLU;
    assert_refused(kv_kvm_check_config(&c), KV_ERR_UNSUPPORTED, "swiglu");
    c = good;
    c.eos_id = c.vocab_size;
    assert_refused(kv_kvm_check_config(&c), KV_ERR_FORMAT, "eos_id is 8");
    c = good;
    c.n_layers = 0;
    assert_refused(kv_kvm_check_config(&c), KV_ERR_FORMAT, "n_layers");
    kv_model *m;
    kv_kvm_extras e = kvmkit_extras(0);
    uint8_t *p;
    size_t n;
    assert_ok(kv_model_open("nano", NULL, &m, NULL));
    assert_refused(kv_kvm_pack(m, &e, &p, &n), KV_ERR_UNSUPPORTED, "model 'nano': artifacts hold");
    assert_null(p);
    kv_model_close(m);
}

/* ---- what goes in comes out ----------------------------------------------------------------------------------------- */

static void same_as_the_quantiser(const kv_kvm *k, const kv_model *m)
{
    for (int32_t i = 0; i < k->n_tensors; i++) {
        const kv_kvm_tensor *t = &k->tensors[i];
        const size_t n = (size_t)(t->rows * t->cols);
        uint8_t *values = malloc((size_t)t->value_bytes), *scales = malloc((size_t)t->scale_bytes + 1);
        float *wanted = malloc(n * sizeof *wanted), *got = malloc(n * sizeof *got);
        assert_true(values && scales && wanted && got);
        const kv_tensor *from = kv_model_tensor(m, t->place.role, t->place.layer);
        assert_ok(kv_quant_encode(&k->extras.quant, t->cls, t->rows, t->cols, from->data, values, scales));
        assert_memory_equal(values, k->payload + t->value_at, t->value_bytes);
        if (t->scale_bytes) assert_memory_equal(scales, k->payload + t->scale_at, t->scale_bytes);
        kv_quant_decode(t->cls, t->rows, t->cols, values, scales, wanted);
        kv_kvm_decode(k, t, got);
        assert_memory_equal(wanted, got, n * sizeof *got);
        free(values);
        free(scales);
        free(wanted);
        free(got);
    }
}

static void same_weights(const kv_kvm *k, const kv_model *m)
{
    for (int32_t i = 0; i < k->n_tensors; i++) {
        const kv_kvm_tensor *t = &k->tensors[i];
        const kv_tensor *w = kv_model_tensor(m, t->place.role, t->place.layer);
        float *wanted = malloc((size_t)(t->rows * t->cols) * sizeof *wanted);
        assert_non_null(wanted);
        kv_kvm_decode(k, t, wanted);
        assert_memory_equal(w->data, wanted, (size_t)(t->rows * t->cols) * sizeof *wanted);
        free(wanted);
    }
}

/* Packs m and opens it: the quantiser's bytes, the quantiser's floats. */
static kv_kvm *there(const kv_model *m, const kv_kvm_extras *e)
{
    kvmkit_bytes b = kvmkit_packed(m, e);
    kv_kvm *k;
    assert_ok(kv_kvm_parse(b.p, b.n, "there", &k));
    same_as_the_quantiser(k, m);
    free(b.p);
    return k;
}

/* The same, then packs what came out, and wants the same file. */
static kv_kvm *there_and_back(const kv_model *m, const kv_kvm_extras *e)
{
    kv_kvm *k = there(m, e);
    kv_model *inside;
    assert_ok(kv_kvm_model(k, "inside", &inside));
    same_weights(k, inside);
    assert_memory_equal(&inside->cfg, &m->cfg, sizeof m->cfg);
    kv_kvm_extras again = k->extras;
    again.level = e->level;
    kvmkit_bytes second = kvmkit_packed(inside, &again);
    uint8_t sha[32];
    kv_sha256(second.p, second.n, sha);
    assert_int_equal(second.n, k->file_bytes);
    assert_memory_equal(sha, k->sha256, sizeof sha);
    kv_model_close(inside);
    free(second.p);
    return k;
}

static void every_class_survives(void **state)
{
    (void)state;
    const kv_config cfg = kvmkit_config();
    kv_model *m = kvmkit_model(&cfg);
    const kv_kvm_extras e = kvmkit_extras(0);
    int seen[KV_QUANT_CLASS_COUNT] = {0};
    kv_kvm *k = there(m, &e);
    for (int32_t i = 0; i < k->n_tensors; i++)
        seen[k->tensors[i].cls]++;
    assert_true(seen[KV_QUANT_F32] > 0 && seen[KV_QUANT_INT6] > 0 && seen[KV_QUANT_INT8] > 0 && seen[KV_QUANT_INT8_WHOLE] == 2);
    assert_int_equal(seen[KV_QUANT_F16], 0);
    kv_kvm_close(k);
    kv_model_close(m);
}

static void small_presets_survive_with_and_without_floors(void **state)
{
    (void)state;
    static const char *const names[] = {"nano-a", "nano-b", "nano-u"};
    for (int i = 0; i < 6; i++) {
        kv_model *m;
        kv_kvm_extras e = kvmkit_extras(1024);
        e.quant.floors = i / 3;
        assert_ok(kv_model_open(names[i % 3], NULL, &m, NULL));
        kv_kvm *k = there_and_back(m, &e);
        assert_int_equal(k->extras.quant.floors, i / 3);
        assert_int_equal(k->extras.quant.passthrough_max, 1024);
        kv_kvm_close(k);
        kv_model_close(m);
    }
}

/* The budget that the family is made for. A level above 1 takes longer and gains 0.2 %: docs/artifact.md. */
static void a_full_size_model_fits_into_16_million_bytes(void **state)
{
    (void)state;
    kv_model *m;
    const kv_kvm_extras e = {.quant = kv_quant_default(), .tokenizer_kind = KV_KVM_BYTES, .level = 1};
    assert_ok(kv_model_open("golf-b", NULL, &m, NULL));
    kv_kvm *k = there_and_back(m, &e);
    assert_int_equal(k->payload_bytes, 27059370);
    assert_in_range(k->file_bytes, 15400000, 16000000);
    kv_kvm_close(k);
    kv_model_close(m);
}

static void notes_quantiser_and_tokenizer_are_kept(void **state)
{
    (void)state;
    kv_model *m;
    kv_kvm *k;
    kv_tokenizer *tok;
    kv_kvm_extras e = kvmkit_extras(77);
    e.tokenizer_kind = KV_KVM_BYTES;
    e.quant.floors = 0;
    e.quant.clip_quantile = 0.5f;
    e.notes = "a=b=c \xc3\xa9\nseed=\n";
    assert_ok(kv_model_open("nano-a", NULL, &m, NULL));
    kvmkit_bytes b = kvmkit_packed(m, &e);
    assert_ok(kv_kvm_parse(b.p, b.n, "x", &k));
    assert_string_equal(k->extras.notes, e.notes);
    assert_int_equal(k->extras.quant.floors, 0);
    assert_true(k->extras.quant.clip_quantile == 0.5f);
    assert_int_equal(k->file_bytes, b.n);
    assert_int_equal(KV_KVM_HEADER + k->meta_bytes + k->packed_bytes, b.n);
    assert_ok(kv_kvm_tokenizer(k, "x", &tok));
    assert_string_equal(kv_tokenizer_kind(tok), "bytes");
    kv_tokenizer_free(tok);
    kv_kvm_close(k);
    free(b.p);
    kv_model_close(m);
}

static void a_sentencepiece_model_travels_inside(void **state)
{
    (void)state;
    static const spmkit_piece pieces[] = {{"<unk>", 0, KV_TOKEN_UNKNOWN}, {"a", -1, 0}, {"b", -2, 0}, {"ab", -3, 0}, {NULL, 0, 0}};
    const spmkit kit = {.pieces = pieces};
    kv_bytes blob = spmkit_model(&kit);
    const kv_config cfg = kvmkit_config();
    kv_model *m = kvmkit_model(&cfg);
    kv_kvm_extras e = kvmkit_extras(0);
    e.tokenizer_kind = KV_KVM_SENTENCEPIECE;
    e.tokenizer = blob.p;
    e.tokenizer_bytes = blob.n;
    kvmkit_bytes b = kvmkit_packed(m, &e);
    kv_kvm *k;
    kv_tokenizer *tok;
    assert_ok(kv_kvm_parse(b.p, b.n, "x", &k));
    assert_int_equal(k->extras.tokenizer_bytes, blob.n);
    assert_memory_equal(k->extras.tokenizer, blob.p, blob.n);
    assert_ok(kv_kvm_tokenizer(k, "x", &tok));
    assert_string_equal(spmkit_ids(tok, "abba", 0), "3 2 1");
    kv_tokenizer_free(tok);
    kv_kvm_close(k);
    free(b.p);
    e.tokenizer_bytes--;
    uint8_t *p;
    size_t n;
    assert_refused(kv_kvm_pack(m, &e, &p, &n), KV_ERR_FORMAT, "model 'kit': tokenizer: ");
    assert_null(p);
    free(blob.p);
    kv_model_close(m);
}

static void a_file_opens_as_a_model(void **state)
{
    (void)state;
    const char *path = kvtest_path("made.v1.kvm");
    kv_model *m, *opened;
    kv_tokenizer *tok;
    kv_kvm_extras e = kvmkit_extras(1024);
    uint8_t sha[32];
    e.tokenizer_kind = KV_KVM_BYTES;
    assert_ok(kv_model_open("nano-b", NULL, &m, NULL));
    kvmkit_bytes b = kvmkit_packed(m, &e);
    kvtest_write(path, b.p, b.n);
    assert_ok(kv_model_open(path, NULL, &opened, &tok));
    assert_string_equal(opened->name, "made.v1");
    assert_string_equal(kv_tokenizer_kind(tok), "bytes");
    kv_sha256(b.p, b.n, sha);
    assert_memory_equal(opened->sha256, sha, 32);
    assert_memory_equal(&opened->cfg, &m->cfg, sizeof m->cfg);
    assert_ok(kv_model_check(opened));
    kv_tokenizer_free(tok);
    kv_model_close(opened);
    e.tokenizer_kind = KV_KVM_NO_TOKENIZER;
    kvmkit_bytes bare = kvmkit_packed(m, &e);
    kvtest_write(path, bare.p, bare.n);
    assert_ok(kv_model_open(path, NULL, &opened, &tok));
    assert_null(tok);
    kv_model_close(opened);
    kvtest_write(path, b.p, b.n - 1);
    assert_refused(kv_model_open(path, NULL, &opened, &tok), KV_ERR_FORMAT, "made.v1.kvm: ");
    assert_null(opened);
    assert_null(tok);
    unlink(path);
    assert_refused(kv_model_open(path, NULL, &opened, NULL), KV_ERR_IO, "made.v1.kvm");
    free(b.p);
    free(bare.p);
    kv_model_close(m);
}

/* ---- refusals when packing -------------------------------------------------------------------------------------------- */

static kv_status pack_with(const kv_model *m, kv_kvm_extras e)
{
    uint8_t *p;
    size_t n;
    const kv_status st = kv_kvm_pack(m, &e, &p, &n);
    free(p);
    return st;
}

static void what_cannot_be_packed_is_refused(void **state)
{
    (void)state;
    const kv_config cfg = kvmkit_config();
    kv_model *m = kvmkit_model(&cfg);
    kv_kvm_extras e = kvmkit_extras(0);
    e.level = 23;
    assert_refused(pack_with(m, e), KV_ERR_USAGE, "level 23");
    e = kvmkit_extras(0);
    e.quant.floors = 5;
    assert_refused(pack_with(m, e), KV_ERR_FORMAT, "floors");
    e = kvmkit_extras(0);
    e.tokenizer_kind = KV_KVM_BYTES;
    assert_refused(pack_with(m, e), KV_ERR_MISMATCH, "260 tokens but the model only 8");
    e = kvmkit_extras(0);
    ((float *)(uintptr_t)kv_model_tensor(m, KV_ROLE_FFN_UP, 1)->data)[9] = kv_inf();
    assert_refused(pack_with(m, e), KV_ERR_FORMAT, "tensor 'blocks.1.mlp.fc.weight': row 1, column 1: inf");
    kv_model_close(m);
}

static void notes_have_a_grammar(void **state)
{
    (void)state;
    static const struct {
        const char *notes, *words;
    } bad[] = {{"seed", "cut off"},        {"seed\n", "note 1 is not key=value"}, {"a=1\n=2\n", "note 2 is not key=value"},
               {"A=1\n", "not key=value"}, {"a b=1\n", "not key=value"},          {"a=\t\n", "'a' has a control character"},
               {"a=1\nb=2\na=3\n", "note 3: 'a' appears twice"}, {"\n", "not key=value"}, {"a=\xff\n", "byte 2"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_refused(kv_kvm_check_notes(bad[i].notes, strlen(bad[i].notes)), KV_ERR_USAGE, bad[i].words);
    static const char good[] = "a=1\nab=1\nb-._9=x=y, \xc3\xa9\n";
    assert_ok(kv_kvm_check_notes(good, sizeof good - 1));
    assert_ok(kv_kvm_check_notes("", 0));
    static char many[5 * 300 + 1], large[KV_KVM_MAX_NOTES + 2];
    for (int i = 0; i < 257; i++)
        snprintf(many + 5 * i, 6, "%03x=\n", i);
    assert_refused(kv_kvm_check_notes(many, strlen(many)), KV_ERR_USAGE, "256 lines");
    memset(large, 'x', sizeof large);
    assert_refused(kv_kvm_check_notes(large, KV_KVM_MAX_NOTES + 1), KV_ERR_USAGE, "at most 65536");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_of_a_config_survives),
        cmocka_unit_test(odd_flags_and_numbers_of_a_config_are_refused),
        cmocka_unit_test(only_models_of_the_family_fit),
        cmocka_unit_test(every_class_survives),
        cmocka_unit_test(small_presets_survive_with_and_without_floors),
        cmocka_unit_test(a_full_size_model_fits_into_16_million_bytes),
        cmocka_unit_test(notes_quantiser_and_tokenizer_are_kept),
        cmocka_unit_test(a_sentencepiece_model_travels_inside),
        cmocka_unit_test(a_file_opens_as_a_model),
        cmocka_unit_test(what_cannot_be_packed_is_refused),
        cmocka_unit_test(notes_have_a_grammar),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
