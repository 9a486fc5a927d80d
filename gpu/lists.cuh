/* lists.cuh - cache entries in device memory, one ordered list per layer or per layer and KV head.
 *
 * For policies that decide by scores. Element i of a list is a row of the stores with the original index and the score
 * of the token in it. Rows of a list are always a permutation of 0 .. stride - 1: the entries first, in the policy's
 * order, then rows that are free. The tokens of a piece take the first free ones, in order; what leaves goes behind the
 * last entry. So the rows of a list are the rows of a view, new tokens included, and nothing is ever allocated. */
#ifndef GPU_LISTS_CUH
#define GPU_LISTS_CUH

#include "gpu/policy.cuh"
#include "gpu/kvdev.cuh"

/* Lists as kernels see them: element i of list l is at l * stride + i. */
struct gpu_list_view {
    int32_t *rows;
    int64_t *ogs;
    float *scores;
    int64_t stride;
};

class gpu_lists
{
public:
    gpu_lists(int32_t n_lists, cudaStream_t stream) : n_lists_(n_lists), stream_(stream) {}

    int32_t count() const { return n_lists_; }
    int64_t stride() const { return stride_; }
    gpu_list_view view() const { return {now_.rows.p, now_.ogs.p, now_.scores.p, stride_}; }
    gpu_list_view spare() const { return {next_.rows.p, next_.ogs.p, next_.scores.p, stride_}; }

    /* Room for n elements in every list; entries stay, new rows are free. */
    kv_status reserve(int64_t n);

    /* Elements n[l] .. n[l] + m - 1 of list l become tokens seen .. seen + m - 1. */
    kv_status append(const std::vector<int32_t> &n, int64_t seen, int32_t m);

    /* What was written to spare() becomes the lists. */
    void flip() { std::swap(now_, next_); }

    /* All rows are free. */
    kv_status reset();

    /* The first n elements of list l; pos is left 0. */
    kv_status read(int32_t l, int64_t n, std::vector<gpu_entry> *out) const;

    /* Original indices, and scores unless NULL, of all lists: [list][stride]. */
    kv_status read_all(std::vector<int64_t> *ogs, std::vector<float> *scores) const;

    /* List l becomes these entries, in rows 0, 1, ..., which they receive. */
    kv_status write(int32_t l, std::vector<gpu_entry> *entries);

    kv_status copy_from(const gpu_lists &other);

private:
    struct buffers {
        gpu_buffer<int32_t> rows;
        gpu_buffer<int64_t> ogs;
        gpu_buffer<float> scores;

        kv_status reserve(size_t n);
    };

    int32_t n_lists_;
    int64_t stride_ = 0;
    cudaStream_t stream_;
    buffers now_, next_;
    gpu_buffer<int32_t> counts_; /* of append */
};

/* ---- select.cu ---- */

/* What becomes of a list of n entries: of the first n_open the `keep` with the highest scores stay, of equal ones the
 * earlier, NaN below every number; those behind stay in any case. */
struct gpu_selection {
    int32_t n, n_open, keep;
};

/* to = the entries that stay, in their order, then those that leave, in theirs, then the free rows as they were.
 * lowest[l] = the lowest score that was kept among the first n_open. given, unless NULL: [list][stride], 1 for each of
 * the first n_open that stays; scores do not count then. selections, lowest: one per list, device memory. */
kv_status gpu_select(const gpu_list_view &from, const gpu_list_view &to, int32_t n_lists,
                     const gpu_selection *selections, const uint8_t *given, float *lowest, cudaStream_t stream);

#endif
