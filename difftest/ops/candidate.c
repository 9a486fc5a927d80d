#include "difftest/ops/candidate.h"

#include "common/hash.h"
#include "difftest/ops/descriptor.h"
#include "difftest/ops/process.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK_BYTES = 256 << 20 };

const dt_limits dt_default_limits = {.call_seconds = 10, .open_seconds = 30, .address_bytes = INT64_C(2) << 30};

struct dt_candidate {
    char path[4096];
    dt_limits limits;
    dt_candidate_info info;
    int memory_fd;
    uint8_t *memory;
    dt_process process;
    json_int_t n_asked; /* messages sent: each answer names the one that it belongs to */
};

/* ---- asking ---------------------------------------------------------------------------------------------------- */

/* Sends a message (stolen) and waits; NULL when no answer came, reply says why. */
static json_t *ask(dt_candidate *c, json_t *message, double seconds, const char *doing, dt_reply *reply)
{
    if (message) json_object_set_new(message, "id", json_integer(++c->n_asked));
    char *line = message ? json_dumps(message, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL, *got = NULL;
    json_t *answer = NULL;
    json_decref(message);
    *reply = (dt_reply){.outcome = DT_FAILED, .fpenv = 1};
    snprintf(reply->why, sizeof reply->why, "out of memory");
    if (line) {
        const dt_ending end = dt_process_ask(&c->process, line, seconds, &got, &reply->wall);
        if (end != DT_ANSWERED) {
            reply->outcome = end == DT_ENDED ? DT_DIED : DT_HUNG;
            dt_process_reap(&c->process, end, doing, seconds, reply->why, sizeof reply->why);
        } else if (!(answer = json_loads(got, 0, NULL)) || !json_is_integer(json_object_get(answer, "status")) ||
                   json_integer_value(json_object_get(answer, "id")) != c->n_asked) {
            /* Whoever spoke, answers and questions do not belong together any more. */
            snprintf(reply->why, sizeof reply->why,
                     "what came over its connection %s is no answer to the question; killed", doing);
            reply->outcome = DT_DIED;
            dt_process_stop(&c->process);
            json_decref(answer);
            answer = NULL;
        }
    }
    free(line);
    free(got);
    return answer;
}

/* Status, reason and time out of an answer. */
static void take_reply(const json_t *answer, dt_reply *reply)
{
    const json_int_t status = json_integer_value(json_object_get(answer, "status"));
    const char *why = json_string_value(json_object_get(answer, "why"));
    reply->outcome = status == 0 ? DT_DONE : status < 0 ? DT_REFUSED : DT_FAILED;
    reply->seconds = json_number_value(json_object_get(answer, "seconds"));
    reply->fpenv = !json_is_false(json_object_get(answer, "fpenv"));
    if (status == 0)
        reply->why[0] = '\0';
    else if (why)
        snprintf(reply->why, sizeof reply->why, "%s", why);
    else
        snprintf(reply->why, sizeof reply->why, "it returned %lld", (long long)status);
    for (char *s = reply->why; *s; s++)
        if ((unsigned char)*s < 0x20) *s = ' ';
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static kv_status start(dt_candidate *c)
{
    if (dt_ends_with(c->path, ".so") || dt_is_descriptor(c->path)) {
        char worker[4096];
        KV_TRY(dt_process_beside("kvdiff-worker", worker, sizeof worker));
        char *argv[] = {worker, NULL};
        return dt_process_start(&c->process, argv, c->memory_fd, c->limits.address_bytes, BLOCK_BYTES);
    }
    if (dt_ends_with(c->path, ".py")) {
        char python[] = "python3";
        char *argv[] = {python, c->path, NULL};
        return dt_process_start(&c->process, argv, c->memory_fd, 0, BLOCK_BYTES);
    }
    char *argv[] = {c->path, NULL};
    return dt_process_start(&c->process, argv, c->memory_fd, c->limits.address_bytes, BLOCK_BYTES);
}

static kv_status failure_of(const json_t *answer, const char *path, const dt_reply *reply)
{
    const char *name = json_string_value(json_object_get(answer, "failure"));
    const int is_mismatch = name && strcmp(name, kv_status_name(KV_ERR_MISMATCH)) == 0;
    const kv_status refused = reply->outcome == DT_REFUSED ? KV_ERR_UNSUPPORTED : KV_ERR_DEVICE;
    return kv_fail(is_mismatch ? KV_ERR_MISMATCH : refused, "candidate '%s': %s", path, reply->why);
}

static kv_status read_info(const json_t *answer, const char *path, dt_candidate_info *info)
{
    const char *name = json_string_value(json_object_get(answer, "name"));
    const json_t *schema = json_object_get(answer, "schema"); /* of kvdiff-worker; other programs have none */
    const json_t *ops = json_object_get(answer, "ops"), *precision = json_object_get(answer, "precision"), *op;
    size_t i;
    if (!name || !*name || strlen(name) >= sizeof info->name || strpbrk(name, "|\n\r\t"))
        return kv_fail(KV_ERR_MISMATCH, "candidate '%s': its name must be 1 to 63 characters without '|'", path);
    if (json_integer_value(json_object_get(answer, "abi")) != KVDK_ABI)
        return kv_fail(KV_ERR_MISMATCH, "candidate '%s' speaks another ABI than %u of kvdiff_kernel.h", path, KVDK_ABI);
    if (schema && json_integer_value(schema) != dt_schema_print())
        return kv_fail(KV_ERR_MISMATCH, "candidate '%s': kvdiff-worker and kvdiff are of different builds; build both anew (make all)", path);
    snprintf(info->name, sizeof info->name, "%s", name);
    info->contract = (int32_t)json_integer_value(json_object_get(answer, "contract"));
    info->determinism = (int32_t)json_integer_value(json_object_get(answer, "determinism"));
    info->memory = (int32_t)json_integer_value(json_object_get(answer, "memory"));
    info->precision = (kvdk_precision){(int32_t)json_integer_value(json_array_get(precision, 0)),
                                       (int32_t)json_integer_value(json_array_get(precision, 1)),
                                       (int32_t)json_integer_value(json_array_get(precision, 2))};
    info->fast_math = (int32_t)json_integer_value(json_object_get(answer, "fast_math"));
    info->has_workspace = json_is_true(json_object_get(answer, "has_workspace"));
    if (info->contract < KVDK_BITEXACT || info->contract > KVDK_STATISTICAL)
        return kv_fail(KV_ERR_MISMATCH, "candidate '%s': contract %d is none of kvdk_contract", path, info->contract);
    int n = 0;
    json_array_foreach(ops, i, op)
    {
        const int at = json_is_string(op) ? dt_op_find(json_string_value(op)) : -1;
        if (at < 0)
            return kv_fail(KV_ERR_MISMATCH, "candidate '%s' names an operation that kvdiff_kernel.h does not have",
                           path);
        info->has[at] = 1;
        n++;
    }
    return n ? KV_OK : kv_fail(KV_ERR_MISMATCH, "candidate '%s' has no operation", path);
}

static kv_status introduce(dt_candidate *c)
{
    dt_reply reply;
    char absolute[4096];
    if (!realpath(c->path, absolute))
        return kv_fail(KV_ERR_IO, "candidate '%s': %s; check the path", c->path, strerror(errno));
    json_t *answer = ask(c, json_pack("{s:s, s:s}", "do", "open", "candidate", absolute), c->limits.open_seconds,
                         "being loaded", &reply);
    if (!answer) return kv_fail(KV_ERR_DEVICE, "candidate '%s': %s", c->path, reply.why);
    take_reply(answer, &reply);
    const kv_status st =
        reply.outcome == DT_DONE ? read_info(answer, c->path, &c->info) : failure_of(answer, c->path, &reply);
    json_decref(answer);
    return st;
}

static kv_status hash_file(const char *path, kv_sha256_ctx *sha)
{
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0) {
        const char *why = fd < 0 ? strerror(errno) : "it is no file, or empty";
        if (fd >= 0) close(fd);
        return kv_fail(KV_ERR_IO, "candidate '%s': %s; check the path", path, why);
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (p == MAP_FAILED) return kv_fail(KV_ERR_IO, "candidate '%s': %s", path, strerror(errno));
    kv_sha256_add(sha, p, (size_t)st.st_size);
    munmap(p, (size_t)st.st_size);
    return KV_OK;
}

/* Of the file; of a descriptor and its module, one behind the other. */
static kv_status hash_candidate(dt_candidate *c)
{
    kv_sha256_ctx sha;
    dt_descriptor *d = NULL;
    kv_sha256_begin(&sha);
    kv_status st = hash_file(c->path, &sha);
    if (st == KV_OK && dt_is_descriptor(c->path)) {
        st = dt_descriptor_read(c->path, &d);
        if (st == KV_OK) st = hash_file(d->module, &sha);
        dt_descriptor_free(d);
    }
    kv_sha256_end(&sha, c->info.sha);
    return st;
}

static kv_status share_memory(dt_candidate *c)
{
    c->memory_fd = memfd_create("kvdiff-candidate", MFD_CLOEXEC);
    if (c->memory_fd < 0 || ftruncate(c->memory_fd, BLOCK_BYTES) != 0)
        return kv_fail(KV_ERR_NOMEM, "shared memory for a candidate: %s", strerror(errno));
    void *p = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, c->memory_fd, 0);
    if (p == MAP_FAILED) return kv_fail(KV_ERR_NOMEM, "shared memory for a candidate: %s", strerror(errno));
    c->memory = p;
    return KV_OK;
}

static kv_status fill(dt_candidate *c, const char *path, const dt_limits *limits)
{
    if (strlen(path) >= sizeof c->path)
        return kv_fail(KV_ERR_USAGE, "candidate '%.40s...': the path is too long", path);
    /* A bare file name would be searched for in PATH. */
    snprintf(c->path, sizeof c->path, "%s%s", strchr(path, '/') ? "" : "./", path);
    c->limits = limits ? *limits : dt_default_limits;
    KV_TRY(hash_candidate(c));
    KV_TRY(share_memory(c));
    KV_TRY(start(c));
    return introduce(c);
}

kv_status dt_candidate_open(const char *path, const dt_limits *limits, dt_candidate **out)
{
    *out = NULL;
    dt_candidate *c = calloc(1, sizeof *c);
    if (!c) return kv_fail(KV_ERR_NOMEM, "out of memory");
    c->memory_fd = -1;
    dt_process_none(&c->process);
    const kv_status st = fill(c, path, limits);
    if (st != KV_OK) {
        dt_candidate_close(c);
        return st;
    }
    *out = c;
    return KV_OK;
}

void dt_candidate_close(dt_candidate *c)
{
    if (!c) return;
    dt_process_stop(&c->process);
    if (c->memory) munmap(c->memory, BLOCK_BYTES);
    if (c->memory_fd >= 0) close(c->memory_fd);
    free(c);
}

kv_status dt_candidate_restart(dt_candidate *c)
{
    const dt_candidate_info before = c->info;
    dt_process_stop(&c->process);
    KV_TRY(start(c));
    memset(c->info.has, 0, sizeof c->info.has);
    const kv_status st = introduce(c);
    if (st == KV_OK && memcmp(before.has, c->info.has, sizeof before.has) == 0 && before.contract == c->info.contract &&
        strcmp(before.name, c->info.name) == 0)
        return KV_OK;
    c->info = before;
    return st != KV_OK ? st
                       : kv_fail(KV_ERR_MISMATCH, "candidate '%s' describes itself otherwise when it is started again",
                                 c->path);
}

const dt_candidate_info *dt_candidate_describe(const dt_candidate *c)
{
    return &c->info;
}

uint8_t *dt_candidate_memory(const dt_candidate *c, size_t *bytes)
{
    *bytes = BLOCK_BYTES;
    return c->memory;
}

/* ---- calls --------------------------------------------------------------------------------------------------------
 */

static json_t *write_tensor(const dt_candidate *c, const kvdk_tensor *t)
{
    return json_pack("{s:I, s:s, s:b, s:[I,I,I,I], s:[I,I,I,I]}", "offset",
                     (json_int_t)((const uint8_t *)t->data - c->memory), "dtype", dt_dtype_name(t->dtype), "read_only",
                     t->read_only, "dim", (json_int_t)t->dim[0], (json_int_t)t->dim[1], (json_int_t)t->dim[2],
                     (json_int_t)t->dim[3], "stride", (json_int_t)t->stride[0], (json_int_t)t->stride[1],
                     (json_int_t)t->stride[2], (json_int_t)t->stride[3]);
}

static json_t *write_call(const dt_candidate *c, const char *what, int op, const dt_args *args)
{
    const dt_op_schema *s = &dt_op_schemas[op];
    json_t *params = json_object(), *tensors = json_object();
    for (int i = 0; i < s->n_params; i++) {
        const void *at = (const char *)args + s->params[i].offset;
        json_object_set_new(params, s->params[i].name,
                            s->params[i].is_real ? json_real(*(const double *)at) : json_integer(*(const int64_t *)at));
    }
    for (int i = 0; i < s->n_tensors; i++) {
        const kvdk_tensor *t = dt_op_tensor_of(args, &s->tensors[i]);
        if (t->data) json_object_set_new(tensors, s->tensors[i].name, write_tensor(c, t));
    }
    const int64_t workspace = args->call.workspace ? (const uint8_t *)args->call.workspace - c->memory : 0;
    return json_pack("{s:s, s:s, s:o, s:o, s:I, s:I}", "do", what, "op", s->name, "params", params, "tensors", tensors,
                     "workspace", (json_int_t)workspace, "workspace_bytes", (json_int_t)args->call.workspace_bytes);
}

static int is_ready(dt_candidate *c, dt_reply *reply)
{
    if (dt_process_lives(&c->process) || dt_candidate_restart(c) == KV_OK) return 1;
    *reply = (dt_reply){.outcome = DT_FAILED};
    snprintf(reply->why, sizeof reply->why, "it cannot be started again: %.400s", kv_message());
    return 0;
}

void dt_candidate_call(dt_candidate *c, int op, const dt_args *args, dt_reply *reply)
{
    char doing[64];
    snprintf(doing, sizeof doing, "in %s", dt_op_schemas[op].name);
    if (!is_ready(c, reply)) return;
    json_t *answer = ask(c, write_call(c, "call", op, args), c->limits.call_seconds, doing, reply);
    if (!answer) return;
    take_reply(answer, reply);
    json_decref(answer);
}

void dt_candidate_workspace(dt_candidate *c, int op, const dt_args *args, uint64_t *bytes, dt_reply *reply)
{
    *bytes = 0;
    *reply = (dt_reply){.outcome = DT_DONE, .fpenv = 1};
    if (!c->info.has_workspace || !is_ready(c, reply)) return;
    json_t *answer = ask(c, write_call(c, "workspace", op, args), c->limits.call_seconds, "in kvdk_workspace", reply);
    if (!answer) return;
    take_reply(answer, reply);
    const json_int_t n = json_integer_value(json_object_get(answer, "bytes"));
    *bytes = n > 0 ? (uint64_t)n : 0;
    json_decref(answer);
}

void dt_candidate_objects(dt_candidate *c, dt_object_fn *look, void *ctx, dt_reply *reply)
{
    size_t i;
    json_t *path;
    if (!is_ready(c, reply)) return;
    json_t *answer =
        ask(c, json_pack("{s:s}", "do", "objects"), c->limits.call_seconds, "being asked for its libraries", reply);
    if (!answer) return;
    take_reply(answer, reply);
    json_array_foreach(json_object_get(answer, "objects"), i, path)
    {
        if (json_is_string(path)) look(ctx, json_string_value(path));
    }
    json_decref(answer);
}
