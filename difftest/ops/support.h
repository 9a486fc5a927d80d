/* support.h - where the parts of kvdiff lie that a candidate is compiled with. */
#ifndef KV_DIFFTEST_OPS_SUPPORT_H
#define KV_DIFFTEST_OPS_SUPPORT_H

#include "common/status.h"

typedef struct dt_support {
    char root[3000];    /* holds gpu/simt/user.h and include/kvdiff_kernel.h */
    char archive[3100]; /* libkvsimt.a */
} dt_support;

/* $KVDIFF_SUPPORT (with libkvsimt.a in it); else PREFIX/share/kvdiff of the program PREFIX/lib/kvdiff/kvdiff; else the
 * source tree that the program's build folder lies in. ERR_IO when there is none. */
kv_status dt_support_find(dt_support *out);

/* Is there a CUDA device that kvdiff-worker could use? The worker is asked, so that no driver is loaded into this
 * process. ERR_DEVICE: it cannot be asked. */
kv_status dt_support_gpu(int *is_here);

/* $XDG_CACHE_HOME/kvdiff, else $HOME/.cache/kvdiff; made when it is not there. ERR_IO. */
kv_status dt_support_cache(char *dst, size_t size);

#endif
