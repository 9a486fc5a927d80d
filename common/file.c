#include "common/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

kv_status kv_file_error(const char *path, const char *doing)
{
    return kv_fail(KV_ERR_IO, "%s: cannot %s: %s; check the path and its permissions", path, doing,
                   strerror(errno));
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Reads n bytes and expects the end of the file behind them. */
static kv_status read_all(int fd, const char *path, char *p, size_t n)
{
    size_t at = 0;
    for (;;) {
        char beyond;
        const ssize_t got = at < n ? read(fd, p + at, n - at) : read(fd, &beyond, 1);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return kv_file_error(path, "read");
        if (got == 0 || at == n) {
            if (got == 0 && at == n) return KV_OK;
            return kv_fail(KV_ERR_IO, "%s: changed while it was read; try again", path);
        }
        at += (size_t)got;
    }
}

static kv_status read_fd(int fd, const char *path, size_t max, char **out, size_t *out_n)
{
    struct stat s;
    if (fstat(fd, &s) != 0) return kv_file_error(path, "read");
    if (!S_ISREG(s.st_mode)) return kv_fail(KV_ERR_IO, "%s: not a regular file; name one", path);
    if ((uint64_t)s.st_size > max)
        return kv_fail(KV_ERR_UNSUPPORTED, "%s: %lld bytes, at most %zu are possible; split it up",
                       path, (long long)s.st_size, max);
    const size_t n = (size_t)s.st_size;
    char *p = malloc(n + 1);
    if (!p) return kv_fail(KV_ERR_NOMEM, "%s: out of memory for %zu bytes", path, n);
    const kv_status st = read_all(fd, path, p, n);
    if (st != KV_OK) {
        free(p);
        return st;
    }
    *out = p;
    *out_n = n;
    return KV_OK;
}

kv_status kv_file_read(const char *path, size_t max, char **out, size_t *n)
{
    /* O_NONBLOCK: a pipe must not hang us before fstat tells what it is. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return kv_file_error(path, "open");
    const kv_status st = read_fd(fd, path, max, out, n);
    close(fd);
    return st;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        const ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return 0;
        p += done;
        n -= (size_t)done;
    }
    return fsync(fd) == 0;
}

static int replace(char *scratch, const char *path, const void *p, size_t n)
{
    const int fd = mkstemp(scratch);
    if (fd < 0) return 0;
    const int written = write_all(fd, p, n) && fchmod(fd, 0644) == 0;
    const int closed = close(fd) == 0;
    if (written && closed && rename(scratch, path) == 0) return 1;
    const int why = errno;
    unlink(scratch);
    errno = why;
    return 0;
}

int kv_file_replace(const char *path, const void *p, size_t n)
{
    const size_t size = strlen(path) + 8;
    char *scratch = malloc(size);
    if (!scratch) return 0;
    snprintf(scratch, size, "%s.XXXXXX", path);
    const int done = replace(scratch, path, p, n);
    free(scratch);
    return done;
}

kv_status kv_file_folder(const char *path)
{
    struct stat s;
    if (mkdir(path, 0777) != 0 && errno != EEXIST) return kv_file_error(path, "make the folder");
    if (stat(path, &s) != 0) return kv_file_error(path, "look at the folder");
    if (S_ISDIR(s.st_mode) && access(path, W_OK) == 0) return KV_OK;
    if (!S_ISDIR(s.st_mode)) errno = ENOTDIR;
    return kv_file_error(path, "write into");
}
