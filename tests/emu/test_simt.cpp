/* The host SIMT layer itself: what it offers kernels, and that it reports what a device would not forgive. */
#include "tests/emu/emutest.h"

using namespace emutest;

namespace
{
/* The launch failed and its message contains each of the words. */
void assert_reported(kv_status st, std::initializer_list<const char *> words)
{
    if (st == KV_OK) fail_msg("the launch was not refused");
    for (const char *const w : words)
        if (!strstr(kv_message(), w)) fail_msg("\"%s\" lacks \"%s\"", kv_message(), w);
}

/* ---- what kernels can see and do ---- */

__global__ void k_indices(int32_t *out)
{
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
        (int32_t)(threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * blockIdx.x +
                  10000 * blockIdx.y + 100000 * blockIdx.z);
}

void test_indices_cover_grid_and_block(void **)
{
    const dim3 grid(2, 3, 2), block(3, 2, 4);
    std::vector<int32_t> wanted;
    for (int32_t b = 0; b < 12; b++)
        for (int32_t t = 0; t < 24; t++)
            wanted.push_back(t % 3 + 10 * (t / 3 % 2) + 100 * (t / 6) + 1000 * (b % 2) +
                             10000 * (b / 2 % 3) + 100000 * (b / 6));
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const ints a(wanted.size()), b(wanted.size());
        assert_ok(GPU_LAUNCH(k_indices, grid, block, 0, on.s, a.p()));
        assert_ok(GPU_LAUNCH_NOSYNC(k_indices, grid, block, on.s, b.p()));
        assert_true(a.get(on) == wanted);
        assert_true(b.get(on) == wanted);
    }
}

/* Every thread writes, all wait, every thread reads its neighbour's. */
__global__ void k_rotate(int32_t *data, int32_t rounds)
{
    GPU_SHARED(int32_t, s, 1024);
    GPU_SHARED_DYNAMIC(int32_t, t);
    const int32_t i = (int32_t)threadIdx.x, n = (int32_t)blockDim.x;
    int32_t v = data[i];
    for (int32_t r = 0; r < rounds; r++) {
        s[i] = v;
        __syncthreads(); /* all have written s */
        t[i] = s[(i + 1) % n];
        __syncthreads(); /* all have read s and written t */
        v = t[i];
    }
    data[i] = v;
}

void test_barriers_order_shared_memory(void **)
{
    for (const uint64_t seed : SEEDS)
        for (const int32_t n : {1, 31, 33, 256, 1024}) {
            const stream on(seed);
            std::vector<int32_t> v, wanted;
            for (int32_t i = 0; i < n; i++) v.push_back(i * i);
            for (int32_t i = 0; i < n; i++) wanted.push_back(v[(size_t)((i + 5) % n)]);
            const ints data(v, on);
            assert_ok(GPU_LAUNCH(k_rotate, dim3(1), dim3((unsigned)n), (size_t)n * 4, on.s, data.p(), 5));
            assert_true(data.get(on) == wanted);
        }
}

__global__ void k_votes(int32_t *out)
{
    const int32_t i = (int32_t)threadIdx.x, lane = i % 32;
    const unsigned all = 0xffffffffu;
    int32_t *const o = out + i * 9;
    o[0] = __shfl_sync(all, i, 3);
    o[1] = __shfl_xor_sync(all, i, 5);
    o[2] = __shfl_down_sync(all, i, 4);
    o[3] = __shfl_up_sync(all, i, 1, 8);
    o[4] = (int32_t)__ballot_sync(all, lane % 3 == 0);
    o[5] = __reduce_max_sync(all, (i * 37) % 101 - 50);
    o[6] = __any_sync(all, lane == 7) * 2 + __all_sync(all, lane < 31);
    o[7] = __syncthreads_count(i % 2);
    o[8] = __syncthreads_or(i == 40) * 2 + __syncthreads_and(i < 63);
}

