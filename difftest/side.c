#include "difftest/side.h"

#include "common/hash.h"
#include "difftest/kernel_side.h"
#include "difftest/policy_side.h"
#include "difftest/remote.h"
#include "difftest/side_map.h"
#include "ref/backend.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

const char *const dt_side_names[] = {"ref", "ref64", "blas", "emu", "cuda", NULL};

/* ---- where ---------------------------------------------------------------------------------- */

kv_status dt_side_folder(char *dst, size_t size)
{
    const char *env = getenv("KVDIFF_SIDES");
    if (env && *env) {
        if ((size_t)snprintf(dst, size, "%s", env) < size) return KV_OK;
        return kv_fail(KV_ERR_USAGE, "KVDIFF_SIDES: longer than %zu bytes", size - 1);
    }
    char program[PATH_BYTES];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(program, '/');
    if (slash) *slash = '\0';
    if ((size_t)snprintf(dst, size, "%s/sides", slash ? program : ".") < size) return KV_OK;
    return kv_fail(KV_ERR_USAGE, "the program's folder '%s' has too long a path; set KVDIFF_SIDES",
                   program);
}

/* A spelling cut into its parts. */
typedef struct side_spec {
    char base[PATH_BYTES]; /* "blas" or "dir/my.so" */
    const char *options;   /* inside the spelling; "" = none */
    int is_path;
} side_spec;

/* A path is whatever has a slash or ends in ".so"; its options follow ".so:", because a folder's
 * name may hold a colon. */
static kv_status cut_spec(const char *spec, side_spec *out)
{
    const char *slash = strrchr(spec, '/'), *so = strstr(slash ? slash : spec, ".so:");
    const size_t len = strlen(spec);
    const char *colon = so ? so + 3 : strchr(slash ? slash : spec, ':');
    if (len > 3 && strcmp(spec + len - 3, ".so") == 0 && !so) colon = NULL;
    const size_t n = colon ? (size_t)(colon - spec) : len;
    if (n == 0) return kv_fail(KV_ERR_USAGE, "device '%s': the name is empty", spec);
    if (n >= sizeof out->base)
        return kv_fail(KV_ERR_USAGE, "device '%.40s...': the path is too long", spec);
    memcpy(out->base, spec, n);
    out->base[n] = '\0';
    out->options = colon ? colon + 1 : "";
    out->is_path = slash || (n > 3 && strcmp(out->base + n - 3, ".so") == 0);
    return KV_OK;
}

/* Results use the name in keys, whose fields are separated by '|'. */
static kv_status name_side(const char *spec, const side_spec *s, dt_side *out)
{
    const char *slash = strrchr(s->base, '/'), *file = slash ? slash + 1 : s->base;
    size_t n = strlen(file);
    if (s->is_path && n > 3 && strcmp(file + n - 3, ".so") == 0) n -= 3;
    for (const char *c = spec; *c; c++)
        if (*c == '|' || (unsigned char)*c < 0x20)
            return kv_fail(KV_ERR_USAGE,
                           "device: the name holds '|' or a control character; rename "
                           "the file");
    const char *colon = *s->options ? ":" : "";
    const int used =
        snprintf(out->name, sizeof out->name, "%.*s%s%s", (int)n, file, colon, s->options);
    if (used < 0 || (size_t)used >= sizeof out->name)
        return kv_fail(KV_ERR_USAGE,
                       "device '%.40s...': name and options are longer than %zu bytes", spec,
                       sizeof out->name - 1);
    snprintf(out->options, sizeof out->options, "%s", s->options);
    return KV_OK;
}

static int is_shipped(const char *name)
{
    for (int i = 0; dt_side_names[i]; i++)
        if (strcmp(name, dt_side_names[i]) == 0) return 1;
    return 0;
}

static kv_status locate(const char *spec, const side_spec *s, char path[PATH_BYTES])
{
    if (s->is_path) {
        /* dlopen would search the system's folders for a bare file name. */
        snprintf(path, PATH_BYTES, "%.*s%.*s", strchr(s->base, '/') ? 0 : 2, "./", PATH_BYTES - 3,
                 s->base);
        if (access(path, F_OK) == 0) return KV_OK;
        return kv_fail(KV_ERR_IO, "device '%s': cannot open '%s': %s; check the path", spec, path,
                       strerror(errno));
    }
    char folder[PATH_BYTES - 300];
    KV_TRY(dt_side_folder(folder, sizeof folder));
    snprintf(path, PATH_BYTES, "%s/%.255s.so", folder, s->base);
    if (access(path, F_OK) == 0) return KV_OK;
    if (!is_shipped(s->base))
        return kv_fail(KV_ERR_USAGE,
                       "device '%s' is unknown; use ref, ref64, blas, emu, cuda:exact or the "
                       "path of a .so",
                       spec);
    if (strcmp(s->base, "cuda") == 0)
        return kv_fail(KV_ERR_IO,
                       "device '%s': '%s' was not built, because nvcc was not found; build where "
                       "CUDA is installed, or use emu",
                       spec, path);
    return kv_fail(KV_ERR_IO,
                   "device '%s': '%s' is not there; run `make`, or point KVDIFF_SIDES at the "
                   "folder that holds it",
                   spec, path);
}

/* ---- the file ------------------------------------------------------------------------------- */

/* Whether all segments lie inside the file: the loader maps what the header says, and touching
 * pages behind the end of a truncated file kills the process. */
