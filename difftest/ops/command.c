#include "difftest/ops/command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_WORDS = sizeof((dt_command *)0)->argv / sizeof(char *) - 1, MOST_TEXT = 256 << 20 };

void dt_command_add(dt_command *c, const char *fmt, ...)
{
    va_list list;
    va_start(list, fmt);
    char *word = NULL;
    if (vasprintf(&word, fmt, list) < 0) word = NULL;
    va_end(list);
    if (c->n < MOST_WORDS) {
        c->argv[c->n] = word;
        c->argv[c->n + 1] = NULL;
    } else
        free(word);
    c->n++;
}

void dt_command_add_words(dt_command *c, const char *text)
{
    while (*text) {
        const size_t n = strcspn(text, " \t");
        if (n) dt_command_add(c, "%.*s", (int)n, text);
        text += n + (text[n] != '\0');
    }
}

static kv_status read_back(dt_command *c, int fd)
{
    const off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0 || end > MOST_TEXT)
        return kv_fail(KV_ERR_DEVICE, "'%s' printed more than %d MiB", c->argv[0], MOST_TEXT >> 20);
    free(c->text);
    c->text = malloc((size_t)end + 1);
    if (!c->text) return kv_fail(KV_ERR_NOMEM, "out of memory");
    size_t n = 0;
    for (ssize_t k; n < (size_t)end && (k = pread(fd, c->text + n, (size_t)end - n, (off_t)n)) > 0;)
        n += (size_t)k;
    c->text[n] = '\0';
    c->n_text = n;
    return KV_OK;
}

static int write_all(int fd, const char *bytes, size_t n)
{
    while (n) {
        const ssize_t k = write(fd, bytes, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return 0;
        bytes += k;
        n -= (size_t)k;
    }
    return lseek(fd, 0, SEEK_SET) == 0;
}

static kv_status run_with(dt_command *c, int in, int out)
{
    int status;
    fflush(NULL);
    const pid_t pid = fork();
    if (pid < 0) return kv_fail(KV_ERR_DEVICE, "'%s' cannot be started: %s", c->argv[0], strerror(errno));
    if (pid == 0) {
        dup2(in, 0);
        dup2(out, 1);
        dup2(out, 2);
        execvp(c->argv[0], c->argv);
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return kv_fail(KV_ERR_DEVICE, "'%s': %s", c->argv[0], strerror(errno));
    c->code = WIFEXITED(status) ? WEXITSTATUS(status) : 127;
    return read_back(c, out);
}

kv_status dt_command_run(dt_command *c, const char *input, size_t n_input)
{
    for (int i = 0; i < c->n && i < MOST_WORDS; i++)
        if (!c->argv[i]) return kv_fail(KV_ERR_NOMEM, "out of memory");
    if (c->n > MOST_WORDS)
        return kv_fail(KV_ERR_USAGE, "the command '%s' has more than %d words", c->argv[0], (int)MOST_WORDS);
    const int in = memfd_create("kvdiff-input", MFD_CLOEXEC), out = memfd_create("kvdiff-output", MFD_CLOEXEC);
    kv_status st = KV_OK;
    if (in < 0 || out < 0 || !write_all(in, input, n_input))
        st = kv_fail(KV_ERR_NOMEM, "no memory for '%s': %s", c->argv[0], strerror(errno));
    if (st == KV_OK) st = run_with(c, in, out);
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    return st;
}

static const char *find_error(const char *text)
{
    static const char *const words[] = {"error", "undefined", "cannot"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const char *at = strstr(text, words[i]);
        if (at) return at;
    }
    return text + strspn(text, " \n\r\t");
}

/* nvcc writes FILE(LINE): where everybody else has FILE:LINE: */
static void plain_place(char *line)
{
    for (char *open = strchr(line, '('); open; open = strchr(open + 1, '(')) {
        char *const close = open + 1 + strspn(open + 1, "0123456789");
        if (close == open + 1 || strncmp(close, "): ", 3) != 0) continue;
        *open = ':';
        memmove(close, close + 1, strlen(close));
        return;
    }
}

void dt_command_first_error(const dt_command *c, char *dst, size_t size)
{
    const char *text = c->text ? c->text : "", *at = find_error(text);
    while (at > text && at[-1] != '\n')
        at--;
    size_t n = 0;
    for (; at[n] && at[n] != '\n' && n + 1 < size; n++)
        dst[n] = (unsigned char)at[n] < 0x20 ? ' ' : at[n];
    dst[n] = '\0';
    plain_place(dst);
}

void dt_command_free(dt_command *c)
{
    for (int i = 0; i < c->n && i < MOST_WORDS; i++)
        free(c->argv[i]);
    free(c->text);
    *c = (dt_command){0};
}

int dt_command_exists(const char *program)
{
    if (strchr(program, '/')) return access(program, X_OK) == 0;
    const char *path = getenv("PATH");
    for (size_t n; path && *path; path += n + (path[n] == ':')) {
        char file[4096];
        n = strcspn(path, ":");
        if ((size_t)snprintf(file, sizeof file, "%.*s/%s", (int)n, n ? path : ".", program) < sizeof file &&
            access(file, X_OK) == 0)
            return 1;
    }
    return 0;
}
