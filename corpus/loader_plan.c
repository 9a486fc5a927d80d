#include "corpus/loader_plan.h"

#include "common/math.h"
#include "common/rng.h"

/* ---- dice ------------------------------------------------------------------------------------ */

uint32_t corpus_dice_below(corpus_dice *d, uint32_t n)
{
    return n <= 1 ? 0 : kv_philox_below(d->seed, d->batch, d->i++, n);
}

double corpus_dice_unit(corpus_dice *d)
{
    const uint64_t hi = kv_philox_word(d->seed, d->batch, d->i++);
    const uint64_t lo = kv_philox_word(d->seed, d->batch, d->i++);
    return (double)((hi << 32 | lo) >> 11) * 0x1p-53;
}

/* ---- cursors --------------------------------------------------------------------------------- */

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        const int64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

int64_t corpus_cursor_max_phase(int64_t n, int64_t S)
{
    const int64_t room = n - S - 1 > 0 ? n - S - 1 : 0;
    return room < S - 1 ? room : S - 1;
}

int64_t corpus_cursor_base_blocks(int64_t n, int64_t S)
{
    return n > 0 ? (n - 1) / S : 0;
}

static int64_t blocks_of(int64_t n, int64_t S, int64_t phase)
{
    return (n - 1 - phase) / S;
}

static void begin_pass(corpus_cursor *c, int64_t n, int64_t S, corpus_dice *d)
{
    c->phase = corpus_dice_below(d, (uint32_t)(corpus_cursor_max_phase(n, S) + 1));
    c->blocks = blocks_of(n, S, c->phase);
    c->start = corpus_dice_below(d, (uint32_t)c->blocks);
    do {
        c->stride = c->blocks <= 1 ? 1 : 1 + (int64_t)corpus_dice_below(d, (uint32_t)c->blocks - 1);
    } while (gcd(c->stride, c->blocks) != 1);
    c->next = 0;
}

int64_t corpus_cursor_draw(corpus_cursor *c, int64_t n, int64_t S, corpus_dice *d)
{
    if (c->next >= c->blocks) begin_pass(c, n, S, d);
    const int64_t block = (c->start + c->next * c->stride) % c->blocks;
    c->next++;
    return c->phase + block * S;
}

int64_t corpus_cursor_remaining(const corpus_cursor *c, int64_t n, int64_t S)
{
    return c->blocks > c->next ? c->blocks - c->next : corpus_cursor_base_blocks(n, S);
}

int corpus_cursor_is_sound(const corpus_cursor *c, int64_t n, int64_t S)
{
    if (c->blocks == 0) return c->phase == 0 && c->start == 0 && c->stride == 0 && c->next == 0;
    return n > S && c->phase >= 0 && c->phase <= corpus_cursor_max_phase(n, S) &&
           c->blocks == blocks_of(n, S, c->phase) && c->start >= 0 && c->start < c->blocks &&
           c->stride >= 1 && c->stride <= (c->blocks > 1 ? c->blocks - 1 : 1) &&
           gcd(c->stride, c->blocks) == 1 && c->next >= 0 && c->next <= c->blocks;
}

/* ---- mixing ---------------------------------------------------------------------------------- */

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t round_half_even(double x)
{
    const int32_t whole = (int32_t)x;
    const double rest = x - whole;
    return whole + (rest > 0.5 || (rest == 0.5 && whole % 2));
}

int32_t corpus_mix_width(double p, int32_t world, int32_t eligible, int32_t windows)
{
    const int32_t most = least(eligible, windows);
    const int32_t wide = world > INT32_MAX / 8 ? INT32_MAX : 8 * world;
    const int32_t lo = least(world > 8 ? world : 8, most);
    int32_t hi = least(wide > 32 ? wide : 32, most);
    if (hi < lo) hi = lo;
    const int32_t mix = round_half_even(lo + p * (hi - lo));
    return mix < 1 ? 1 : least(mix, most);
}

double corpus_shard_weight(int64_t remaining, double p)
{
    const double alpha = 0.9 - 0.4 * p;
    return kv_exp_core(alpha * kv_log_core((double)(remaining > 1 ? remaining : 1)));
}

/* ---- reading --------------------------------------------------------------------------------- */

int32_t corpus_run_end(const corpus_window *w, int32_t n, int32_t from, int64_t S, int64_t *lo,
                       int64_t *hi)
{
    const int64_t gap = S / 2 > 1 ? S / 2 : 1;
    int32_t end = from + 1;
    *lo = w[from].at;
    *hi = w[from].at + S + 1;
    for (; end < n && w[end].shard == w[from].shard && w[end].at <= *hi + gap; end++)
        if (w[end].at + S + 1 > *hi) *hi = w[end].at + S + 1;
    return end;
}