void test_warp_operations_give_what_cuda_defines(void **)
{
    std::vector<int32_t> wanted;
    for (int32_t i = 0; i < 64; i++) {
        const int32_t lane = i % 32, base = i - lane;
        int32_t most = INT32_MIN;
        unsigned ballot = 0;
        for (int32_t j = base; j < base + 32; j++) {
            most = (j * 37) % 101 - 50 > most ? (j * 37) % 101 - 50 : most;
            ballot |= (unsigned)(j % 32 % 3 == 0) << (j % 32);
        }
        for (const int32_t w : {base + 3, base + (lane ^ 5), lane + 4 < 32 ? i + 4 : i,
                                lane % 8 >= 1 ? i - 1 : i, (int32_t)ballot, most, 2, 32, 2})
            wanted.push_back(w);
    }
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const ints out(wanted.size());
        assert_ok(GPU_LAUNCH(k_votes, dim3(1), dim3(64), 0, on.s, out.p()));
        assert_true(out.get(on) == wanted);
    }
}

__global__ void k_count(int32_t *n) { atomicAdd(n, 1); }

void test_blocks_of_two_workers_all_run_once(void **)
{
    for (const int32_t threads : {1, 2, 3}) {
        const stream on(0, threads);
        const ints n({0}, on);
        assert_ok(GPU_LAUNCH_NOSYNC(k_count, dim3(500), dim3(100), on.s, n.p()));
        assert_ok(GPU_LAUNCH(k_count, dim3(500), dim3(100), 0, on.s, n.p()));
        assert_int_equal(n.get(on)[0], 100000);
    }
}

/* ---- schedule ---- */

__global__ void k_arrival(int32_t *next, int32_t *order)
{
    order[atomicAdd(next, 1)] = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
}

std::vector<int32_t> arrival(uint64_t seed)
{
    const stream on(seed, 1);
    const ints next({0}, on), order(4 * 70);
    assert_ok(GPU_LAUNCH(k_arrival, dim3(4), dim3(70), 0, on.s, next.p(), order.p()));
    return order.get(on);
}

void test_a_seed_permutes_threads_and_blocks(void **)
{
    const std::vector<int32_t> ascending = arrival(0);
    for (int32_t i = 0; i < 280; i++) assert_int_equal(ascending[(size_t)i], i);
    int blocks_moved = 0, threads_moved = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        const std::vector<int32_t> order = arrival(seed);
        assert_true(order == arrival(seed));
        blocks_moved += order[0] / 70 != 0;
        for (size_t b = 0; b < 4; b++)
            for (size_t i = 1; i < 70; i++)
                if (order[b * 70 + i] < order[b * 70 + i - 1]) {
                    threads_moved++;
                    break;
                }
    }
    assert_true(blocks_moved >= 10 && threads_moved >= 40);
}

/* A missing barrier: every thread reads its neighbour's value at once. */
__global__ void k_race(int32_t *out)
{
    GPU_SHARED(int32_t, s, 64);
    s[threadIdx.x] = (int32_t)threadIdx.x;
    out[threadIdx.x] = s[threadIdx.x ^ 1];
}

void test_a_missing_barrier_shows(void **)
{
    std::vector<std::vector<int32_t>> results;
    for (const uint64_t seed : SEEDS) {
        const stream on(seed, 1);
        const ints out(64);
        assert_ok(GPU_LAUNCH(k_race, dim3(1), dim3(64), 0, on.s, out.p()));
        results.push_back(out.get(on));
    }
    int differing = 0, poisoned = 0;
    for (const std::vector<int32_t> &r : results) {
        differing += r != results[0];
        for (const int32_t v : r) poisoned += v == -1;
    }
    assert_true(differing >= 2);
    assert_true(poisoned >= 64);
}

/* ---- poison ---- */

