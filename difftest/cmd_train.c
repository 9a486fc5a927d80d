/* cmd_train.c - `kvdiff train`: trains a model of the golf family. docs/training.md, docs/cli.md. */
#include "difftest/cli.h"
#include "difftest/options.h"
#include "difftest/train.h"

#include "common/file.h"
#include "common/fpenv.h"
#include "common/pool.h"

#include <stdlib.h>
#include <string.h>

enum { OPT_CONFIG = 256, OPT_SET, OPT_DATA, OPT_OUT, OPT_STEPS, OPT_STOP_AT, OPT_BATCH, OPT_SEQ, OPT_SEED, OPT_THREADS, OPT_ISA,
       OPT_RESUME, OPT_SAVE, OPT_VALIDATE, OPT_VAL_TOKENS, OPT_LOG, OPT_TOKENIZER, OPT_PRINT, OPT_WEIGHTS, OPT_SIDE, OPT_COMPARE };

static const struct argp_option options[] = {
    {"config", OPT_CONFIG, "FILE|PRESET", 0, "training config: mini, nano-a, nano-b, nano-u, golf-a, golf-b or a file of `key = value` lines [mini]", 0},
    {"set", OPT_SET, "KEY=VALUE", 0, "one value of the config; repeatable", 0},
    {"data", OPT_DATA, "DIR|FILE", 0, "folder of shards train_*.bin and val_*.bin, or one shard", 0},
    {"out", OPT_OUT, "DIR", 0, "folder of the checkpoint and of the model", 0},
    {"steps", OPT_STEPS, "N", 0, "steps of the whole run; the learning rate falls towards the last (key iterations)", 0},
    {"stop-at", OPT_STOP_AT, "N", 0, "end this call behind step N, with a checkpoint", 0},
    {"batch-tokens", OPT_BATCH, "N", 0, "tokens of a step (key batch_tokens)", 0},
    {"seq", OPT_SEQ, "N", 0, "tokens of a sequence (key seq)", 0},
    {"seed", OPT_SEED, "N", 0, "of the first weights and of the order of the data (key seed)", 0},
    {"side", OPT_SIDE, "SIDE", 0, "who trains: ref, ref64, emu, cuda:exact or a .so with a trainer [ref]", 0},
    {"compare", OPT_COMPARE, "SIDE", 0, "train with this side, too, and compare everything after every step; nothing is written", 0},
    {"threads", OPT_THREADS, "N", 0, "worker threads [all processors]", 0},
    {"isa", OPT_ISA, "NAME", 0, "scalar, avx2 or avx512 [best]", 0},
    {"resume", OPT_RESUME, NULL, 0, "go on from the checkpoint in --out, if there is one", 0},
    {"save-every", OPT_SAVE, "N", 0, "steps between checkpoints; 0: only at the end [100]", 0},
    {"validate-every", OPT_VALIDATE, "N", 0, "steps between validations; 0: only at the end [100]", 0},
    {"val-tokens", OPT_VAL_TOKENS, "N", 0, "tokens of a validation [65536]", 0},
    {"log-every", OPT_LOG, "N", 0, "steps between lines of the log [10]", 0},
    {"tokenizer", OPT_TOKENIZER, "FILE", 0, "for bits per byte: bytes, FILE.model, FILE.vocab or FILE.gguf", 0},
    {"weights", OPT_WEIGHTS, "average|last", 0, "which the model gets: the running average, or those of the last step [average]", 0},
    {"print-config", OPT_PRINT, NULL, 0, "print the whole config and end", 0},
    {0},
};

/* The config comes first, whatever the order on the command line. */
typedef struct request {
    dt_train_options o;
    const char *config;
    dt_list set; /* "key=value" */
    int print;
} request;

/* "--steps=5" is "--set iterations=5". */
static error_t assign(request *r, const char *key, const char *value)
{
    char text[128];
    if (snprintf(text, sizeof text, "%s=%s", key, value) >= (int)sizeof text) return dt_usage("'%.40s...' is too long", value);
    return dt_list_add(&r->set, text, strlen(text)) == KV_OK ? 0 : EINVAL;
}

