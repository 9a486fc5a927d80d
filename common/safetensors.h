/* safetensors.h - weights in the files that training programs exchange (docs/artifact.md): the length of a JSON header, the
 * header, the numbers. F32, F16 and BF16 are read, F32 is written.
 *
 * The bytes are untrusted: the tensors must fill the data exactly, without gap or overlap, each as many bytes as its shape
 * says. A file has no config: the caller knows the model and its shapes decide what must be there. */
#ifndef KV_COMMON_SAFETENSORS_H
#define KV_COMMON_SAFETENSORS_H

#include "common/model.h"

enum {
    KV_SAFETENSORS_MAX_HEADER = 1 << 22, /* bytes */
    KV_SAFETENSORS_MAX_DIMS = 8
};

typedef struct kv_safetensor {
    const char *name;
    int32_t dtype; /* KV_DTYPE_F32, F16, BF16 */
    int32_t n_dims; /* 0: a single number */
    int64_t dims[KV_SAFETENSORS_MAX_DIMS];
    uint64_t begin, end; /* in the data */
} kv_safetensor;

typedef struct kv_safetensors {
    kv_safetensor *tensors; /* by their place in the data */
    size_t n;
    const uint8_t *data;
    uint8_t sha256[32]; /* of the file */
    char *where;
    void *header, *owned; /* private */
} kv_safetensors;

KV_EXTERN_C_BEGIN

/* ERR_IO, ERR_FORMAT, ERR_UNSUPPORTED (another type of numbers), ERR_NOMEM. Parsed bytes must outlive the result. */
kv_status kv_safetensors_open(const char *path, kv_safetensors **out);
kv_status kv_safetensors_parse(const void *bytes, size_t n, const char *where, kv_safetensors **out);
void kv_safetensors_close(kv_safetensors *s); /* accepts NULL */

/* A model of the golf family with these weights in fp32: exactly the tensors of the config, by their names; dimensions of 1 do
 * not count. Its fingerprint is that of the file. ERR_FORMAT, ERR_MISMATCH name the first that is missing, strange or of
 * another shape. */
kv_status kv_safetensors_model(const kv_safetensors *s, const kv_config *cfg, const char *name, kv_model **out);

/* The bytes of a file with all weights of a golf model in fp32; the caller frees *out. notes: lines "key=value\n" that become
 * its metadata, or NULL. */
kv_status kv_safetensors_pack(const kv_model *m, const char *notes, uint8_t **out, size_t *n);

KV_EXTERN_C_END

#endif
