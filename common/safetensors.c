#include "common/safetensors.h"

#include "common/bytes.h"
#include "common/file.h"
#include "common/golf.h"
#include "common/hash.h"
#include "common/model_private.h"
#include "common/utf8.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int32_t dtype;
    uint32_t bytes;
} types[] = {{"F32", KV_DTYPE_F32, 4}, {"F16", KV_DTYPE_F16, 2}, {"BF16", KV_DTYPE_BF16, 2}};

/* ---- reading ------------------------------------------------------------------------------------------------------ */

static kv_status bad(const kv_safetensors *s, const char *name, const char *what)
{
    char shown[80];
    return kv_fail(KV_ERR_FORMAT, "%s: tensor '%s' %s; the file is damaged", s->where,
                   kv_printable(name, strlen(name), shown, sizeof shown), what);
}

static kv_status read_type(const kv_safetensors *s, const json_t *v, kv_safetensor *t, uint32_t *bytes)
{
    char name[80], type[40];
    if (!json_is_string(v)) return bad(s, t->name, "has no dtype");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(json_string_value(v), types[i].name) == 0) {
            t->dtype = types[i].dtype;
            *bytes = types[i].bytes;
            return KV_OK;
        }
    return kv_fail(KV_ERR_UNSUPPORTED, "%s: tensor '%s' has dtype '%s'; F32, F16 and BF16 can be read", s->where,
                   kv_printable(t->name, strlen(t->name), name, sizeof name),
                   kv_printable(json_string_value(v), json_string_length(v), type, sizeof type));
}

/* Reads the shape and the number of its elements, below 2^48. */
static kv_status read_shape(const kv_safetensors *s, const json_t *v, kv_safetensor *t, uint64_t *elements)
{
    if (!json_is_array(v) || json_array_size(v) > KV_SAFETENSORS_MAX_DIMS) return bad(s, t->name, "has no shape of at most 8 dimensions");
    *elements = 1;
    t->n_dims = (int32_t)json_array_size(v);
    for (int32_t d = 0; d < t->n_dims; d++) {
        const json_t *dim = json_array_get(v, (size_t)d);
        if (!json_is_integer(dim) || json_integer_value(dim) < 1 || json_integer_value(dim) > (INT64_C(1) << 40))
            return bad(s, t->name, "has an impossible dimension");
        t->dims[d] = json_integer_value(dim);
        if ((uint64_t)t->dims[d] > (UINT64_C(1) << 48) / *elements) return bad(s, t->name, "has impossibly many numbers");
        *elements *= (uint64_t)t->dims[d];
    }
    return KV_OK;
}

static kv_status read_tensor(const kv_safetensors *s, const char *name, const json_t *v, uint64_t data_bytes, kv_safetensor *t)
{
    uint32_t bytes = 0;
    uint64_t elements = 0;
    t->name = name;
    if (!json_is_object(v) || json_object_size(v) != 3) return bad(s, name, "is not described by dtype, shape and data_offsets");
    KV_TRY(read_type(s, json_object_get(v, "dtype"), t, &bytes));
    KV_TRY(read_shape(s, json_object_get(v, "shape"), t, &elements));
    const json_t *offsets = json_object_get(v, "data_offsets"), *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return bad(s, name, "has no two data_offsets");
    if (json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin) ||
        (uint64_t)json_integer_value(end) > data_bytes)
        return bad(s, name, "lies outside of the file");
    t->begin = (uint64_t)json_integer_value(begin);
    t->end = (uint64_t)json_integer_value(end);
    if (t->end - t->begin != elements * bytes) return bad(s, name, "has more or fewer bytes than its shape needs");
    return KV_OK;
}

static int by_place(const void *a, const void *b)
{
    const kv_safetensor *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* Sorts the tensors by place; they fill the data without gap or overlap. */
static kv_status check_places(kv_safetensors *s, uint64_t data_bytes)
{
    uint64_t end = 0;
    qsort(s->tensors, s->n, sizeof *s->tensors, by_place);
    for (size_t i = 0; i < s->n; i++) {
        if (s->tensors[i].begin != end) return bad(s, s->tensors[i].name, "overlaps another, or leaves a gap before it");
        end = s->tensors[i].end;
    }
    if (end == data_bytes) return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "%s: %llu bytes of data, but its tensors have %llu; the file is damaged", s->where,
                   (unsigned long long)data_bytes, (unsigned long long)end);
}