static error_t parse_count(request *r, int key, const char *arg)
{
    int64_t threads;
    switch (key) {
    case OPT_STOP_AT:
        return dt_parse_number("stop-at", arg, 1, INT64_MAX, &r->o.stop_at);
    case OPT_SAVE:
        return dt_parse_number("save-every", arg, 0, INT64_MAX, &r->o.save_every);
    case OPT_VALIDATE:
        return dt_parse_number("validate-every", arg, 0, INT64_MAX, &r->o.validate_every);
    case OPT_VAL_TOKENS:
        return dt_parse_number("val-tokens", arg, 1, INT64_MAX, &r->o.val_tokens);
    case OPT_LOG:
        return dt_parse_number("log-every", arg, 0, INT64_MAX, &r->o.log_every);
    default:
        if (dt_parse_number("threads", arg, 1, 1024, &threads) != 0) return EINVAL;
        r->o.threads = (int32_t)threads;
        return 0;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case OPT_CONFIG:
        r->config = arg;
        return 0;
    case OPT_SET:
        if (!strchr(arg, '=')) return dt_usage("--set=%s: KEY=VALUE is needed", arg);
        return dt_list_add(&r->set, arg, strlen(arg)) == KV_OK ? 0 : EINVAL;
    case OPT_DATA:
        r->o.data = arg;
        return 0;
    case OPT_OUT:
        r->o.out = arg;
        return 0;
    case OPT_STEPS:
        return assign(r, "iterations", arg);
    case OPT_BATCH:
        return assign(r, "batch_tokens", arg);
    case OPT_SEQ:
        return assign(r, "seq", arg);
    case OPT_SEED:
        return assign(r, "seed", arg);
    case OPT_ISA:
        r->o.isa = arg;
        return 0;
    case OPT_SIDE:
        r->o.side = arg;
        return 0;
    case OPT_COMPARE:
        r->o.compare = arg;
        return 0;
    case OPT_RESUME:
        r->o.resume = 1;
        return 0;
    case OPT_TOKENIZER:
        r->o.tokenizer = arg;
        return 0;
    case OPT_WEIGHTS:
        if (strcmp(arg, "average") != 0 && strcmp(arg, "last") != 0) return dt_usage("--weights=%s is unknown; use average or last", arg);
        r->o.last = arg[0] == 'l';
        return 0;
    case OPT_PRINT:
        r->print = 1;
        return 0;
    case OPT_STOP_AT:
    case OPT_SAVE:
    case OPT_VALIDATE:
    case OPT_VAL_TOKENS:
    case OPT_LOG:
    case OPT_THREADS:
        return parse_count(r, key, arg);
    case ARGP_KEY_ARG:
        return dt_usage("'%s' is no option; name the data with --data", arg);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static kv_status read_config(request *r)
{
    const char *name = r->config ? r->config : "mini";
    kv_train_config *c = &r->o.config;
    if (strchr(name, '/') || strchr(name, '.')) {
        char *text;
        size_t n;
        KV_TRY(kv_file_read(name, 1 << 20, &text, &n));
        const kv_status st = strlen(text) == n ? kv_train_parse(text, name, c) : kv_fail(KV_ERR_FORMAT, "%s: not a text", name);
        free(text);
        KV_TRY(st);
    } else {
        KV_TRY(kv_train_preset(name, c));
    }
    for (int i = 0; i < r->set.n; i++) {
        char *eq = strchr(r->set.v[i], '=');
        *eq = '\0';
        KV_TRY(kv_train_set(c, r->set.v[i], eq + 1));
    }
    return kv_train_check(c);
}

static volatile sig_atomic_t stop;

/* The second signal ends the process at once. */
static void on_signal(int sig)
{
    stop = 1;
    signal(sig, SIG_DFL);
}

static int print_config(const request *r)
{
    char text[KV_TRAIN_TEXT_MAX];
    kv_train_print(&r->o.config, text);
    fputs(text, stdout);
    return fflush(stdout) == 0 ? DT_EXIT_PASS : dt_report_failure(kv_fail(KV_ERR_IO, "cannot write the config"));
}

static int execute(request *r)
{
    const struct sigaction sa = {.sa_handler = on_signal};
    int same = 1;
    kv_status st = read_config(r);
    if (st == KV_OK && r->print) return print_config(r);
    if (st == KV_OK && (!r->o.data || (!r->o.out && !r->o.compare))) st = kv_fail(KV_ERR_USAGE, "--data and --out are needed: where the shards are, where the model goes");
    if (st == KV_OK) st = kv_fpenv_check("at start");
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    r->o.stop = &stop;
    if (st == KV_OK) st = r->o.compare ? dt_train_compare(&r->o, &same) : dt_train_run(&r->o);
    if (st == KV_OK && !same) return DT_EXIT_FAIL;
    return st == KV_OK ? DT_EXIT_PASS : dt_report_failure(st);
}

int dt_cmd_train(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse, NULL,
        "Trains a model of the golf family: the same config, data and seed give the same bits, "
        "with any number of threads, interrupted or not.\v"
        "Exit codes: 0 done, 1 a loss or gradient was not finite (the last checkpoint is kept) or --compare found a difference, 2 usage, 3 something is missing "
        "or damaged, 130 interrupted, with a checkpoint.",
        NULL, NULL, NULL};
    request r = {.o = {.side = "ref", .threads = kv_cpu_count(), .save_every = 100, .validate_every = 100, .val_tokens = 65536, .log_every = 10}};
    int done;
    int code = dt_argp(&argp, argc, argv, &r, &done);
    if (!done) code = execute(&r);
    for (int i = 0; i < r.set.n; i++)
        free(r.set.v[i]);
    free(r.set.v);
    return code;
}
