/* folderkit.h - a folder of its own for each test that needs files; emptied and removed afterwards.
 */
#ifndef KV_TESTS_FOLDERKIT_H
#define KV_TESTS_FOLDERKIT_H

#include "tests/unit/kvtest.h"

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

static char folderkit_path[512];

/* cmocka set-up and tear-down. */
KV_UNUSED_TEST_HELPER int folderkit_make(void **state)
{
    (void)state;
    snprintf(folderkit_path, sizeof folderkit_path, "%s", kvtest_path("kvdiff-test-XXXXXX"));
    return mkdtemp(folderkit_path) ? 0 : -1;
}

KV_UNUSED_TEST_HELPER int folderkit_delete_(const char *path, const struct stat *s, int kind,
                                            struct FTW *f)
{
    (void)s;
    (void)kind;
    (void)f;
    return remove(path);
}

KV_UNUSED_TEST_HELPER int folderkit_remove(void **state)
{
    (void)state;
    return nftw(folderkit_path, folderkit_delete_, 8, FTW_DEPTH | FTW_PHYS);
}

/* The folder's "name", in one of four buffers that take turns. */
KV_UNUSED_TEST_HELPER const char *in_folder(const char *name)
{
    static char path[4][768];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folderkit_path, name);
    return p;
}

/* Writes a text file into the folder and returns its path. */
KV_UNUSED_TEST_HELPER const char *put_file(const char *name, const char *text)
{
    const char *path = in_folder(name);
    kvtest_write(path, text, strlen(text));
    return path;
}

#endif
