/* Any bytes as text: the gate agrees with a walk by the decoder, names the offset where the walk
 * stops, and what is shown of the bytes in a message is one line of valid UTF-8 that fits. */
#include "tests/fuzz/fuzz.h"

#include "common/tokenizer.h"
#include "common/utf8.h"

#include <string.h>

/* Offset of the first character that is not UTF-8; n = there is none. */
static size_t walk(const char *p, size_t n, int64_t *characters)
{
    size_t at = 0;
    for (*characters = 0; at < n; ++*characters) {
        uint32_t cp = 0;
        char back[4];
        const size_t step = kv_utf8_next(p + at, n - at, &cp);
        if (step == 0) break;
        FUZZ_DEMAND(step <= n - at && cp < 0x110000);
        FUZZ_DEMAND(kv_utf8_put(cp, back) == step && memcmp(back, p + at, step) == 0);
        FUZZ_DEMAND((unsigned)kv_char_class_of(cp) <= KV_CHAR_SPACE);
        at += step;
    }
    return at;
}

static void check_shown(const char *p, size_t n, size_t size)
{
    char out[64];
    memset(out, 'X', sizeof out);
    FUZZ_DEMAND(kv_printable(p, n, out, size) == out);
    const size_t length = strnlen(out, sizeof out);
    FUZZ_DEMAND(length < size && !strchr(out, '\n'));
    FUZZ_DEMAND(kv_utf8_check(out, length, "shown") == KV_OK);
    for (size_t i = size; i < sizeof out; i++)
        FUZZ_DEMAND(out[i] == 'X');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *p = (const char *)data;
    int64_t characters;
    const size_t end = walk(p, size, &characters);
    const kv_status st = kv_utf8_check(p, size, "input");
    FUZZ_DEMAND(st == (end == size ? KV_OK : KV_ERR_FORMAT));
    if (st != KV_OK) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "input: byte %zu (0x%02X): ", end, data[end]);
        FUZZ_DEMAND(strncmp(kv_message(), wanted, strlen(wanted)) == 0);
        FUZZ_DEMAND(!strchr(kv_message(), '\n'));
    }
    const int64_t words = kv_utf8_words(p, size);
    FUZZ_DEMAND(words >= 0 && words <= (int64_t)(size + 1) / 2);
    if (st == KV_OK) FUZZ_DEMAND(words <= (characters + 1) / 2);
    for (size_t n = 8; n <= 64; n += 7)
        check_shown(p, size, n);
    return 0;
}
