/* Launch descriptors: what expressions are worth, what a launch gets, and the one line that each bad file is refused with. */
#include "difftest/ops/launch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const dt_op_schema *attn(void) { return &dt_op_schemas[KVDK_OP_attn_decode]; }

/* T=3 Hq=8 Hk=2 hd=64; q of 3 x 8 x 64 with rows of 600; a cache of 5 entries in bf16, the second segment absent. */
static dt_args example(void)
{
    static float data[1];
    dt_args a;
    memset(&a, 0, sizeof a);
    kvdk_attn_args *at = &a.attn_decode;
    at->T = 3;
    at->Hq = 8;
    at->Hk = 2;
    at->hd = 64;
    at->scale = 0.125;
    at->segment[0].kind = KVDK_CACHE;
    at->q = (kvdk_tensor){.data = data, .dim = {3, 8, 64, 1}, .stride = {600, 64, 1, 1}};
    at->segment[0].k = (kvdk_tensor){.data = data, .dtype = KVDK_BF16, .dim = {5, 2, 64, 1}, .stride = {128, 64, 1, 1}};
    return a;
}

/* ---- expressions --------------------------------------------------------------------------------------------------- */

static void is_worth(const char *text, int64_t wanted)
{
    const dt_args a = example();
    dt_expr_pool pool = {0};
    dt_expr e;
    int64_t got = -12345;
    kv_status st = dt_expr_compile(text, attn(), &pool, &e);
    if (st == KV_OK) st = dt_expr_value(&pool, &e, &a, &got);
    if (st != KV_OK || got != wanted) print_message("%s: %lld, %s\n", text, (long long)got, kv_message());
    assert_int_equal(st, KV_OK);
    assert_int_equal(got, wanted);
    dt_expr_pool_free(&pool);
}

static void expressions(void **state)
{
    (void)state;
    is_worth("1 + 2 * 3", 7);
    is_worth(" ( 1 + 2 ) * 3 ", 9);
    is_worth("100 - 10 - 1", 89);
    is_worth("7 / 2 * 2", 6);
    is_worth("-7 / 2", -3);
    is_worth("-7 % 4", -3);
    is_worth("0x1F", 31);
    is_worth("1 << 4 >> 2", 4);
    is_worth("1 + 1 << 2", 8);
    is_worth("1 < 2 == 1", 1);
    is_worth("3 <= 2 || 2 >= 3 && 1", 0);
    is_worth("!0 + !5", 1);
    is_worth("--3", 3);
    is_worth("0 ? 1 : 0 ? 2 : 3", 3);
    is_worth("1 ? 2 : 3 + 10", 2);
    is_worth("T * Hq * hd", 1536);
    is_worth("Hq / Hk", 4);
    is_worth("cdiv(hd, 60)", 2);
    is_worth("cdiv(-7, 2) * 10 + cdiv(6, 3)", -28);
    is_worth("min(T, 2) + max(T, 20)", 22);
    is_worth("q.stride0 + q.dim2 + q.dim3", 665);
    is_worth("q.present * 100 + segment1.k.present * 10 + segment1.k.dim0", 100);
    is_worth("segment0.k.dtype == KVDK_BF16 && segment0.kind != KVDK_SELF", 1);
    is_worth("9223372036854775807", INT64_MAX);
    is_worth("-9223372036854775807 - 1", INT64_MIN);
    /* Only the branch that is taken, and only the side that decides, is looked at. */
    is_worth("T > 3 ? 1 / (T - 3) : 9", 9);
    is_worth("T > 3 && 1 / (T - 3)", 0);
    is_worth("T == 3 || 1 / (T - 3)", 1);
}

static void is_no_expression(const char *text, const char *words)
{
    dt_expr_pool pool = {0};
    dt_expr e;
    const kv_status st = dt_expr_compile(text, attn(), &pool, &e);
    if (st == KV_OK || !strstr(kv_message(), words)) print_message("%s: %s\n", text, kv_message());
    assert_int_equal(st, KV_ERR_FORMAT);
    assert_non_null(strstr(kv_message(), words));
    assert_null(strchr(kv_message(), '\n'));
    dt_expr_pool_free(&pool);
}

