#include "ref/train/optim.h"

double REF(lr_multiplier)(int64_t step, int64_t iterations, int64_t warmdown)
{
    const int64_t from = iterations > warmdown ? iterations - warmdown : 0;
    return step >= from && step < iterations ? (double)(iterations - step) / (double)warmdown : 1;
}

double REF(muon_momentum)(int64_t step, double from, double to, int64_t steps)
{
    const double f = step < steps ? (double)step / (double)steps : 1;
    return (1 - f) * from + f * to;
}

double REF(ttt_multiplier)(int64_t step, int64_t warm, int64_t total, double floor)
{
    if (step < warm) {
        const double rise = (double)step / (double)warm;
        return rise > 0.1 ? rise : 0.1;
    }
    double s, c;
    const double share = (double)(step - warm) / (double)(total - warm);
    kv_sincos_core(3.141592653589793 * share, &s, &c);
    return floor + (1 - floor) * 0.5 * (1 + c);
}

double REF(power)(double beta, int64_t n)
{
    double b = 1;
    for (int64_t i = 0; i < n; i++)
        b = b * beta;
    return b;
}
