/* Any bytes as a SentencePiece file, binary and text: no crash; of what is accepted, every id is in
 * range and encodes nothing else than the text. */
#include "tests/fuzz/fuzz.h"

#include "common/spm.h"
#include "common/utf8.h"

#include <string.h>

#define SP KV_SPM_SPACE

static void add(kv_spm_source *f, const char *text, size_t n, float score, uint8_t type)
{
    FUZZ_DEMAND(kv_spm_source_add(f, (kv_span){text, n}, score, type) == KV_OK);
}

static void fill(kv_spm_source *f, int bytes)
{
    static const char *const words[] = {SP, SP "a", "ab", SP "ab", "a", "b", "\xc3\xa9", "<u>"};
    static char names[256][8];
    *f = (kv_spm_source){.where = "seed", .byte_fallback = bytes};
    add(f, "<unk>", 5, 0, KV_TOKEN_UNKNOWN);
    add(f, "<s>", 3, 0, KV_TOKEN_CONTROL);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        add(f, words[i], strlen(words[i]), -(float)i,
            words[i][0] == '<' ? KV_TOKEN_USER : KV_TOKEN_NORMAL);
    for (int b = 0; bytes && b < 256; b++) {
        snprintf(names[b], sizeof names[b], "<0x%02X>", (unsigned)b);
        add(f, names[b], 6, 0, KV_TOKEN_BYTE);
    }
}

/* A double array that knows A and makes it a: root, then the node of A, then its value at 0x40. */
static size_t make_map(uint8_t *map)
{
    enum { UNITS = 0x42 };
    uint32_t units[UNITS] = {0};
    units[0x41] = 0x41 | 1u << 8 | 1u << 10;
    units[0x40] = 1u << 31;
    const uint32_t bytes = sizeof units;
    memcpy(map, &bytes, 4);
    memcpy(map + 4, units, sizeof units);
    memcpy(map + 4 + sizeof units, "a", 2);
    return 4 + sizeof units + 2;
}

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    kv_spm_source f;
    kv_bytes out = {0};
    uint8_t map[512];
    if (i > 2) return NULL;
    fill(&f, i == 1);
    const kv_spm_options o = {.normalizer = "seed",
                              .map = map,
                              .map_n = i == 0 ? make_map(map) : 0,
                              .dummy_prefix = i == 0,
                              .remove_extra = i == 0};
    FUZZ_DEMAND((i < 2 ? kv_spm_write_model(&f, &o, &out) : kv_spm_write_vocab(&f, &out)) == KV_OK);
    kv_spm_source_free(&f);
    *size = out.n;
    return (uint8_t *)out.p;
}

static void use(kv_tokenizer *tok, const char *text, size_t n, int special)
{
    kv_tokens ids = {NULL, 0, 0};
    uint64_t dropped = 0, bytes = 0;
    FUZZ_DEMAND(kv_tokenizer_encode(tok, text, n, special, &ids, &dropped) == KV_OK);
    for (int64_t i = 0; i < ids.n; i++) {
        size_t length;
        FUZZ_DEMAND(ids.v[i] >= 0 && ids.v[i] < kv_tokenizer_vocab(tok));
        FUZZ_DEMAND(kv_tokenizer_piece(tok, ids.v[i], &length) && length > 0);
        bytes += kv_tokenizer_bytes_of(tok, i ? ids.v[i - 1] : -1, ids.v[i]);
    }
    FUZZ_DEMAND(ids.n >= 0 && (ids.n > 0 || bytes == 0));
    kv_tokens_free(&ids);
    kv_tokenizer_free(tok);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "ab AB a  <u><s>\xc3\xa9\xe4\xb8\xad" SP "ab\nabab ";
    kv_tokenizer *tok = NULL;
    if (kv_tokenizer_from_model(data, size, "fuzz", &tok) == KV_OK)
        use(tok, text, sizeof text - 1, 1);
    if (kv_tokenizer_from_vocab((const char *)data, size, "fuzz", &tok) == KV_OK)
        use(tok, (const char *)data, size, 0);
    return 0;
}
