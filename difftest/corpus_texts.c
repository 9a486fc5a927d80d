/* corpus_texts.c - `kvdiff corpus split` and `kvdiff corpus recall`: texts made from the texts of a corpus, written to a
 * folder, one file per document under the document's name (docs/cli.md). */
#include "difftest/cmd_tokenizer.h"

#include "common/file.h"
#include "common/mem.h"
#include "corpus/corpus.h"
#include "difftest/cli_output.h"
#include "difftest/options.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

enum { OPT_OUT = 256, OPT_TAIL, OPT_SHARE, OPT_BYTES, OPT_SEED };

typedef struct request {
    const char *out;
    int64_t tail, share, bytes, seed;
    int64_t index; /* of the next recall text */
    int64_t documents, written[2];
    dt_list corpora;
    kv_status (*one)(struct request *r, const char *name, const char *text, size_t n);
} request;

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case OPT_OUT:
        r->out = arg;
        return 0;
    case OPT_TAIL:
        return dt_parse_number("tail", arg, 1, 99, &r->tail);
    case OPT_SHARE:
        return dt_parse_number("share", arg, 1, 99, &r->share);
    case OPT_BYTES:
        return dt_parse_number("bytes", arg, CORPUS_RECALL_LEAST, 1 << 24, &r->bytes);
    case OPT_SEED:
        return dt_parse_number("seed", arg, 0, INT64_MAX, &r->seed);
    case ARGP_KEY_ARG:
        return dt_list_add(&r->corpora, arg, strlen(arg)) == KV_OK ? 0 : ENOMEM;
    case ARGP_KEY_END:
        if (r->corpora.n == 0) return dt_usage("which texts? give files, folders, or book");
        return r->out ? 0 : dt_usage("--out=DIR is needed: where the texts go");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* Writes OUT/[part/]NAME.txt; a file that is there already is another run's, and stays. */
static kv_status write_text(const request *r, const char *part, const char *name, const char *text, size_t n)
{
    char path[4096];
    struct stat s;
    if (snprintf(path, sizeof path, "%s/%s", r->out, part) >= (int)sizeof path)
        return kv_fail(KV_ERR_USAGE, "--out: the path is too long");
    KV_TRY(kv_file_folder(path));
    if (snprintf(path, sizeof path, "%s/%s%s%s.txt", r->out, part, *part ? "/" : "", name) >= (int)sizeof path)
        return kv_fail(KV_ERR_USAGE, "--out: the path is too long");
    if (stat(path, &s) == 0) return kv_fail(KV_ERR_USAGE, "'%s' is there already; name another folder with --out", path);
    return kv_file_replace(path, text, n) ? KV_OK : kv_file_error(path, "write");
}

/* ---- split ------------------------------------------------------------------------------------------------------- */

/* Bytes before the tail: whole lines, or all but the tail where a text is one line. */
static size_t head_of(const char *text, size_t n, int64_t tail)
{
    const size_t wanted = n - n * (size_t)tail / 100;
    size_t at = wanted;
    while (at > 0 && text[at - 1] != '\n')
        at--;
    if (at > 0) return at;
    for (at = wanted; at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80;)
        at--; /* no character is torn */
    return at;
}

static kv_status split_one(request *r, const char *name, const char *text, size_t n)
{
    const size_t head = head_of(text, n, r->tail);
    if (head == 0 || head == n) return kv_fail(KV_ERR_USAGE, "document '%s' is too short to be split", name);
    KV_TRY(write_text(r, "train", name, text, head));
    r->written[0] += (int64_t)head;
    r->written[1] += (int64_t)(n - head);
    return write_text(r, "val", name, text + head, n - head);
}

/* ---- recall ------------------------------------------------------------------------------------------------------ */

static kv_status recall_one(request *r, const char *name, const char *text, size_t n)
{
    const size_t wanted = n * (size_t)r->share / (size_t)(100 - r->share);
    kv_bytes all = {0};
    kv_status st = KV_OK;
    while (st == KV_OK && all.n < wanted) {
        char *piece;
        size_t bytes;
        st = corpus_recall(text, n, (uint64_t)r->seed, (uint64_t)r->index++, (size_t)r->bytes, &piece, &bytes);
        if (st != KV_OK) break;
        st = kv_bytes_add(&all, piece, bytes);
        free(piece);
    }
    if (st == KV_OK) st = write_text(r, "", name, (const char *)all.p, all.n);
    r->written[0] += (int64_t)all.n;
    free(all.p);
    return st;
}

/* ---- both -------------------------------------------------------------------------------------------------------- */

static kv_status every_text(request *r)
{
    kv_status st = kv_file_folder(r->out);
    for (int c = 0; st == KV_OK && c < r->corpora.n; c++) {
        corpus *docs;
        KV_TRY(corpus_open(r->corpora.v[c], &docs));
        for (int32_t i = 0; st == KV_OK && i < corpus_get_info(docs)->n_docs; i++) {
            const char *text;
            size_t n;
            st = corpus_text(docs, i, &text, &n);
            if (st == KV_OK) st = r->one(r, corpus_get_doc(docs, i)->name, text, n);
            r->documents += st == KV_OK;
        }
        corpus_close(docs);
    }
    return st;
}

static int run(request *r, const struct argp *parser, int argc, char **argv)
{
    int done, result = dt_argp(parser, argc, argv, r, &done);
    if (!done) {
        const kv_status st = every_text(r);
        if (st == KV_OK && r->one == split_one)
            printf("%" PRId64 " documents: %" PRId64 " bytes in train, %" PRId64 " in val\n", r->documents, r->written[0], r->written[1]);
        else if (st == KV_OK)
            printf("%" PRId64 " texts, %" PRId64 " bytes\n", r->documents, r->written[0]);
        result = st == KV_OK ? dt_close_output() : dt_report_failure(st);
    }
    dt_list_free(&r->corpora);
    return result;
}

int dt_corpus_split(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"out", OPT_OUT, "DIR", 0, "gets train/NAME.txt and val/NAME.txt", 0},
        {"tail", OPT_TAIL, "PERCENT", 0, "share of every text that goes to val (default 3)", 0},
        {0},
    };
    static const struct argp parser = {
        options, parse, "SPEC...", "Cuts the end off every text, at the end of a line: what a model is trained on, and what it is judged by.",
        NULL, NULL, NULL};
    request r = {.tail = 3, .one = split_one};
    return run(&r, &parser, argc, argv);
}

int dt_corpus_recall(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"out", OPT_OUT, "DIR", 0, "gets NAME.txt for every text", 0},
        {"share", OPT_SHARE, "PERCENT", 0, "of recall and text together that is recall (default 30)", 0},
        {"bytes", OPT_BYTES, "N", 0, "most bytes of a piece that is one task or several (default 2600)", 0},
        {"seed", OPT_SEED, "N", 0, "of keys, names and numbers (default 1)", 0},
        {0},
    };
    static const struct argp parser = {
        options, parse, "SPEC...", "Writes texts to learn retrieval from, with slices of the given texts between keys and questions.",
        NULL, NULL, NULL};
    request r = {.share = 30, .bytes = 2600, .seed = 1, .one = recall_one};
    return run(&r, &parser, argc, argv);
}
