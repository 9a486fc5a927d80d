/* corpus_shard.c - `kvdiff corpus shard`: the tokens of documents as shards, a BOS before each. */
#include "difftest/cmd_tokenizer.h"

#include "corpus/corpus.h"
#include "corpus/shard.h"
#include "difftest/cli_output.h"
#include "difftest/options.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { OPT_TOKENIZER = 256, OPT_OUT, OPT_SPLIT, OPT_SHARD_TOKENS, OPT_VAL_DOCS, BOS = 1 };

typedef struct request {
    const char *tokenizer, *out, *split;
    int64_t shard_tokens, val_docs;
    dt_list corpora;
} request;

/* What goes into one split. */
typedef struct part {
    corpus_shard_writer *writer; /* NULL until a document comes */
    const char *split;
    int64_t documents, bytes;
} part;

/* ---- the command line ----------------------------------------------------------------------- */

static error_t finish(const request *r)
{
    if (r->corpora.n == 0) return dt_usage("shards of what? give files, folders, or book");
    if (!r->tokenizer)
        return dt_usage("--tokenizer=FILE is needed: FILE.model, FILE.gguf or bytes");
    return r->out ? 0 : dt_usage("--out=DIR is needed: where the shards go");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case OPT_TOKENIZER:
        r->tokenizer = arg;
        return 0;
    case OPT_OUT:
        r->out = arg;
        return 0;
    case OPT_SPLIT:
        r->split = arg;
        return strcmp(arg, "val") ? 0 : dt_usage("--split=val: --val-docs fills that one");
    case OPT_SHARD_TOKENS:
        return dt_parse_number("shard-tokens", arg, 1, INT32_MAX, &r->shard_tokens);
    case OPT_VAL_DOCS:
        return dt_parse_number("val-docs", arg, 0, INT64_MAX, &r->val_docs);
    case ARGP_KEY_ARG:
        return dt_list_add(&r->corpora, arg, strlen(arg)) == KV_OK ? 0 : ENOMEM;
    case ARGP_KEY_END:
        return finish(r);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"tokenizer", OPT_TOKENIZER, "FILE", 0, "FILE.model, FILE.vocab, FILE.gguf or bytes", 0},
    {"out", OPT_OUT, "DIR", 0, "the folder that the shards go to", 0},
    {"split", OPT_SPLIT, "NAME", 0, "shards are NAME_000000.bin and so on (default train)", 0},
    {"val-docs", OPT_VAL_DOCS, "N", 0, "the first N documents are the split val (default 0)", 0},
    {"shard-tokens", OPT_SHARD_TOKENS, "N", 0, "tokens of a shard (default 100000000)", 0},
    {NULL, 0, NULL, 0, NULL, 0},
};

static const struct argp parser = {
    options,
    parse,
    "SPEC...",
    "Writes the tokens of documents as shards, which training reads: "
    "every document is a BOS and its tokens.",
    NULL,
    NULL,
    NULL};

/* ---- the work -------------------------------------------------------------------------------- */

static kv_status add_document(const request *r, const kv_tokenizer *tok, corpus *c, int32_t i,
                              part *p)
{
    const int32_t bos = BOS;
    corpus_stream s;
    KV_TRY(corpus_tokens(c, i, tok, NULL, 0, &s));
    kv_status st = p->writer ? KV_OK
                             : corpus_shard_writer_open(r->out, p->split, r->shard_tokens,
                                                        kv_tokenizer_vocab(tok), &p->writer);
    if (st == KV_OK) st = corpus_shard_writer_add(p->writer, &bos, 1);
    if (st == KV_OK) st = corpus_shard_writer_add(p->writer, s.tokens.v, s.tokens.n);
    p->documents++;
    p->bytes += corpus_get_doc(c, i)->n_bytes;
    corpus_stream_free(&s);
    return st;
}

static kv_status add_corpus(const request *r, const kv_tokenizer *tok, const char *spec,
                            part parts[2])
{
    corpus *c;
    KV_TRY(corpus_open(spec, &c));
    kv_status st = KV_OK;
    for (int32_t i = 0; st == KV_OK && i < corpus_get_info(c)->n_docs; i++) {
        const int64_t number = parts[0].documents + parts[1].documents;
        st = add_document(r, tok, c, i, &parts[number >= r->val_docs]);
    }
    corpus_close(c);
    return st;
}

static kv_status finish_part(part *p)
{
    int32_t shards;
    int64_t tokens;
    if (!p->writer) return KV_OK;
    KV_TRY(corpus_shard_writer_finish(p->writer, &shards, &tokens));
    printf("%-10s %" PRId64 " documents, %" PRId64 " bytes, %" PRId64
           " tokens with BOS, %d shard%s\n",
           p->split, p->documents, p->bytes, tokens, shards, shards == 1 ? "" : "s");
    return KV_OK;
}

static kv_status check_bos(const request *r, const kv_tokenizer *tok)
{
    if (kv_tokenizer_token_bytes(tok, BOS).boundary && kv_tokenizer_vocab(tok) > BOS) return KV_OK;
    return kv_fail(
        KV_ERR_UNSUPPORTED,
        "%s: token 1 is text; shards begin every document with 1 as BOS, use a vocabulary of "
        "`kvdiff tokenizer train`",
        r->tokenizer);
}

static kv_status write_shards(const request *r, const kv_tokenizer *tok)
{
    part parts[2] = {{.split = "val"}, {.split = r->split}};
    kv_status st = check_bos(r, tok);
    for (int i = 0; st == KV_OK && i < r->corpora.n; i++)
        st = add_corpus(r, tok, r->corpora.v[i], parts);
    for (int i = 0; i < 2; i++) {
        if (st == KV_OK) st = finish_part(&parts[i]);
        corpus_shard_writer_free(parts[i].writer);
    }
    return st;
}

int dt_corpus_shard(int argc, char **argv)
{
    request r = {.split = "train", .shard_tokens = CORPUS_SHARD_TOKENS};
    kv_tokenizer *tok = NULL;
    int done;
    int result = dt_argp(&parser, argc, argv, &r, &done);
    if (!done) {
        kv_status st = dt_open_tokenizer(r.tokenizer, &tok);
        if (st == KV_OK) st = write_shards(&r, tok);
        result = st == KV_OK ? dt_close_output() : dt_report_failure(st);
    }
    kv_tokenizer_free(tok);
    dt_list_free(&r.corpora);
    return result;
}
