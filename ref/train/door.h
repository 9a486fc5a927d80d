/* door.h - the reference's trainers by the door of common/trainer.h: in fp32, and their double twin. */
#ifndef KV_REF_TRAIN_DOOR_H
#define KV_REF_TRAIN_DOOR_H

#include "common/trainer.h"

KV_EXTERN_C_BEGIN
const kv_trainer_api *ref_trainer_door(void);
const kv_trainer_api *ref64_trainer_door(void);
KV_EXTERN_C_END

#endif
