/* gguf.c - the reader walks the file once with a cursor that cannot leave it (struct reader), records
 * where every value and tensor lies, and checks tensors against the file when the walk is over. */
#include "common/gguf.h"
#include "common/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { /* value types of the format */
    TYPE_U8,
    TYPE_I8,
    TYPE_U16,
    TYPE_I16,
    TYPE_U32,
    TYPE_I32,
    TYPE_F32,
    TYPE_BOOL,
    TYPE_STRING,
    TYPE_ARRAY,
    TYPE_U64,
    TYPE_I64,
    TYPE_F64,
    TYPE_COUNT
};

static const struct {
    const char *name;
    uint32_t size; /* 0 = variable */
} types[TYPE_COUNT] = {{"u8", 1},  {"i8", 1},   {"u16", 2},    {"i16", 2},   {"u32", 4},
                       {"i32", 4}, {"f32", 4},  {"bool", 1},   {"string", 0}, {"array", 0},
                       {"u64", 8}, {"i64", 8},  {"f64", 8}};

typedef struct value {
    kv_span key;
    uint32_t type;
    const uint8_t *p;    /* first byte of the value; of an array: of its first element */
    uint32_t elem_type;  /* arrays */
    uint64_t n;          /* array elements, or bytes of a string */
} value;

struct kv_gguf {
    const uint8_t *bytes;
    size_t size;
    int mapped;
    char *where;
    uint32_t version;
    value *values;
    uint64_t n_values;
    kv_gguf_tensor *tensors;
    uint64_t n_tensors;
};

enum {
    SHOWN = 80,     /* bytes of a name in a message */
    MAX_KEYS = 4096 /* real files have less than a hundred */
};

typedef struct reader {
    const kv_gguf *g;
    size_t at;
} reader;

static kv_status cut_off(const reader *r, const char *what)
{
    return kv_fail(KV_ERR_FORMAT, "%s: ends inside %s at byte %zu of %zu; the file is truncated, fetch "
                                  "it again", r->g->where, what, r->at, r->g->size);
}

static kv_status take(reader *r, uint64_t n, const char *what, const uint8_t **p)
{
    if (n > r->g->size - r->at) return cut_off(r, what);
    *p = r->g->bytes + r->at;
    r->at += (size_t)n;
    return KV_OK;
}

static kv_status take_u32(reader *r, const char *what, uint32_t *out)
{
    const uint8_t *p;
    KV_TRY(take(r, sizeof *out, what, &p));
    memcpy(out, p, sizeof *out);
    return KV_OK;
}

static kv_status take_u64(reader *r, const char *what, uint64_t *out)
{
    const uint8_t *p;
    KV_TRY(take(r, sizeof *out, what, &p));
    memcpy(out, p, sizeof *out);
    return KV_OK;
}

static kv_status take_string(reader *r, const char *what, kv_span *out)
{
    const uint8_t *p;
    KV_TRY(take_u64(r, what, &out->n));
    KV_TRY(take(r, out->n, what, &p));
    out->p = (const char *)p;
    return KV_OK;
}

/* ---- key/value pairs ------------------------------------------------------------------------ */

static kv_status bad_type(const reader *r, kv_span key, uint32_t type)
{
    char name[SHOWN];
    return kv_fail(KV_ERR_FORMAT, "%s: key '%s' has value type %u, which does not exist; the file is "
                                  "damaged", r->g->where, kv_printable(key.p, key.n, name, sizeof name),
                   type);
}

static kv_status skip_strings(reader *r, uint64_t n)
{
    kv_span s;
    for (uint64_t i = 0; i < n; i++) /* every string takes at least 8 bytes of the file */
        KV_TRY(take_string(r, "a string array", &s));
    return KV_OK;
}

static kv_status read_array(reader *r, value *v)
{
    KV_TRY(take_u32(r, "an array", &v->elem_type));
    KV_TRY(take_u64(r, "an array", &v->n));
    v->p = r->g->bytes + r->at;
    if (v->elem_type >= TYPE_COUNT || v->elem_type == TYPE_ARRAY)
        return bad_type(r, v->key, v->elem_type);
    if (v->elem_type == TYPE_STRING) return skip_strings(r, v->n);
    const uint32_t size = types[v->elem_type].size;
    if (v->n > (r->g->size - r->at) / size) return cut_off(r, "an array");
    r->at += (size_t)v->n * size;
    return KV_OK;
}

