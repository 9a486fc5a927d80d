/* coroutine.h - execution contexts with stacks of their own, and the switch between them.
 *
 * x86-64 has a hand-written switch of a few nanoseconds; elsewhere (or with -DSIMT_UCONTEXT=1) ucontext
 * does it. Under AddressSanitizer every switch is announced, as it must know which stack is in use. */
#ifndef GPU_SIMT_COROUTINE_H
#define GPU_SIMT_COROUTINE_H

#include <stddef.h>

#ifndef SIMT_UCONTEXT
#    ifdef __x86_64__
#        define SIMT_UCONTEXT 0
#    else
#        define SIMT_UCONTEXT 1
#    endif
#endif
#if SIMT_UCONTEXT
#    include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#    define SIMT_ASAN 1
#elif defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        define SIMT_ASAN 1
#    endif
#endif
#ifndef SIMT_ASAN
#    define SIMT_ASAN 0
#endif

namespace simt
{
struct Coroutine {
#if SIMT_UCONTEXT
    ucontext_t context;
#else
    void *sp; /* saved stack pointer; the callee-saved registers lie above it */
#endif
#if SIMT_ASAN
    void *fake_stack;
    const void *bottom;
    size_t size;
#endif
};

/* Prepares c to begin with entry() on the given stack. entry must call coroutine_entered first and end
 * with coroutine_leave. */
void coroutine_prepare(Coroutine *c, char *stack, size_t size, void (*entry)());

/* Goes on with `to`; returns when somebody switches back to `from`. */
void coroutine_switch(Coroutine *from, Coroutine *to);

/* The first switch into a coroutine ends here. starter is the OS thread's own context when it was that
 * which switched, else NULL. */
void coroutine_entered(Coroutine *starter);

/* Goes on with `to` and gives up the current stack. */
[[noreturn]] void coroutine_leave(Coroutine *from, Coroutine *to);

/* Stacks of equal size in one mapping, each with a guard page below. */
class Stacks
{
public:
    ~Stacks();
    bool reserve(size_t n); /* at least n stacks; false: out of memory. Old stacks are gone. */
    char *at(size_t i) const;
    size_t usable(size_t i) const;
    void forget_contents(); /* after stacks were abandoned in the middle of a function */

private:
    char *base_ = nullptr;
    size_t n_ = 0;
};
} // namespace simt

#endif
