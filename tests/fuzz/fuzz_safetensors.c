/* Any bytes as a file of weights: refused in one line, or every tensor can be read, and a model made of it packs again. */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/kvmkit.h"

#include "common/safetensors.h"

static volatile float touched; /* keeps reads that only sanitizers look at */

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    static const char small[] = "X\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                                "\"b\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[4,6]}}abcdef";
    if (i > 1) return NULL;
    uint8_t *p;
    if (i == 0) {
        const kv_config cfg = kvmkit_config();
        kv_model *m = kvmkit_model(&cfg);
        kvmkit_demand(kv_safetensors_pack(m, "a=b\n", &p, size) == KV_OK);
        kv_model_close(m);
        return p;
    }
    *size = sizeof small - 1;
    p = malloc(*size);
    kvmkit_demand(p != NULL);
    memcpy(p, small, *size);
    kv_put_le(p, 8, *size - 8 - 6);
    return p;
}

static void refused(kv_status st)
{
    FUZZ_DEMAND(st == KV_ERR_FORMAT || st == KV_ERR_UNSUPPORTED || st == KV_ERR_MISMATCH);
    FUZZ_DEMAND(strncmp(kv_message(), "input: ", 7) == 0 && !strchr(kv_message(), '\n'));
}

static void use(const kv_safetensors *s)
{
    const kv_config cfg = kvmkit_config();
    kv_model *m;
    float w;
    for (size_t i = 0; i < s->n; i++) {
        const kv_safetensor *t = &s->tensors[i];
        kv_dequant(t->dtype, s->data + t->begin, 1, &w);
        touched = w;
        kv_dequant(t->dtype, s->data + t->end - (t->dtype == KV_DTYPE_F32 ? 4 : 2), 1, &w);
        touched = w;
    }
    const kv_status st = kv_safetensors_model(s, &cfg, "fuzz", &m);
    if (st != KV_OK) {
        refused(st);
        return;
    }
    uint8_t *p;
    size_t n;
    FUZZ_DEMAND(kv_safetensors_pack(m, NULL, &p, &n) == KV_OK);
    free(p);
    kv_model_close(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kv_safetensors *s;
    const kv_status st = kv_safetensors_parse(data, size, "input", &s);
    if (st != KV_OK) {
        refused(st);
        return 0;
    }
    use(s);
    kv_safetensors_close(s);
    return 0;
}