static kv_status read_header(kv_safetensors *s, const char *text, size_t n, uint64_t data_bytes)
{
    json_error_t e;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    char shown[120];
    if (!root)
        return kv_fail(KV_ERR_FORMAT, "%s: header: byte %d: %s; the file is damaged", s->where, e.position,
                       kv_printable(e.text, strlen(e.text), shown, sizeof shown));
    s->header = root;
    if (!json_is_object(root)) return kv_fail(KV_ERR_FORMAT, "%s: its header is no JSON object", s->where);
    s->tensors = calloc(json_object_size(root) + 1, sizeof *s->tensors);
    if (!s->tensors) return kv_fail(KV_ERR_NOMEM, "%s: out of memory", s->where);
    const char *name;
    json_t *v;
    json_object_foreach(root, name, v)
        if (strcmp(name, "__metadata__") != 0) KV_TRY(read_tensor(s, name, v, data_bytes, &s->tensors[s->n++]));
    return check_places(s, data_bytes);
}

static kv_status parse(kv_safetensors *s, const uint8_t *p, size_t n)
{
    if (n < 8 || kv_get_le(p, 8) > n - 8 || n < 9 || p[8] != '{')
        return kv_fail(KV_ERR_FORMAT, "%s: not a safetensors file, or a truncated one", s->where);
    const uint64_t header = kv_get_le(p, 8);
    if (header > KV_SAFETENSORS_MAX_HEADER)
        return kv_fail(KV_ERR_UNSUPPORTED, "%s: a header of %llu bytes; at most %d are possible", s->where, (unsigned long long)header,
                       KV_SAFETENSORS_MAX_HEADER);
    s->data = p + 8 + header;
    kv_sha256(p, n, s->sha256);
    return read_header(s, (const char *)p + 8, (size_t)header, n - 8 - header);
}

kv_status kv_safetensors_parse(const void *bytes, size_t n, const char *where, kv_safetensors **out)
{
    *out = NULL;
    kv_safetensors *s = calloc(1, sizeof *s);
    if (s) s->where = strdup(where);
    const kv_status st = s && s->where ? parse(s, bytes, n) : kv_fail(KV_ERR_NOMEM, "%s: out of memory", where);
    if (st == KV_OK)
        *out = s;
    else
        kv_safetensors_close(s);
    return st;
}

kv_status kv_safetensors_open(const char *path, kv_safetensors **out)
{
    char *bytes;
    size_t n;
    *out = NULL;
    KV_TRY(kv_file_read(path, INT32_MAX, &bytes, &n));
    const kv_status st = kv_safetensors_parse(bytes, n, path, out);
    if (st == KV_OK)
        (*out)->owned = bytes;
    else
        free(bytes);
    return st;
}

void kv_safetensors_close(kv_safetensors *s)
{
    if (!s) return;
    json_decref(s->header);
    free(s->tensors);
    free(s->owned);
    free(s->where);
    free(s);
}

/* ---- to a model ---------------------------------------------------------------------------------------------------- */

/* The next dimension that is not 1; 1 behind the last. */
static int64_t next_dim(const int64_t *dims, int32_t n, int32_t *d)
{
    while (*d < n && dims[*d] == 1)
        ++*d;
    return *d < n ? dims[(*d)++] : 1;
}

static int same_shape(const kv_safetensor *t, const int64_t *dims, int n)
{
    int32_t i = 0, k = 0;
    for (int step = 0; step <= KV_SAFETENSORS_MAX_DIMS; step++)
        if (next_dim(t->dims, t->n_dims, &i) != next_dim(dims, n, &k)) return 0;
    return 1;
}

static const kv_safetensor *find(const kv_safetensors *s, const char *name)
{
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->tensors[i].name, name) == 0) return &s->tensors[i];
    return NULL;
}

static kv_status fill(const kv_safetensors *s, kv_model *m, kv_golf_place at)
{
    char name[KV_TENSOR_NAME_MAX];
    int64_t dims[3];
    const int n = kv_golf_dims(&m->cfg, at.role, dims);
    kv_model_tensor_name(&m->cfg, at.role, at.layer, name);
    const kv_safetensor *t = find(s, name);
    if (!t) return kv_fail(KV_ERR_FORMAT, "%s: tensor '%s' is missing; the config demands it", s->where, name);
    if (!same_shape(t, dims, n))
        return kv_fail(KV_ERR_MISMATCH, "%s: tensor '%s' has another shape than the %lld x %lld numbers of the config", s->where, name,
                       n ? (long long)dims[0] : 1, n < 2 ? 1 : (long long)dims[n - 1]);
    const kv_tensor *to = kv_model_slot(m, at.role, at.layer);
    kv_dequant(t->dtype, s->data + t->begin, to->rows * to->cols, (float *)(uintptr_t)to->data);
    return KV_OK;
}

static int is_demanded(const kv_config *cfg, const kv_golf_place *places, int32_t n, const char *name)
{
    char wanted[KV_TENSOR_NAME_MAX];
    for (int32_t i = 0; i < n; i++) {
        kv_model_tensor_name(cfg, places[i].role, places[i].layer, wanted);
        if (strcmp(name, wanted) == 0) return 1;
    }
    return 0;
}

