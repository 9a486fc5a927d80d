/* cmd_tokenizer.c - `kvdiff tokenizer`: show a vocabulary, encode, decode. tokenizer_train.c
 * trains. */
#include "difftest/cmd_tokenizer.h"

#include "difftest/cli_output.h"
#include "difftest/table.h"

#include "common/file.h"
#include "common/hash.h"
#include "common/mem.h"
#include "common/utf8.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_FORMAT = 256, OPT_LINES, OPT_PIECES, TEXT_MAX = 1 << 30 };

typedef struct request {
    const char *tokenizer, *text; /* text NULL: stdin */
    int json, lines, pieces;
} request;

kv_status dt_open_tokenizer(const char *name, kv_tokenizer **out)
{
    return strcmp(name, "bytes") == 0 ? kv_tokenizer_bytes(out) : kv_tokenizer_open(name, out);
}

/* ---- input ----------------------------------------------------------------------------------- */

static kv_status read_stdin(kv_bytes *out)
{
    char room[65536];
    size_t n;
    while ((n = fread(room, 1, sizeof room, stdin)) > 0)
        KV_TRY(kv_bytes_add(out, room, n));
    return ferror(stdin) ? kv_file_error("stdin", "read") : KV_OK;
}

static kv_status read_input(const request *r, kv_bytes *out)
{
    if (!r->text || strcmp(r->text, "-") == 0) return read_stdin(out);
    return kv_file_read(r->text, TEXT_MAX, &out->p, &out->n);
}

/* ---- encode, decode ----------------------------------------------------------------------------
 */

static kv_status print_ids(const kv_tokenizer *tok, const char *p, size_t n, kv_tokens *ids)
{
    ids->n = 0;
    KV_TRY(kv_tokenizer_encode(tok, p, n, 0, ids, NULL));
    for (int64_t i = 0; i < ids->n; i++)
        printf("%s%d", i ? " " : "", ids->v[i]);
    putchar('\n');
    return KV_OK;
}

static kv_status encode(const request *r, const kv_tokenizer *tok, kv_bytes *in)
{
    kv_tokens ids = {0};
    const char *where = r->text ? r->text : "stdin";
    KV_TRY(read_input(r, in));
    KV_TRY(kv_utf8_check(in->p ? in->p : "", in->n, where));
    kv_status st = KV_OK;
    if (!r->lines) st = print_ids(tok, in->p ? in->p : "", in->n, &ids);
    for (size_t at = 0; r->lines && st == KV_OK && at < in->n;) {
        const char *end = memchr(in->p + at, '\n', in->n - at);
        const size_t n = end ? (size_t)(end - in->p) - at : in->n - at;
        st = print_ids(tok, in->p + at, n, &ids);
        at += n + 1;
    }
    kv_tokens_free(&ids);
    return st;
}

static kv_status decode(const request *r, const kv_tokenizer *tok, kv_bytes *in)
{
    KV_TRY(read_input(r, in));
    KV_TRY(kv_bytes_add(in, "", 1));
    for (char *p = in->p, *end;; p = end) {
        p += strspn(p, " \t\r\n");
        if (!*p) return KV_OK;
        errno = 0;
        const long id = strtol(p, &end, 10);
        size_t n;
        const char *piece = errno || end == p || id < 0 || id > INT32_MAX
                                ? NULL
                                : kv_tokenizer_piece(tok, (int32_t)id, &n);
        if (!piece)
            return kv_fail(KV_ERR_USAGE,
                           "'%.24s' is no token: 0 to %d are; ids stand between spaces", p,
                           kv_tokenizer_vocab(tok) - 1);
        fwrite(piece, 1, n, stdout);
    }
}

/* ---- show ------------------------------------------------------------------------------------ */

static kv_status list_pieces(const kv_tokenizer *tok, int json)
{
    char shown[256];
    dt_table *t = dt_table_new(json ? DT_FORMAT_JSON : DT_FORMAT_TABLE, stdout);
    dt_table_column(t, "id", DT_RIGHT);
    dt_table_column(t, "piece", DT_LEFT);
    dt_table_column(t, "bytes", DT_RIGHT);
    dt_table_column(t, "lead", DT_RIGHT);
    dt_table_column(t, "boundary", DT_RIGHT);
    for (int32_t id = 0; id < kv_tokenizer_vocab(tok); id++) {
        size_t n;
        const char *p = kv_tokenizer_piece(tok, id, &n);
        const kv_token_bytes b = kv_tokenizer_token_bytes(tok, id);
        dt_table_int(t, id);
        dt_table_text(t, kv_printable(p, n, shown, sizeof shown));
        dt_table_int(t, b.base);
        dt_table_int(t, b.lead);
        dt_table_int(t, b.boundary);
    }
    return dt_table_finish(t);
}

