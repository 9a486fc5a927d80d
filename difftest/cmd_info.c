/* cmd_info.c - `kvdiff info`: this machine, this build, and which sides can run here, with the
 * reason of those that cannot. */
#include "difftest/cli.h"
#include "difftest/cli_output.h"
#include "difftest/metrics.h"
#include "difftest/side.h"
#include "difftest/table.h"

#include "common/hash.h"
#include "common/model.h"
#include "common/pool.h"

#include "build_info.h"

#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { OPT_FORMAT = 256, PATH_BYTES = 4096 };

static error_t parse(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case OPT_FORMAT:
        return dt_output_parse(arg, state->input);
    case ARGP_KEY_ARG:
        return dt_usage("'%s': info takes no arguments", arg);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    DT_FORMAT_OPTION(OPT_FORMAT),
    {NULL, 0, NULL, 0, NULL, 0},
};

static const struct argp parser = {
    options, parse, NULL, "Describes this machine, this build and the sides that can run here.",
    NULL,    NULL,  NULL};

/* ---- the machine and the build -------------------------------------------------------------- */

/* The processor's name as the kernel gives it; the architecture's name where it gives none. */
static void processor(char *dst, size_t size)
{
    struct utsname u;
    char line[512];
    uname(&u);
    snprintf(dst, size, "%s", u.machine);
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        snprintf(dst, size, "%s", colon + 2);
        dst[strcspn(dst, "\n")] = '\0';
        break;
    }
    if (f) fclose(f);
}

static json_t *machine_json(void)
{
    struct utsname u;
    char cpu[128];
    uname(&u);
    processor(cpu, sizeof cpu);
    return json_pack("{s:s, s:s, s:s, s:i, s:i, s:s}", "system", u.sysname, "kernel", u.release,
                     "cpu", cpu, "cores", (int)sysconf(_SC_NPROCESSORS_ONLN), "usable_cores",
                     kv_cpu_count(), "metrics_isa", dt_metrics_isa());
}

static json_t *build_json(void)
{
    return json_pack("{s:s, s:b, s:s, s:s, s:s, s:s, s:i}", "commit", BUILD_COMMIT, "changed",
                     BUILD_DIRTY, "compiler", BUILD_CC, "flags", BUILD_CFLAGS, "nvcc", BUILD_NVCC,
                     "openblas", BUILD_OPENBLAS, "abi", (int)KV_BACKEND_ABI);
}

/* ---- sides ---------------------------------------------------------------------------------- */

static json_t *caps_json(uint32_t caps)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } names[] = {
        {KV_CAP_DETERMINISTIC, "deterministic"},
        {KV_CAP_FOLLOW, "follow"},
        {KV_CAP_NEEDS_FOLLOW, "needs-follow"},
        {KV_CAP_TAPS, "taps"},
        {KV_CAP_DIGEST, "digest"},
    };
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (caps & names[i].bit) json_array_append_new(list, json_string(names[i].name));
    return list;
}

static const char *contract_name(int32_t contract)
{
    static const char *const names[] = {"bit-exact", "bounded", "statistical"};
    return names[contract];
}

/* name, runs, reason (null when it runs), and what the side says of itself when it could be loaded.
 */
static json_t *side_json(const char *name)
{
    dt_side side;
    char hex[65];
    kv_status st = dt_side_open(name, &side);
    json_t *o = json_pack("{s:s, s:b}", "name", name, "runs", st == KV_OK);
    json_object_set_new(o, "reason", st == KV_OK ? json_null() : json_string(kv_message()));
    if (st != KV_OK) return o;
    json_object_set_new(o, "contract", json_string(contract_name(side.backend->contract)));
    json_object_set_new(o, "caps", caps_json(side.backend->caps));
    if (side.has_sha) kv_hex32(side.so_sha, hex);
    json_object_set_new(o, "sha256", side.has_sha ? json_string(hex) : json_null());
    dt_side_close(&side);
    return o;
}

static json_t *sides_json(void)
{
    json_t *list = json_array();
    for (int i = 0; dt_side_names[i]; i++)
        json_array_append_new(list, side_json(dt_side_names[i]));
    return list;
}

static json_t *models_json(void)
{
    size_t n;
    const kv_model_entry *e = kv_model_catalogue(&n);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        const char *dir = getenv("KVDIFF_MODELS");
        char path[PATH_BYTES];
        snprintf(path, sizeof path, "%s/%s", dir && *dir ? dir : "models",
                 e[i].file ? e[i].file : "");
        json_array_append_new(list, json_pack("{s:s, s:b, s:s}", "name", e[i].name, "here",
                                              !e[i].file || access(path, R_OK) == 0, "about",
                                              e[i].about));
    }
    return list;
}

static json_t *everything(void)
{
    char folder[PATH_BYTES];
    if (dt_side_folder(folder, sizeof folder) != KV_OK) folder[0] = '\0';
    return json_pack("{s:o, s:o, s:s, s:s, s:o, s:o}", "machine", machine_json(), "build",
                     build_json(), "sides_folder", folder, "database", dt_db_path(NULL), "sides",
                     sides_json(), "models", models_json());
}

/* ---- text: the same figures, for reading ---------------------------------------------------- */

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s && *s ? s : "-";
}

static void print_sides(json_t *sides)
{
    size_t i;
    json_t *o;
    json_array_foreach(sides, i, o)
    {
        const int runs = json_is_true(json_object_get(o, "runs"));
        printf("  %-6s %s", text_of(o, "name"), runs ? "runs" : "no: ");
        if (!runs) {
            printf("%s\n", text_of(o, "reason"));
            continue;
        }
        printf(", %s", text_of(o, "contract"));
        if (json_is_null(json_object_get(o, "sha256")))
            printf(", linked in\n");
        else
            printf(", sha256 %.12s\n", text_of(o, "sha256"));
    }
}

static int print_text(json_t *root)
{
    json_t *m = json_object_get(root, "machine"), *b = json_object_get(root, "build"), *o;
    const int dirty = json_is_true(json_object_get(b, "changed"));
    size_t i;
    printf("machine   %s, %d of %d cores usable\n", text_of(m, "cpu"),
           (int)json_integer_value(json_object_get(m, "usable_cores")),
           (int)json_integer_value(json_object_get(m, "cores")));
    printf("system    %s %s\n", text_of(m, "system"), text_of(m, "kernel"));
    printf("build     commit %.12s%s, ABI %u, metrics on %s\n", text_of(b, "commit"),
           dirty ? " with changes" : "", KV_BACKEND_ABI, text_of(m, "metrics_isa"));
    printf("compiler  %s\n", text_of(b, "compiler"));
    printf("database  %s\n", text_of(root, "database"));
    printf("\nsides in %s\n", text_of(root, "sides_folder"));
    print_sides(json_object_get(root, "sides"));
    printf("\nmodels\n");
    json_array_foreach(json_object_get(root, "models"), i, o)
        printf("  %-8s %s%s\n", text_of(o, "name"),
               json_is_true(json_object_get(o, "here")) ? "" : "not here: ", text_of(o, "about"));
    json_decref(root);
    return dt_close_output();
}

int dt_cmd_info(int argc, char **argv)
{
    int json = 0, done;
    const int code = dt_argp(&parser, argc, argv, &json, &done);
    if (done) return code;
    json_t *root = everything();
    if (json || !root) return dt_print_json(root);
    return print_text(root);
}
