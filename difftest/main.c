/* main.c - finds the command and calls it. */
#include "difftest/cli.h"
#include "difftest/cli_output.h"

#include "common/backend.h"
#include "common/fpenv.h"

#include "build_info.h"

#include <stdio.h>
#include <string.h>

/* X(name, one line) */
#define COMMANDS(X)                                                                            \
    X(run, "stream documents through the reference and devices; store and judge what differs") \
    X(ops, "put single operations of somebody's kernels through every check")                     \
    X(query, "ask the results database")                                                       \
    X(locate, "find the first wrong value of a failing case, and say what is wrong with it")   \
    X(coverage, "which states of the caches the passed cases of a database went through")      \
    X(info, "this machine, this build, and which sides can run here")                          \
    X(model, "describe or check a model")                                                      \
    X(pack, "quantise a model of the golf family into one file")                               \
    X(inspect, "what is in such a file, and how large it is")                                  \
    X(corpus, "describe the documents of a corpus, or write shards and texts to train on")           \
    X(policy, "list cache policies, explain one, or trace what one keeps")                     \
    X(tokenizer, "train a vocabulary, show one, turn text into tokens and back")               \
    X(train, "train a model of the golf family, the same bits every time")                     \
    X(ttt, "adapt a model of the golf family to the text that it is judged on")                \
    X(mutate, "plant bugs and see whether the tester finds them")

typedef struct command {
    const char *name, *title, *about;
    int (*run)(int argc, char **argv);
} command;

static const command commands[] = {
#define X(name, about) {#name, "kvdiff " #name, about, dt_cmd_##name},
    COMMANDS(X)
#undef X
};

enum { N_COMMANDS = sizeof commands / sizeof *commands };

static int print_help(void)
{
    printf("kvdiff - a differential tester for long-context KV-cache kernels\n\n"
           "usage: kvdiff COMMAND [OPTION...]\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        printf("  %-9s %s\n", commands[i].name, commands[i].about);
    printf("\n  kvdiff help COMMAND   its options       kvdiff --version\n\n"
           "Exit codes: 0 every check passed, 1 a device broke its contract, 2 the command line is "
           "wrong,\n"
           "3 something it points at is, 4 nothing was checked, 5 inconclusive, 6 a fault of the "
           "tester,\n"
           "77 skipped, 130 interrupted.\n");
    return dt_close_output();
}

static int print_version(void)
{
    const int known = strcmp(BUILD_COMMIT, "unknown") != 0;
    printf("kvdiff, ABI %u, commit %.12s%s\n", KV_BACKEND_ABI, known ? BUILD_COMMIT : "unknown",
           BUILD_DIRTY ? " with changes" : "");
    return dt_close_output();
}

static const command *find(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static int unknown(const char *name)
{
    dt_nearest best = {NULL, 0};
    for (int i = 0; i < N_COMMANDS; i++)
        dt_nearest_offer(&best, name, strlen(name), commands[i].name);
    if (best.name)
        dt_usage("unknown command '%.64s'; did you mean '%s'?", name, best.name);
    else
        dt_usage("unknown command '%.64s'; `kvdiff help` lists them", name);
    return dt_report_failure(KV_ERR_USAGE);
}

static int help(int argc, char **argv)
{
    if (argc < 3) return print_help();
    const command *c = find(argv[2]);
    if (!c) return unknown(argv[2]);
    char title[32], option[] = "--help";
    snprintf(title, sizeof title, "%s", c->title);
    char *args[] = {title, option, NULL};
    return c->run(2, args);
}

int main(int argc, char **argv)
{
    const kv_status st = kv_fpenv_check("when the program started");
    if (st != KV_OK) return dt_report_failure(st);
    if (argc < 2) {
        dt_usage("no command given; `kvdiff help` lists them");
        return dt_report_failure(KV_ERR_USAGE);
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0) return help(argc, argv);
    if (strcmp(argv[1], "--version") == 0) return print_version();
    const command *c = find(argv[1]);
    if (!c) return unknown(argv[1]);
    char title[32];
    snprintf(title, sizeof title, "%s", c->title);
    argv[1] = title;
    return c->run(argc - 1, argv + 1);
}
