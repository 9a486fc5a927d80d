/* attention_wrong.cu - attention.cu whose loop over tiles ends one entry too early: when the last tile would hold a single entry
 * (33 of them, or 65), that entry is never seen. Any other length is right.
 *
 *     nvcc -ptx -arch=compute_75 -o examples/ptx/attention_wrong.ptx examples/ptx/attention_wrong.cu
 *     kvdiff ops --kernel=examples/ptx/attention_wrong.kernel.json
 *
 * fails, and says which entry of which head is not read. */
#define TAIL   1
#define attend attend_wrong
#include "attention.cu"
