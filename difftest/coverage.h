/* coverage.h - which states of its policy and storage a case went through: phases, wraps, ties, edges of tiles. Counted from
 * the reference's decisions, which every device of the case was compared with; `kvdiff coverage` names the cells of
 * coverage.def that no case has visited. */
#ifndef KV_DIFFTEST_COVERAGE_H
#define KV_DIFFTEST_COVERAGE_H

#include "common/backend.h"

typedef enum dt_cell {
#define X(symbol, name, about) DT_CELL_##symbol,
#include "difftest/coverage.def"
#undef X
    DT_CELL_COUNT
} dt_cell;

const char *dt_cell_name(int cell);
const char *dt_cell_about(int cell);

typedef struct dt_coverage {
    const kv_policy *policy;
    int64_t n[DT_CELL_COUNT];
    int64_t seen;     /* tokens of the segment so far */
    int64_t resident; /* tokens in layer `layer`, KV head 0 */
    int32_t layer;    /* the first that has a cache */
    int evicted;      /* something has moved or left in this segment */
    int64_t newest[KV_CASCADE_MAX]; /* cascade: newest token of each ring of layer 0, KV head 0 */
} dt_coverage;

void dt_coverage_begin(dt_coverage *c, const kv_policy *policy, int32_t n_layers);

/* The cache is empty again. */
void dt_coverage_reset(dt_coverage *c);

/* A step that the reference has taken: n tokens, its decisions, and where it began (pos0 for a window). */
void dt_coverage_step(dt_coverage *c, const kv_step *step, const kv_events *events);

#endif
