/* cli.c - what the commands share: exit codes, messages, and argp kept to the house rules. argp by
 * itself prints two lines for a mistake, exits with 64 and accepts any prefix silently; here a
 * mistake is one line with the nearest option, and exit 2. */
#include "difftest/cli.h"

#include "difftest/cli_output.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int dt_report_failure(kv_status st)
{
    const char *text = kv_message();
    fprintf(stderr, "kvdiff: %s\n", *text ? text : kv_status_text(st));
    return kv_status_exit_code(st);
}

error_t dt_usage(const char *fmt, ...)
{
    char text[KV_MESSAGE_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    kv_set_message("%s", text);
    return EINVAL;
}

error_t dt_parse_number(const char *name, const char *text, int64_t min, int64_t max, int64_t *out)
{
    char *end;
    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < min || v > max)
        return dt_usage("--%s=%s: a whole number from %" PRId64 " to %" PRId64 " is needed", name,
                        text, min, max);
    *out = v;
    return 0;
}

const char *dt_db_path(const char *option)
{
    if (option) return option;
    const char *env = getenv("KVDIFF_DB");
    return env && *env ? env : "results.db";
}

/* ---- nearest name --------------------------------------------------------------------------- */

/* Insertions, deletions, replacements and swaps of neighbours that turn a into b (optimal string
 * alignment distance). Names longer than the table count as far away. */
static int edit_distance(const char *a, size_t n, const char *b)
{
    enum { MAX = 32 };
    int d[MAX + 1][MAX + 1];
    const size_t m = strlen(b);
    if (n > MAX || m > MAX) return MAX;
    for (size_t i = 0; i <= n; i++)
        d[i][0] = (int)i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++)
        for (size_t j = 1; j <= m; j++) {
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

void dt_nearest_offer(dt_nearest *best, const char *text, size_t n, const char *name)
{
    const int far = edit_distance(text, n, name);
    if (far > (n < 5 ? 1 : 2) || (best->name && far >= best->distance)) return;
    best->name = name;
    best->distance = far;
}

/* ---- options -------------------------------------------------------------------------------- */

typedef struct option_check {
    const struct argp *argp;
    const char *title; /* "kvdiff run" */
    int help;          /* --help was met */
} option_check;

/* "run": messages begin with "kvdiff: " already. */
static const char *command(const option_check *c)
{
    const char *blank = strrchr(c->title, ' ');
    return blank ? blank + 1 : c->title;
}

static error_t unknown_option(const option_check *c, const char *arg, size_t n)
{
    dt_nearest best = {NULL, 0};
    for (const struct argp_option *o = c->argp->options; o && (o->name || o->key); o++)
        if (o->name && n > 2) dt_nearest_offer(&best, arg + 2, n - 2, o->name);
    if (best.name)
        return dt_usage("%s: unknown option '%.*s'; did you mean --%s?", command(c), (int)n, arg,
                        best.name);
    return dt_usage("%s: unknown option '%.*s'; `%s --help` lists them", command(c), (int)n, arg,
                    c->title);
}

/* Checks one "--name[=value]"; *takes_next is set when its value is the next argument. */
static error_t check_long(const option_check *c, const char *arg, int *takes_next)
{
    const size_t n = strcspn(arg, "=");
    const struct argp_option *found = NULL;
    for (const struct argp_option *o = c->argp->options; o && (o->name || o->key); o++)
        if (o->name && strlen(o->name) == n - 2 && strncmp(o->name, arg + 2, n - 2) == 0) found = o;
    if (!found) return unknown_option(c, arg, n);
    if (!found->arg && arg[n] == '=')
        return dt_usage("%s: --%s takes no value; write it alone", command(c), found->name);
    *takes_next = found->arg && arg[n] != '=' && !(found->flags & OPTION_ARG_OPTIONAL);
    return 0;
}

/* The same for a group of one-letter options "-abc". */
static error_t check_short(const option_check *c, const char *arg, int *takes_next)
{
    for (const char *p = arg + 1; *p; p++) {
        const struct argp_option *found = NULL;
        for (const struct argp_option *o = c->argp->options; o && (o->name || o->key); o++)
            if (o->key == *p) found = o;
        if (!found) {
            const char one[3] = {'-', *p, '\0'};
            return unknown_option(c, one, 2);
        }
        if (!found->arg) continue;
        *takes_next = p[1] == '\0';
        return 0; /* the rest is its value */
    }
    return 0;
}

static error_t check_options(option_check *c, int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        int takes_next = 0;
        if (strcmp(argv[i], "--help") == 0) {
            c->help = 1;
            return 0;
        }
        if (argv[i][0] != '-' || argv[i][1] == '\0') continue;
        const error_t e = argv[i][1] == '-' ? check_long(c, argv[i], &takes_next)
                                            : check_short(c, argv[i], &takes_next);
        if (e) return e;
        if (takes_next && i + 1 == argc)
            return dt_usage("%s: %s needs a value behind it; `%s --help` says which", command(c),
                            argv[i], c->title);
        i += takes_next;
    }
    return 0;
}

int dt_argp(const struct argp *argp, int argc, char **argv, void *input, int *done)
{
    option_check check = {argp, argv[0], 0};
    *done = 1;
    kv_message_clear();
    error_t e = check_options(&check, argc, argv);
    if (!e && check.help) {
        setenv("ARGP_HELP_FMT", "no-dup-args-note", 0);
        argp_help(argp, stdout,
                  ARGP_HELP_PRE_DOC | ARGP_HELP_USAGE | ARGP_HELP_LONG | ARGP_HELP_POST_DOC,
                  argv[0]);
        return DT_EXIT_PASS;
    }
    if (!e)
        e = argp_parse(argp, (unsigned)argc, argv, ARGP_NO_EXIT | ARGP_NO_ERRS | ARGP_NO_HELP, NULL,
                       input);
    if (!e) {
        *done = 0;
        return DT_EXIT_PASS;
    }
    if (e == ENOMEM) return dt_report_failure(kv_fail(KV_ERR_NOMEM, "out of memory"));
    if (!*kv_message())
        dt_usage("%s: more arguments than it takes; `%s --help` shows them", command(&check),
                 argv[0]);
    dt_report_failure(KV_ERR_USAGE);
    return DT_EXIT_USAGE;
}

/* ---- output --------------------------------------------------------------------------------- */

error_t dt_output_parse(const char *text, int *json)
{
    *json = strcmp(text, "json") == 0;
    if (*json || strcmp(text, "text") == 0) return 0;
    return dt_usage("--format=%s is unknown; use text or json", text);
}

int dt_print_json(json_t *root)
{
    char *text =
        root ? json_dumps(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17))
             : NULL;
    json_decref(root);
    if (!text) return dt_report_failure(kv_fail(KV_ERR_NOMEM, "out of memory for the output"));
    puts(text);
    free(text);
    return dt_close_output();
}

int dt_close_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return DT_EXIT_PASS;
    return dt_report_failure(kv_fail(KV_ERR_IO, "cannot write the output: %s", strerror(errno)));
}