__global__ void k_read_unwritten(float *out)
{
    GPU_SHARED(float, s, 32);
    GPU_SHARED_DYNAMIC(float, t);
    out[0] = s[7];
    out[1] = t[3];
    s[7] = t[3] = 1.0f; /* must not survive into the next block */
}

void test_shared_memory_starts_as_nan_in_every_block(void **)
{
    const stream on;
    for (int i = 0; i < 3; i++) {
        const floats out({0.0f, 0.0f}, on);
        assert_ok(GPU_LAUNCH(k_read_unwritten, dim3(2), dim3(1), 64, on.s, out.p()));
        for (const float v : out.get(on)) assert_true(v != v);
    }
}

void test_device_memory_starts_as_nan(void **)
{
    const stream on;
    const floats a(1000);
    for (const float v : a.get(on)) assert_true(v != v);
}

/* ---- what is reported ---- */

__global__ void k_one_thread_skips(int32_t skipper)
{
    if ((int32_t)threadIdx.x == skipper) return;
    __syncthreads();
}

void test_a_barrier_that_a_thread_never_reaches_is_reported(void **)
{
    for (const uint64_t seed : SEEDS)
        for (const int32_t skipper : {0, 17, 63}) {
            const stream on(seed);
            assert_reported(GPU_LAUNCH(k_one_thread_skips, dim3(3), dim3(64), 0, on.s, skipper),
                            {"k_one_thread_skips", "block (", "thread (", "divergence"});
        }
}

__global__ void k_two_barriers()
{
    if (threadIdx.x % 2)
        __syncthreads();
    else
        __syncthreads();
}

void test_barriers_at_different_places_are_reported(void **)
{
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        assert_reported(GPU_LAUNCH(k_two_barriers, dim3(1), dim3(64), 0, on.s),
                        {"k_two_barriers", "block (0,0,0)", "thread (", "test_simt.cpp"});
    }
}

__global__ void k_deadlock(int32_t *out)
{
    if (threadIdx.x < 32)
        out[threadIdx.x] = __shfl_sync(0xffffffffu, (int32_t)threadIdx.x, 0);
    else if (threadIdx.x < 60)
        out[threadIdx.x] = __shfl_sync(0xffffffffu, (int32_t)threadIdx.x, 0); /* four lanes never come */
}

void test_a_deadlock_is_reported(void **)
{
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const ints out(64);
        assert_reported(GPU_LAUNCH(k_deadlock, dim3(1), dim3(64), 0, on.s, out.p()),
                        {"k_deadlock", "block (0,0,0)", "thread (", "deadlock"});
    }
}

__global__ void k_wrong_mask(int32_t mode)
{
    const unsigned lane = threadIdx.x;
    if (mode == 0) (void)__shfl_sync(1u, 0, 0);                         /* lanes outside their own mask */
    if (mode == 1) (void)__ballot_sync(0xffffffffu, 1);                 /* lanes that do not exist */
    if (mode == 2 && lane < 8) (void)__shfl_sync(0xffu, 0, 9);          /* reads a lane that is not there */
    if (mode == 3) (void)__ballot_sync(lane < 8 ? 0xffffu : 0xfffffu, 1); /* masks that overlap */
}

void test_wrong_warp_masks_are_reported(void **)
{
    const char *const words[] = {"own mask", "do not exist", "does not take part", ""};
    for (int32_t mode = 0; mode < 4; mode++)
        for (const uint64_t seed : SEEDS) {
            const stream on(seed);
            assert_reported(GPU_LAUNCH(k_wrong_mask, dim3(1), dim3(20), 0, on.s, mode),
                            {"k_wrong_mask", "thread (", words[mode]});
        }
}

__global__ void k_barrier() { __syncthreads(); }
__global__ void k_shuffle(int32_t *out) { *out = __shfl_sync(0xffffffffu, 1, 0); }
__global__ void k_shared(int32_t *out)
{
    GPU_SHARED(int32_t, s, 4);
    s[0] = 1;
    *out = s[0];
}

