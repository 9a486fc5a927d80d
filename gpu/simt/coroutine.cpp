#include "gpu/simt/coroutine.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#if SIMT_ASAN
#    include <sanitizer/asan_interface.h>
#    include <sanitizer/common_interface_defs.h>
#endif

namespace simt
{
#if !SIMT_UCONTEXT
/* Saves the callee-saved registers and the stack pointer, takes over the other stack's. The floating-
 * point control words are the same in all fibres and stay. */
extern "C" void simt_switch(void **save, void *to);
asm(R"(
    .text
    .p2align 4
    .hidden simt_switch
    .globl simt_switch
    .type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch, .-simt_switch
)");
#endif

void coroutine_prepare(Coroutine *c, char *stack, size_t size, void (*entry)())
{
#if SIMT_UCONTEXT
    getcontext(&c->context);
    c->context.uc_stack.ss_sp = stack;
    c->context.uc_stack.ss_size = size;
    c->context.uc_link = nullptr;
    makecontext(&c->context, entry, 0);
#else
    /* As if entry had been called: a return address slot keeps rsp + 8 aligned to 16. */
    void **sp = reinterpret_cast<void **>(stack + (size & ~(size_t)15));
    *--sp = nullptr;
    *--sp = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    c->sp = sp;
#endif
#if SIMT_ASAN
    c->fake_stack = nullptr;
    c->bottom = stack;
    c->size = size;
#endif
}

void coroutine_switch(Coroutine *from, Coroutine *to)
{
#if SIMT_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->bottom, to->size);
#endif
#if SIMT_UCONTEXT
    swapcontext(&from->context, &to->context);
#else
    simt_switch(&from->sp, to->sp);
#endif
#if SIMT_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

void coroutine_entered(Coroutine *starter)
{
#if SIMT_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (starter) {
        starter->bottom = bottom;
        starter->size = size;
    }
#else
    (void)starter;
#endif
}

void coroutine_leave(Coroutine *from, Coroutine *to)
{
#if SIMT_ASAN
    __sanitizer_start_switch_fiber(nullptr, to->bottom, to->size);
#endif
#if SIMT_UCONTEXT
    swapcontext(&from->context, &to->context);
#else
    simt_switch(&from->sp, to->sp);
#endif
    abort(); /* nobody switches to a coroutine that has left */
}

/* ---- stacks ---- */

namespace
{
const size_t PAGE = 4096;
const size_t STACK = SIMT_ASAN ? 256 * 1024 : 64 * 1024; /* instrumented frames are several times larger */
const size_t SLOT = PAGE + STACK;

/* Fibres run in turn through the same functions, so equal stack tops would map to the same cache sets
 * and every switch would miss. Tops are staggered over a quarter of the stack. */
size_t stagger(size_t i) { return i * 13 % 128 * 128; }
} // namespace

Stacks::~Stacks()
{
    if (base_) munmap(base_, n_ * SLOT);
}

bool Stacks::reserve(size_t n)
{
    if (n <= n_) return true;
    void *const p = mmap(nullptr, n * SLOT, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return false;
    if (base_) munmap(base_, n_ * SLOT);
    base_ = static_cast<char *>(p);
    n_ = n;
    for (size_t i = 0; i < n; i++)
        if (mprotect(base_ + i * SLOT, PAGE, PROT_NONE) != 0) return false;
    return true;
}

char *Stacks::at(size_t i) const { return base_ + i * SLOT + PAGE; }

size_t Stacks::usable(size_t i) const { return STACK - stagger(i); }

void Stacks::forget_contents()
{
#if SIMT_ASAN
    for (size_t i = 0; i < n_; i++) __asan_unpoison_memory_region(at(i), STACK);
#endif
}
} // namespace simt