static void bad_expressions(void **state)
{
    (void)state;
    char deep[200];
    is_no_expression("", "'': a value is missing at character 1");
    is_no_expression("T +", "a value is missing at character 4");
    is_no_expression("T T", "an operator or the end is expected at character 3");
    is_no_expression("(T", "')' is missing at character 3");
    is_no_expression("T ? 1", "':' is missing");
    is_no_expression("min(T)", "',' is missing at character 6");
    is_no_expression("min T", "'(' is missing");
    is_no_expression("Tx", "unknown name 'Tx'; attn_decode knows T, Hq, Hk, hd, n_segments, segment0.kind");
    is_no_expression("q", "unknown name 'q'; ");
    is_no_expression("q.dim4", "unknown name 'q.dim4'");
    is_no_expression("q.data", "unknown name 'q.data'");
    is_no_expression("segment3.k.dim0", "unknown name 'segment3.k.dim0'");
    is_no_expression("scale * 2", "no whole number, as it must be here, at character 1");
    is_no_expression("1.5", "no whole number at character 1");
    is_no_expression("2T", "no whole number at character 1");
    is_no_expression("0x", "no whole number");
    is_no_expression("9223372036854775808", "a number beyond 64 bits");
    is_no_expression("4 / (2 - 2)", "division by zero at character 3");
    is_no_expression("1 << 63", "a shift by less than 0 or more than 62");
    is_no_expression("T = 2", "an operator or the end is expected");
    is_no_expression("T\n", "character 2 of an expression is none that it may have");
    memset(deep, '(', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    is_no_expression(deep, "nested too deeply");
    memset(deep, '!', sizeof deep - 1);
    is_no_expression(deep, "nested too deeply");
}

static void has_no_value(const char *text, const char *words)
{
    const dt_args a = example();
    dt_expr_pool pool = {0};
    dt_expr e;
    int64_t got;
    assert_int_equal(dt_expr_compile(text, attn(), &pool, &e), KV_OK);
    assert_int_equal(dt_expr_value(&pool, &e, &a, &got), KV_ERR_CONTRACT);
    assert_string_equal(kv_message(), words);
    dt_expr_pool_free(&pool);
}

static void values_that_are_none(void **state)
{
    (void)state;
    has_no_value("hd / (T - 3)", "'hd / (T - 3)': division by zero at character 4");
    has_no_value("hd % (T - 3)", "'hd % (T - 3)': division by zero at character 4");
    has_no_value("cdiv(hd, T - 3)", "'cdiv(hd, T - 3)': division by zero at character 1");
    has_no_value("T * 9223372036854775807", "'T * 9223372036854775807': overflow at character 3");
    has_no_value("T + 9223372036854775807", "'T + 9223372036854775807': overflow at character 3");
    has_no_value("(-9223372036854775807 - 1 + T - T) / -1", "'(-9223372036854775807 - 1 + T - T) / -1': overflow at character 36");
    has_no_value("T << 62", "'T << 62': overflow at character 3");
    has_no_value("1 << (T - 4)", "'1 << (T - 4)': a shift by less than 0 or more than 62 at character 3");
}

/* ---- descriptors ---------------------------------------------------------------------------------------------------- */

#define HEAD "{\"kvdk\": 1, \"name\": \"n\", \"contract\": \"bounded\", \"module\": \"m.ptx\", \"ops\": "
/* An operation of one launch, with its members. */
#define OP(name, members) HEAD "{\"" name "\": {\"launches\": [{\"entry\": \"e\", \"grid\": \"T\", \"block\": 32, \"parameters\": []" members "}]}}}"
#define PARAMETERS(list) HEAD "{\"attn_decode\": {\"launches\": [{\"entry\": \"e\", \"grid\": 1, \"block\": 32, \"parameters\": [" list "]}]}}}"
#define SHAPE(grid, block) \
    HEAD "{\"attn_decode\": {\"launches\": [{\"entry\": \"e\", \"grid\": " grid ", \"block\": " block ", \"parameters\": []}]}}}"

static const struct {
    const char *text, *message; /* what it begins with, behind "k.kernel.json: " */
} refused[] = {
    {"", "line 1, column 0: "},
    {"{\"kvdk\": 1,\n \"name\": }", "line 2, column 10: unexpected token near '}'"},
    {"[]", "must be an object, {...}"},
    {"{\"kvdk\": 1, \"kvdk\": 1}", "line 1, column 18: duplicate object key"},
    {"{\"kernel\": 1}", "unknown key 'kernel'; known are kvdk, name, about, contract, determinism, precision, fast_math, module, ops"},
    {"{\"a\\nb\": 1}", "unknown key 'a?b'; known are kvdk"},
    {"{}", "the key 'kvdk' must be 1, the ABI of kvdiff_kernel.h"},
    {"{\"kvdk\": 2}", "the key 'kvdk' must be 1, the ABI of kvdiff_kernel.h"},
    {"{\"kvdk\": 1}", "name: must be a text of 1 to 60 characters"},
    {"{\"kvdk\": 1, \"name\": \"a|b\"}", "name: must not hold '|'"},
    {"{\"kvdk\": 1, \"name\": \"a\\tb\"}", "name: must be printable ASCII"},
    {"{\"kvdk\": 1, \"name\": \"n\"}", "the key 'contract' is missing: bitexact, bounded or statistical"},
    {"{\"kvdk\": 1, \"name\": \"n\", \"contract\": \"exact\"}", "contract: 'exact' is unknown; known are bitexact, bounded, statistical"},
    {"{\"kvdk\": 1, \"name\": \"n\", \"contract\": 1}", "contract: '(no text)' is unknown"},
    {"{\"kvdk\": 1, \"name\": \"n\", \"contract\": \"bounded\", \"determinism\": \"yes\"}",
     "determinism: 'yes' is unknown; known are no_promise, same_call, same_row"},
    {"{\"kvdk\": 1, \"name\": \"n\", \"contract\": \"bounded\", \"precision\": {\"score\": \"f16\"}}",
     "precision: unknown key 'score'; known are scores, probabilities, accumulators"},
    {"{\"kvdk\": 1, \"name\": \"n\", \"contract\": \"bounded\", \"precision\": {\"scores\": \"fp8\"}}",
     "precision.scores: 'fp8' is unknown; known are f32, f16, bf16"},
    {"{\"kvdk\": 1, \"name\": \"n\", \"contract\": \"bounded\", \"fast_math\": 1}", "'fast_math' must be true or false"},
    {"{\"kvdk\": 1, \"name\": \"n\", \"contract\": \"bounded\"}", "module: must be a text of 1 to 1000 characters"},
    {HEAD "{}}", "ops: must be an object with at least one operation"},
    {HEAD "{\"attention\": {}}}", "ops: there is no operation 'attention'; there are rmsnorm, gemm, rope, attn_prefill, attn_decode"},
    {HEAD "{\"attn_decode\": 1}}", "ops.attn_decode: must be an object, {...}"},
    {HEAD "{\"attn_decode\": {\"launch\": 1}}}", "ops.attn_decode: unknown key 'launch'; known are requires, scratch, launches"},
    {HEAD "{\"attn_decode\": {}}}", "ops.attn_decode.launches: must be a list of 1 to 16 launches, [...]"},
    {HEAD "{\"attn_decode\": \"attn_prefill\"}}", "ops.attn_decode: 'attn_prefill' is no operation that this file describes"},
    {HEAD "{\"attn_decode\": \"attn_decode\"}}", "ops.attn_decode: 'attn_decode' is no operation that this file describes"},
    {HEAD "{\"rmsnorm\": \"topk\", \"topk\": {\"launches\": [{\"entry\": \"e\", \"grid\": 1, \"block\": 1, \"parameters\": []}]}}}",
     "ops.rmsnorm: rmsnorm has other arguments than topk"},
    {HEAD "{\"attn_decode\": {\"requires\": \"T < 5\"}}}", "ops.attn_decode.requires: must be a list of 0 to 16 expressions, [...]"},
    {HEAD "{\"attn_decode\": {\"requires\": [\"T < 5\", \"t < 5\"]}}}", "ops.attn_decode.requires[1]: 't < 5': unknown name 't'; "},
    {HEAD "{\"attn_decode\": {\"scratch\": [1]}}}", "ops.attn_decode.scratch: must be an object of at most 8 members"},
    {HEAD "{\"attn_decode\": {\"scratch\": {\"a b\": 1}}}}", "ops.attn_decode.scratch.a b: must be a name of 1 to 40 letters, digits and '_'"},
    {HEAD "{\"attn_decode\": {\"scratch\": {\"a\": true}}}}",
     "ops.attn_decode.scratch.a: must be a whole number or an expression in quotes"},
    {HEAD "{\"attn_decode\": {\"launches\": [{}]}}}", "ops.attn_decode.launches[0].entry: must be a text of 1 to 255 characters"},
    {OP("attn_decode", ", \"cluster\": 2"),
     "ops.attn_decode.launches[0]: unknown key 'cluster'; known are entry, when, grid, block, shared, parameters"},
    {OP("attn_decode", ", \"shared\": 1.5"), "ops.attn_decode.launches[0].shared: must be a whole number or an expression in quotes"},
    {OP("attn_decode", ", \"when\": \"\""), "ops.attn_decode.launches[0].when: '': a value is missing at character 1"},
    {OP("gemm", ""), "ops.gemm.launches[0].grid: 'T': unknown name 'T'; gemm knows M, N, K, epilogue, a.*, w.*, bias.*, c.*"},
    {SHAPE("[]", "1"), "ops.attn_decode.launches[0].grid: must have 1 to 3 dimensions"},
    {SHAPE("[1, 1, 1, 1]", "1"), "ops.attn_decode.launches[0].grid: must have 1 to 3 dimensions"},
    {SHAPE("[1, 65536]", "1"), "ops.attn_decode.launches[0].grid[1]: 65536; a device takes 1 to 65535"},
    {SHAPE("1", "[1, 1, \"8 * 9\"]"), "ops.attn_decode.launches[0].block[2]: 72; a device takes 1 to 64"},
    {SHAPE("0", "1"), "ops.attn_decode.launches[0].grid: 0; a device takes 1 to 2147483647"},
    {SHAPE("1", "null"), "ops.attn_decode.launches[0].block: must be a whole number or an expression in quotes"},
    {SHAPE("1", "[\"4 / 0\"]"), "ops.attn_decode.launches[0].block[0]: '4 / 0': division by zero at character 3"},
    {PARAMETERS("\"k\""), "ops.attn_decode.launches[0].parameters[0]: 'k' is no tensor of attn_decode; it has q, segment0.k"},
    {PARAMETERS("\"q\", 7"), "ops.attn_decode.launches[0].parameters[1]: must be the name of a tensor, or an object of one member"},
    {PARAMETERS("{}"), "ops.attn_decode.launches[0].parameters[0]: must be the name of a tensor, or an object of one member"},
    {PARAMETERS("{\"int\": \"T\"}"),
     "ops.attn_decode.launches[0].parameters[0]: unknown type 'int'; known are i8 u8 i16 u16 i32 u32 i64 u64 f32 f64 scratch"},
    {PARAMETERS("{\"i32\": \"scale\"}"), "ops.attn_decode.launches[0].parameters[0]: 'scale': no whole number, as it must be here,"},
    {PARAMETERS("{\"f32\": \"eps\"}"), "ops.attn_decode.launches[0].parameters[0]: 'eps': unknown name 'eps'"},
    {PARAMETERS("{\"i8\": 128}"), "ops.attn_decode.launches[0].parameters[0]: 128 does not fit into i8"},
    {PARAMETERS("{\"u64\": -1}"), "ops.attn_decode.launches[0].parameters[0]: -1 does not fit into u64"},
    {PARAMETERS("{\"scratch\": \"s\"}"), "ops.attn_decode.launches[0].parameters[0]: there is no scratch 's' in this operation"},
};

static void bad_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        static const char file[] = "k.kernel.json: ";
        dt_descriptor *d;
        const kv_status st = dt_descriptor_take(refused[i].text, strlen(refused[i].text), "/some/where/k.kernel.json", &d);
        const char *said = kv_message();
        const int fits = strncmp(said, file, sizeof file - 1) == 0 &&
                         strncmp(said + sizeof file - 1, refused[i].message, strlen(refused[i].message)) == 0;
        if (st == KV_OK || !fits) print_message("%s\n wanted %s\n got    %s\n", refused[i].text, refused[i].message, said);
        assert_int_equal(st, KV_ERR_FORMAT);
        assert_true(fits);
        assert_null(d);
        assert_null(strchr(said, '\n'));
    }
}

