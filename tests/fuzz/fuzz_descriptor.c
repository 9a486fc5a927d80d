/* Any bytes as a launch descriptor, a module or an expression: refused in one line, or they mean something. What was accepted
 * computes launches within the limits of a device from any arguments, or says in one line why it cannot. */
#include "tests/fuzz/fuzz.h"

#include "common/rng.h"
#include "difftest/ops/launch.h"

#include <string.h>

static void is_one_line(void)
{
    const char *said = kv_message();
    FUZZ_DEMAND(*said);
    for (; *said; said++)
        FUZZ_DEMAND(*said >= 0x20 && *said <= 0x7e);
}

/* Numbers that sizes and indices go wrong at, and plain ones. */
static dt_args arguments(const dt_op_schema *op, uint64_t seed)
{
    static const int64_t list[] = {0, 1, 2, 3, 5, 64, 1023, 65536, INT32_MAX, INT64_MAX, INT64_MIN, -1};
    dt_args a;
    memset(&a, 0, sizeof a);
    uint64_t i = 0;
#define DRAW list[kv_philox_below(7, seed, i++, sizeof list / sizeof *list)]
    for (int k = 0; k < op->n_params; k++)
        if (!op->params[k].is_real) *(int64_t *)(void *)((char *)&a + op->params[k].offset) = DRAW;
    for (int k = 0; k < op->n_tensors; k++) {
        kvdk_tensor *t = dt_op_tensor(&a, &op->tensors[k]);
        for (int j = 0; j < 4; j++) {
            t->dim[j] = DRAW;
            t->stride[j] = DRAW;
        }
        t->data = DRAW ? (void *)&i : NULL;
    }
    return a;
}

static void launch(const dt_descriptor *d, const dt_recipe *recipe, int i, const dt_args *a, const uint64_t *at)
{
    dt_launch_values v;
    int is_on;
    if (dt_launch_compute(d, recipe, i, a, at, &is_on, &v) != KV_OK) {
        is_one_line();
        return;
    }
    if (!is_on) return;
    for (int k = 0; k < 3; k++)
        FUZZ_DEMAND(v.grid[k] >= 1 && v.grid[k] <= dt_most_grid[k] && v.block[k] >= 1 && v.block[k] <= dt_most_block[k]);
    FUZZ_DEMAND(v.block[0] * v.block[1] * v.block[2] <= DT_MOST_THREADS && v.shared <= DT_MOST_SHARED);
    for (int k = 0; k < recipe->launch[i].n_parameters; k++)
        FUZZ_DEMAND(v.pointer[k]);
}

static void call(const dt_descriptor *d, int op, uint64_t seed)
{
    const dt_recipe *recipe = &d->recipe[op];
    const dt_args a = arguments(&dt_op_schemas[op], seed);
    uint64_t at[DT_SCRATCHES + 1];
    if (dt_recipe_takes(d, recipe, &a) != KV_OK || dt_recipe_scratch(d, recipe, &a, at) != KV_OK) {
        is_one_line();
        return;
    }
    for (int i = 0; i < recipe->n_launches; i++)
        launch(d, recipe, i, &a, at);
}

static void as_descriptor(const uint8_t *data, size_t size, const dt_module *m)
{
    dt_descriptor *d;
    if (dt_descriptor_take((const char *)data, size, "x.kernel.json", &d) != KV_OK) {
        FUZZ_DEMAND(!d && strncmp(kv_message(), "x.kernel.json: ", 15) == 0);
        is_one_line();
        return;
    }
    for (int op = 0; op < KVDK_OP_COUNT; op++)
        for (uint64_t seed = 0; seed < 8 && d->recipe[op].n_launches; seed++)
            call(d, op, seed);
    if (m->bytes && dt_descriptor_fits(d, m) != KV_OK) is_one_line();
    dt_descriptor_free(d);
}

static void as_expression(const uint8_t *data, size_t size)
{
    dt_expr_pool pool = {0};
    dt_expr e;
    const dt_op_schema *op = &dt_op_schemas[KVDK_OP_attn_decode];
    char *text = malloc(size + 1);
    FUZZ_DEMAND(text);
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    if (dt_expr_compile(text, op, &pool, &e) != KV_OK)
        is_one_line();
    else
        for (uint64_t seed = 0; seed < 8; seed++) {
            const dt_args a = arguments(op, seed);
            int64_t value;
            if (dt_expr_value(&pool, &e, &a, &value) != KV_OK) is_one_line();
        }
    dt_expr_pool_free(&pool);
    free(text);
}

static void as_module(const uint8_t *data, size_t size, dt_module *m)
{
    dt_ptx_entry e;
    char target[32];
    if (dt_module_take((const char *)data, size, m) != KV_OK) {
        is_one_line();
        return;
    }
    if (dt_module_entry(m, "one", &e) != KV_OK) is_one_line();
    if (m->kind == DT_PTX && dt_ptx_target(m, target, sizeof target) != KV_OK) is_one_line();
}

/* The text before a zero byte is a descriptor or an expression, the rest a module. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    const size_t n = zero ? (size_t)(zero - data) : size;
    dt_module m = {0};
    if (zero) as_module(zero + 1, size - n - 1, &m);
    as_descriptor(data, n, &m);
    as_expression(data, n);
    dt_module_free(&m);
    return 0;
}

#define HEAD "{\"kvdk\":1,\"name\":\"n\",\"contract\":\"bounded\",\"module\":\"m\",\"ops\":{"

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    static const char first[] = HEAD "\"attn_decode\":{\"requires\":[\"hd<=64\"],\"scratch\":{\"s\":\"4*T*Hq\"},\"launches\":[{\"entry\":\"one\","
                                     "\"when\":\"segment0.k.present\",\"grid\":[\"T\",\"cdiv(Hq,Hk)\"],\"block\":[32,\"min(T,4)\"],\"shared\":\"hd<<2\","
                                     "\"parameters\":[\"q\",{\"i32\":\"q.stride0\"},{\"f32\":\"scale\"},{\"scratch\":\"s\"}]}]},\"attn_prefill\":\"attn_decode\"}}"
                                     "\0.version 6.0\n.target sm_50\n.entry one(.param .u64 a,.param .b32 b,.param .f32 c,.param .u64 d){ret;}";
    static const char second[] = HEAD "\"gemm\":{\"launches\":[{\"entry\":\"two\",\"grid\":1,\"block\":1,\"parameters\":[\"args\",{\"u8\":1},{\"f64\":0.5},"
                                      "{\"i64\":\"-M*(N%K)\"}]}]}}}\0.version 6.0 // .entry x\n/**/.entry two(.param .align 8 .b8 a[16])";
    static const char third[] = "T > 3 ? 1 / (T - 3) : !q.present && -hd % 0x10 >> 2 == max(segment0.kind, KVDK_SELF) || 7 != 8";
    static const char fourth[] = "((((T*2)+3)-4)/5)<6\0\x50\xed\x55\xba                ";
    static const struct {
        const char *p;
        size_t n;
    } seeds[] = {{first, sizeof first - 1}, {second, sizeof second - 1}, {third, sizeof third - 1}, {fourth, sizeof fourth - 1}};
    if (i >= sizeof seeds / sizeof *seeds) return NULL;
    *size = seeds[i].n;
    uint8_t *p = malloc(*size);
    if (p) memcpy(p, seeds[i].p, *size);
    return p;
}
