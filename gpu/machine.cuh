/* machine.cuh - what this side is called, its options, and whether it can run here. Compiled by nvcc it is `cuda`, through the
 * host SIMT layer `emu`. */
#ifndef GPU_MACHINE_CUH
#define GPU_MACHINE_CUH

#include "gpu/kvdev.cuh"

#ifdef GPU_SIMT
#    define GPU_SIDE "emu"
#else
#    define GPU_SIDE "cuda"
#endif

struct gpu_options {
    uint64_t seed = 0; /* emu: order of threads and blocks; 0 = ascending */
};

/* What follows the side's name on the command line; NULL: nothing. ERR_USAGE. */
kv_status gpu_read_options(const char *text, gpu_options *out);

/* ERR_DEVICE with the reason. */
kv_status gpu_check_machine();

#endif
