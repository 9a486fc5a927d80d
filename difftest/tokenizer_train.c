/* tokenizer_train.c - `kvdiff tokenizer train`: a vocabulary from the texts of corpora. */
#include "difftest/cmd_tokenizer.h"
#include "difftest/options.h"

#include "common/file.h"
#include "corpus/bpe_train.h"
#include "corpus/corpus.h"
#include "difftest/cli_output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_VOCAB = 256, OPT_COVERAGE, OPT_OUT };

typedef struct request {
    corpus_bpe_args args;
    const char *out; /* FILE.model */
    dt_list corpora;
    int64_t documents;
} request;

/* ---- the command line ----------------------------------------------------------------------- */

static error_t parse_coverage(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end || !(*out > 0 && *out <= 1))
        return dt_usage("--coverage=%s: a number above 0 and at most 1 is needed", text);
    return 0;
}

static error_t parse_out(request *r, const char *arg)
{
    const size_t n = strlen(arg);
    if (n <= 6 || strcmp(arg + n - 6, ".model") != 0)
        return dt_usage("--out=%s: a name that ends in .model is needed; .vocab goes beside it",
                        arg);
    r->out = arg;
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    int64_t v;
    error_t e;
    switch (key) {
    case OPT_VOCAB:
        e = dt_parse_number("vocab", arg, 261, 1 << 20, &v);
        if (!e) r->args.vocab = (int32_t)v;
        return e;
    case OPT_COVERAGE:
        return parse_coverage(arg, &r->args.coverage);
    case OPT_OUT:
        return parse_out(r, arg);
    case ARGP_KEY_ARG:
        return dt_list_add(&r->corpora, arg, strlen(arg)) == KV_OK ? 0 : ENOMEM;
    case ARGP_KEY_END:
        if (r->corpora.n == 0) return dt_usage("train on what? give files, folders, or book");
        return r->out ? 0 : dt_usage("--out=FILE.model is needed: where the vocabulary goes");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"vocab", OPT_VOCAB, "N", 0, "pieces, with 4 specials and 256 bytes (default 1024)", 0},
    {"coverage", OPT_COVERAGE, "X", 0, "share of the characters that get a piece (default 0.999)",
     0},
    {"out", OPT_OUT, "FILE.model", 0, "the vocabulary; FILE.vocab goes beside it", 0},
    {NULL, 0, NULL, 0, NULL, 0},
};

static const struct argp parser = {
    options,
    parse,
    "SPEC...",
    "Trains a SentencePiece-style BPE vocabulary on the documents of "
    "corpora: files, folders, book, synth:...",
    NULL,
    NULL,
    NULL};

/* ---- the work -------------------------------------------------------------------------------- */

static kv_status add_corpus(request *r, const char *spec, corpus_bpe_trainer *t)
{
    corpus *c;
    KV_TRY(corpus_open(spec, &c));
    kv_status st = KV_OK;
    for (int32_t i = 0; st == KV_OK && i < corpus_get_info(c)->n_docs; i++, r->documents++) {
        const char *text;
        size_t n;
        st = corpus_text(c, i, &text, &n);
        if (st == KV_OK) st = corpus_bpe_add(t, text, n);
    }
    corpus_close(c);
    return st;
}

/* FILE.vocab for FILE.model; the caller frees it. */
static char *vocab_path(const char *model)
{
    char *path = strdup(model);
    if (path) memcpy(path + strlen(path) - 6, ".vocab", 6);
    return path;
}

static kv_status write_files(const request *r, const kv_bytes *model, const kv_bytes *vocab)
{
    char *path = vocab_path(r->out);
    kv_status st = path ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
    if (st == KV_OK && !kv_file_replace(r->out, model->p, model->n))
        st = kv_file_error(r->out, "write");
    if (st == KV_OK && !kv_file_replace(path, vocab->p, vocab->n))
        st = kv_file_error(path, "write");
    free(path);
    return st;
}

static kv_status train(request *r, corpus_bpe_trainer *t)
{
    kv_bytes model = {0}, vocab = {0};
    corpus_bpe_report rep;
    kv_status st = KV_OK;
    for (int i = 0; st == KV_OK && i < r->corpora.n; i++)
        st = add_corpus(r, r->corpora.v[i], t);
    if (st == KV_OK) st = corpus_bpe_finish(t, &model, &vocab, &rep);
    if (st == KV_OK) st = write_files(r, &model, &vocab);
    if (st == KV_OK)
        printf("documents   %" PRId64 ", %" PRId64 " bytes, %" PRId64 " different words\n"
               "pieces      %d: 4 specials, 256 bytes, %d characters, %d merges%s\n",
               r->documents, rep.bytes, rep.words, rep.pieces, rep.character_pieces,
               rep.pieces - 260 - rep.character_pieces,
               rep.pieces < r->args.vocab ? " (no pair is left that occurs twice)" : "");
    free(model.p);
    free(vocab.p);
    return st;
}

int dt_tokenizer_train(int argc, char **argv)
{
    request r = {.args = corpus_bpe_defaults()};
    corpus_bpe_trainer *t = NULL;
    int done;
    int result = dt_argp(&parser, argc, argv, &r, &done);
    if (!done) {
        kv_status st = corpus_bpe_new(&r.args, &t);
        if (st == KV_OK) st = train(&r, t);
        result = st == KV_OK ? dt_close_output() : dt_report_failure(st);
    }
    corpus_bpe_free(t);
    dt_list_free(&r.corpora);
    return result;
}
