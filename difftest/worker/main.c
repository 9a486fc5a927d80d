/* main.c - kvdiff-worker: answers what the tester asks until the socket closes. */
#include "difftest/worker/cuda.h"
#include "difftest/worker/side.h"

#include "common/fpenv.h"

#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef struct worker {
    FILE *in, *out;
    worker_memory memory;
    worker_plugin plugin;
    worker_side side;
    json_int_t id; /* of the message that is being answered */
} worker;

static void answer(worker *w, json_t *reply)
{
    if (reply) json_object_set_new(reply, "id", json_integer(w->id));
    if (reply && json_dumpf(reply, w->out, JSON_COMPACT) == 0) fputc('\n', w->out);
    fflush(w->out);
    json_decref(reply);
}

static void answer_failure(worker *w, kv_status st)
{
    answer(w, json_pack("{s:i, s:s, s:s}", "status", 1, "failure", kv_status_name(st), "why", kv_message()));
}

static void open_candidate(worker *w, const json_t *message)
{
    const char *path = json_string_value(json_object_get(message, "candidate"));
    const kv_status st = worker_plugin_open(path ? path : "", &w->plugin);
    if (st != KV_OK) {
        answer_failure(w, st);
        return;
    }
    json_t *ops = json_array();
    const kvdk_info *info = &w->plugin.info;
    for (int i = 0; i < KVDK_OP_COUNT; i++)
        if (w->plugin.ops[i]) json_array_append_new(ops, json_string(dt_op_schemas[i].name));
    answer(w, json_pack("{s:i, s:i, s:I, s:s, s:i, s:i, s:i, s:[i,i,i], s:i, s:b, s:o}", "status", 0, "abi", (int)KVDK_ABI,
                        "schema", (json_int_t)dt_schema_print(), "name", info->name, "contract", info->contract, "determinism", info->determinism, "memory",
                        info->memory, "precision", info->precision.scores, info->precision.probabilities,
                        info->precision.accumulators, "fast_math", info->fast_math, "has_workspace",
                        w->plugin.workspace != NULL, "ops", ops));
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* *why: what the SIMT layer has found, which is an error whatever the candidate returns; NULL: nothing. */
static int call_on_host(const worker_plugin *p, int op, const dt_args *args, double *seconds, const char **why)
{
    const kvdk_stream stream = p->simt_stream && p->uses_stream ? p->simt_stream() : NULL;
    const double t = now();
    const int rc = p->ops[op](args, stream);
    *why = p->simt_finish ? p->simt_finish() : NULL;
    *seconds = now() - t;
    return *why && rc <= 0 ? 1 : rc;
}

static int call_on_device(const worker *w, int op, const dt_args *args, double *seconds, const char **why)
{
    const int rc = worker_cuda_call(w->plugin.ops[op], op, args, &w->memory, seconds);
    *why = w->plugin.reason ? w->plugin.reason() : NULL;
    return rc;
}

static void call_candidate(worker *w, const json_t *message, int workspace_only)
{
    dt_args args;
    int op;
    const kv_status st = worker_read_call(message, &w->memory, &op, &args);
    if (st != KV_OK) {
        answer_failure(w, st);
        return;
    }
    if (workspace_only) {
        const uint64_t bytes = w->plugin.workspace ? w->plugin.workspace(&args.call) : 0;
        answer(w, json_pack("{s:i, s:I}", "status", 0, "bytes", (json_int_t)(bytes & INT64_MAX)));
        return;
    }
    if (!w->plugin.ops[op]) {
        answer(w, json_pack("{s:i, s:s}", "status", -1, "why", "it has no such operation"));
        return;
    }
    double seconds;
    const char *why = NULL;
    const int rc = w->plugin.info.memory == KVDK_CUDA ? call_on_device(w, op, &args, &seconds, &why)
                                                      : call_on_host(&w->plugin, op, &args, &seconds, &why);
    const int fp = kv_fpenv_check("after the call") == KV_OK;
    if (why)
        answer(w, json_pack("{s:i, s:f, s:b, s:s}", "status", rc, "seconds", seconds, "fpenv", fp, "why", why));
    else
        answer(w, json_pack("{s:i, s:f, s:b}", "status", rc, "seconds", seconds, "fpenv", fp));
}

static int note_object(struct dl_phdr_info *info, size_t size, void *list)
{
    (void)size;
    if (info->dlpi_name && info->dlpi_name[0]) json_array_append_new(list, json_string(info->dlpi_name));
    return 0;
}

static void list_objects(worker *w)
{
    json_t *list = json_array();
    dl_iterate_phdr(note_object, list);
    answer(w, json_pack("{s:i, s:o}", "status", 0, "objects", list));
}

/* The tester has made the block larger. */
static int follow_block(worker *w, size_t bytes)
{
    if (bytes <= w->memory.bytes) return 1;
    munmap(w->memory.p, w->memory.bytes);
    w->memory.p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, WORKER_MEMORY, 0);
    w->memory.bytes = bytes;
    return w->memory.p != MAP_FAILED;
}

static void serve(worker *w)
{
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, w->in) > 0) {
        json_t *message = json_loads(line, 0, NULL);
        w->id = json_integer_value(json_object_get(message, "id"));
        const char *what = json_string_value(json_object_get(message, "do"));
        if (!follow_block(w, (size_t)json_integer_value(json_object_get(message, "block")))) _exit(3);
        if (what && strncmp(what, "side_", 5) == 0)
            answer(w, worker_side_answer(&w->side, what, message, &w->memory));
        else if (what && strcmp(what, "open") == 0)
            open_candidate(w, message);
        else if (what && strcmp(what, "call") == 0)
            call_candidate(w, message, 0);
        else if (what && strcmp(what, "workspace") == 0)
            call_candidate(w, message, 1);
        else if (what && strcmp(what, "objects") == 0)
            list_objects(w);
        else {
            kv_set_message("it is asked for what it does not know");
            answer_failure(w, KV_ERR_FORMAT);
        }
        json_decref(message);
    }
    free(line);
}

int main(int argc, char **argv)
{
    struct stat st;
    /* The tester asks whether a CUDA candidate could run here. */
    if (argc == 2 && strcmp(argv[1], "--cuda") == 0) return worker_cuda_devices() > 0 ? 0 : 1;
    worker w = {.in = fdopen(WORKER_SOCKET, "r"), .out = fdopen(dup(WORKER_SOCKET), "w")};
    if (!w.in || !w.out || fstat(WORKER_MEMORY, &st) != 0 || st.st_size <= 0) {
        fprintf(stderr, "kvdiff-worker: kvdiff starts this program for itself; `kvdiff ops --help`\n");
        return 2;
    }
    w.memory.bytes = (size_t)st.st_size;
    w.memory.p = mmap(NULL, w.memory.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, WORKER_MEMORY, 0);
    if (w.memory.p == MAP_FAILED) {
        perror("kvdiff-worker: the shared memory");
        return 3;
    }
    serve(&w);
    return 0;
}