static dt_descriptor *take(const char *text)
{
    dt_descriptor *d;
    const kv_status st = dt_descriptor_take(text, strlen(text), "folder/k.kernel.json", &d);
    if (st != KV_OK) print_message("%s\n", kv_message());
    assert_int_equal(st, KV_OK);
    return d;
}

static void what_it_says(void **state)
{
    (void)state;
    dt_descriptor *d = take("{\"kvdk\": 1, \"name\": \"n\", \"contract\": \"bitexact\", \"determinism\": \"same_row\", \"fast_math\": true,"
                            " \"precision\": {\"probabilities\": \"bf16\", \"scores\": \"f16\"}, \"module\": \"m.cubin\", \"ops\": {"
                            " \"attn_prefill\": \"attn_decode\","
                            " \"attn_decode\": {\"launches\": [{\"entry\": \"e\", \"grid\": 1, \"block\": 1, \"parameters\": []}]}}}");
    assert_string_equal(d->info.name, "n");
    assert_string_equal(d->module, "folder/m.cubin");
    assert_int_equal(d->info.contract, KVDK_BITEXACT);
    assert_int_equal(d->info.determinism, KVDK_SAME_ROW);
    assert_int_equal(d->info.memory, KVDK_CUDA);
    assert_int_equal(d->info.precision.scores, KVDK_F16);
    assert_int_equal(d->info.precision.probabilities, KVDK_BF16);
    assert_int_equal(d->info.precision.accumulators, KVDK_F32);
    assert_int_equal(d->info.fast_math, 1);
    for (int op = 0; op < KVDK_OP_COUNT; op++)
        assert_int_equal(d->recipe[op].n_launches, op == KVDK_OP_attn_decode || op == KVDK_OP_attn_prefill);
    dt_descriptor_free(d);
    d = take(OP("rmsnorm", ""));
    assert_int_equal(d->info.determinism, KVDK_SAME_CALL);
    dt_descriptor_free(d);
}

