/* The progress line: on a terminal only, removed when done. stderr is pointed at a pseudo-terminal.
 */
#include "tests/unit/kvtest.h"

#include "common/progress.h"

#include <poll.h>
#include <pty.h>
#include <time.h>
#include <unistd.h>

/* Everything that arrives until nothing has come for a fifth of a second. */
static void read_all(int fd, char *text, size_t size)
{
    size_t used = 0;
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    while (used + 1 < size && poll(&wait, 1, 200) > 0) {
        const ssize_t n = read(fd, text + used, size - 1 - used);
        if (n <= 0) break;
        used += (size_t)n;
    }
    text[used] = '\0';
}

/* Runs a whole progress with stderr at fd and gives back what was written to it. */
static void show(int stderr_fd, int read_fd, int64_t total, int mode, char *text, size_t size)
{
    fflush(stderr);
    const int saved = dup(STDERR_FILENO);
    assert_true(saved >= 0 && dup2(stderr_fd, STDERR_FILENO) >= 0);
    kv_progress p;
    kv_progress_begin(&p, "tok", total, mode);
    for (int i = 0; i < 4; i++) {
        kv_progress_add(&p, 25, "book|full");
        nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL);
    }
    kv_progress_end(&p);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    assert_int_equal(p.done, 100);
    assert_int_equal(p.shown, 0);
    read_all(read_fd, text, size);
}

static void a_terminal_sees_one_line_that_is_removed(void **state)
{
    (void)state;
    int master, slave;
    char text[4096];
    if (openpty(&master, &slave, NULL, NULL, NULL) != 0) kvtest_skip("no pseudo-terminal here");
    show(slave, master, 100, 1, text, sizeof text);
    assert_non_null(strstr(text, "book|full"));
    assert_non_null(strstr(text, "25 %  25/100 tok"));
    assert_non_null(strstr(text, "tok/s  eta 0:0"));
    assert_null(strchr(text, '\n'));
    const char *last = strrchr(text, '\r');
    assert_string_equal(last, "\r\033[K");
    close(master);
    close(slave);
}

static void an_unknown_total_shows_no_percentage(void **state)
{
    (void)state;
    int master, slave;
    char text[4096];
    if (openpty(&master, &slave, NULL, NULL, NULL) != 0) kvtest_skip("no pseudo-terminal here");
    show(slave, master, 0, 1, text, sizeof text);
    assert_non_null(strstr(text, "25 tok"));
    assert_null(strchr(text, '%'));
    close(master);
    close(slave);
}

static void a_pipe_and_mode_0_see_nothing(void **state)
{
    (void)state;
    int ends[2], master, slave;
    char text[4096];
    assert_int_equal(pipe(ends), 0);
    show(ends[1], ends[0], 100, 1, text, sizeof text);
    assert_string_equal(text, "");
    close(ends[0]);
    close(ends[1]);
    if (openpty(&master, &slave, NULL, NULL, NULL) != 0) kvtest_skip("no pseudo-terminal here");
    show(slave, master, 100, 0, text, sizeof text);
    assert_string_equal(text, "");
    close(master);
    close(slave);
}

static void the_clock_never_goes_back(void **state)
{
    (void)state;
    double last = kv_now();
    for (int i = 0; i < 10000; i++) {
        const double now = kv_now();
        assert_true(now >= last);
        last = now;
    }
    const double start = kv_now();
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    const double took = kv_now() - start;
    assert_true(took >= 0.02 && took < 5.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_terminal_sees_one_line_that_is_removed),
        cmocka_unit_test(an_unknown_total_shows_no_percentage),
        cmocka_unit_test(a_pipe_and_mode_0_see_nothing),
        cmocka_unit_test(the_clock_never_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
