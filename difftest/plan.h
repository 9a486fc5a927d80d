/* plan.h - a run before its first step: everything opened, tokenised and checked, so that whatever is
 * wrong with the request shows before a single row is written. */
#ifndef KV_DIFFTEST_PLAN_H
#define KV_DIFFTEST_PLAN_H

#include "common/model.h"
#include "common/policy.h"
#include "corpus/corpus.h"
#include "difftest/options.h"
#include "difftest/side.h"

typedef struct dt_document {
    corpus *source;
    int32_t index;            /* in its corpus */
    const corpus_info *info;
    const corpus_doc *doc;
    corpus_stream stream;
    int64_t n_words;          /* of the scored text; -1 = unknown */
    int64_t n_text_bytes;     /* of the tokens that are predicted; -1 = unknown */
} dt_document;

typedef struct dt_plan {
    const dt_options *options;
    kv_model *model, *device_model; /* the same pointer unless --device-model was given */
    kv_tokenizer *tokenizer;
    corpus **corpora;
    int n_corpora;
    dt_document *docs;
    int n_docs;
    kv_policy *policies;
    int n_policies;
    dt_side *sides; /* n_sides = 0: a recording by the reference alone */
    int n_sides;
    uint8_t fingerprint[32]; /* of everything that decides the cases */
} dt_plan;

kv_status dt_plan_make(const dt_options *o, dt_plan *out);
void dt_plan_free(dt_plan *p);

/* "corpus/doc|model|policy|device|len=N|mode|q=N"; device NULL: "none". */
void dt_plan_key(const dt_plan *p, int doc, int policy, const char *device, char *dst, size_t size);

/* The command line that runs this case alone. */
void dt_plan_repro(const dt_plan *p, int doc, int policy, const char *device, char *dst, size_t size);

/* Tokens a document feeds: whole chunks only in half-window mode. */
int64_t dt_plan_tokens(const dt_plan *p, int doc);

/* Tokens of a chunk of this document in half-window mode; 0: it is one stream. */
int32_t dt_plan_window(const dt_plan *p, int doc);

/* Choices worth recording with the run, as JSON; the caller frees it. NULL when memory is out. */
char *dt_plan_options_json(const dt_plan *p);

enum { DT_KEY_MAX = 1024, DT_REPRO_MAX = 2048 };

#endif