/* ---- a call ---------------------------------------------------------------------------------------------------------- */

static kv_status launch(const char *text, const dt_args *a, int *is_on, dt_launch_values *v)
{
    dt_descriptor *d = take(text);
    const dt_recipe *recipe = &d->recipe[KVDK_OP_attn_decode];
    uint64_t at[DT_SCRATCHES + 1];
    kv_status st = dt_recipe_takes(d, recipe, a);
    if (st == KV_OK) st = dt_recipe_scratch(d, recipe, a, at);
    if (st == KV_OK) st = dt_launch_compute(d, recipe, 0, a, at, is_on, v);
    dt_descriptor_free(d);
    return st;
}

#define VALUE(type, i) (*(const type *)v.pointer[i])

static void parameters(void **state)
{
    (void)state;
    dt_args a = example();
    dt_launch_values v;
    char room[4096];
    int is_on;
    a.call.workspace = room;
    a.call.workspace_bytes = sizeof room;
    assert_int_equal(
        launch(HEAD "{\"attn_decode\": {\"scratch\": {\"s\": \"T\", \"t\": 257, \"u\": 1}, \"launches\": [{\"entry\": \"e\", \"grid\": [\"T\", \"Hq\"],"
                    " \"block\": [8, \"hd / 16\", 2], \"shared\": \"4 * hd\", \"parameters\": [\"q\", \"segment1.valid\", {\"i8\": -128}, {\"u8\": 255},"
                    " {\"i16\": -32768}, {\"u16\": 65535}, {\"i32\": \"0 - q.stride0\"}, {\"u32\": 4294967295}, {\"i64\": \"segment0.k.stride1\"},"
                    " {\"u64\": 9223372036854775807}, {\"f32\": \"scale\"}, {\"f64\": \"scale\"}, {\"f32\": 0.1}, {\"f64\": -2}, {\"f32\": \"hd\"},"
                    " {\"scratch\": \"s\"}, {\"scratch\": \"t\"}, {\"scratch\": \"u\"}, \"args\"]}]}}}",
               &a, &is_on, &v),
        KV_OK);
    assert_true(is_on);
    assert_int_equal(v.grid[0], 3);
    assert_int_equal(v.grid[1], 8);
    assert_int_equal(v.grid[2], 1);
    assert_int_equal(v.block[1], 4);
    assert_int_equal(v.shared, 256);
    assert_ptr_equal(VALUE(void *, 0), a.attn_decode.q.data);
    assert_null(VALUE(void *, 1));
    assert_int_equal(VALUE(int8_t, 2), -128);
    assert_int_equal(VALUE(uint8_t, 3), 255);
    assert_int_equal(VALUE(int16_t, 4), -32768);
    assert_int_equal(VALUE(uint16_t, 5), 65535);
    assert_int_equal(VALUE(int32_t, 6), -600);
    assert_int_equal(VALUE(uint32_t, 7), UINT32_MAX);
    assert_int_equal(VALUE(int64_t, 8), 64);
    assert_int_equal(VALUE(int64_t, 9), INT64_MAX);
    assert_true(VALUE(float, 10) == 0.125f && VALUE(double, 11) == 0.125);
    assert_true(VALUE(float, 12) == 0.1f && VALUE(double, 13) == -2.0 && VALUE(float, 14) == 64.0f);
    assert_ptr_equal(VALUE(char *, 15), room);
    assert_ptr_equal(VALUE(char *, 16), room + 256);
    assert_ptr_equal(VALUE(char *, 17), room + 768);
    assert_int_equal(((const kvdk_attn_args *)v.pointer[18])->hd, 64);
}