static kv_status read_value(reader *r, value *v)
{
    KV_TRY(take_string(r, "a key", &v->key));
    KV_TRY(take_u32(r, "a value", &v->type));
    if (v->type >= TYPE_COUNT) return bad_type(r, v->key, v->type);
    if (v->type == TYPE_ARRAY) return read_array(r, v);
    if (v->type == TYPE_STRING) {
        kv_span s;
        KV_TRY(take_string(r, "a string", &s));
        v->p = (const uint8_t *)s.p;
        v->n = s.n;
        return KV_OK;
    }
    return take(r, types[v->type].size, "a value", &v->p);
}

/* Grows *list by doubling so that memory follows what was read, not what the header claims. */
static kv_status grow(void **list, uint64_t n, uint64_t *cap, size_t elem)
{
    if (n < *cap) return KV_OK;
    const uint64_t next = *cap ? 2 * *cap : 64;
    void *p = realloc(*list, (size_t)next * elem);
    if (!p) return kv_fail(KV_ERR_NOMEM, "out of memory while reading a GGUF header");
    *list = p;
    *cap = next;
    return KV_OK;
}

/* ERR_FORMAT when key i stands in the file before: which of two values counts would be a guess. */
static kv_status check_new(const reader *r, const kv_gguf *g, uint64_t i)
{
    const kv_span key = g->values[i].key;
    char name[SHOWN];
    for (uint64_t k = 0; k < i; k++)
        if (g->values[k].key.n == key.n && memcmp(g->values[k].key.p, key.p, key.n) == 0)
            return kv_fail(KV_ERR_FORMAT, "%s: key '%s' appears twice; the file is damaged", r->g->where,
                           kv_printable(key.p, key.n, name, sizeof name));
    return KV_OK;
}

static kv_status read_values(reader *r, kv_gguf *g, uint64_t count)
{
    uint64_t cap = 0;
    if (count > MAX_KEYS)
        return kv_fail(KV_ERR_FORMAT, "%s: %llu keys; at most %d are possible, so the file is damaged", r->g->where,
                       (unsigned long long)count, MAX_KEYS);
    for (uint64_t i = 0; i < count; i++) {
        void *list = g->values;
        KV_TRY(grow(&list, i, &cap, sizeof *g->values));
        g->values = list;
        memset(&g->values[i], 0, sizeof g->values[i]);
        KV_TRY(read_value(r, &g->values[i]));
        g->n_values = i + 1;
        KV_TRY(check_new(r, g, i));
    }
    return KV_OK;
}

/* ---- tensors ---------------------------------------------------------------------------------- */

static kv_status read_tensor_info(reader *r, kv_gguf_tensor *t)
{
    KV_TRY(take_string(r, "a tensor name", &t->name));
    KV_TRY(take_u32(r, "a tensor", &t->n_dims));
    char name[SHOWN];
    if (t->n_dims < 1 || t->n_dims > 4)
        return kv_fail(KV_ERR_FORMAT, "%s: tensor '%s' has %u dimensions; 1 to 4 are possible",
                       r->g->where, kv_printable(t->name.p, t->name.n, name, sizeof name), t->n_dims);
    for (uint32_t d = 0; d < 4; d++)
        t->dims[d] = 1;
    for (uint32_t d = 0; d < t->n_dims; d++)
        KV_TRY(take_u64(r, "a tensor", &t->dims[d]));
    KV_TRY(take_u32(r, "a tensor", &t->gguf_type));
    return take_u64(r, "a tensor", &t->offset);
}

static kv_status read_tensor_infos(reader *r, kv_gguf *g, uint64_t count)
{
    uint64_t cap = 0;
    for (uint64_t i = 0; i < count; i++) {
        void *list = g->tensors;
        KV_TRY(grow(&list, i, &cap, sizeof *g->tensors));
        g->tensors = list;
        memset(&g->tensors[i], 0, sizeof g->tensors[i]);
        KV_TRY(read_tensor_info(r, &g->tensors[i]));
        g->n_tensors = i + 1;
    }
    return KV_OK;
}

