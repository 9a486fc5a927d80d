/* sidekit.h - sides as files, for unit tests: those of the build that the test belongs to, in its own process. */
#ifndef KV_TESTS_SIDEKIT_H
#define KV_TESTS_SIDEKIT_H

#include "tests/unit/kvtest.h"

#include "difftest/side.h"

#include <unistd.h>

/* The build folder of the test, which is BUILD/tests/unit/NAME. 0, or -1 as cmocka's set-up functions say it. */
KV_UNUSED_TEST_HELPER int sidekit_build(char *dst, size_t size)
{
    const ssize_t n = readlink("/proc/self/exe", dst, size - 1);
    if (n < 0) return -1;
    dst[n] = '\0';
    for (int i = 0; i < 3; i++) {
        char *slash = strrchr(dst, '/');
        if (!slash) return -1;
        *slash = '\0';
    }
    return 0;
}

/* Sides are looked for in BUILD/sides from now on. */
KV_UNUSED_TEST_HELPER int sidekit_folder(void)
{
    char build[1024], sides[1100];
    if (sidekit_build(build, sizeof build) != 0) return -1;
    snprintf(sides, sizeof sides, "%s/sides", build);
    return setenv("KVDIFF_SIDES", sides, 1);
}

KV_UNUSED_TEST_HELPER int sidekit_open(const char *name, dt_side *side)
{
    if (sidekit_folder() != 0) return -1;
    setenv("KVDIFF_IN_PROCESS", "1", 1);
    return dt_side_open(name, side) == KV_OK ? 0 : -1;
}

#endif