void test_barrier_free_launches_refuse_what_needs_fibres(void **)
{
    const stream on;
    const ints out(1);
    assert_reported(GPU_LAUNCH_NOSYNC(k_barrier, dim3(1), dim3(32), on.s), {"k_barrier", "without"});
    assert_reported(GPU_LAUNCH_NOSYNC(k_shuffle, dim3(1), dim3(32), on.s, out.p()), {"k_shuffle", "without"});
    assert_reported(GPU_LAUNCH_NOSYNC(k_shared, dim3(1), dim3(32), on.s, out.p()), {"k_shared", "without"});
}

__global__ void k_nothing() {}
__global__ void k_nothing_dynamic() {}
__global__ void k_large_static(int32_t *out)
{
    GPU_SHARED(int32_t, s, 10000);
    s[0] = 1;
    *out = s[0];
}

void test_launches_beyond_the_device_are_refused(void **)
{
    const stream on;
    const ints out(1);
    assert_reported(GPU_LAUNCH(k_nothing, dim3(1), dim3(1025), 0, on.s), {"k_nothing", "1024 threads"});
    assert_reported(GPU_LAUNCH(k_nothing, dim3(1), dim3(33, 32), 0, on.s), {"1024 threads"});
    assert_reported(GPU_LAUNCH(k_nothing, dim3(1), dim3(1, 1, 65), 0, on.s), {"k_nothing"});
    assert_reported(GPU_LAUNCH(k_nothing, dim3(0), dim3(1), 0, on.s), {"may be 0"});
    assert_reported(GPU_LAUNCH(k_nothing, dim3(1, 65536), dim3(1), 0, on.s), {"65535"});
    assert_reported(GPU_LAUNCH(k_nothing, dim3(1, 1, 65536), dim3(1), 0, on.s), {"65535"});
    assert_reported(GPU_LAUNCH(k_nothing, dim3(1u << 31), dim3(1), 0, on.s), {"2^31"});
    assert_reported(GPU_LAUNCH(k_nothing, dim3(1), dim3(1), 49153, on.s), {"shared memory"});
    assert_reported(GPU_LAUNCH(k_large_static, dim3(1), dim3(1), 10000, on.s, out.p()), {"shared memory"});
    assert_ok(GPU_LAUNCH(k_large_static, dim3(1), dim3(1), 9000, on.s, out.p()));
}

void test_more_shared_memory_must_be_asked_for(void **)
{
    const stream on;
    assert_reported(GPU_LAUNCH(k_nothing_dynamic, dim3(1), dim3(1), 100000, on.s), {"cudaFuncSetAttribute"});
    assert_int_equal(cudaFuncSetAttribute(k_nothing_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 232448), 0);
    assert_ok(GPU_LAUNCH(k_nothing_dynamic, dim3(1), dim3(1), 232448, on.s));
    assert_int_not_equal(
        cudaFuncSetAttribute(k_nothing_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 232449), 0);
    (void)cudaGetLastError();
}

__global__ void k_past_shared(int32_t n)
{
    GPU_SHARED(unsigned char, s, 100);
    s[n] = 1;
}
__global__ void k_past_dynamic(int32_t n)
{
    GPU_SHARED_DYNAMIC(unsigned char, s);
    s[n] = 1;
}
__global__ void k_past_buffer(unsigned char *p, int64_t i) { p[i] = 1; }

void test_writes_beyond_shared_memory_are_reported(void **)
{
    const stream on;
    assert_ok(GPU_LAUNCH(k_past_shared, dim3(1), dim3(1), 0, on.s, 99));
    assert_reported(GPU_LAUNCH(k_past_shared, dim3(1), dim3(1), 0, on.s, 100), {"k_past_shared", "static"});
    assert_reported(GPU_LAUNCH(k_past_dynamic, dim3(1), dim3(1), 40, on.s, 40), {"k_past_dynamic", "dynamic"});
}