static kv_status bad_tensor(const kv_gguf *g, const kv_gguf_tensor *t, const char *what)
{
    char name[SHOWN];
    return kv_fail(KV_ERR_FORMAT, "%s: tensor '%s' %s; the file is damaged, fetch it again", g->where,
                   kv_printable(t->name.p, t->name.n, name, sizeof name), what);
}

/* Product of the dims, or 0 when it does not fit in 63 bits. */
static uint64_t element_count(const kv_gguf_tensor *t)
{
    uint64_t n = 1;
    for (int d = 0; d < 4; d++) {
        if (t->dims[d] == 0 || n > (UINT64_MAX >> 1) / t->dims[d]) return 0;
        n *= t->dims[d];
    }
    return n;
}

/* Resolves offsets. A type that this reader does not know keeps data == NULL: whoever needs the tensor
 * refuses it by name (its size cannot be checked here). */
static kv_status place_tensors(kv_gguf *g, size_t data_start, uint32_t alignment)
{
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        kv_gguf_tensor *t = &g->tensors[i];
        const uint64_t n = element_count(t);
        if (n == 0) return bad_tensor(g, t, "has impossible dimensions");
        if (t->offset % alignment != 0) return bad_tensor(g, t, "is not aligned");
        if (t->offset > g->size - data_start) return bad_tensor(g, t, "begins behind the end");
        const int dtype = kv_dtype_from_gguf(t->gguf_type);
        if (dtype < 0) continue;
        const uint64_t block = (uint64_t)kv_dtype_block_weights(dtype);
        if (t->dims[0] % block != 0)
            return bad_tensor(g, t, "has rows that are not a whole number of blocks");
        const uint64_t blocks = n / block, bytes = (uint64_t)kv_dtype_block_bytes(dtype);
        if (blocks > (g->size - data_start - t->offset) / bytes)
            return bad_tensor(g, t, "ends behind the end of the file");
        t->offset += data_start;
        t->data = g->bytes + t->offset;
    }
    return KV_OK;
}

/* ---- open --------------------------------------------------------------------------------------- */

static kv_status read_all(kv_gguf *g)
{
    reader r = {g, 0};
    const uint8_t *magic;
    uint64_t n_tensors, n_values;
    uint32_t alignment;
    KV_TRY(take(&r, 4, "the magic number", &magic));
    if (memcmp(magic, "GGUF", 4) != 0)
        return kv_fail(KV_ERR_FORMAT, "%s: not a GGUF file (it does not begin with 'GGUF')", g->where);
    KV_TRY(take_u32(&r, "the header", &g->version));
    if (g->version != 2 && g->version != 3)
        return kv_fail(KV_ERR_UNSUPPORTED, "%s: GGUF version %u; versions 2 and 3 (little endian) are "
                                           "supported", g->where, g->version);
    KV_TRY(take_u64(&r, "the header", &n_tensors));
    KV_TRY(take_u64(&r, "the header", &n_values));
    KV_TRY(read_values(&r, g, n_values));
    KV_TRY(read_tensor_infos(&r, g, n_tensors));
    KV_TRY(kv_gguf_u32_or(g, "general.alignment", 32, &alignment));
    if (alignment == 0 || alignment % 8 != 0 || alignment > 1u << 20)
        return kv_fail(KV_ERR_FORMAT, "%s: general.alignment is %u; it must be a multiple of 8",
                       g->where, alignment);
    const uint64_t start = ((uint64_t)r.at + alignment - 1) / alignment * alignment;
    if (start > g->size) { /* legal only without tensors */
        if (g->n_tensors) return cut_off(&r, "the padding before the tensor data");
        return KV_OK;
    }
    return place_tensors(g, (size_t)start, alignment);
}

static kv_status gguf_new(const char *where, kv_gguf **out)
{
    kv_gguf *g = calloc(1, sizeof *g);
    if (g) g->where = strdup(where);
    if (!g || !g->where) {
        free(g);
        return kv_fail(KV_ERR_NOMEM, "%s: out of memory", where);
    }
    *out = g;
    return KV_OK;
}

kv_status kv_gguf_parse(const void *bytes, size_t size, const char *where, kv_gguf **out)
{
    kv_gguf *g;
    *out = NULL;
    KV_TRY(gguf_new(where, &g));
    g->bytes = bytes;
    g->size = size;
    const kv_status st = read_all(g);
    if (st != KV_OK) {
        kv_gguf_close(g);
        return st;
    }
    *out = g;
    return KV_OK;
}

