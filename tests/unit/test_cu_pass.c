/* The source pass of .cu files: what is rewritten, what is refused and where, what is left alone. */
#include "difftest/ops/cu_pass.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *pass(const char *text)
{
    char *out;
    size_t n;
    const kv_status st = dt_cu_pass(text, strlen(text), "k.cu", &out, &n);
    if (st != KV_OK) print_message("refused: %s\n", kv_message());
    assert_int_equal(st, KV_OK);
    assert_int_equal(strlen(out), n);
    return out;
}

static void becomes(const char *text, const char *wanted)
{
    char *out = pass(text);
    assert_string_equal(out, wanted);
    free(out);
}

static void stays(const char *text) { becomes(text, text); }

static void is_refused(const char *text, int line, const char *words)
{
    char *out, where[32];
    size_t n;
    snprintf(where, sizeof where, "k.cu:%d: ", line);
    const kv_status st = dt_cu_pass(text, strlen(text), "k.cu", &out, &n);
    if (st == KV_OK) print_message("not refused: %s\n", out);
    assert_int_equal(st, KV_ERR_UNSUPPORTED);
    assert_null(out);
    if (strncmp(kv_message(), where, strlen(where)) != 0 || !strstr(kv_message(), words)) print_message("%s\n", kv_message());
    assert_int_equal(strncmp(kv_message(), where, strlen(where)), 0);
    assert_non_null(strstr(kv_message(), words));
}

#define CALL(name, address, config, kernel) \
    "simt::UserLaunch(\"" name "\", " address ", __FILE__, __LINE__, " config ").kernel([&](const auto &...simt_arg) { (" kernel ")(simt_arg...); })"

static void launches(void **state)
{
    (void)state;
    becomes("void f() { k<<<1, 2>>>(a); }", "void f() { " CALL("k", "SIMT_ADDRESS((k))", "1, 2", "k") "(a); }");
    becomes("void f() { k <<< g(1, 2), dim3(3, 4), n >> 1, s >>> (); }",
            "void f() { " CALL("k", "SIMT_ADDRESS((k))", " g(1, 2), dim3(3, 4), n >> 1, s ", "k") " (); }");
    becomes("void f() { a::b<int, (x > 1)>::k<T<4>, 2><<<g, b>>>(p, q); }",
            "void f() { " CALL("k", "SIMT_ADDRESS((a::b<int, (x > 1)>::k<T<4>, 2>))", "g, b", "a::b<int, (x > 1)>::k<T<4>, 2>") "(p, q); }");
    becomes("void f() { if (x) ::k<<<g, b>>>(p); }", "void f() { if (x) " CALL("k", "SIMT_ADDRESS((::k))", "g, b", "::k") "(p); }");
    becomes("void f() { (c ? k : l)<<<g, b>>>(p); }",
            "void f() { " CALL("ckl", "SIMT_ADDRESS(((c ? k : l)))", "g, b", "(c ? k : l)") "(p); }");
    becomes("template <class T> __global__ void __launch_bounds__(32) k(T t) {}\nvoid f() { k<<<1, 2>>>(1); k<int><<<1, 2>>>(1); }",
            "template <class T> __global__ void __launch_bounds__(32) k(T t) {}\nvoid f() { " CALL("k", "SIMT_ADDRESS((k))", "1, 2", "k") "(1); " CALL(
                "k", "SIMT_ADDRESS((k<int>))", "1, 2", "k<int>") "(1); }");
    becomes("void f() { a<<<1, 2>>>(); b<<<3, 4>>>(); }", "void f() { " CALL("a", "SIMT_ADDRESS((a))", "1, 2", "a") "(); " CALL(
                                                            "b", "SIMT_ADDRESS((b))", "3, 4", "b") "(); }");
}

static void lines_are_kept(void **state)
{
    (void)state;
    becomes("void f()\n{\n    k<int /* > */,\n      2><<<1, // one\n        2>>>\n        (a);\n}\n",
            "void f()\n{\n    " CALL("k", "SIMT_ADDRESS((k<int        ,       2>))", "1,                2", "k<int        ,       2>")
            "\n\n\n        (a);\n}\n");
    becomes("__global__ void f() {\n__shared__\nfloat\na[2];\nx; }",
            "__global__ void f() {\ntypedef  float  simt_type_a[2]; static const char simt_site_a = 0; simt_type_a &a = *(simt_type_a "
            "*)simt::shared_array(&simt_site_a, sizeof(simt_type_a), simt::alignment(alignof(simt_type_a), 1))\n\n;\nx; }");
}

#define STATIC(type, name, dims, align)                                                                                        \
    "typedef " type " simt_type_" name dims "; static const char simt_site_" name " = 0; simt_type_" name " &" name              \
    " = *(simt_type_" name " *)simt::shared_array(&simt_site_" name ", sizeof(simt_type_" name "), simt::alignment(alignof(simt_type_" name \
    "), " align "))"
#define DYNAMIC(type, name, dims) \
    "typedef " type " simt_type_" name dims "; simt_type_" name " *const " name " = (simt_type_" name " *)simt::self->block->dynamic"