void test_writes_beyond_a_device_buffer_are_reported(void **)
{
    const stream on;
    const array<unsigned char> p(1001);
    assert_ok(GPU_LAUNCH_NOSYNC(k_past_buffer, dim3(1), dim3(1), on.s, p.p(), (int64_t)1000));
    assert_ok(gpu_stream_finish(on.s));
    assert_ok(GPU_LAUNCH_NOSYNC(k_past_buffer, dim3(1), dim3(1), on.s, p.p(), (int64_t)1001));
    assert_reported(gpu_stream_finish(on.s), {"behind", "1001"});
    assert_ok(gpu_stream_finish(on.s)); /* reported once */
    assert_ok(GPU_LAUNCH_NOSYNC(k_past_buffer, dim3(1), dim3(1), on.s, p.p(), (int64_t)-1));
    assert_reported(gpu_stream_finish(on.s), {"before", "1001"});
}

void test_copies_outside_device_buffers_are_refused(void **)
{
    const stream on;
    const floats a(10);
    float host[20] = {0};
    assert_reported(gpu_copy_up(a.p(), host, 44, on.s), {"destination"});
    assert_reported(gpu_copy_down(host, a.p() + 1, 40, on.s), {"source"});
    assert_reported(gpu_copy_up(host, host, 4, on.s), {"destination"});
    assert_reported(gpu_copy_across(a.p(), a.p() - 1, 4, on.s), {"source"});
    assert_ok(gpu_copy_up(a.p(), host, 40, on.s));
}

/* Copies up from page-locked memory come late: with the next work on their stream, when the host waits for it, or when
 * another stream waits for an event behind them; and what was issued behind the event is none of its business. */
void test_copies_from_page_locked_memory_wait(void **)
{
    const stream on, other;
    gpu_event event;
    gpu_pinned<int32_t> host;
    const ints a(2);
    const auto assert_there = [&](int32_t first, int32_t second) {
        assert_int_equal(a.p()[0], first);
        assert_int_equal(a.p()[1], second);
    };
    const auto copy = [&](int32_t i, int32_t value) {
        host.p[i] = value;
        assert_ok(gpu_copy_up(a.p() + i, host.p + i, 4, on.s));
    };
    assert_ok(event.open());
    assert_ok(host.open(2));
    assert_ok(event.hold(other.s)); /* never marked: nothing to wait for */
    copy(0, 1);
    assert_ok(event.mark(on.s));
    copy(1, 2);
    other.finish();
    assert_there(-1, -1); /* as allocated */
    assert_ok(event.hold(other.s));
    assert_there(1, -1);
    on.finish();
    assert_there(1, 2);
    copy(0, 3);
    assert_ok(GPU_LAUNCH(k_nothing, dim3(1), dim3(1), 0, other.s));
    assert_there(1, 2);
    assert_ok(GPU_LAUNCH(k_nothing, dim3(1), dim3(1), 0, on.s));
    assert_there(3, 2);
    copy(0, 4);
    host.p[0] = 5; /* too early */
    const int32_t ordinary = 6;
    assert_ok(gpu_copy_up(a.p() + 1, &ordinary, 4, on.s));
    assert_there(5, 6);
}

void test_a_late_copy_from_freed_memory_is_reported(void **)
{
    const stream on;
    const ints a(2);
    {
        gpu_pinned<int32_t> host;
        assert_ok(host.open(2));
        assert_reported(gpu_copy_up(a.p(), host.p, 12, on.s), {"destination"});
        assert_ok(gpu_copy_up(a.p(), host.p, 8, on.s));
    }
    assert_reported(gpu_stream_finish(on.s), {"8 bytes", "freed"});
    on.finish();
}

