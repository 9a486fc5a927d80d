/* judges.h - how other testers would judge the same logits: four rules side by side (docs/mutants.md).
 *
 * Each takes rows of logits of the reference and of a device and says whether it raises an alarm. They are here to be
 * compared with, blind spots included, and judge nothing in kvdiff:
 *
 *   NMSE        llama.cpp, test-backend-ops: sum (got - ref)^2 / sum got^2 of a tensor above 5e-4, its limit for products
 *               and attention; NaN anywhere; infinities (FLT_MAX is one) that differ. A tensor is the rows of a step.
 *   ALLCLOSE    torch.allclose with its defaults, rtol 1e-5 and atol 1e-8, for every type: |got - ref| <= atol + rtol |ref|
 *               in every element; NaN is close to nothing, equal infinities are close. (torch.testing.assert_close would
 *               take the tolerances of the type, 1.3e-6 and 1e-5 for fp32, 1e-3 and 1e-5 for fp16, 1.6e-2 and 1e-5 for
 *               bf16; logits are fp32.)
 *   FLASHINFER  flashinfer-bench: an element with |got - ref| > 1e-2 and |got - ref| / (|ref| + 1e-8) > 1e-2, or a
 *               device that is not finite where the reference is. A reference that is NaN fails no comparison.
 *   PERPLEXITY  the comparator of lm-evaluation-harness: z = (mean - mean') / sqrt(se^2 + se'^2) of the tokens' NLL of a
 *               document, the two samples taken as independent, two-sided, alpha = 0.05. NaN is not above the limit. */
#ifndef KV_DIFFTEST_JUDGES_H
#define KV_DIFFTEST_JUDGES_H

#include <stdint.h>

/* X(name, column title) */
#define DT_JUDGE_LIST(X)                                                                                             \
    X(NMSE, "nmse")                                                                                                  \
    X(ALLCLOSE, "allclose")                                                                                          \
    X(FLASHINFER, "flashinfer")                                                                                      \
    X(PERPLEXITY, "ppl z-test")

typedef enum dt_judge {
#define X(name, title) DT_JUDGE_##name,
    DT_JUDGE_LIST(X)
#undef X
        DT_JUDGE_COUNT
} dt_judge;
const char *dt_judge_title(int judge);

/* The three rules of elements, 1 = alarm. n values each. */
int dt_judge_nmse(const float *ref, const float *got, int64_t n);
int dt_judge_allclose(const float *ref, const float *got, int64_t n);
int dt_judge_flashinfer(const float *ref, const float *got, int64_t n);

/* Sums of one sample. */
typedef struct dt_sample {
    int64_t n;
    double sum, squares;
} dt_sample;
void dt_sample_add(dt_sample *s, double x);

/* 1 = the means differ with alpha = 0.05; fewer than two values never do. */
int dt_judge_unpaired(const dt_sample *a, const dt_sample *b);

/* All four over the cases of one device. */
typedef struct dt_judges {
    int alarm[DT_JUDGE_COUNT]; /* since the beginning */
    dt_sample ref, got;        /* NLL of the case under way */
} dt_judges;

/* The rows of a step that are scored; targets[row] is the token that each should predict. */
void dt_judges_rows(dt_judges *j, const float *ref, const float *got, int32_t rows, int64_t vocab,
                    const int32_t *targets);

/* A document is complete. */
void dt_judges_end_case(dt_judges *j);

#endif