static kv_status map_file(const char *path, const uint8_t **bytes, size_t *size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return kv_fail(KV_ERR_IO, "cannot open model '%s': %s", path, strerror(errno));
    struct stat sb;
    kv_status st = KV_OK;
    if (fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode)) {
        st = kv_fail(KV_ERR_IO, "model '%s' is not a regular file", path);
    } else if (sb.st_size == 0) {
        st = kv_fail(KV_ERR_FORMAT, "model '%s' is empty; fetch it again", path);
    } else {
        void *p = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            st = kv_fail(KV_ERR_IO, "cannot map model '%s': %s", path, strerror(errno));
        *bytes = p;
        *size = (size_t)sb.st_size;
    }
    close(fd);
    return st;
}

kv_status kv_gguf_open(const char *path, kv_gguf **out)
{
    const uint8_t *bytes;
    size_t size;
    *out = NULL;
    KV_TRY(map_file(path, &bytes, &size));
    const kv_status st = kv_gguf_parse(bytes, size, path, out);
    if (st != KV_OK) {
        munmap((void *)(uintptr_t)bytes, size);
        return st;
    }
    (*out)->mapped = 1;
    return KV_OK;
}

void kv_gguf_close(kv_gguf *g)
{
    if (!g) return;
    if (g->mapped) munmap((void *)(uintptr_t)g->bytes, g->size);
    free(g->values);
    free(g->tensors);
    free(g->where);
    free(g);
}

/* ---- access --------------------------------------------------------------------------------------- */

const char *kv_gguf_where(const kv_gguf *g) { return g->where; }

const void *kv_gguf_bytes(const kv_gguf *g, size_t *size)
{
    *size = g->size;
    return g->bytes;
}

uint32_t kv_gguf_version(const kv_gguf *g) { return g->version; }

static int span_is(kv_span s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, (size_t)s.n) == 0;
}

static const value *find_value(const kv_gguf *g, const char *key)
{
    for (uint64_t i = 0; i < g->n_values; i++)
        if (span_is(g->values[i].key, key)) return &g->values[i];
    return NULL;
}

int kv_gguf_has(const kv_gguf *g, const char *key) { return find_value(g, key) != NULL; }

static kv_status missing(const kv_gguf *g, const char *key)
{
    return kv_fail(KV_ERR_FORMAT, "%s: key '%s' is missing; the file does not describe its model "
                                  "completely", g->where, key);
}

static kv_status wrong_type(const kv_gguf *g, const value *v, const char *wanted)
{
    return kv_fail(KV_ERR_FORMAT, "%s: key '%.*s' is a %s; %s is needed", g->where, (int)v->key.n,
                   v->key.p, types[v->type].name, wanted);
}

/* Widens any integer value. */
static int as_integer(const value *v, int64_t *out)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } u;
    memcpy(&u, v->p, types[v->type].size <= 8 ? types[v->type].size : 8);
    switch (v->type) {
    case TYPE_U8:
        *out = u.u8;
        return 1;
    case TYPE_I8:
        *out = u.i8;
        return 1;
    case TYPE_U16:
        *out = u.u16;
        return 1;
    case TYPE_I16:
        *out = u.i16;
        return 1;
    case TYPE_U32:
        *out = u.u32;
        return 1;
    case TYPE_I32:
        *out = u.i32;
        return 1;
    case TYPE_U64:
        *out = u.u64 > INT64_MAX ? INT64_MAX : (int64_t)u.u64;
        return 1;
    case TYPE_I64:
        *out = u.i64;
        return 1;
    default:
        return 0;
    }
}

kv_status kv_gguf_u32(const kv_gguf *g, const char *key, uint32_t *out)
{
    const value *v = find_value(g, key);
    int64_t wide;
    if (!v) return missing(g, key);
    if (!as_integer(v, &wide)) return wrong_type(g, v, "an integer");
    if (wide < 0 || wide > UINT32_MAX)
        return kv_fail(KV_ERR_FORMAT, "%s: key '%s' is %lld, out of range", g->where, key,
                       (long long)wide);
    *out = (uint32_t)wide;
    return KV_OK;
}