static int show(const request *r, const kv_tokenizer *tok)
{
    char hex[65];
    if (r->pieces) {
        const kv_status st = list_pieces(tok, r->json);
        return st == KV_OK ? dt_close_output() : dt_report_failure(st);
    }
    kv_hex32(kv_tokenizer_fingerprint(tok), hex);
    if (r->json)
        return dt_print_json(json_pack("{s:s, s:s, s:i, s:s}", "name", r->tokenizer, "kind",
                                       kv_tokenizer_kind(tok), "vocab", kv_tokenizer_vocab(tok),
                                       "sha256", hex));
    printf("tokenizer  %s\nkind       %s\npieces     %d\nsha256     %s\n", r->tokenizer,
           kv_tokenizer_kind(tok), kv_tokenizer_vocab(tok), hex);
    return dt_close_output();
}

/* ---- the command line ----------------------------------------------------------------------- */

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case OPT_FORMAT:
        return dt_output_parse(arg, &r->json);
    case OPT_LINES:
        r->lines = 1;
        return 0;
    case OPT_PIECES:
        r->pieces = 1;
        return 0;
    case ARGP_KEY_ARG:
        if (r->text) return dt_usage("'%s': one tokenizer and one text at a time", arg);
        if (r->tokenizer)
            r->text = arg;
        else
            r->tokenizer = arg;
        return 0;
    case ARGP_KEY_NO_ARGS:
        return dt_usage("which tokenizer? give FILE.model, FILE.vocab, FILE.gguf or bytes");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option show_options[] = {
    {"pieces", OPT_PIECES, NULL, 0, "list every piece, with the bytes that it counts for", 0},
    DT_FORMAT_OPTION(OPT_FORMAT),
    {NULL, 0, NULL, 0, NULL, 0},
};
static const struct argp_option encode_options[] = {
    {"lines", OPT_LINES, NULL, 0, "every line is a text of its own, without its line feed", 0},
    {NULL, 0, NULL, 0, NULL, 0},
};
static const struct argp_option no_options[] = {{NULL, 0, NULL, 0, NULL, 0}};

static const struct argp show_parser = {
    show_options,
    parse,
    "TOKENIZER",
    "Describes a tokenizer: FILE.model, FILE.vocab, FILE.gguf or "
    "bytes.",
    NULL,
    NULL,
    NULL};
static const struct argp encode_parser = {
    encode_options,
    parse,
    "TOKENIZER [FILE]",
    "Prints the ids of a text, from stdin where no file is named.",
    NULL,
    NULL,
    NULL};
static const struct argp decode_parser = {
    no_options, parse, "TOKENIZER [FILE]", "Prints the bytes that ids stand for.", NULL,
    NULL,       NULL};

static int run(const struct argp *argp, int argc, char **argv,
               kv_status (*work)(const request *, const kv_tokenizer *, kv_bytes *))
{
    request r = {0};
    int done;
    const int code = dt_argp(argp, argc, argv, &r, &done);
    if (done) return code;
    kv_tokenizer *tok = NULL;
    kv_bytes in = {0};
    kv_status st = dt_open_tokenizer(r.tokenizer, &tok);
    if (st == KV_OK && !work) {
        const int result = show(&r, tok);
        kv_tokenizer_free(tok);
        return result;
    }
    if (st == KV_OK) st = work(&r, tok, &in);
    free(in.p);
    kv_tokenizer_free(tok);
    return st == KV_OK ? dt_close_output() : dt_report_failure(st);
}

int dt_cmd_tokenizer(int argc, char **argv)
{
    static const struct argp help = {
        no_options,
        parse,
        "train|show|encode|decode ...",
        "Trains a vocabulary, shows one, turns text into tokens and back; "
        "`kvdiff tokenizer train --help` and so on say more.",
        NULL,
        NULL,
        NULL};
    const char *word = argc > 1 ? argv[1] : "";
    char title[64];
    if (strcmp(word, "--help") == 0) return run(&help, argc, argv, NULL);
    snprintf(title, sizeof title, "kvdiff tokenizer %.16s", word);
    if (argc > 1) argv[1] = title;
    if (strcmp(word, "train") == 0) return dt_tokenizer_train(argc - 1, argv + 1);
    if (strcmp(word, "show") == 0) return run(&show_parser, argc - 1, argv + 1, NULL);
    if (strcmp(word, "encode") == 0) return run(&encode_parser, argc - 1, argv + 1, encode);
    if (strcmp(word, "decode") == 0) return run(&decode_parser, argc - 1, argv + 1, decode);
    dt_usage("tokenizer '%.32s': train, show, encode or decode comes first", word);
    return dt_report_failure(KV_ERR_USAGE);
}
