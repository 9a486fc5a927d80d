/* modelkit.h - the tokenizer of the real model, for tests that need it: they skip without the file.
 */
#ifndef KV_TESTS_MODELKIT_H
#define KV_TESTS_MODELKIT_H

#include "tests/unit/kvtest.h"

#include "common/tokenizer.h"

#include <glob.h>

/* The tokenizer of the first models/SmolLM2*.gguf; NULL when there is no such file. */
KV_UNUSED_TEST_HELPER kv_tokenizer *modelkit_tokenizer(void)
{
    glob_t found;
    kv_tokenizer *tok = NULL;
    if (glob("models/SmolLM2*.gguf", 0, NULL, &found) == 0) {
        kv_gguf *g = NULL;
        assert_ok(kv_gguf_open(found.gl_pathv[0], &g));
        assert_ok(kv_tokenizer_from_gguf(g, &tok));
        kv_gguf_close(g);
    }
    globfree(&found);
    return tok;
}

#define modelkit_need(tok)                                                             \
    do {                                                                               \
        if (!(tok)) kvtest_skip("no models/SmolLM2*.gguf; get it with 'make models'"); \
    } while (0)

#endif
