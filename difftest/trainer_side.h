/* trainer_side.h - the trainer of a side (common/trainer.h), found by the side's spelling (side.h). */
#ifndef KV_DIFFTEST_TRAINER_SIDE_H
#define KV_DIFFTEST_TRAINER_SIDE_H

#include "common/trainer.h"
#include "difftest/side.h"

typedef struct dt_trainer_side {
    const kv_trainer_api *api;
    dt_side side; /* its name and options */
} dt_trainer_side;

/* As dt_side_open; ERR_UNSUPPORTED where the side has no trainer. */
kv_status dt_trainer_side_open(const char *spec, dt_trainer_side *out);

/* Opens a trainer of the side; isa, for the reference only, may be NULL: ERR_USAGE for others. */
kv_status dt_trainer_open(const dt_trainer_side *s, const kv_trainer_args *args, const char *isa, kv_trainer **out);

/* The status of a call, with the side's message as this program's. */
kv_status dt_trainer_said(const kv_trainer_api *api, kv_status st);

#endif
