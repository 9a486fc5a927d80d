/* spmkit.h - SentencePiece-style vocabularies for tests, in a few lines instead of a file. */
#ifndef KV_TESTS_SPMKIT_H
#define KV_TESTS_SPMKIT_H

#include "tests/unit/kvtest.h"

#include "common/spm.h"

typedef struct spmkit_piece {
    const char *text; /* NULL ends the list */
    float score;
    uint8_t type; /* 0 = normal */
} spmkit_piece;

typedef struct spmkit {
    const spmkit_piece *pieces;
    int byte_fallback, dummy_prefix, remove_extra;
    int with_bytes; /* the 256 byte pieces behind the list */
} spmkit;

KV_UNUSED_TEST_HELPER void spmkit_source(const spmkit *k, kv_spm_source *src)
{
    static char names[256][8];
    *src = (kv_spm_source){.where = "kit", .byte_fallback = k->byte_fallback};
    for (const spmkit_piece *p = k->pieces; p->text; p++) {
        const kv_span text = {p->text, strlen(p->text)};
        assert_ok(kv_spm_source_add(src, text, p->score, p->type ? p->type : KV_TOKEN_NORMAL));
    }
    for (int b = 0; k->with_bytes && b < 256; b++) {
        snprintf(names[b], sizeof names[b], "<0x%02X>", (unsigned)b);
        assert_ok(kv_spm_source_add(src, (kv_span){names[b], 6}, 0, KV_TOKEN_BYTE));
    }
}

/* The bytes of FILE.model; the caller frees them. */
KV_UNUSED_TEST_HELPER kv_bytes spmkit_model(const spmkit *k)
{
    kv_spm_source src;
    kv_bytes out = {0};
    const kv_spm_options o = {.normalizer = "identity",
                              .dummy_prefix = k->dummy_prefix,
                              .remove_extra = k->remove_extra,
                              .coverage = 1};
    spmkit_source(k, &src);
    assert_ok(kv_spm_write_model(&src, &o, &out));
    kv_spm_source_free(&src);
    return out;
}

KV_UNUSED_TEST_HELPER kv_status spmkit_open(const spmkit *k, kv_tokenizer **out)
{
    kv_bytes file = spmkit_model(k);
    const kv_status st = kv_tokenizer_from_model(file.p, file.n, "kit.model", out);
    memset(file.p, 0xee, file.n); /* the tokenizer keeps no pointer into the file */
    free(file.p);
    return st;
}

/* The ids of a text, "1 2 3", in a static buffer. */
KV_UNUSED_TEST_HELPER const char *spmkit_ids(const kv_tokenizer *tok, const char *text, int special)
{
    static char got[512];
    kv_tokens ids = {0};
    assert_ok(kv_tokenizer_encode(tok, text, strlen(text), special, &ids, NULL));
    got[0] = '\0';
    for (int64_t i = 0; i < ids.n; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", i ? " " : "", ids.v[i]);
    kv_tokens_free(&ids);
    return got;
}

#endif
