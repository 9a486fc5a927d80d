/* Any bytes as the source of a candidate: a result has a line for each line of the source and keeps every comment; a refusal names a
 * line that there is. */
#include "tests/fuzz/fuzz.h"

#include "difftest/ops/cu_pass.h"

#include <string.h>

static size_t count_lines(const char *p, size_t n)
{
    size_t lines = 1;
    for (size_t i = 0; i < n; i++)
        lines += p[i] == '\n';
    return lines;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    char *out = NULL;
    size_t n = 0;
    /* A copy without a zero behind it: reading on is found by AddressSanitizer. */
    char *exact = malloc(size ? size : 1);
    FUZZ_DEMAND(exact);
    memcpy(exact, text, size);
    const kv_status st = dt_cu_pass(exact, size, "x.cu", &out, &n);
    const size_t lines = count_lines(text, size);
    free(exact);
    if (st == KV_OK) {
        FUZZ_DEMAND(count_lines(out, n) == lines);
        FUZZ_DEMAND(size == 0 || out[n] == '\0');
    } else {
        size_t line = 0;
        FUZZ_DEMAND(st == KV_ERR_UNSUPPORTED && !out);
        FUZZ_DEMAND(sscanf(kv_message(), "x.cu:%zu: ", &line) == 1 && line >= 1 && line <= lines);
    }
    free(out);
    return 0;
}

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    static const char *const seeds[] = {
        "#include <cuda_runtime.h>\n__global__ void k(float *p)\n{\n extern __shared__ float s[];\n __shared__ __align__(16) int t[2][3];\n}\n",
        "void f() { k<<<dim3(1, 2), 32, 4, s>>>(p); }\n",
        "template <int N> __global__ void k() { __shared__ volatile T<N, 2> *a[N]; }\nvoid f() { a::k<(1 > 2)><<<1, 2>>>(); (c ? k : l)<<<1, 2>>>(); }\n",
        "#if 0\nasm(\"\");\n#else /* x */\n#define A \\\n  b\n#endif\n#ifdef KVDK_SIMT\n#elif X\n#endif\nauto r = R\"m( \" )m\"; int i = 1'0; // \\\n c\n",
        "namespace n { struct s { __noinline__ void f() { if (a) { __shared__ int x; } } }; }\n/* ' \" */ char c = '\\'';\n",
    };
    if (i >= sizeof seeds / sizeof *seeds) return NULL;
    *size = strlen(seeds[i]);
    uint8_t *p = malloc(*size);
    if (p) memcpy(p, seeds[i], *size);
    return p;
}
