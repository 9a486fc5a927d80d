#include "difftest/ops/build.h"
#include <stdio.h>
kv_status dt_candidate_build(const char *path, char *built, size_t size)
{
    snprintf(built, size, "%s", path);
    return KV_OK;
}
