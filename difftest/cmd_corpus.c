/* cmd_corpus.c - `kvdiff corpus`: the documents of a corpus, and how a model's tokenizer sees them.
 */
#include "difftest/cli.h"
#include "difftest/cli_output.h"
#include "difftest/cmd_tokenizer.h"
#include "difftest/table.h"

#include "common/hash.h"
#include "common/model.h"
#include "corpus/corpus.h"

#include <inttypes.h>
#include <string.h>

enum { OPT_FORMAT = 256 };

typedef struct request {
    const char *spec, *model; /* model NULL: nothing is tokenised */
    int json;
} request;

/* ---- the command line ----------------------------------------------------------------------- */

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case OPT_FORMAT:
        return dt_output_parse(arg, &r->json);
    case 'm':
        r->model = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (r->spec) return dt_usage("'%s': one corpus at a time", arg);
        r->spec = arg;
        return 0;
    case ARGP_KEY_NO_ARGS:
        return dt_usage(
            "which corpus? give book, synth:bytes=N,seed=S, passkey:..., a file or a folder");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"model", 'm', "NAME|FILE", 0, "also count the tokens that this model's tokenizer makes", 0},
    DT_FORMAT_OPTION(OPT_FORMAT),
    {NULL, 0, NULL, 0, NULL, 0},
};

static const struct argp parser = {
    options,
    parse,
    "SPEC\nshard --tokenizer=FILE --out=DIR SPEC...\nsplit --out=DIR SPEC...\nrecall --out=DIR SPEC...",
    "Lists the documents of a corpus with bytes, words and fingerprints; with "
    "--model, their tokens and the bytes that have none. Or writes files: shards of tokens, which training "
    "reads; the ends of texts apart from their beginnings; texts to learn retrieval from (`kvdiff corpus shard --help` and so on).",
    NULL,
    NULL,
    NULL};

/* ---- rows ----------------------------------------------------------------------------------- */

/* Where rows go: a table or an array. */
typedef struct output {
    dt_table *table;
    json_t *array;
} output;

static void add_text_row(dt_table *t, const corpus_doc *d, const corpus_stream *s)
{
    char hex[65];
    kv_hex32(d->text_sha, hex);
    hex[12] = '\0';
    dt_table_text(t, d->name);
    dt_table_text(t, d->title);
    dt_table_int(t, d->n_bytes);
    if (d->n_words < 0)
        dt_table_text(t, NULL);
    else
        dt_table_int(t, d->n_words);
    if (s) {
        dt_table_int(t, s->tokens.n);
        dt_table_int(t, (int64_t)s->dropped_bytes);
    }
    dt_table_text(t, hex);
}

static void add_json_row(json_t *array, const corpus_doc *d, const corpus_stream *s)
{
    char hex[65];
    kv_hex32(d->text_sha, hex);
    json_t *o = json_pack("{s:s, s:s, s:I, s:s}", "name", d->name, "title", d->title, "bytes",
                          (json_int_t)d->n_bytes, "sha256", hex);
    json_object_set_new(o, "words", d->n_words < 0 ? json_null() : json_integer(d->n_words));
    if (s) {
        kv_hex32(s->token_sha, hex);
        json_object_set_new(o, "tokens", json_integer(s->tokens.n));
        json_object_set_new(o, "dropped_bytes", json_integer((json_int_t)s->dropped_bytes));
        json_object_set_new(o, "token_sha256", json_string(hex));
    }
    json_array_append_new(array, o);
}

static kv_status add_rows(corpus *c, const kv_tokenizer *tok, const output *out)
{
    for (int32_t i = 0; i < corpus_get_info(c)->n_docs; i++) {
        corpus_stream s;
        if (tok) KV_TRY(corpus_tokens(c, i, tok, NULL, 0, &s));
        if (out->table)
            add_text_row(out->table, corpus_get_doc(c, i), tok ? &s : NULL);
        else
            add_json_row(out->array, corpus_get_doc(c, i), tok ? &s : NULL);
        if (tok) corpus_stream_free(&s);
    }
    return KV_OK;
}

