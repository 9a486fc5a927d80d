/* cu_pass.h - the parts of CUDA C++ that are not C++, rewritten for the host SIMT layer (gpu/simt/user.h).
 *
 *   kernel<<<grid, block, shared, stream>>>(args)   a call of simt::UserLaunch
 *   extern __shared__ T name[];                     the block's dynamic shared memory
 *   __shared__ T name[a][b];                        simt::shared_array
 *   __noinline__                                    an attribute
 *
 * Everything else stays as it is: comments, strings and preprocessor lines are never touched, nor is what stands inside
 * #if 0 or under a condition on KVDK_SIMT that does not hold. Every line of the result is the line of that number of
 * the source, so that what a compiler says about one fits the other.
 *
 * What cannot be run here is refused by name instead of being compiled into something else: inline PTX, cooperative
 * groups, textures, tensor cores, 16-bit types, CUDA's template libraries, __constant__ and __managed__ variables,
 * launches from kernels, launches and __shared__ inside macros. */
#ifndef KV_DIFFTEST_OPS_CU_PASS_H
#define KV_DIFFTEST_OPS_CU_PASS_H

#include "common/status.h"

/* *out is the caller's to free and ends with a zero byte that *n_out does not count. ERR_UNSUPPORTED: "name:line:
 * reason"; ERR_NOMEM. */
kv_status dt_cu_pass(const char *text, size_t n, const char *name, char **out, size_t *n_out);

#endif
