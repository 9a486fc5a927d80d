/* module.h - a candidate that is a module of device code with a descriptor (difftest/ops/descriptor.h): loaded and
 * launched by the driver alone. */
#ifndef KV_DIFFTEST_WORKER_MODULE_H
#define KV_DIFFTEST_WORKER_MODULE_H

#include "difftest/ops/descriptor.h"
#include "difftest/worker/worker.h"

/* As worker_plugin_open. One module a process. ERR_FORMAT: the descriptor, or it and the module do not fit; ERR_DEVICE:
 * no device, or the driver does not take the module, with the first error of its assembler. */
kv_status worker_module_open(const char *path, worker_plugin *out);

#endif
