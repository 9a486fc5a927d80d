#include "common/status.h"

#include <stdio.h>
#include <string.h>

static _Thread_local char message[KV_MESSAGE_MAX];

static const struct {
    const char *name, *text;
    int exit_code;
} status_table[] = {
#define X(name, code, text) {#name, text, code},
    KV_STATUS_LIST(X)
#undef X
};

const char *kv_status_name(kv_status st)
{
    return (unsigned)st < KV_STATUS_COUNT ? status_table[st].name : "ERR_UNKNOWN";
}

const char *kv_status_text(kv_status st)
{
    return (unsigned)st < KV_STATUS_COUNT ? status_table[st].text : "unknown status";
}

int kv_status_exit_code(kv_status st)
{
    return (unsigned)st < KV_STATUS_COUNT ? status_table[st].exit_code : 6;
}

void kv_set_message(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
}

void kv_prefix_message(const char *fmt, ...)
{
    char old[KV_MESSAGE_MAX];
    memcpy(old, message, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    if (n < 0) n = 0;
    if ((size_t)n < sizeof message) snprintf(message + n, sizeof message - (size_t)n, ": %s", old);
}

const char *kv_message(void) { return message; }

void kv_message_clear(void) { message[0] = '\0'; }