static void is_left_out(void **state)
{
    (void)state;
    const dt_args a = example();
    dt_launch_values v;
    int is_on = 1;
    assert_int_equal(launch(HEAD "{\"attn_decode\": {\"launches\": [{\"entry\": \"e\", \"grid\": \"segment1.k.dim0\", \"block\": 1,"
                                 " \"when\": \"segment1.k.present\", \"parameters\": []}]}}}",
                            &a, &is_on, &v),
                     KV_OK);
    assert_int_equal(is_on, 0);
}

static void bad_call(kv_status wanted, const char *op, const char *message)
{
    const dt_args a = example();
    dt_launch_values v;
    char text[1000];
    int is_on;
    snprintf(text, sizeof text, HEAD "{\"attn_decode\": {%s}}}", op);
    const kv_status st = launch(text, &a, &is_on, &v);
    if (strcmp(kv_message(), message) != 0) print_message("%s\n", kv_message());
    assert_int_equal(st, wanted);
    assert_string_equal(kv_message(), message);
}

#define LAUNCH(members) "\"launches\": [{\"entry\": \"e\", " members "}]"
#define PLAIN           LAUNCH("\"grid\": 1, \"block\": 1, \"parameters\": []")

static void bad_calls(void **state)
{
    (void)state;
    bad_call(KV_ERR_UNSUPPORTED, "\"requires\": [\"T >= 1\", \"hd == 128\"], " PLAIN, "it requires hd == 128");
    bad_call(KV_ERR_CONTRACT, "\"requires\": [\"1 % (T - 3)\"], " PLAIN,
             "k.kernel.json: ops.attn_decode.requires[0]: '1 % (T - 3)': division by zero at character 3");
    bad_call(KV_ERR_CONTRACT, "\"scratch\": {\"a\": \"1 - T\"}, " PLAIN, "k.kernel.json: ops.attn_decode.scratch.a: -2 bytes");
    bad_call(KV_ERR_CONTRACT, "\"scratch\": {\"a\": \"T << 50\"}, " PLAIN, "k.kernel.json: ops.attn_decode.scratch.a: 3377699720527872 bytes");
    bad_call(KV_ERR_CONTRACT, LAUNCH("\"grid\": [1, \"T - 3\"], \"block\": 1, \"parameters\": []"),
             "k.kernel.json: ops.attn_decode.launches[0].grid[1]: 0; a device takes 1 to 65535 (\"when\" leaves a launch out)");
    bad_call(KV_ERR_CONTRACT, LAUNCH("\"grid\": 1, \"block\": \"hd * 32\", \"parameters\": []"),
             "k.kernel.json: ops.attn_decode.launches[0].block[0]: 2048; a device takes 1 to 1024 (\"when\" leaves a launch out)");
    bad_call(KV_ERR_CONTRACT, LAUNCH("\"grid\": 1, \"block\": [\"hd\", \"hd\"], \"parameters\": []"),
             "k.kernel.json: ops.attn_decode.launches[0].block: 4096 threads; a device takes 1024");
    bad_call(KV_ERR_CONTRACT, LAUNCH("\"grid\": 1, \"block\": 1, \"shared\": \"hd << 12\", \"parameters\": []"),
             "k.kernel.json: ops.attn_decode.launches[0].shared: 262144 bytes; no device has more than 232448");
    bad_call(KV_ERR_CONTRACT, LAUNCH("\"grid\": 1, \"block\": 1, \"shared\": \"-T\", \"parameters\": []"),
             "k.kernel.json: ops.attn_decode.launches[0].shared: -3 bytes; no device has more than 232448");
    bad_call(KV_ERR_CONTRACT, LAUNCH("\"grid\": 1, \"block\": 1, \"when\": \"T / (T - 3)\", \"parameters\": []"),
             "k.kernel.json: ops.attn_decode.launches[0].when: 'T / (T - 3)': division by zero at character 3");
    bad_call(KV_ERR_CONTRACT, LAUNCH("\"grid\": 1, \"block\": 1, \"parameters\": [\"q\", {\"i32\": \"T << 30\"}]"),
             "k.kernel.json: ops.attn_decode.launches[0].parameters[1]: 3221225472 does not fit into i32");
}

