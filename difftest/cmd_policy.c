/* cmd_policy.c - `kvdiff policy`: its command line. `policy` alone lists, `policy SPEC` shows. */
#include "difftest/cmd_policy.h"

#include "difftest/cli_output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_FORMAT = 256, OPT_TOKENS, OPT_HEAD_DIM };

typedef struct request {
    dt_policy_question question;
    int list, show; /* said in so many words */
    dt_policy_format format;
} request;

static error_t parse_int(const char *name, const char *text, int64_t max, int32_t *out)
{
    int64_t v;
    const error_t e = dt_parse_number(name, text, 1, max, &v);
    if (!e) *out = (int32_t)v;
    return e;
}

static error_t parse_format(request *r, const char *text)
{
    int json = 0;
    if (strcmp(text, "markdown") == 0) {
        r->format = DT_POLICY_MARKDOWN;
        return 0;
    }
    if (strcmp(text, "json") != 0 && strcmp(text, "text") != 0)
        return dt_usage("--format=%s is unknown; use text, json or markdown", text);
    const error_t e = dt_output_parse(text, &json);
    r->format = json ? DT_POLICY_JSON : DT_POLICY_TEXT;
    return e;
}

static error_t add_spec(request *r, const char *arg)
{
    if (r->list)
        return dt_usage("'%s': the list is of all policies; `kvdiff policy show %s` explains this one", arg, arg);
    if (r->question.spec) return dt_usage("'%s': one policy at a time", arg);
    r->question.spec = arg;
    return 0;
}

static error_t finish(const request *r)
{
    if (r->show && !r->question.spec) return dt_usage("show which policy? give one, such as sink:cap=1020,sinks=4");
    if (r->question.spec && r->format == DT_POLICY_MARKDOWN)
        return dt_usage("--format=markdown is for the list; one policy is shown as text or json");
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case OPT_FORMAT:
        return parse_format(r, arg);
    case OPT_TOKENS:
        return dt_parse_number("tokens", arg, 1, INT32_MAX, &r->question.tokens);
    case 'q':
        return parse_int("q", arg, 1 << 20, &r->question.q);
    case OPT_HEAD_DIM:
        return parse_int("head-dim", arg, KV_MAX_HEAD_DIM, &r->question.head_dim);
    case 'm':
        r->question.model = arg;
        return 0;
    case ARGP_KEY_ARG:
        return add_spec(r, arg);
    case ARGP_KEY_END:
        return finish(r);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"tokens", OPT_TOKENS, "N", 0, "length of the stream that sizes are computed for (default 4096)", 0},
    {"q", 'q', "N", 0, "tokens per step (default 256)", 0},
    {"model", 'm', "NAME|FILE", 0, "bytes for this model's heads and layers", 0},
    {"head-dim", OPT_HEAD_DIM, "N", 0, "without a model: values of a K or V row (default 64)", 0},
    {"format", OPT_FORMAT, "FORMAT", 0, "text (default), json, or for the list markdown", 0},
    {NULL, 0, NULL, 0, NULL, 0},
};

static const struct argp parser = {options,
                                   parse,
                                   "[list]\n[show] SPEC\ntrace SPEC [OPTION...]",
                                   "Lists the cache policies with their parameters and which storages they go "
                                   "with; explains one, such as sink:cap=1020,sinks=4; or traces what one keeps, "
                                   "token by token (`kvdiff policy trace --help`).",
                                   NULL,
                                   NULL,
                                   NULL};

/* Takes argv[1] out; the words behind it move up. */
static int drop_word(int argc, char **argv)
{
    memmove(argv + 1, argv + 2, sizeof *argv * (size_t)(argc - 1));
    return argc - 1;
}

int dt_cmd_policy(int argc, char **argv)
{
    request r = {.question = {.tokens = 4096, .q = 256, .head_dim = 64}};
    int done;
    if (argc > 1 && strcmp(argv[1], "trace") == 0) {
        char title[] = "kvdiff policy trace";
        argc = drop_word(argc, argv);
        argv[0] = title;
        return dt_policy_trace(argc, argv);
    }
    r.list = argc > 1 && strcmp(argv[1], "list") == 0;
    r.show = argc > 1 && strcmp(argv[1], "show") == 0;
    if (r.list || r.show) argc = drop_word(argc, argv);
    const int code = dt_argp(&parser, argc, argv, &r, &done);
    if (done) return code;
    if (!r.question.spec) return dt_policy_list(r.format);
    r.question.json = r.format == DT_POLICY_JSON;
    return dt_policy_show(&r.question);
}