static kv_status fill_all(const kv_safetensors *s, kv_model *m, const kv_golf_place *places, int32_t n)
{
    char shown[80];
    for (int32_t i = 0; i < n; i++)
        KV_TRY(fill(s, m, places[i]));
    for (size_t i = 0; i < s->n && s->n != (size_t)n; i++)
        if (!is_demanded(&m->cfg, places, n, s->tensors[i].name))
            return kv_fail(KV_ERR_MISMATCH, "%s: tensor '%s' has no place in this config", s->where,
                           kv_printable(s->tensors[i].name, strlen(s->tensors[i].name), shown, sizeof shown));
    return kv_model_check(m);
}

kv_status kv_safetensors_model(const kv_safetensors *s, const kv_config *cfg, const char *name, kv_model **out)
{
    kv_model *m;
    *out = NULL;
    const int32_t n = kv_golf_order(cfg, NULL);
    KV_TRY(kv_model_new(name, cfg, &m));
    kv_golf_place *places = malloc((size_t)n * sizeof *places);
    kv_status st = places ? kv_model_allocate(m) : kv_fail(KV_ERR_NOMEM, "model '%s': out of memory", name);
    if (st == KV_OK) {
        kv_golf_order(cfg, places);
        st = fill_all(s, m, places, n);
    }
    free(places);
    if (st != KV_OK) {
        kv_model_close(m);
        return st;
    }
    memcpy(m->sha256, s->sha256, sizeof m->sha256);
    *out = m;
    return KV_OK;
}

/* ---- writing ------------------------------------------------------------------------------------------------------- */

static int add_notes(json_t *metadata, const char *notes)
{
    for (const char *p = notes; *p;) {
        const size_t n = strcspn(p, "\n"), key = strcspn(p, "=");
        if (json_object_setn_new(metadata, p, key, json_stringn(p + key + 1, n - key - 1)) != 0) return 0;
        p += n + (p[n] == '\n');
    }
    return 1;
}

/* The header as JSON text; NULL: out of memory. *data_bytes: of all tensors. */
static char *header_text(const kv_model *m, const char *notes, const kv_golf_place *places, int32_t n, uint64_t *data_bytes)
{
    json_t *root = json_object(), *metadata = json_pack("{s:s}", "format", "pt"); /* what loaders of the training world look for */
    int ok = root && metadata && add_notes(metadata, notes) && json_object_set(root, "__metadata__", metadata) == 0;
    *data_bytes = 0;
    for (int32_t i = 0; i < n && ok; i++) {
        char name[KV_TENSOR_NAME_MAX];
        int64_t dims[3];
        const kv_tensor *t = kv_model_tensor(m, places[i].role, places[i].layer);
        const uint64_t end = *data_bytes + (uint64_t)(t->rows * t->cols) * sizeof(float);
        json_t *shape = json_array();
        const int n_dims = kv_golf_dims(&m->cfg, places[i].role, dims);
        for (int d = 0; d < n_dims; d++)
            json_array_append_new(shape, json_integer(dims[d]));
        kv_model_tensor_name(&m->cfg, places[i].role, places[i].layer, name);
        ok = json_object_set_new(root, name, json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets",
                                                       (json_int_t)*data_bytes, (json_int_t)end)) == 0;
        *data_bytes = end;
    }
    char *text = ok ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(metadata);
    json_decref(root);
    return text;
}

static void put_numbers(const kv_model *m, const kv_golf_place *places, int32_t n, uint8_t *p)
{
    for (int32_t i = 0; i < n; i++) {
        const kv_tensor *t = kv_model_tensor(m, places[i].role, places[i].layer);
        kv_tensor_rows_f32(t, 0, t->rows, (float *)(void *)p);
        p += (size_t)(t->rows * t->cols) * sizeof(float);
    }
}

kv_status kv_safetensors_pack(const kv_model *m, const char *notes, uint8_t **out, size_t *size)
{
    const int32_t n = kv_golf_order(&m->cfg, NULL);
    uint64_t data_bytes = 0;
    kv_golf_place *places = malloc((size_t)n * sizeof *places);
    if (places) kv_golf_order(&m->cfg, places);
    char *text = places ? header_text(m, notes ? notes : "", places, n, &data_bytes) : NULL;
    const size_t used = text ? strlen(text) : 0, header = (used + 7) / 8 * 8;
    uint8_t *p = text ? malloc(8 + header + (size_t)data_bytes) : NULL;
    if (p) {
        kv_put_le(p, 8, header);
        memcpy(p + 8, text, used);
        memset(p + 8 + used, ' ', header - used);
        put_numbers(m, places, n, p + 8 + header);
    }
    free(text);
    free(places);
    if (!p) return kv_fail(KV_ERR_NOMEM, "model '%s': out of memory", m->name);
    *out = p;
    *size = 8 + header + (size_t)data_bytes;
    return KV_OK;
}
