/* cmd_model.c - `kvdiff model`: what is in a model, and whether it is whole. */
#include "difftest/cli.h"
#include "difftest/cli_output.h"
#include "difftest/table.h"

#include "common/hash.h"
#include "common/math.h"
#include "common/mem.h"
#include "common/model.h"
#include "common/tokenizer.h"

#include <inttypes.h>

enum { OPT_FORMAT = 256, OPT_CHECK, OPT_TENSORS };

typedef struct request {
    const char *name; /* NULL: list the catalogue */
    int json, check, tensors;
} request;

/* ---- the command line ----------------------------------------------------------------------- */

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case OPT_FORMAT:
        return dt_output_parse(arg, &r->json);
    case OPT_CHECK:
        r->check = 1;
        return 0;
    case OPT_TENSORS:
        r->tensors = 1;
        return 0;
    case ARGP_KEY_ARG:
        if (r->name) return dt_usage("'%s': one model at a time", arg);
        r->name = arg;
        return 0;
    case ARGP_KEY_END:
        if (!r->name && (r->check || r->tensors))
            return dt_usage("which model? give novel, nano, sharp, tiny, smollm2 or a .gguf or .kvm file");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"check", OPT_CHECK, NULL, 0, "read every weight; refuse NaN and infinity", 0},
    {"tensors", OPT_TENSORS, NULL, 0, "list every tensor", 0},
    DT_FORMAT_OPTION(OPT_FORMAT),
    {NULL, 0, NULL, 0, NULL, 0},
};

static const struct argp parser = {
    options,
    parse,
    "[NAME|FILE]",
    "Describes a model: its shape, its tensors by type, its tokenizer and its "
    "fingerprints. Without an argument: the models that have a name.",
    NULL,
    NULL,
    NULL};

/* ---- tensors -------------------------------------------------------------------------------- */

/* Calls visit for every tensor that the model has, until one fails. */
typedef kv_status visit_fn(void *arg, const char *name, const kv_tensor *t);

static kv_status each_tensor(const kv_model *m, visit_fn *visit, void *arg)
{
    char name[KV_TENSOR_NAME_MAX];
    for (int role = 0; role < KV_ROLE_COUNT; role++) {
        const int layers = role < KV_ROLE_GLOBAL_COUNT ? 1 : m->cfg.n_layers;
        for (int32_t l = 0; l < layers; l++) {
            const kv_tensor *t = kv_model_tensor(m, (kv_role)role, l);
            if (!t->data) continue;
            kv_model_tensor_name(&m->cfg, (kv_role)role, l, name);
            KV_TRY(visit(arg, name, t));
        }
    }
    return KV_OK;
}

typedef struct type_sum {
    int64_t tensors, weights, bytes;
} type_sum;

static kv_status add_type(void *arg, const char *name, const kv_tensor *t)
{
    (void)name;
    type_sum *s = (type_sum *)arg + t->dtype;
    s->tensors++;
    s->weights += t->rows * t->cols;
    s->bytes += (int64_t)t->n_bytes;
    return KV_OK;
}

/* Widens every weight and looks at it. */
static kv_status check_tensor(void *arg, const char *name, const kv_tensor *t)
{
    kv_buffer *row = arg;
    KV_TRY(kv_buffer_reserve(row, (size_t)t->cols * sizeof(float)));
    const float *w = row->p;
    for (int64_t r = 0; r < t->rows; r++) {
        kv_tensor_rows_f32(t, r, 1, row->p);
        for (int64_t c = 0; c < t->cols; c++)
            if (!kv_is_finite(w[c]))
                return kv_fail(KV_ERR_FORMAT,
                               "tensor '%s', row %" PRId64 ", column %" PRId64
                               ": NaN or infinity; the file is damaged",
                               name, r, c);
    }
    return KV_OK;
}

static kv_status check_weights(const kv_model *m)
{
    kv_buffer row = {0};
    const kv_status st = each_tensor(m, check_tensor, &row);
    kv_buffer_free(&row);
    if (st != KV_OK) kv_prefix_message("model '%s'", m->name);
    return st;
}

