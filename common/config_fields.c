#include "common/config_fields.h"

#include "common/bytes.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#define WIDTH(field) sizeof(((kv_config *)0)->field)

static const kv_config_field fields[] = {
#define X(type, field) {#field, KV_FIELD_##type, WIDTH(field), offsetof(kv_config, field)},
    KV_CONFIG_FIELD_LIST(X)
#undef X
};

#define X(type, field) +WIDTH(field)
_Static_assert(KV_CONFIG_BYTES == 0 KV_CONFIG_FIELD_LIST(X), "KV_CONFIG_BYTES is the sum of the fields");
#undef X

const kv_config_field *kv_config_fields(int *n)
{
    *n = sizeof fields / sizeof *fields;
    return fields;
}

void kv_config_put(const kv_config *cfg, uint8_t *bytes)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        uint64_t x = 0;
        memcpy(&x, (const uint8_t *)cfg + fields[i].offset, fields[i].bytes); /* the host is little endian, as in every reader here */
        kv_put_le(bytes, (int)fields[i].bytes, x);
        bytes += fields[i].bytes;
    }
}

static kv_status check_field(const kv_config_field *f, const void *value)
{
    float f32;
    double f64;
    switch (f->type) {
    case KV_FIELD_FLAG:
        if (*(const uint8_t *)value > 1)
            return kv_fail(KV_ERR_FORMAT, "model config: %s is %d; it must be 0 or 1", f->name, *(const uint8_t *)value);
        return KV_OK;
    case KV_FIELD_F32:
        memcpy(&f32, value, sizeof f32);
        f64 = (double)f32;
        break;
    case KV_FIELD_F64:
        memcpy(&f64, value, sizeof f64);
        break;
    default:
        return KV_OK;
    }
    return isfinite(f64) ? KV_OK : kv_fail(KV_ERR_FORMAT, "model config: %s is %g; it must be a finite number", f->name, f64);
}

kv_status kv_config_get(const uint8_t *bytes, kv_config *cfg)
{
    memset(cfg, 0, sizeof *cfg);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const uint64_t x = kv_get_le(bytes, (int)fields[i].bytes);
        memcpy((uint8_t *)cfg + fields[i].offset, &x, fields[i].bytes);
        KV_TRY(check_field(&fields[i], (const uint8_t *)cfg + fields[i].offset));
        bytes += fields[i].bytes;
    }
    return KV_OK;
}