/* ---- the two formats ------------------------------------------------------------------------ */

static int print_text(corpus *c, const request *r, const kv_tokenizer *tok)
{
    const corpus_info *info = corpus_get_info(c);
    char hex[65];
    kv_hex32(info->manifest_sha, hex);
    output out = {dt_table_new(DT_FORMAT_TABLE, stdout), NULL};
    dt_table_column(out.table, "document", DT_LEFT);
    dt_table_column(out.table, "title", DT_LEFT);
    dt_table_column(out.table, "bytes", DT_RIGHT);
    dt_table_column(out.table, "words", DT_RIGHT);
    if (tok) {
        dt_table_column(out.table, "tokens", DT_RIGHT);
        dt_table_column(out.table, "dropped", DT_RIGHT);
    }
    dt_table_column(out.table, "sha256", DT_LEFT);
    printf("corpus     %s (%s), %d document%s\nsha256     %s\n", info->name, info->generator,
           info->n_docs, info->n_docs == 1 ? "" : "s", hex);
    if (tok) printf("tokenizer  %s of %s\n", kv_tokenizer_kind(tok), r->model);
    printf("\n");
    kv_status st = add_rows(c, tok, &out);
    const kv_status finished = dt_table_finish(out.table);
    if (st == KV_OK) st = finished;
    return st == KV_OK ? dt_close_output() : dt_report_failure(st);
}

static int print_json(corpus *c, const kv_tokenizer *tok)
{
    const corpus_info *info = corpus_get_info(c);
    char hex[65];
    kv_hex32(info->manifest_sha, hex);
    output out = {NULL, json_array()};
    const kv_status st = add_rows(c, tok, &out);
    if (st != KV_OK) {
        json_decref(out.array);
        return dt_report_failure(st);
    }
    return dt_print_json(json_pack("{s:s, s:s, s:s, s:o}", "name", info->name, "generator",
                                   info->generator, "sha256", hex, "documents", out.array));
}

static kv_status open_tokenizer(const char *name, kv_model **m, kv_tokenizer **tok)
{
    KV_TRY(kv_model_open(name, NULL, m, tok));
    if (*tok) return KV_OK;
    return kv_fail(KV_ERR_UNSUPPORTED,
                   "model '%s' has no tokenizer; use novel, nano, smollm2 or a file with one", name);
}

int dt_cmd_corpus(int argc, char **argv)
{
    static char shard[] = "kvdiff corpus shard", split[] = "kvdiff corpus split", recall[] = "kvdiff corpus recall";
    const struct {
        const char *name;
        char *title;
        int (*run)(int argc, char **argv);
    } writers[] = {{"shard", shard, dt_corpus_shard}, {"split", split, dt_corpus_split}, {"recall", recall, dt_corpus_recall}};
    request r = {0};
    int done;
    for (size_t i = 0; argc > 1 && i < sizeof writers / sizeof *writers; i++)
        if (strcmp(argv[1], writers[i].name) == 0) {
            argv[1] = writers[i].title;
            return writers[i].run(argc - 1, argv + 1);
        }
    const int code = dt_argp(&parser, argc, argv, &r, &done);
    if (done) return code;
    corpus *c = NULL;
    kv_model *m = NULL;
    kv_tokenizer *tok = NULL;
    kv_status st = corpus_open(r.spec, &c);
    if (st == KV_OK && r.model) st = open_tokenizer(r.model, &m, &tok);
    const int result = st != KV_OK ? dt_report_failure(st)
                       : r.json    ? print_json(c, tok)
                                   : print_text(c, &r, tok);
    corpus_close(c);
    kv_tokenizer_free(tok);
    kv_model_close(m);
    return result;
}
