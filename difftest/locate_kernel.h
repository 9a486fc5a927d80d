/* locate_kernel.h - a finding about a device that judges its own calls (kernel_side.h). */
#ifndef KV_DIFFTEST_LOCATE_KERNEL_H
#define KV_DIFFTEST_LOCATE_KERNEL_H

#include "difftest/locate_flow.h"

/* The step failed because a call broke the contract: fills *out from the judge's note. 0: the device is none of that kind, or failed for
 * another reason. */
int dt_locate_kernel(const dt_flow *f, dt_finding *out);

#endif
