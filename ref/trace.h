/* trace.h - the trace call of the door (common/backend.h). */
#ifndef KV_REF_TRACE_H
#define KV_REF_TRACE_H

#include "common/backend.h"
#include "ref/real.h"

kv_status REF(trace)(const kv_trace *args);

#endif