/* ---- modules --------------------------------------------------------------------------------------------------------- */

static const char ptx[] = "// made by hand\n.version 6.0\n.target sm_61, debug\n.visible .entry one(.param .u64 .ptr .global .align 16 a, .param .align 8 "
                          ".b8 b[24],\n.param .f32 c /* , .param .u8 d */)\n{ ret; } // .entry no()\n.entry two() { ret; }\n.entry three { ret; }";

static void ptx_entries(void **state)
{
    (void)state;
    dt_module m;
    dt_ptx_entry e;
    char target[16];
    assert_int_equal(dt_module_take(ptx, sizeof ptx - 1, &m), KV_OK);
    assert_int_equal(m.kind, DT_PTX);
    assert_int_equal(dt_module_entry(&m, "one", &e), KV_OK);
    assert_int_equal(e.n, 3);
    assert_int_equal(e.bytes[0], 8);
    assert_int_equal(e.bytes[1], 24);
    assert_int_equal(e.bytes[2], 4);
    assert_int_equal(dt_module_entry(&m, "two", &e), KV_OK);
    assert_int_equal(e.n, 0);
    assert_int_equal(dt_module_entry(&m, "three", &e), KV_OK);
    assert_int_equal(e.n, 0);
    assert_int_equal(dt_module_entry(&m, "no", &e), KV_ERR_FORMAT);
    assert_string_equal(kv_message(), "it has no kernel 'no'; it has one, two, three");
    assert_int_equal(dt_ptx_target(&m, target, sizeof target), KV_OK);
    assert_string_equal(target, "sm_61");
    dt_module_free(&m);
}