static int is_complete_elf(const uint8_t *bytes, size_t size)
{
    Elf64_Ehdr h;
    if (size < sizeof h) return 0;
    memcpy(&h, bytes, sizeof h);
    if (memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 ||
        h.e_type != ET_DYN || h.e_phentsize != sizeof(Elf64_Phdr) || h.e_phoff > size ||
        h.e_phnum > (size - h.e_phoff) / sizeof(Elf64_Phdr))
        return 0;
    for (unsigned i = 0; i < h.e_phnum; i++) {
        Elf64_Phdr p;
        memcpy(&p, bytes + h.e_phoff + i * sizeof p, sizeof p);
        if (p.p_offset > size || p.p_filesz > size - p.p_offset) return 0;
    }
    return 1;
}

static kv_status check_file(const char *spec, const char *path, uint8_t sha[32])
{
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        const char *why = fd < 0 ? strerror(errno) : "it is not a file";
        if (fd >= 0) close(fd);
        return kv_fail(KV_ERR_IO, "device '%s': cannot read '%s': %s", spec, path, why);
    }
    const size_t size = (size_t)st.st_size;
    void *map = size ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    const int complete = map != MAP_FAILED && is_complete_elf(map, size);
    if (complete) kv_sha256(map, size, sha);
    if (map != MAP_FAILED) munmap(map, size);
    if (complete) return KV_OK;
    return kv_fail(KV_ERR_MISMATCH,
                   "device '%s': '%s' is not a complete 64-bit shared object; build it with "
                   "-shared -fPIC",
                   spec, path);
}

static kv_status load_file(const char *spec, const char *path, int here, dt_side *out)
{
    KV_TRY(check_file(spec, path, out->so_sha));
    out->has_sha = 1;
    if (here || dt_remote_is_off()) return dt_side_map(spec, path, &out->handle, &out->backend);
    char *options;
    KV_TRY(dt_remote_side(spec, path, out->options, &out->backend, &options));
    snprintf(out->options, sizeof out->options, "%s", options);
    free(options);
    return KV_OK;
}

/* ---- the door ------------------------------------------------------------------------------- */

/* "kernel:dir/my.so,ops=gemm" is called "kernel:my,ops=gemm" by results. */
static kv_status load_kernel(const char *spec, dt_side *out)
{
    const char *file = spec + 7, *ops = strstr(file, ",ops="), *end = ops ? ops : file + strlen(file);
    const char *stem = end;
    while (stem > file && stem[-1] != '/')
        stem--;
    const char *dot = end;
    while (dot > stem && *dot != '.')
        dot--;
    for (const char *c = spec; *c; c++)
        if (*c == '|' || (unsigned char)*c < 0x20) return kv_fail(KV_ERR_USAGE, "device: the name holds '|' or a control character; rename the file");
    const int used = snprintf(out->name, sizeof out->name, "kernel:%.*s%s", (int)((dot > stem ? dot : end) - stem), stem, ops ? ops : "");
    const int kept = snprintf(out->options, sizeof out->options, "%s", file);
    if (used < 0 || (size_t)used >= sizeof out->name || kept < 0 || (size_t)kept >= sizeof out->options)
        return kv_fail(KV_ERR_USAGE, "device '%.40s...': name and options are longer than %zu bytes", spec, sizeof out->name - 1);
    out->is_kernel = 1;
    const kv_status st = dt_kernel_side(file, &out->backend);
    if (st != KV_OK) kv_prefix_message("device '%s'", spec);
    return st;
}

static kv_status load(const char *spec, int here, dt_side *out)
{
    side_spec s;
    char path[PATH_BYTES];
    memset(out, 0, sizeof *out);
    if (strncmp(spec, "kernel:", 7) == 0) return load_kernel(spec, out);
    KV_TRY(cut_spec(spec, &s));
    KV_TRY(name_side(spec, &s, out));
    if (strcmp(s.base, "ref") == 0 || strcmp(s.base, "ref64") == 0) {
        out->backend = s.base[3] ? ref64_backend() : ref_backend();
        return KV_OK;
    }
    if (strcmp(s.base, "policy") == 0) {
        out->backend = dt_policy_side();
        out->is_policy = 1;
        return KV_OK;
    }
    KV_TRY(locate(spec, &s, path));
    return load_file(spec, path, here || !s.is_path, out);
}

static kv_status open_it(const char *spec, int here, dt_side *out)
{
    char why[KV_MESSAGE_MAX - 300] = "";
    KV_TRY(load(spec, here, out));
    const kv_status st = out->backend->available(out->options, why, sizeof why);
    if (st == KV_OK) return KV_OK;
    why[sizeof why - 1] = '\0';
    for (char *c = why; *c; c++)
        if (*c == '\n') *c = ' ';
    return kv_fail(st == KV_ERR_USAGE ? KV_ERR_USAGE : KV_ERR_DEVICE,
                   "device '%s' cannot run here: %s", spec, *why ? why : "it gives no reason");
}

kv_status dt_side_load(const char *spec, dt_side *out) { return load(spec, 0, out); }
kv_status dt_side_open(const char *spec, dt_side *out) { return open_it(spec, 0, out); }
kv_status dt_side_open_here(const char *spec, dt_side *out) { return open_it(spec, 1, out); }

void dt_side_close(dt_side *s)
{
    memset(s, 0, sizeof *s);
}
