/* door.cuh - what the operations behind include/kvdiff_kernel.h share. They show single kernels of this side to whoever
 * speaks that interface, first of all `kvdiff ops`; docs/gpu.md, "The door of single operations".
 *
 * Nothing is computed here. A call brings tensors with strides; kernels want rows without gaps, tables of slots, lists. The door
 * hands over the caller's memory where it lies as they want it, moves data to memory of its own where it does not,
 * and brings results back. What the runtime has no kernel for is refused. */
#ifndef GPU_DOOR_DOOR_CUH
#define GPU_DOOR_DOOR_CUH

#include "gpu/ops.cuh"
#include "include/kvdiff_kernel.h"

#include <initializer_list>
#include <new>
#include <vector>

/* Extents of a tensor; those that are left out are 1. */
typedef std::initializer_list<int64_t> door_shape;

/* What numbers of a type are called in tensors. */
template <class T> struct door_type;
template <> struct door_type<float> { enum { dtype = KVDK_F32 }; };
template <> struct door_type<int32_t> { enum { dtype = KVDK_I32 }; };
template <> struct door_type<int64_t> { enum { dtype = KVDK_I64 }; };
template <> struct door_type<uint8_t> { enum { dtype = KVDK_U8 }; };

/* KV_ERR_UNSUPPORTED, which a caller receives as -1: the arguments are right, but nothing here computes them. */
kv_status door_refuse(const char *why);

/* Refuses extents that are not 1 .. 2^31 - 1. */
kv_status door_extents(std::initializer_list<int64_t> extents);

/* ERR_MISMATCH when a tensor is not of this type and shape, or absent. */
kv_status door_expect(const kvdk_tensor &t, int32_t dtype, door_shape shape);

/* Memory with any strides, as a tensor. */
kvdk_tensor door_tensor(const void *p, int32_t dtype, door_shape shape, std::initializer_list<int64_t> strides);

/* Elements without gaps. */
kvdk_tensor door_packed(const void *p, int32_t dtype, door_shape shape);

/* Bytes of a number. */
size_t door_bytes(int32_t dtype);

/* One call: its stream, and memory that lives until it ends. */
class door
{
public:
    explicit door(kvdk_stream given) : stream((cudaStream_t)given) {}

    kv_status open();

    /* Brings results back and waits for the end of all work. */
    kv_status close();

    /* n numbers of the door's own, all bits set: what a kernel leaves out shows. */
    template <class T> kv_status memory(size_t n, T **p)
    {
        void *bytes;
        KV_TRY(allocate(n * sizeof(T), &bytes));
        *p = static_cast<T *>(bytes);
        return KV_OK;
    }

    /* A tensor without gaps: its own memory or a copy. Outputs come back in close(). */
    template <class T> kv_status in(const kvdk_tensor &t, door_shape shape, const T **p)
    {
        void *found;
        KV_TRY(pack(t, door_type<T>::dtype, shape, READ, &found));
        *p = static_cast<const T *>(found);
        return KV_OK;
    }
    template <class T> kv_status out(const kvdk_tensor &t, door_shape shape, T **p)
    {
        return writable(t, shape, WRITE, p);
    }
    template <class T> kv_status inout(const kvdk_tensor &t, door_shape shape, T **p)
    {
        return writable(t, shape, READ | WRITE, p);
    }

    /* Element by element, whatever the strides; both have the extents of `to`. */
    kv_status copy(const kvdk_tensor &to, const kvdk_tensor &from);

    /* Between the host and the device. */
    template <class T> kv_status up(const std::vector<T> &from, T **p)
    {
        KV_TRY(memory(from.size(), p));
        return gpu_copy_up(*p, from.data(), from.size() * sizeof(T), stream);
    }
    template <class T> kv_status down(const T *p, size_t n, std::vector<T> *to)
    {
        to->resize(n);
        KV_TRY(gpu_copy_down(to->data(), p, n * sizeof(T), stream));
        return gpu_stream_finish(stream);
    }
    template <class T> kv_status read(const kvdk_tensor &t, door_shape shape, std::vector<T> *to)
    {
        T *p;
        KV_TRY(door_expect(t, door_type<T>::dtype, shape));
        KV_TRY(memory((size_t)(t.dim[0] * t.dim[1] * t.dim[2] * t.dim[3]), &p));
        KV_TRY(copy(door_packed(p, t.dtype, {t.dim[0], t.dim[1], t.dim[2], t.dim[3]}), t));
        return down(p, (size_t)(t.dim[0] * t.dim[1] * t.dim[2] * t.dim[3]), to);
    }
    template <class T> kv_status write(const kvdk_tensor &t, door_shape shape, const std::vector<T> &from)
    {
        T *p;
        KV_TRY(door_expect(t, door_type<T>::dtype, shape));
        KV_TRY(up(from, &p));
        return copy(t, door_packed(p, t.dtype, {t.dim[0], t.dim[1], t.dim[2], t.dim[3]}));
    }

    cudaStream_t stream;

private:
    enum { READ = 1, WRITE = 2 };
    struct result {
        kvdk_tensor to, from;
    };

    template <class T> kv_status writable(const kvdk_tensor &t, door_shape shape, int how, T **p)
    {
        void *found;
        KV_TRY(pack(t, door_type<T>::dtype, shape, how, &found));
        *p = static_cast<T *>(found);
        return KV_OK;
    }
    kv_status allocate(size_t bytes, void **p);
    kv_status pack(const kvdk_tensor &t, int32_t dtype, door_shape shape, int how, void **p);

    gpu_stream own_; /* where the caller has no streams */
    std::vector<gpu_buffer<unsigned char>> memory_;
    std::vector<result> results_;
};

/* Tells the host why a call was not done; what it returns to the caller. */
int door_answer(kv_status st);

/* Runs an operation: 0, -1 refused, positive: failed, as kv_status. */
template <class Args> int door_run(const Args *a, kvdk_stream stream, kv_status (*work)(const Args &, door &))
{
    try {
        door d(stream);
        kv_status st = d.open();
        if (st == KV_OK) st = work(*a, d);
        const kv_status closed = st == KV_OK ? d.close() : gpu_stream_finish(d.stream);
        return door_answer(st == KV_OK ? closed : st);
    } catch (const std::bad_alloc &) {
        return door_answer(kv_fail(KV_ERR_NOMEM, "out of memory"));
    }
}

/* ---- door_view.cu: the segments of an attention call as rows of one store, and the entries that live ---- */

struct door_view {
    gpu_values k, v;
    const int32_t *slots;      /* row of view entry i, with room for m more; NULL: i itself */
    std::vector<int32_t> live; /* the same, on the host */
    int64_t entries;           /* dead ones included */
    int64_t stored;            /* view entries that every token sees */
    bool own;                  /* the tokens themselves stand behind these */
};

/* with_v: the segments bring values. Refuses what attention of this side has no kernel for. */
kv_status door_view_open(door &d, const kvdk_segment *segments, int64_t n_segments, int64_t T, int64_t Hk, int64_t hd,
                         bool with_v, door_view *view);

/* Heads that attention of this side can do. */
kv_status door_heads(int64_t Hq, int64_t Hk, int64_t hd);

#endif
