/* Any bytes as text for the tokenizers: every id is in range, and the pieces put together are the
 * text without the dropped bytes, whatever the pre-tokenizer and however marks stand in it. */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/gguf_build.h"

#include "common/tokenizer.h"

#include <string.h>

enum { KINDS = 5 };
static kv_tokenizer *toks[KINDS]; /* bytes, smollm, gpt-2, spm twice; made once, for all inputs */

/* Letters, a space, a line feed, some of é and —, digits; merges across all of them; two marks. */
static void open_bpe(const char *pre, kv_tokenizer **out)
{
    static const char *const tokens[] = {"a",
                                         "b",
                                         "s",
                                         "t",
                                         "'",
                                         "1",
                                         "2",
                                         "<",
                                         ">",
                                         "|",
                                         "\u0120",
                                         "\u010a",
                                         "\u00c3",
                                         "\u00a9",
                                         "\u00e2",
                                         "ab",
                                         "\u0120a",
                                         "\u0120ab",
                                         "'s",
                                         "12",
                                         "\u00c3\u00a9",
                                         "\u010a\u010a",
                                         "abab",
                                         "<|e|>",
                                         "<b>"};
    static const char *const merges[] = {"\u00c3 \u00a9", "a b",           "\u0120 a",
                                         "\u0120 ab",     "' s",           "1 2",
                                         "\u0120a b",     "\u010a \u010a", "ab ab"};
    enum { N = sizeof tokens / sizeof tokens[0] };
    int32_t types[N];
    gguf_build b = {0};
    kv_gguf *g;
    for (int i = 0; i < N; i++)
        types[i] = i == N - 2 ? 3 : i == N - 1 ? 4 : 1; /* control, user, normal */
    gb_string(&b, "tokenizer.ggml.model", "gpt2");
    gb_string(&b, "tokenizer.ggml.pre", pre);
    gb_strings(&b, "tokenizer.ggml.tokens", tokens, N);
    gb_array(&b, "tokenizer.ggml.token_type", KV_GGUF_I32, N, types, sizeof types);
    gb_strings(&b, "tokenizer.ggml.merges", merges, sizeof merges / sizeof merges[0]);
    gb_finish(&b);
    FUZZ_DEMAND(kv_gguf_parse(b.p, b.n, "tiny", &g) == KV_OK);
    FUZZ_DEMAND(kv_tokenizer_from_gguf(g, out) == KV_OK);
    kv_gguf_close(g);
    gb_free(&b);
}

/* Words with and without spaces, a user token; with bytes for all other characters, or without. */
static void open_spm(int bytes, kv_tokenizer **out)
{
    static const char words[] = "<s>\t0\n\xe2\x96\x81\t-9\n\xe2\x96\x81"
                                "ab\t-2\nab\t-1\nabab\t-1\na\t-8\nb\t-8\n"
                                "\xc3\xa9\t-8\n1\t-8\n12\t-3\n";
    char text[sizeof words + 256 * 9];
    size_t n = sizeof words - 1;
    memcpy(text, words, n);
    for (int b = 0; bytes && b < 256; b++)
        n += (size_t)sprintf(text + n, "<0x%02X>\t0\n", (unsigned)b);
    FUZZ_DEMAND(kv_tokenizer_from_vocab(text, n, "tiny", out) == KV_OK);
}

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    static const char *const texts[] = {"ab abab  ab's 1212\n\n<|e|>ab<b>\xc3\xa9 \xe2\x80\x94",
                                        "<|e|<|e|>>", "   12   a", "abababababababababab",
                                        "'s's 's"};
    if (i >= sizeof texts / sizeof texts[0]) return NULL;
    *size = strlen(texts[i]);
    return (uint8_t *)strdup(texts[i]);
}

/* The pieces are a subsequence of the text that leaves out exactly the dropped bytes. */
static void check(const kv_tokenizer *tok, const char *text, size_t n, int special)
{
    kv_tokens ids = {NULL, 0, 0};
    uint64_t dropped = 0;
    size_t at = 0, used = 0;
    FUZZ_DEMAND(kv_tokenizer_encode(tok, text, n, special, &ids, &dropped) == KV_OK);
    for (int64_t i = 0; i < ids.n; i++) {
        size_t length;
        const char *piece = kv_tokenizer_piece(tok, ids.v[i], &length);
        FUZZ_DEMAND(piece && length > 0);
        for (size_t k = 0; k < length; k++, used++) {
            while (at < n && text[at] != piece[k])
                at++;
            FUZZ_DEMAND(at++ < n);
        }
    }
    FUZZ_DEMAND(used + dropped == n);
    kv_tokens_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!toks[0]) {
        FUZZ_DEMAND(kv_tokenizer_bytes(&toks[0]) == KV_OK);
        open_bpe("smollm", &toks[1]);
        open_bpe("gpt-2", &toks[2]);
        open_spm(0, &toks[3]);
        open_spm(1, &toks[4]);
    }
    const int is_text = kv_utf8_check((const char *)data, size, "fuzz") == KV_OK &&
                        !memmem(data, size, "\xe2\x96\x81", 3);
    for (int k = 0; k < (is_text ? KINDS : 3); k++) /* those of SentencePiece are for UTF-8 */
        for (int special = 0; special < 2; special++)
            check(toks[k], (const char *)data, size, special);
    return 0;
}
