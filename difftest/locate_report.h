/* locate_report.h - a finding for people, for programs and for the database. */
#ifndef KV_DIFFTEST_LOCATE_REPORT_H
#define KV_DIFFTEST_LOCATE_REPORT_H

#include "difftest/db.h"
#include "difftest/locate.h"

#include <jansson.h>
#include <stdio.h>

/* A finding with what it belongs to. */
typedef struct dt_report {
    int64_t case_id; /* 0: not a stored case */
    const char *key;
    const char *repro; /* a command line that fails */
    const dt_finding *found;
} dt_report;

void dt_report_print(const dt_report *r, FILE *out);

/* A new reference; NULL: out of memory. */
json_t *dt_report_json(const dt_report *r);

/* Replaces the case's rows of divergence and evict_diff, in one transaction. A case that does not differ any more keeps
 * none. */
kv_status dt_report_store(dt_db *db, const dt_report *r);

/* hypothesis with every number as '#': what findings of one cause have in common. */
void dt_report_cause(const dt_finding *f, char *dst, size_t size);

#endif
