#include "ref/train/optim.h"

/* To the nearest integer, ties to even, |x| < 2^22. */
static real nearest(real x)
{
    const real magic = REF_BITS == 32 ? (real)12582912.0 : (real)6755399441055744.0;
    const real t = x + magic;
    return t - magic;
}

void REF(fake_int6)(const real *w, int64_t rows, int64_t cols, real *out)
{
    const real least = 1 / (real)31;
    for (int64_t r = 0; r < rows; r++) {
        real most = 0;
        for (int64_t c = 0; c < cols; c++) {
            const real x = w[r * cols + c], a = x < 0 ? -x : x;
            most = a > most ? a : most;
        }
        const real wanted = most / 31, scale = wanted > least ? wanted : least;
        for (int64_t c = 0; c < cols; c++) {
            const real q = nearest(w[r * cols + c] / scale);
            out[r * cols + c] = (q < -32 ? -32 : q > 31 ? 31 : q) * scale;
        }
    }
}