static void shared_memory(void **state)
{
    (void)state;
    becomes("__global__ void f() { __shared__ float a[2][N + 1]; }", "__global__ void f() { " STATIC(" float ", "a", "[2][N + 1]", "1") "; }");
    becomes("__global__ void f() { __shared__ int total; }", "__global__ void f() { " STATIC(" int ", "total", "", "1") "; }");
    becomes("__global__ void f() { volatile __shared__ P<int, 4> *a[2]; }",
            "__global__ void f() { " STATIC("volatile  P<int, 4> *", "a", "[2]", "1") "; }");
    becomes("__global__ void f() { __shared__ __align__(32) float a[g(1, 2)]; }",
            "__global__ void f() { " STATIC("  float ", "a", "[g(1, 2)]", "(32)") "; }");
    becomes("__global__ void f() { extern __shared__ float a[]; }", "__global__ void f() { " DYNAMIC("  float ", "a", "") "; }");
    becomes("__global__ void f() { extern __shared__ alignas(16) T<2> a[][4]; }", "__global__ void f() { " DYNAMIC("   T<2> ", "a", "[4]") "; }");
    becomes("namespace n { struct s { __device__ void f() { __shared__ int a; } }; }",
            "namespace n { struct s { __device__ void f() { " STATIC(" int ", "a", "", "1") "; } }; }");
}

static void untouched(void **state)
{
    (void)state;
    stays("");
    stays("// k<<<1, 2>>>(); asm __shared__\n");
    stays("// goes on \\\n k<<<1, 2>>>(); asm\n");
    stays("/* k<<<1, 2>>>();\n asm */ const char *s = \"k<<<1>>>(asm) \\\" __shared__\", c = '\"';\n");
    stays("auto s = R\"x(asm \" )\" k<<<1>>>() )x\"; auto t = u8R\"(__constant__)\";\n");
    stays("int i = 1'000'000; char c = '\\'', d = 'a';\n");
    stays("#if 0\nasm(\"\"); don't; k<<<1, 2>>>();\n#endif\n");
    stays("#ifndef KVDK_SIMT\nasm(\"\");\n#else\nint x;\n#endif\n");
    stays("#ifdef KVDK_SIMT\nint x;\n#else // PTX\nasm(\"\");\n#  if A\nasm(\"\");\n#  else\nasm(\"\");\n#  endif\n#endif\n");
    stays("#pragma unroll\n#include <vector>\n#include \"mine.h\"\n");
    stays("int a = b << c, d = e >> f; int tasma; bool wmmax = x < y && z > w;\n");
    becomes("static __device__ __noinline__ int f() __attribute__((__noinline__));",
            "static __device__ __attribute__((noinline)) int f() __attribute__((__noinline__));");
}

static void refusals(void **state)
{
    (void)state;
    is_refused("\n\nvoid f() { asm volatile(\"\"); }", 3, "inline PTX");
    is_refused("/*\n*/ __asm__(\"\");", 2, "inline PTX");
    is_refused("\n#define P(x) \\\n asm(x)\n", 3, "inline PTX");
    is_refused("#ifdef KVDK_SIMT\nasm(\"\");\n#endif", 2, "inline PTX");
    is_refused("#if A\n#else\nasm(\"\");\n#endif", 3, "inline PTX");
    is_refused("#include <cooperative_groups.h>\n", 1, "cooperative groups");
    is_refused("\n#  include <cuda_fp16.h>\n", 2, "16-bit types");
    is_refused("#include \"cub/cub.cuh\"", 1, "CUB");
    is_refused("#include <mma.h>", 1, "tensor cores");
    is_refused("using namespace nvcuda;", 1, "tensor cores");
    is_refused("__constant__ float c[4];", 1, "__constant__");
    is_refused("__managed__ int m;", 1, "__managed__");
    is_refused("cudaTextureObject_t t;", 1, "textures");
    is_refused("__half2 h;", 1, "16-bit types");
    is_refused("#define L(k) k<<<1, 2>>>()\n", 1, "launch inside a macro");
    is_refused("#define S __shared__\n", 1, "__shared__ inside a macro");
    is_refused("__global__ void f() {\n  if (x) { k<<<1, 2>>>(); }\n}", 2, "dynamic parallelism");
    is_refused("static __device__ void f() { k<<<1, 2>>>(); }", 1, "dynamic parallelism");
    is_refused("extern __shared__ float s[];", 1, "outside of functions");
    is_refused("namespace a {\n__shared__ float s[2]; }", 2, "outside of functions");
    is_refused("__global__ void f() { __shared__ float a[2],\n b; }", 1, "several __shared__ variables");
    is_refused("__global__ void f() { __shared__ int a = 1; }", 1, "no initial value");
    is_refused("__global__ void f() { extern __shared__ int a; }", 1, "extern __shared__ T name[]");
    is_refused("__global__ void f() { __shared__ int a[2]", 1, "without an end");
    is_refused("void f() { k<<<1, 2; }", 1, "no >>>");
    is_refused("void f() { k<<<1, 2>>>; }", 1, "arguments are missing");
    is_refused("void f() { = <<<1, 2>>>(); }", 1, "nothing that could be a kernel");
    is_refused("void f() { k<<<1,\n#if A\n2\n#endif\n>>>(); }", 2, "preprocessor line");
}

/* Braces that stand in both branches of a condition do not make a host function look like a kernel. */
static void branches(void **state)
{
    (void)state;
    becomes("__global__ void k() {\n#if A\nif (a) {\n#else\nif (b) {\n#endif\n}\n}\nvoid f() { k<<<1, 2>>>(); }",
            "__global__ void k() {\n#if A\nif (a) {\n#else\nif (b) {\n#endif\n}\n}\nvoid f() { " CALL("k", "SIMT_ADDRESS((k))", "1, 2", "k") "(); }");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(launches), cmocka_unit_test(lines_are_kept), cmocka_unit_test(shared_memory),
        cmocka_unit_test(untouched), cmocka_unit_test(refusals),      cmocka_unit_test(branches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