kv_status kv_gguf_u32_or(const kv_gguf *g, const char *key, uint32_t def, uint32_t *out)
{
    *out = def;
    return find_value(g, key) ? kv_gguf_u32(g, key, out) : KV_OK;
}

kv_status kv_gguf_f32(const kv_gguf *g, const char *key, float *out)
{
    const value *v = find_value(g, key);
    if (!v) return missing(g, key);
    if (v->type != TYPE_F32) return wrong_type(g, v, "an f32");
    memcpy(out, v->p, sizeof *out);
    return KV_OK;
}

kv_status kv_gguf_f32_or(const kv_gguf *g, const char *key, float def, float *out)
{
    *out = def;
    return find_value(g, key) ? kv_gguf_f32(g, key, out) : KV_OK;
}

kv_status kv_gguf_bool_or(const kv_gguf *g, const char *key, int def, int *out)
{
    const value *v = find_value(g, key);
    *out = def;
    if (!v) return KV_OK;
    if (v->type != TYPE_BOOL) return wrong_type(g, v, "a bool");
    *out = v->p[0] != 0;
    return KV_OK;
}

kv_status kv_gguf_string(const kv_gguf *g, const char *key, kv_span *out)
{
    const value *v = find_value(g, key);
    if (!v) return missing(g, key);
    if (v->type != TYPE_STRING) return wrong_type(g, v, "a string");
    out->p = (const char *)v->p;
    out->n = v->n;
    return KV_OK;
}

kv_status kv_gguf_array_of(const kv_gguf *g, const char *key, uint32_t type, kv_gguf_array *out)
{
    const value *v = find_value(g, key);
    if (!v) return missing(g, key);
    if (v->type != TYPE_ARRAY || v->elem_type != type)
        return kv_fail(KV_ERR_FORMAT, "%s: key '%s' is not an array of %s", g->where, key,
                       type < TYPE_COUNT ? types[type].name : "that type");
    out->type = v->elem_type;
    out->n = v->n;
    out->p = v->p;
    return KV_OK;
}

int kv_gguf_next_string(kv_gguf_array *rest, kv_span *out)
{
    if (rest->n == 0) return 0;
    memcpy(&out->n, rest->p, sizeof out->n); /* lengths were checked when the file was read */
    out->p = (const char *)rest->p + sizeof out->n;
    rest->p += sizeof out->n + out->n;
    rest->n--;
    return 1;
}

static void describe_value(const value *v, char *dst, size_t size)
{
    int64_t wide;
    if (v->type == TYPE_ARRAY) {
        snprintf(dst, size, "[%llu] %s", (unsigned long long)v->n, types[v->elem_type].name);
    } else if (v->type == TYPE_STRING) {
        snprintf(dst, size, "%.*s", (int)(v->n < 200 ? v->n : 200), (const char *)v->p);
    } else if (v->type == TYPE_F32) {
        float f;
        memcpy(&f, v->p, sizeof f);
        snprintf(dst, size, "%.9g", (double)f);
    } else if (v->type == TYPE_F64) {
        double d;
        memcpy(&d, v->p, sizeof d);
        snprintf(dst, size, "%.17g", d);
    } else if (v->type == TYPE_BOOL) {
        snprintf(dst, size, "%s", v->p[0] ? "true" : "false");
    } else if (as_integer(v, &wide)) {
        snprintf(dst, size, "%lld", (long long)wide);
    }
}

int kv_gguf_describe(const kv_gguf *g, uint64_t i, kv_span *key, char *text, size_t text_size)
{
    if (i >= g->n_values) return 0;
    *key = g->values[i].key;
    text[0] = '\0';
    describe_value(&g->values[i], text, text_size);
    return 1;
}

uint64_t kv_gguf_n_tensors(const kv_gguf *g) { return g->n_tensors; }

const kv_gguf_tensor *kv_gguf_tensor_at(const kv_gguf *g, uint64_t i)
{
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

const kv_gguf_tensor *kv_gguf_find_tensor(const kv_gguf *g, const char *name)
{
    for (uint64_t i = 0; i < g->n_tensors; i++)
        if (span_is(g->tensors[i].name, name)) return &g->tensors[i];
    return NULL;
}
