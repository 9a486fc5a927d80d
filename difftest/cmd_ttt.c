/* cmd_ttt.c - `kvdiff ttt`: test-time training. docs/training.md, docs/cli.md. */
#include "difftest/cli.h"
#include "difftest/ttt.h"

#include "common/fpenv.h"
#include "common/pool.h"

#include <stdlib.h>
#include <string.h>

enum { OPT_DATA = 256, OPT_MODE, OPT_SEQ, OPT_BATCH, OPT_EPOCHS, OPT_TOKENS, OPT_CHUNK, OPT_STRIDE, OPT_LR, OPT_THREADS, OPT_ISA,
       OPT_TOKENIZER, OPT_DB, OPT_SIDE };

static const struct argp_option options[] = {
    {"model", 'm', "NAME|FILE", 0, "a model of the golf family", 0},
    {"data", OPT_DATA, "DIR|FILE", 0, "folder with shards val_*.bin, or one shard", 0},
    {"mode", OPT_MODE, "full|score-first", 0,
     "train on the whole text, then score it (adapted on the evaluated data); or score each chunk before training on it [full]", 0},
    {"seq", OPT_SEQ, "N", 0, "tokens of a sequence [what the model was trained for]", 0},
    {"batch", OPT_BATCH, "N", 0, "sequences of a step [32]", 0},
    {"epochs", OPT_EPOCHS, "N", 0, "passes over the text, or over a chunk [20; score-first 3]", 0},
    {"lr", OPT_LR, "X", 0, "learning rate [5e-4; score-first 2e-3]", 0},
    {"chunk", OPT_CHUNK, "N", 0, "score-first: tokens between trainings [32768]", 0},
    {"stride", OPT_STRIDE, "N", 0, "tokens that a window scores [seq]", 0},
    {"tokens", OPT_TOKENS, "N", 0, "of the text [all]", 0},
    {"tokenizer", OPT_TOKENIZER, "FILE", 0, "for bits per byte: bytes, FILE.model, FILE.vocab or FILE.gguf [the model's]", 0},
    {"db", OPT_DB, "FILE", 0, "results database [$KVDIFF_DB, else results.db]", 0},
    {"side", OPT_SIDE, "SIDE", 0, "who trains: ref, ref64, emu, cuda:exact or a .so with a trainer [ref]", 0},
    {"threads", OPT_THREADS, "N", 0, "worker threads [all processors]", 0},
    {"isa", OPT_ISA, "NAME", 0, "scalar, avx2 or avx512 [best]", 0},
    {0},
};

static error_t parse_mode(const char *arg, int32_t *mode)
{
    if (strcmp(arg, "full") != 0 && strcmp(arg, "score-first") != 0)
        return dt_usage("--mode=%s is unknown; use full or score-first", arg);
    *mode = arg[0] == 'f' ? DT_TTT_FULL : DT_TTT_SCORE_FIRST;
    return 0;
}

static error_t parse_rate(const char *arg, double *lr)
{
    char *end;
    *lr = strtod(arg, &end);
    if (end == arg || *end || !(*lr > 0 && *lr <= 100)) return dt_usage("--lr=%s: a number above 0 and up to 100 is needed", arg);
    return 0;
}

static error_t parse_threads(const char *arg, int32_t *threads)
{
    int64_t n;
    if (dt_parse_number("threads", arg, 1, 1024, &n) != 0) return EINVAL;
    *threads = (int32_t)n;
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    dt_ttt_options *o = state->input;
    switch (key) {
    case 'm':
        o->model = arg;
        return 0;
    case OPT_DATA:
        o->data = arg;
        return 0;
    case OPT_MODE:
        return parse_mode(arg, &o->mode);
    case OPT_SEQ:
        return dt_parse_number("seq", arg, 1, 1 << 20, &o->seq);
    case OPT_BATCH:
        return dt_parse_number("batch", arg, 1, 1 << 16, &o->batch);
    case OPT_EPOCHS:
        return dt_parse_number("epochs", arg, 1, 1000000, &o->epochs);
    case OPT_LR:
        return parse_rate(arg, &o->lr);
    case OPT_CHUNK:
        return dt_parse_number("chunk", arg, 1, 1 << 30, &o->chunk);
    case OPT_STRIDE:
        return dt_parse_number("stride", arg, 1, 1 << 20, &o->stride);
    case OPT_TOKENS:
        return dt_parse_number("tokens", arg, 1, INT64_MAX, &o->tokens);
    case OPT_TOKENIZER:
        o->tokenizer = arg;
        return 0;
    case OPT_DB:
        o->db = arg;
        return 0;
    case OPT_THREADS:
        return parse_threads(arg, &o->threads);
    case OPT_ISA:
        o->isa = arg;
        return 0;
    case OPT_SIDE:
        o->side = arg;
        return 0;
    case ARGP_KEY_ARG:
        return dt_usage("'%s' is no option; name the text with --data", arg);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int dt_cmd_ttt(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse, NULL,
        "Test-time training: adapts a model of the golf family to the text that it is judged on.\v"
        "--mode=full trains on the text before it is scored: its result is no measure of generalisation, and is labelled so.",
        NULL, NULL, NULL};
    dt_ttt_options o = {.side = "ref", .batch = 32, .chunk = 32768, .threads = kv_cpu_count(), .argc = argc, .argv = argv};
    int done;
    const int code = dt_argp(&argp, argc, argv, &o, &done);
    if (done) return code;
    kv_status st = KV_OK;
    if (!o.model || !o.data) st = kv_fail(KV_ERR_USAGE, "--model and --data are needed: what adapts, and to which text");
    if (st == KV_OK) st = kv_fpenv_check("at start");
    if (st == KV_OK) st = dt_ttt_run(&o);
    return st == KV_OK ? DT_EXIT_PASS : dt_report_failure(st);
}
