/* status.h - what every function of kvdiff that can fail returns, and how it says why.
 *
 * A library function prints nothing and never exits. It returns a kv_status and leaves one line of
 * text ("what is wrong: where; how to mend it") in a thread-local buffer, which the command line
 * prints. The exit code of a program follows from the status (docs/cli.md lists them all). */
#ifndef KV_COMMON_STATUS_H
#define KV_COMMON_STATUS_H

#include "common/hd.h"

#include <stdarg.h>
#include <stddef.h>

/* X(name, exit code, text) */
#define KV_STATUS_LIST(X)                                                                          \
    X(OK, 0, "ok")                                                                                 \
    X(ERR_USAGE, 2, "unusable parameter")                                                          \
    X(ERR_CONTEXT, 2, "beyond the model's trained context")                                        \
    X(ERR_IO, 3, "cannot read or write")                                                           \
    X(ERR_FORMAT, 3, "malformed file")                                                             \
    X(ERR_UNSUPPORTED, 3, "not supported")                                                         \
    X(ERR_MISMATCH, 3, "parts that do not belong together")                                        \
    X(ERR_NOMEM, 3, "out of memory")                                                               \
    X(ERR_DB, 3, "results database")                                                               \
    X(ERR_DEVICE, 3, "device not available")                                                       \
    X(ERR_NONFINITE, 1, "NaN or infinity in a result")                                             \
    X(ERR_STATE, 6, "call out of order")                                                           \
    X(ERR_INTERNAL, 6, "fault of the tester itself")                                               \
    X(ERR_INTERRUPTED, 130, "interrupted")                                                         \
    X(ERR_CONTRACT, 1, "a promise was broken")

typedef enum kv_status {
#define X(name, code, text) KV_##name,
    KV_STATUS_LIST(X)
#undef X
        KV_STATUS_COUNT
} kv_status;

KV_EXTERN_C_BEGIN

/* Symbolic name ("ERR_IO"), one-phrase text and process exit code of a status. */
const char *kv_status_name(kv_status st);
const char *kv_status_text(kv_status st);
int kv_status_exit_code(kv_status st);

/* Records the message of a failure for this thread; the value is st, so that a caller can write
 *     return kv_fail(KV_ERR_IO, "cannot open '%s': %s; check the path", path, strerror(errno));
 * The text is cut at KV_MESSAGE_MAX - 1 bytes. (A macro, so that the compiler sees that the status is
 * not KV_OK.) */
enum { KV_MESSAGE_MAX = 1024 };
#define kv_fail(st, ...) (kv_set_message(__VA_ARGS__), (st))
void kv_set_message(const char *fmt, ...) KV_PRINTF(1, 2);

/* Puts "prefix: " in front of this thread's message (a caller adds where it happened). */
void kv_prefix_message(const char *fmt, ...) KV_PRINTF(1, 2);

/* This thread's last message; "" when there was none. Valid until the next failure. */
const char *kv_message(void);
void kv_message_clear(void);

KV_EXTERN_C_END

/* Returns from the enclosing function when expr fails. */
#define KV_TRY(expr)                                                                               \
    do {                                                                                           \
        kv_status kv_try_st_ = (expr);                                                             \
        if (kv_try_st_ != KV_OK) return kv_try_st_;                                                \
    } while (0)

/* Jumps to label when expr fails; st must be a kv_status variable of the enclosing function. */
#define KV_TRY_GOTO(st, expr, label)                                                               \
    do {                                                                                           \
        (st) = (expr);                                                                             \
        if ((st) != KV_OK) goto label;                                                             \
    } while (0)

#endif
