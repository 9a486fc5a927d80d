/* door_view.cu - the segments of an attention call become what attention reads: a store of K and one of V, and a table of
 * slots that leaves the dead entries out. */
#include "gpu/door/door.cuh"

#include <numeric>

static int32_t storage_of(int32_t dtype)
{
    return dtype == KVDK_F16 ? KV_STORE_F16 : dtype == KVDK_BF16 ? KV_STORE_BF16 : KV_STORE_F32;
}

static int64_t rows_of(const kvdk_segment &s) { return s.k.data ? s.k.dim[0] : 0; }

/* One store holds one type of numbers. */
static kv_status check_types(const kvdk_segment *segments, int64_t n_segments, bool with_v)
{
    const kvdk_segment *first = nullptr;
    for (int64_t i = 0; i < n_segments; i++) {
        const kvdk_segment &s = segments[i];
        if (rows_of(s) == 0) continue;
        if (s.k.dtype != KVDK_F32 && s.k.dtype != KVDK_F16 && s.k.dtype != KVDK_BF16)
            return door_refuse("keys and values are f32, f16 or bf16");
        if (!first) first = &s;
        if (s.k.dtype != first->k.dtype || (with_v && s.v.dtype != first->v.dtype))
            return door_refuse("the segments of a view are of one type");
    }
    return first ? KV_OK : door_refuse("a view has an entry: a step sees its own tokens");
}

/* Puts the rows of all segments behind each other. */
static kv_status gather(door &d, const kvdk_segment *segments, int64_t n_segments, bool values, int64_t entries, int64_t Hk,
                        int64_t hd, gpu_values *store)
{
    unsigned char *rows = nullptr;
    int64_t at = 0;
    for (int64_t i = 0; i < n_segments; i++) {
        const kvdk_tensor &t = values ? segments[i].v : segments[i].k;
        const int64_t n = rows_of(segments[i]);
        const size_t bytes = door_bytes(t.dtype), row = (size_t)(Hk * hd) * bytes;
        if (n == 0) continue;
        KV_TRY(door_expect(t, t.dtype, {n, Hk, hd}));
        if (!rows) KV_TRY(d.memory((size_t)entries * row, &rows));
        KV_TRY(d.copy(door_packed(rows + (size_t)at * row, t.dtype, {n, Hk, hd}), t));
        *store = {rows, storage_of(t.dtype)};
        at += n;
    }
    return KV_OK;
}

/* Appends the entries of a segment that live. */
static kv_status list_live(door &d, const kvdk_segment &s, int32_t first, std::vector<int32_t> *live)
{
    std::vector<uint8_t> valid((size_t)rows_of(s), 1);
    if (s.valid.data && !valid.empty()) KV_TRY(d.read(s.valid, {rows_of(s)}, &valid));
    for (size_t i = 0; i < valid.size(); i++)
        if (valid[i]) live->push_back(first + (int32_t)i);
    return KV_OK;
}

kv_status door_heads(int64_t Hq, int64_t Hk, int64_t hd)
{
    KV_TRY(door_extents({Hq, Hk, hd}));
    if (Hq % Hk) return door_refuse("KV heads serve equally many query heads");
    if (hd % 4 || hd > 256) return door_refuse("heads are a multiple of 4, up to 256");
    return KV_OK;
}

kv_status door_view_open(door &d, const kvdk_segment *segments, int64_t n_segments, int64_t T, int64_t Hk, int64_t hd,
                         bool with_v, door_view *view)
{
    *view = {};
    if (n_segments < 1 || n_segments > 3) return door_refuse("a view has one to three segments");
    KV_TRY(check_types(segments, n_segments, with_v));
    for (int64_t i = 0; i < n_segments; i++) {
        const kvdk_segment &s = segments[i];
        const size_t before = view->live.size();
        KV_TRY(list_live(d, s, (int32_t)view->entries, &view->live));
        view->entries += rows_of(s);
        view->own = s.kind == KVDK_SELF;
        if (!view->own) view->stored = (int64_t)view->live.size();
        if (view->own && (i + 1 < n_segments || (int64_t)(view->live.size() - before) != T))
            return door_refuse("the tokens of a step are all alive, and the last in the view");
    }
    if (view->live.empty()) return door_refuse("a view has an entry: a step sees its own tokens");
    KV_TRY(gather(d, segments, n_segments, false, view->entries, Hk, hd, &view->k));
    if (with_v) KV_TRY(gather(d, segments, n_segments, true, view->entries, Hk, hd, &view->v));
    if ((int64_t)view->live.size() == view->entries) return KV_OK; /* entry i is row i */
    int32_t *slots;
    KV_TRY(d.up(view->live, &slots));
    view->slots = slots;
    return KV_OK;
}
