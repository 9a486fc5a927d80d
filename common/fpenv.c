#include "common/fpenv.h"

#include <fenv.h>

#if defined(__x86_64__)
#    include <xmmintrin.h>
enum { MXCSR_DEFAULT = 0x1f80, MXCSR_STICKY = 0x3f };

kv_status kv_fpenv_check(const char *when)
{
    const unsigned csr = _mm_getcsr();
    if ((csr & ~(unsigned)MXCSR_STICKY) == MXCSR_DEFAULT) return KV_OK;
    _mm_setcsr(MXCSR_DEFAULT);
    return kv_fail(KV_ERR_INTERNAL,
                   "%s, the floating-point state was %04x instead of %04x (flush-to-zero or another "
                   "rounding mode): a library linked with fast-math changes it; results would not be "
                   "exact", when, csr, (unsigned)MXCSR_DEFAULT);
}
#else
kv_status kv_fpenv_check(const char *when)
{
    volatile float tiny = 1e-38f, tenth = 0.1f;
    if (fegetround() == FE_TONEAREST && tiny * tenth != 0.0f) return KV_OK;
    fesetenv(FE_DFL_ENV);
    return kv_fail(KV_ERR_INTERNAL,
                   "%s, subnormals were flushed or the rounding mode was changed: a library linked with "
                   "fast-math does that; results would not be exact", when);
}
#endif
