/* cmd_inspect.c - `kvdiff inspect`: what is in an artifact, what it costs, how far its weights are from the original's. */
#include "difftest/artifact.h"
#include "difftest/cli.h"
#include "difftest/cli_output.h"
#include "difftest/table.h"

#include "common/file.h"
#include "common/hash.h"
#include "common/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_FORMAT = 256, OPT_JSON, OPT_AGAINST, OPT_CODE, OPT_EXPORT };

typedef struct request {
    const char *file, *against, *export;
    int64_t code; /* bytes of the program */
    int json;
} request;

/* An artifact and what was found out about it. */
typedef struct report {
    const request *r;
    const kv_kvm *k;
    const dt_tensor_figures *figures; /* k->n_tensors */
} report;

/* ---- the command line ----------------------------------------------------------------------- */

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case OPT_FORMAT:
        return dt_output_parse(arg, &r->json);
    case OPT_JSON:
        r->json = 1;
        return 0;
    case OPT_AGAINST:
        r->against = arg;
        return 0;
    case OPT_CODE:
        return dt_parse_number("code-bytes", arg, 0, INT64_C(1) << 40, &r->code);
    case OPT_EXPORT:
        r->export = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (r->file) return dt_usage("'%s': one artifact at a time", arg);
        r->file = arg;
        return 0;
    case ARGP_KEY_END:
        return r->file ? 0 : dt_usage("which artifact? give a .kvm file");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"against", OPT_AGAINST, "MODEL|FILE", 0, "the original: how far the weights moved", 0},
    {"code-bytes", OPT_CODE, "N", 0, "bytes of the program that belongs to the artifact (0)", 0},
    {"export", OPT_EXPORT, "FILE", 0, "write the weights, dequantised, to a .safetensors file", 0},
    DT_FORMAT_OPTION(OPT_FORMAT),
    {"json", OPT_JSON, NULL, 0, "the same as --format=json", 0},
    {NULL, 0, NULL, 0, NULL, 0},
};

static const struct argp parser = {
    options,
    parse,
    "FILE.kvm",
    "Describes an artifact: its config, its tensors with class, size and entropy, and its size against the budget of "
    "16,000,000 bytes.",
    NULL,
    NULL,
    NULL};

/* ---- words shared by both formats ------------------------------------------------------------- */

static int64_t total_bytes(const report *p) { return (int64_t)p->k->file_bytes + p->r->code; }

/* "1024x512"; "" for a single number. */
static const char *shape_text(const kv_kvm *k, const kv_kvm_tensor *t, char text[64])
{
    int64_t dims[3];
    const int n = kv_golf_dims(&k->cfg, t->place.role, dims);
    text[0] = '\0';
    for (int d = 0, at = 0; d < n; d++)
        at += snprintf(text + at, 64 - (size_t)at, "%s%" PRId64, d ? "x" : "", dims[d]);
    return text;
}

static const char *tokenizer_text(const kv_kvm *k)
{
    static const char *const names[] = {"none", "bytes", "SentencePiece"};
    return names[k->extras.tokenizer_kind];
}

/* ---- text ----------------------------------------------------------------------------------- */

static void print_config(const kv_config *cfg)
{
    json_t *fields = dt_config_json(cfg), *v;
    const char *name;
    int column = 0;
    json_object_foreach(fields, name, v) {
        char *value = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        const int n = value ? (int)(strlen(name) + strlen(value)) + 2 : 0;
        if (column == 0 || column + n > 110) {
            printf("%s", column ? "\n            " : "config      ");
            column = 12;
        }
        column += printf(" %s=%s", name, value ? value : "?");
        free(value);
    }
    printf("\n");
    json_decref(fields);
}

static void print_notes(const char *notes)
{
    for (const char *p = notes; *p; p += strcspn(p, "\n") + 1)
        printf("%s %.*s\n", p == notes ? "notes       " : "            ", (int)strcspn(p, "\n"), p);
}

static void print_sizes(const report *p)
{
    const kv_kvm *k = p->k;
    const int64_t left = DT_ARTIFACT_BUDGET - total_bytes(p);
    printf("size         %" PRIu64 " bytes: header and meta part %" PRIu64 ", weights %" PRIu64 " (%" PRIu64
           " unpacked, %.3f bits a byte)\n",
           k->file_bytes, k->file_bytes - k->packed_bytes, k->packed_bytes, k->payload_bytes,
           8 * (double)k->packed_bytes / (double)k->payload_bytes);
    printf("program      %" PRId64 " bytes%s\n", p->r->code, p->r->code ? "" : " (not counted; --code-bytes=N does)");
    printf("budget       %" PRId64 " of %d bytes: %" PRId64 " %s\n", total_bytes(p), DT_ARTIFACT_BUDGET, left < 0 ? -left : left,
           left < 0 ? "too many" : "left");
}

static kv_status print_tensors(const report *p)
{
    dt_table *t = dt_table_new(DT_FORMAT_TABLE, stdout);
    static const char *const names[] = {"tensor", "class", "shape", "bytes", "bits", "largest error", "rms error", "of the rms"};
    for (int i = 0; i < (p->r->against ? 8 : 5); i++)
        dt_table_column(t, names[i], i < 3 ? DT_LEFT : DT_RIGHT);
    for (int32_t i = 0; i < p->k->n_tensors; i++) {
        const kv_kvm_tensor *x = &p->k->tensors[i];
        const dt_tensor_figures *f = &p->figures[i];
        char shape[64];
        dt_table_text(t, x->name);
        dt_table_text(t, kv_quant_class_name(x->cls));
        dt_table_text(t, shape_text(p->k, x, shape));
        dt_table_int(t, (int64_t)(x->value_bytes + x->scale_bytes));
        if (kv_quant_top(x->cls))
            dt_table_number(t, "%.3f", f->entropy);
        else
            dt_table_text(t, NULL);
        if (!p->r->against) continue;
        dt_table_real(t, f->largest);
        dt_table_real(t, f->rms);
        dt_table_real(t, f->share);
    }
    return dt_table_finish(t);
}

