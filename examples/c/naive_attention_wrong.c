/* naive_attention_wrong.c - naive_attention.c behind a caller who is off by one: once the cache holds more than eight
 * entries, its newest one is left out. A model still talks; kvdiff says which entry of which token and head is missing.
 *
 *     cc -O2 -shared -fPIC -I include -o naive_attention_wrong.so examples/c/naive_attention_wrong.c -lm
 *     kvdiff ops --kernel=./naive_attention_wrong.so */
#include "kvdiff_kernel.h"

#define kvdk_attn_decode  whole_decode
#define kvdk_attn_prefill whole_prefill
#include "naive_attention.c"
#undef kvdk_attn_decode
#undef kvdk_attn_prefill

static kvdk_attn_args shortened(const kvdk_attn_args *a)
{
    kvdk_attn_args b = *a;
    for (int64_t i = 0; i < b.n_segments; i++)
        if (b.segment[i].kind == KVDK_CACHE && b.segment[i].k.dim[0] > 8) b.segment[i].k.dim[0]--;
    return b;
}

int kvdk_attn_decode(const kvdk_attn_args *a, kvdk_stream stream)
{
    const kvdk_attn_args b = shortened(a);
    return whole_decode(&b, stream);
}

int kvdk_attn_prefill(const kvdk_attn_args *a, kvdk_stream stream)
{
    const kvdk_attn_args b = shortened(a);
    return whole_prefill(&b, stream);
}