/* ---- text ----------------------------------------------------------------------------------- */

static kv_status tensor_row(void *arg, const char *name, const kv_tensor *t)
{
    dt_table *table = arg;
    dt_table_text(table, name);
    dt_table_text(table, kv_dtype_name(t->dtype));
    dt_table_int(table, t->rows);
    dt_table_int(table, t->cols);
    dt_table_int(table, (int64_t)t->n_bytes);
    return KV_OK;
}

static kv_status print_tensors(const kv_model *m)
{
    dt_table *t = dt_table_new(DT_FORMAT_TABLE, stdout);
    dt_table_column(t, "tensor", DT_LEFT);
    dt_table_column(t, "type", DT_LEFT);
    dt_table_column(t, "rows", DT_RIGHT);
    dt_table_column(t, "columns", DT_RIGHT);
    dt_table_column(t, "bytes", DT_RIGHT);
    each_tensor(m, tensor_row, t);
    return dt_table_finish(t);
}

/* K and V of one token in fp32. */
static int64_t token_bytes(const kv_config *c)
{
    return (int64_t)sizeof(float) * 2 * c->n_layers * c->n_kv_heads * c->head_dim;
}

static void print_config(const kv_config *c)
{
    printf("layers       %d of width %d; feed-forward %d\n", c->n_layers, c->d_model, c->ffn_dim);
    printf("heads        %d query, %d KV, of %d\n", c->n_heads, c->n_kv_heads, c->head_dim);
    printf("vocabulary   %d%s\n", c->vocab_size,
           c->tied_head ? ", head tied to the embedding" : "");
    printf("RoPE         %d dims, theta %g, %s pairs\n", c->rope_dims, c->rope_theta,
           c->rope_pairing == KV_ROPE_HALF ? "half" : "adjacent");
    if (c->max_pos)
        printf("context      %d tokens\n", c->max_pos);
    else
        printf("context      no limit\n");
    printf("KV cache     %" PRId64 " bytes a token in f32\n", token_bytes(c));
    const char *beyond = kv_config_beyond_llama(c);
    if (beyond) printf("beyond the plain Llama block: %s\n", beyond);
}

static void print_types(const kv_model *m)
{
    type_sum sums[KV_DTYPE_COUNT] = {{0}};
    each_tensor(m, add_type, sums);
    printf("weights      %" PRId64 " in %" PRId64 " bytes\n", kv_model_weights(m),
           kv_model_bytes(m));
    for (int i = 0; i < KV_DTYPE_COUNT; i++)
        if (sums[i].tensors)
            printf("  %-10s %" PRId64 " tensors, %" PRId64 " weights, %" PRId64 " bytes\n",
                   kv_dtype_name(i), sums[i].tensors, sums[i].weights, sums[i].bytes);
}

static int print_text(const request *r, const kv_model *m, const kv_tokenizer *tok)
{
    char hex[65];
    kv_hex32(m->sha256, hex);
    printf("model        %s\nsha256       %s\n", m->name, hex);
    print_config(&m->cfg);
    print_types(m);
    if (tok) {
        kv_hex32(kv_tokenizer_fingerprint(tok), hex);
        printf("tokenizer    %s, %d tokens\n  sha256     %s\n", kv_tokenizer_kind(tok),
               kv_tokenizer_vocab(tok), hex);
    } else {
        printf("tokenizer    none\n");
    }
    if (r->check) printf("check        every weight was read and is finite\n");
    if (r->tensors) {
        printf("\n");
        const kv_status st = print_tensors(m);
        if (st != KV_OK) return dt_report_failure(st);
    }
    return dt_close_output();
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static kv_status tensor_json(void *arg, const char *name, const kv_tensor *t)
{
    json_array_append_new(arg,
                          json_pack("{s:s, s:s, s:I, s:I, s:I}", "name", name, "type",
                                    kv_dtype_name(t->dtype), "rows", (json_int_t)t->rows, "columns",
                                    (json_int_t)t->cols, "bytes", (json_int_t)t->n_bytes));
    return KV_OK;
}

static json_t *config_json(const kv_config *c)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:i, s:f, s:s, s:i, s:I}", "layers",
                     c->n_layers, "d_model", c->d_model, "ffn_dim", c->ffn_dim, "heads", c->n_heads,
                     "kv_heads", c->n_kv_heads, "head_dim", c->head_dim, "vocab", c->vocab_size,
                     "tied_head", c->tied_head, "rope_dims", c->rope_dims, "rope_theta",
                     c->rope_theta, "rope_pairing",
                     c->rope_pairing == KV_ROPE_HALF ? "half" : "adjacent", "context", c->max_pos,
                     "kv_bytes_per_token", (json_int_t)token_bytes(c));
}

