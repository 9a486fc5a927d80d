/* stack_reuse.c - prints WRONG when the compiler gives two live local arrays one stack slot (gcc 11
 * and 12 without -fstack-reuse=none; GCC PR 90348, 111422, 113372), ok otherwise.
 *
 * The shape is that of causal attention: an array inside a loop body, a growing inner loop over it,
 * and an inlined callee with an array of its own. C and C++. */
#include <stdint.h>
#include <stdio.h>

#if defined(__clang__)
#    define OPAQUE __attribute__((noinline))
#else
#    define OPAQUE __attribute__((noipa))
#endif

enum { N = 64 };

OPAQUE static void scribble(int64_t *p)
{
    for (int i = 0; i < 17; i++)
        p[i] = -1;
}

OPAQUE static int differs(const double *p, int m)
{
    for (int i = 0; i < m; i++)
        if (p[i] != m)
            return 1; /* -1 as bits of a double is a NaN, which differs from everything */
    return 0;
}

static void callee(void)
{
    int64_t local[N];
    scribble(local);
}

int main(void)
{
    int bad = 0;
    for (int t = 0; t < N; t++) {
        double row[N];
        for (int i = 0; i < t; i++) {
            callee();
            row[i] = t;
        }
        bad |= differs(row, t);
    }
    puts(bad ? "WRONG" : "ok");
    return bad;
}