static int print_text(const report *p)
{
    const kv_kvm *k = p->k;
    const kv_quant_config *q = &k->extras.quant;
    char hex[65];
    kv_hex32(k->sha256, hex);
    printf("artifact     %s\nsha256       %s\n", p->r->file, hex);
    print_config(&k->cfg);
    printf("quantiser    fp16 up to %" PRId64 " elements; floors %s; int8 clips at the quantile %.7g\n", q->passthrough_max,
           q->floors ? "1/31 and 1/127" : "off", (double)q->clip_quantile);
    printf("tokenizer    %s, %zu bytes\n", tokenizer_text(k), k->extras.tokenizer_bytes);
    print_notes(k->extras.notes);
    print_sizes(p);
    printf("\n");
    const kv_status st = print_tensors(p);
    return st == KV_OK ? dt_close_output() : dt_report_failure(st);
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static json_t *notes_json(const char *notes)
{
    json_t *root = json_object();
    for (const char *p = notes; *p; p += strcspn(p, "\n") + 1) {
        const size_t key = strcspn(p, "="), n = strcspn(p, "\n");
        json_object_setn_new(root, p, key, json_stringn(p + key + 1, n - key - 1));
    }
    return root;
}

static json_t *tensors_json(const report *p)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < p->k->n_tensors; i++) {
        const kv_kvm_tensor *x = &p->k->tensors[i];
        const dt_tensor_figures *f = &p->figures[i];
        int64_t dims[3];
        json_t *shape = json_array();
        const int n = kv_golf_dims(&p->k->cfg, x->place.role, dims);
        for (int d = 0; d < n; d++)
            json_array_append_new(shape, json_integer(dims[d]));
        json_t *one = json_pack("{s:s, s:s, s:o, s:I, s:o}", "name", x->name, "class", kv_quant_class_name(x->cls), "shape", shape,
                                "bytes", (json_int_t)(x->value_bytes + x->scale_bytes), "entropy",
                                kv_quant_top(x->cls) ? json_real(f->entropy) : json_null());
        if (p->r->against)
            json_object_set_new(one, "error", json_pack("{s:f, s:f, s:f}", "largest", f->largest, "rms", f->rms, "share", f->share));
        json_array_append_new(list, one);
    }
    return list;
}

static int print_json(const report *p)
{
    const kv_kvm *k = p->k;
    const kv_quant_config *q = &k->extras.quant;
    char hex[65];
    kv_hex32(k->sha256, hex);
    json_t *size = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:b}", "file", (json_int_t)k->file_bytes, "meta",
                             (json_int_t)k->meta_bytes, "packed", (json_int_t)k->packed_bytes, "payload", (json_int_t)k->payload_bytes,
                             "code", (json_int_t)p->r->code, "total", (json_int_t)total_bytes(p), "budget", DT_ARTIFACT_BUDGET, "fits",
                             total_bytes(p) <= DT_ARTIFACT_BUDGET);
    return dt_print_json(json_pack("{s:s, s:o, s:{s:I, s:b, s:f}, s:{s:s, s:I}, s:o, s:o, s:o}", "sha256", hex, "config",
                                   dt_config_json(&k->cfg), "quantiser", "passthrough_max", (json_int_t)q->passthrough_max, "floors",
                                   q->floors, "clip_quantile", (double)q->clip_quantile, "tokenizer", "kind", tokenizer_text(k), "bytes",
                                   (json_int_t)k->extras.tokenizer_bytes, "notes", notes_json(k->extras.notes), "size", size, "tensors",
                                   tensors_json(p)));
}

/* ---- the command ------------------------------------------------------------------------------ */

static kv_status measure(const kv_kvm *k, const char *against, dt_tensor_figures *figures)
{
    kv_model *original = NULL;
    if (against) KV_TRY(dt_weights_open(against, &k->cfg, &original));
    kv_status st = KV_OK;
    for (int32_t i = 0; i < k->n_tensors && st == KV_OK; i++)
        st = dt_tensor_measure(k, &k->tensors[i], original, &figures[i]);
    kv_model_close(original);
    return st;
}

static kv_status export_weights(const kv_kvm *k, const char *path)
{
    kv_model *m;
    uint8_t *bytes;
    size_t n;
    KV_TRY(kv_kvm_model(k, path, &m));
    kv_status st = kv_safetensors_pack(m, k->extras.notes, &bytes, &n);
    kv_model_close(m);
    if (st != KV_OK) return st;
    if (!kv_file_replace(path, bytes, n)) st = kv_file_error(path, "write the weights");
    free(bytes);
    return st;
}

int dt_cmd_inspect(int argc, char **argv)
{
    request r = {0};
    int done;
    const int code = dt_argp(&parser, argc, argv, &r, &done);
    if (done) return code;
    kv_kvm *k;
    kv_status st = kv_kvm_open(r.file, &k);
    if (st != KV_OK) return dt_report_failure(st);
    dt_tensor_figures *figures = calloc((size_t)k->n_tensors, sizeof *figures);
    st = figures ? measure(k, r.against, figures) : kv_fail(KV_ERR_NOMEM, "out of memory");
    if (st == KV_OK && r.export) st = export_weights(k, r.export);
    const report p = {&r, k, figures};
    const int result = st != KV_OK ? dt_report_failure(st) : r.json ? print_json(&p) : print_text(&p);
    free(figures);
    kv_kvm_close(k);
    return result;
}