static json_t *types_json(const kv_model *m)
{
    type_sum sums[KV_DTYPE_COUNT] = {{0}};
    json_t *types = json_object();
    each_tensor(m, add_type, sums);
    for (int i = 0; i < KV_DTYPE_COUNT; i++)
        if (sums[i].tensors)
            json_object_set_new(types, kv_dtype_name(i),
                                json_pack("{s:I, s:I, s:I}", "tensors", (json_int_t)sums[i].tensors,
                                          "weights", (json_int_t)sums[i].weights, "bytes",
                                          (json_int_t)sums[i].bytes));
    return types;
}

static int print_json(const request *r, const kv_model *m, const kv_tokenizer *tok)
{
    char hex[65];
    kv_hex32(m->sha256, hex);
    json_t *root =
        json_pack("{s:s, s:s, s:o, s:I, s:I, s:o}", "name", m->name, "sha256", hex, "config",
                  config_json(&m->cfg), "weights", (json_int_t)kv_model_weights(m), "bytes",
                  (json_int_t)kv_model_bytes(m), "types", types_json(m));
    json_t *tokenizer = json_null();
    if (tok) {
        kv_hex32(kv_tokenizer_fingerprint(tok), hex);
        tokenizer = json_pack("{s:s, s:i, s:s}", "kind", kv_tokenizer_kind(tok), "vocab",
                              kv_tokenizer_vocab(tok), "sha256", hex);
    }
    json_object_set_new(root, "tokenizer", tokenizer);
    if (r->check) json_object_set_new(root, "checked", json_true());
    if (r->tensors) {
        json_t *tensors = json_array();
        each_tensor(m, tensor_json, tensors);
        json_object_set_new(root, "tensors", tensors);
    }
    return dt_print_json(root);
}

/* ---- the catalogue -------------------------------------------------------------------------- */

static int list_models(int json)
{
    size_t n;
    const kv_model_entry *e = kv_model_catalogue(&n);
    json_t *root = json ? json_array() : NULL;
    for (size_t i = 0; i < n; i++) {
        if (json)
            json_array_append_new(root, json_pack("{s:s, s:s?, s:s}", "name", e[i].name, "file",
                                                  e[i].file, "about", e[i].about));
        else
            printf("%-8s %s\n", e[i].name, e[i].about);
    }
    return json ? dt_print_json(root) : dt_close_output();
}

int dt_cmd_model(int argc, char **argv)
{
    request r = {0};
    int done;
    const int code = dt_argp(&parser, argc, argv, &r, &done);
    if (done) return code;
    if (!r.name) return list_models(r.json);
    kv_model *m = NULL;
    kv_tokenizer *tok = NULL;
    kv_status st = kv_model_open(r.name, NULL, &m, &tok);
    if (st == KV_OK && r.check) st = check_weights(m);
    const int result = st != KV_OK ? dt_report_failure(st)
                       : r.json    ? print_json(&r, m, tok)
                                   : print_text(&r, m, tok);
    kv_tokenizer_free(tok);
    kv_model_close(m);
    return result;
}