static void fits(const char *entry, const char *parameters_text, const char *message)
{
    dt_module m;
    char text[600];
    snprintf(text, sizeof text, HEAD "{\"attn_decode\": {\"launches\": [{\"entry\": \"%s\", \"grid\": 1, \"block\": 1, \"parameters\": [%s]}]}}}",
             entry, parameters_text);
    dt_descriptor *d = take(text);
    assert_int_equal(dt_module_take(ptx, sizeof ptx - 1, &m), KV_OK);
    const kv_status st = dt_descriptor_fits(d, &m);
    if (message && !strstr(kv_message(), message)) print_message("%s\n", kv_message());
    assert_int_equal(st, message ? KV_ERR_FORMAT : KV_OK);
    if (message) assert_non_null(strstr(kv_message(), message));
    dt_module_free(&m);
    dt_descriptor_free(d);
}

static void descriptor_and_module(void **state)
{
    (void)state;
    fits("two", "", NULL);
    fits("five", "", "k.kernel.json: ops.attn_decode.launches[0]: m.ptx: it has no kernel 'five'; it has one, two, three");
    fits("two", "\"q\"", "'two' has 0 parameters, 1 are given");
    fits("one", "\"q\", \"o\", {\"f32\": \"scale\"}", "parameters[1] of 'one' has 24 bytes there, a pointer has 8");
    fits("one", "{\"i32\": \"T\"}, \"o\", {\"f32\": \"scale\"}", "parameters[0] of 'one' has 8 bytes there, i32 has 4");
}