/* A failed launch leaves nothing behind: the next ones on the same stream are whole. */
void test_the_stream_is_usable_after_a_failure(void **)
{
    const stream on(5);
    for (int i = 0; i < 20; i++) {
        assert_true(GPU_LAUNCH(k_one_thread_skips, dim3(3), dim3(64), 0, on.s, 9) != KV_OK);
        std::vector<int32_t> v = {1, 2, 3};
        const ints data(v, on);
        assert_ok(GPU_LAUNCH(k_rotate, dim3(1), dim3(3), 12, on.s, data.p(), 1));
        assert_true(data.get(on) == (std::vector<int32_t>{2, 3, 1}));
    }
}

__global__ void k_launches(cudaStream_t s)
{
    (void)GPU_LAUNCH(k_nothing, dim3(1), dim3(1), 0, s);
}

void test_a_kernel_that_launches_a_kernel_is_reported(void **)
{
    const stream on;
    assert_reported(GPU_LAUNCH(k_launches, dim3(1), dim3(1), 0, on.s, on.s), {"k_launches", "k_nothing"});
    assert_reported(GPU_LAUNCH(k_nothing, dim3(1), dim3(1), 0, nullptr), {"default stream"});
}

void test_no_device_buffer_is_lost(void **)
{
    const size_t before = simt::device_buffers();
    {
        const floats a(10), b(0);
        assert_true(simt::device_buffers() > before);
    }
    assert_int_equal(simt::device_buffers(), before);
}

/* Errors name the file without its folders, the line and the call, and have a status of their own. */
void test_errors_of_the_runtime_are_told(void **)
{
    assert_ok(gpu_status(cudaSuccess, "call", "a/b.cu", 3));
    assert_int_equal(gpu_status(cudaErrorMemoryAllocation, "call", "/far/away/b.cu", 3), KV_ERR_NOMEM);
    assert_memory_equal(kv_message(), "b.cu:3: call: ", 14);
    assert_int_equal(gpu_status(cudaErrorInvalidValue, "call", "b.cu", 4), KV_ERR_INTERNAL);
    assert_memory_equal(kv_message(), "b.cu:4: call: ", 14);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors_of_the_runtime_are_told),
        cmocka_unit_test(test_indices_cover_grid_and_block),
        cmocka_unit_test(test_barriers_order_shared_memory),
        cmocka_unit_test(test_warp_operations_give_what_cuda_defines),
        cmocka_unit_test(test_blocks_of_two_workers_all_run_once),
        cmocka_unit_test(test_a_seed_permutes_threads_and_blocks),
        cmocka_unit_test(test_a_missing_barrier_shows),
        cmocka_unit_test(test_shared_memory_starts_as_nan_in_every_block),
        cmocka_unit_test(test_device_memory_starts_as_nan),
        cmocka_unit_test(test_a_barrier_that_a_thread_never_reaches_is_reported),
        cmocka_unit_test(test_barriers_at_different_places_are_reported),
        cmocka_unit_test(test_a_deadlock_is_reported),
        cmocka_unit_test(test_wrong_warp_masks_are_reported),
        cmocka_unit_test(test_barrier_free_launches_refuse_what_needs_fibres),
        cmocka_unit_test(test_launches_beyond_the_device_are_refused),
        cmocka_unit_test(test_more_shared_memory_must_be_asked_for),
        cmocka_unit_test(test_writes_beyond_shared_memory_are_reported),
        cmocka_unit_test(test_writes_beyond_a_device_buffer_are_reported),
        cmocka_unit_test(test_copies_outside_device_buffers_are_refused),
        cmocka_unit_test(test_copies_from_page_locked_memory_wait),
        cmocka_unit_test(test_a_late_copy_from_freed_memory_is_reported),
        cmocka_unit_test(test_the_stream_is_usable_after_a_failure),
        cmocka_unit_test(test_a_kernel_that_launches_a_kernel_is_reported),
        cmocka_unit_test(test_no_device_buffer_is_lost),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
