/* case_options.h - the options that say which cases are meant: model, documents, policies, devices, steps. What
 * `kvdiff run` and `kvdiff locate` share. */
#ifndef KV_DIFFTEST_CASE_OPTIONS_H
#define KV_DIFFTEST_CASE_OPTIONS_H

#include "difftest/cli.h"
#include "difftest/options.h"

enum { DT_OPT_POLICY = 256, DT_OPT_DEVICE, DT_OPT_DEVICE_MODEL, DT_OPT_CORPUS, DT_OPT_DOC, DT_OPT_TOKENS, DT_OPT_MODE,
       DT_OPT_DB, DT_OPT_THREADS, DT_OPT_WINDOW, DT_OPT_LONG, DT_OPT_CACHE };

/* Rows of a table of struct argp_option. */
#define DT_CASE_OPTIONS                                                                                              \
    {"model", 'm', "NAME|FILE", 0, "novel, nano, smollm2 ..., a GGUF file or an artifact [novel]", 0},               \
    {"corpus", DT_OPT_CORPUS, "SPEC", 0, "book, synth:..., passkey:..., a file or a folder; repeatable [book]", 0},  \
    {"doc", DT_OPT_DOC, "GLOB", 0, "only documents with such a name; repeatable", 0},                                \
    {"policy", DT_OPT_POLICY, "SPEC", 0, "cache policy, such as sink:cap=1020; repeatable [full]", 0},               \
    {"device", DT_OPT_DEVICE, "LIST", 0,                                                                             \
     "none, or sides separated by commas: blas, emu, cuda:exact, FILE.so [blas]", 0},                                \
    {"tokens", DT_OPT_TOKENS, "N", 0, "tokens of each text [all]", 0},                                               \
    {"q", 'q', "N", 0, "tokens per step [256]", 0},                                                                  \
    {"mode", DT_OPT_MODE, "free|locked|follow", 0,                                                                   \
     "let errors grow, start every step from the reference's cache, or replay its decisions [free]", 0},             \
    {"window", DT_OPT_WINDOW, "N", 0, "llama-perplexity's half-window mode: chunks of N tokens, second half scored", \
     0},                                                                                                             \
    {"device-model", DT_OPT_DEVICE_MODEL, "NAME|FILE", 0, "another model with the same vocabulary for the devices",  \
     0},                                                                                                             \
    {"allow-long", DT_OPT_LONG, NULL, 0, "go beyond the model's trained context; recorded with the run", 0},         \
    {"threads", DT_OPT_THREADS, "N", 0, "worker threads of every side [all processors]", 0},                         \
    {"db", DT_OPT_DB, "FILE", 0, "results database [$KVDIFF_DB, else results.db]", 0},                               \
    {"token-cache", DT_OPT_CACHE, "DIR", 0, "keep tokenised documents here [$KVDIFF_CACHE]", 0}

/* Takes one of them; ARGP_ERR_UNKNOWN for any other key. */
error_t dt_case_option(dt_options *o, int key, char *arg);

/* Fills in what was not given; ERR_USAGE for what does not go together. */
kv_status dt_case_defaults(dt_options *o);

/* The place of text in words, which a NULL ends; a usage failure otherwise. */
error_t dt_parse_word(const char *name, const char *text, const char *const *words, int32_t *out);

#endif
