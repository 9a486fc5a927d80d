/* launch.h - one call of an operation as its descriptor has it: what the kernels get. No driver is needed. */
#ifndef KV_DIFFTEST_OPS_LAUNCH_H
#define KV_DIFFTEST_OPS_LAUNCH_H

#include "difftest/ops/descriptor.h"

/* Limits of every CUDA device since compute capability 3; of shared memory those of the largest one. */
enum { DT_MOST_THREADS = 1024, DT_MOST_SHARED = 227 * 1024 };
extern const int64_t dt_most_grid[3], dt_most_block[3];

/* 1 <= value <= most, else ERR_FORMAT. Does value fit into the type of an integer parameter? */
kv_status dt_launch_limit(int64_t value, int64_t most);
kv_status dt_launch_range(int64_t value, const dt_parameter *p);

/* What a launch gets. */
typedef struct dt_launch_values {
    unsigned grid[3], block[3], shared;
    uint64_t storage[DT_MODULE_PARAMETERS];
    void *pointer[DT_MODULE_PARAMETERS]; /* to the value of each parameter */
} dt_launch_values;

/* Does the operation take these arguments? ERR_UNSUPPORTED with the requirement that is not met, ERR_CONTRACT: one
 * cannot be computed. */
kv_status dt_recipe_takes(const dt_descriptor *d, const dt_recipe *recipe, const void *args);

/* Where each scratch begins in the workspace, each aligned to 256, and the end of the last one. ERR_CONTRACT. */
kv_status dt_recipe_scratch(const dt_descriptor *d, const dt_recipe *recipe, const void *args,
                            uint64_t at[DT_SCRATCHES + 1]);

/* *is_on = 0: its "when" leaves it out. args: with the pointers that the kernel gets; it must live as long as *out. at:
 * of dt_recipe_scratch. ERR_CONTRACT with the place in the descriptor and what is wrong. */
kv_status dt_launch_compute(const dt_descriptor *d, const dt_recipe *recipe, int i, const void *args,
                            const uint64_t *at, int *is_on, dt_launch_values *out);

#endif
