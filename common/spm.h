/* spm.h - the parts of the SentencePiece-style BPE tokenizer: a vocabulary whose scores say what
 * merges first, bytes for what it lacks, and the normaliser of its file (docs/tokenizer.md).
 *
 * Pieces and normalised texts write U+2581 for a space, as files do. */
#ifndef KV_COMMON_SPM_H
#define KV_COMMON_SPM_H

#include "common/mem.h"
#include "common/vocab.h"

enum { KV_SPM_PIECE_MAX = 512 /* bytes */, KV_SPM_NOBODY = INT32_MAX };

#define KV_SPM_SPACE "\xe2\x96\x81" /* U+2581 */

/* What happens to a text before it is cut up. The map is the file's own: a double array
 * (darts-clone) of byte strings, longest match first, whose values are places in `rewritten`. */
typedef struct kv_spm_norm {
    int dummy_prefix; /* a space in front of the text */
    int remove_extra; /* spaces at both ends go, runs of them become one */
    uint32_t *units;  /* NULL: nothing is rewritten */
    uint32_t n_units;
    char *rewritten; /* zero-terminated strings, one behind the other */
    uint32_t n_rewritten;
} kv_spm_norm;

typedef struct kv_spm {
    kv_vocab vocab; /* text: as in the file; piece: decoded, spaces for U+2581 */
    kv_marks marks; /* control and user tokens */
    float *score;   /* vocab.n */
    kv_merges
        pairs; /* every pair of pieces that is a piece; rank: place of its score, best first */
    uint64_t *joints; /* hash set of joints, below */
    uint64_t joint_mask;
    int32_t byte_id[256];  /* -1: no such token */
    int32_t ascii_id[128]; /* of characters, as kv_spm_char_id gives them */
    uint32_t *orphans;     /* characters that occur inside pieces and are none, ascending */
    int32_t n_orphans;
    int32_t unk;       /* -1: none */
    int byte_fallback; /* characters without a token become bytes; all 256 are there */
    kv_spm_norm norm;
} kv_spm;

/* A vocabulary as it is read. Texts point into the file. */
typedef struct kv_spm_source {
    const char *where;
    int64_t n, cap;
    struct kv_spm_entry {
        kv_span text; /* as in the file */
        float score;
        uint8_t type;
    } * v;
    int byte_fallback; /* -1: if there are byte tokens */
} kv_spm_source;

KV_EXTERN_C_BEGIN

/* Readers fill s, which is zeroed, to be released by kv_spm_free even after a failure. */
kv_status kv_spm_read_model(const void *p, size_t n, const char *where, kv_spm *s);
kv_status kv_spm_read_vocab(const char *p, size_t n, const char *where, kv_spm *s);
kv_status kv_spm_read_gguf(const kv_gguf *g, kv_spm *s);
void kv_spm_free(kv_spm *s);

kv_status kv_spm_source_add(kv_spm_source *f, kv_span text, float score, uint8_t type);
void kv_spm_source_free(kv_spm_source *f);

/* Checks the entries and builds all tables of s but norm. */
kv_status kv_spm_build(const kv_spm_source *f, kv_spm *s);

/* Takes over a copy of SentencePiece's precompiled_charsmap. ERR_FORMAT. */
kv_status kv_spm_norm_map(const void *p, size_t n, const char *where, kv_spm_norm *norm);

/* The normalised text; the caller frees it. */
kv_status kv_spm_normalize(const kv_spm *s, const char *text, size_t n, char **out, size_t *out_n);

/* Appends the tokens of a text. */
kv_status kv_spm_encode(const kv_spm *s, const char *text, size_t n, int special, kv_tokens *out,
                        uint64_t *dropped);

/* A character's number for merging: its token; vocab.n + place of an orphan; KV_SPM_NOBODY. */
int32_t kv_spm_char_id(const kv_spm *s, const char *p, size_t n);

/* ---- spm_write.c ------------------------------------------------------------------------------
 */

/* What a SentencePiece file says besides its pieces. */
typedef struct kv_spm_options {
    const char *normalizer; /* the rule's name */
    const void *map;        /* its precompiled map, map_n bytes */
    size_t map_n;
    int dummy_prefix, remove_extra, split_digits;
    float coverage;
    int32_t pad, bos, eos, unk; /* ids; -1 = none */
} kv_spm_options;

/* Appends the file's bytes; f.byte_fallback counts. ERR_NOMEM. */
kv_status kv_spm_write_model(const kv_spm_source *f, const kv_spm_options *o, kv_bytes *out);
kv_status kv_spm_write_vocab(const kv_spm_source *f, kv_bytes *out);

KV_EXTERN_C_END

/* ---- joints: pairs of characters that stand side by side in some piece -------------------------
 */

static inline uint64_t kv_spm_joint_key(uint32_t a, uint32_t b)
{
    return ((uint64_t)a << 32 | b) + 1; /* 0 = a free slot */
}

/* The slot that holds the pair, or the free one where it belongs. */
static inline uint64_t *kv_spm_joint_slot(const kv_spm *s, uint32_t a, uint32_t b)
{
    const uint64_t key = kv_spm_joint_key(a, b);
    for (uint64_t i = key * UINT64_C(0x9E3779B97F4A7C15) >> 24;; i++) {
        uint64_t *slot = &s->joints[i & s->joint_mask];
        if (*slot == key || *slot == 0) return slot;
    }
}

#endif
