/* cmd_policy.h - the parts of `kvdiff policy`: list, show, trace. Each returns the exit code of the process. */
#ifndef KV_DIFFTEST_CMD_POLICY_H
#define KV_DIFFTEST_CMD_POLICY_H

#include "common/policy.h"
#include "difftest/cli.h"

#include <jansson.h>

typedef enum dt_policy_format { DT_POLICY_TEXT, DT_POLICY_JSON, DT_POLICY_MARKDOWN } dt_policy_format;

/* All selections and storages with their parameters, and which of them go together. Markdown is what
 * docs/policy/README.md holds. */
int dt_policy_list(dt_policy_format format);

/* One policy in numbers. */
typedef struct dt_policy_question {
    const char *spec;
    const char *model; /* NULL: no model; head_dim counts */
    int64_t tokens;    /* length of the stream */
    int32_t q;         /* tokens per step */
    int32_t head_dim;
    int json;
} dt_policy_question;

int dt_policy_show(const dt_policy_question *r);

/* `kvdiff policy trace ...`: parses its own options. */
int dt_policy_trace(int argc, char **argv);

#endif
