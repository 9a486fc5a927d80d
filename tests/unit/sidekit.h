/* sidekit.h - sides as files, for unit tests: those of the build that the test belongs to, in its own process. */
#ifndef KV_TESTS_SIDEKIT_H
#define KV_TESTS_SIDEKIT_H

#include "tests/unit/kvtest.h"

#include "difftest/side.h"

#include <unistd.h>

/* 0, or -1 as cmocka's set-up functions say it. The test is BUILD/tests/unit/NAME. */
KV_UNUSED_TEST_HELPER int sidekit_open(const char *name, dt_side *side)
{
    char path[1100] = "";
    const ssize_t n = readlink("/proc/self/exe", path, sizeof path - 16);
    if (n < 0) return -1;
    path[n] = '\0';
    for (int i = 0; i < 3; i++) {
        char *slash = strrchr(path, '/');
        if (!slash) return -1;
        *slash = '\0';
    }
    strcat(path, "/sides");
    setenv("KVDIFF_SIDES", path, 1);
    setenv("KVDIFF_IN_PROCESS", "1", 1);
    return dt_side_open(name, side) == KV_OK ? 0 : -1;
}

#endif
