/* sink.h - policy `sink`: parameters and limits (docs/policy/sink.md). */
#ifndef KV_COMMON_POLICY_SINK_H
#define KV_COMMON_POLICY_SINK_H

#include <stdint.h>

typedef struct kv_sink_params {
    int32_t sinks; /* first tokens kept for ever; 0 or more */
    int32_t cap;   /* slots other than sinks: a ring of the newest tokens; at least 1 */
} kv_sink_params;

#endif