static void is_no_module(const char *bytes, size_t n, const char *message)
{
    dt_module m;
    const kv_status st = dt_module_take(bytes, n, &m);
    if (st == KV_OK || strcmp(kv_message(), message) != 0) print_message("%s\n", kv_message());
    assert_int_equal(st, KV_ERR_FORMAT);
    assert_string_equal(kv_message(), message);
    assert_null(m.bytes);
}

static void kinds(void **state)
{
    (void)state;
    static const char none[] = "it is no PTX (which begins with .version), no cubin and no fat binary";
    char elf[100] = "\177ELF\2\1\1", fat[20] = "\x50\xed\x55\xba";
    dt_module m;
    dt_ptx_entry e;
    is_no_module("", 0, none);
    is_no_module("// .version", 11, none);
    is_no_module("int main", 8, none);
    is_no_module("\177ELF", 4, none);
    is_no_module(".version 6.0\0.target", 20, "it is PTX with a zero byte in it");
    elf[18] = 62;
    is_no_module(elf, sizeof elf, "it is an ELF file, but not for a CUDA device; `nvcc -cubin` makes one");
    elf[18] = (char)190;
    memcpy(elf + 70, ".text.one", 10);
    assert_int_equal(dt_module_take(elf, sizeof elf, &m), KV_OK);
    assert_int_equal(m.kind, DT_CUBIN);
    assert_int_equal(dt_module_entry(&m, "one", &e), KV_OK);
    assert_int_equal(e.n, -1);
    assert_int_equal(dt_module_entry(&m, "on", &e), KV_ERR_FORMAT);
    dt_module_free(&m);
    assert_int_equal(dt_module_take(fat, sizeof fat, &m), KV_OK);
    assert_int_equal(m.kind, DT_FATBIN);
    dt_module_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expressions),  cmocka_unit_test(bad_expressions), cmocka_unit_test(values_that_are_none),
        cmocka_unit_test(bad_files),    cmocka_unit_test(what_it_says),    cmocka_unit_test(parameters),
        cmocka_unit_test(is_left_out),  cmocka_unit_test(bad_calls),       cmocka_unit_test(ptx_entries),
        cmocka_unit_test(kinds),        cmocka_unit_test(descriptor_and_module),
    };
    return cmocka_run_group_tests_name("descriptor", tests, NULL, NULL);
}
