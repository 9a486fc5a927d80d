#include "common/state.h"

#include "common/config.h"

#include <string.h>

static size_t pad8(size_t n) { return (n + 7) & ~(size_t)7; }

static size_t part(size_t *end, int64_t floats)
{
    const size_t at = *end;
    *end = pad8(at + (size_t)floats * sizeof(float));
    return floats ? at : 0;
}

kv_carry_layout kv_carry_layout_of(const kv_config *cfg)
{
    const int64_t rows = (int64_t)cfg->n_layers * cfg->n_kv_heads * cfg->head_dim, sites = kv_config_sites(cfg);
    const size_t ids = 2 * sizeof(int32_t);
    size_t end = ids;
    kv_carry_layout l = {0};
    l.norm = part(&end, cfg->smear ? cfg->d_model : 0);
    l.k = part(&end, cfg->k_shift ? rows : 0);
    l.v = part(&end, cfg->v_shift ? rows : 0);
    l.conv = part(&end, sites * (cfg->sidecar_taps - 1) * cfg->sidecar_hidden);
    l.bytes = end > ids || cfg->bigram_rows ? end : 0;
    return l;
}

size_t kv_state_run_bytes(const kv_state_head *h, int64_t n, int64_t record_total)
{
    const size_t k = (size_t)n;
    size_t bytes = sizeof(kv_state_run) + k * sizeof(int64_t) + pad8(k * sizeof(int32_t));
    if (h->what & KV_STATE_SCORE) bytes += pad8(k * sizeof(float));
    if (!(h->what & KV_STATE_KV)) return bytes;
    return bytes + (h->record_bytes ? pad8(k * (size_t)h->record_bytes)
                                    : pad8(k * sizeof(int32_t)) + (size_t)record_total);
}

kv_state_view kv_state_place(const kv_state_head *h, void *blob, size_t *offset, int64_t n,
                             int64_t record_total)
{
    uint8_t *p = (uint8_t *)blob + *offset;
    kv_state_view v = {.run = (kv_state_run *)(void *)p};
    if (n < 0) {
        n = v.run->n;
        record_total = v.run->record_total;
    } else {
        v.run->n = (int32_t)n;
        v.run->record_total = (int32_t)record_total;
    }
    *offset += kv_state_run_bytes(h, n, record_total);
    p += sizeof(kv_state_run);
    v.og = (int64_t *)(void *)p;
    p += (size_t)n * sizeof(int64_t);
    v.pos = (int32_t *)(void *)p;
    p += pad8((size_t)n * sizeof(int32_t));
    if (h->what & KV_STATE_SCORE) {
        v.score = (float *)(void *)p;
        p += pad8((size_t)n * sizeof(float));
    }
    if (!(h->what & KV_STATE_KV)) return v;
    if (h->record_bytes == 0) {
        v.bytes = (int32_t *)(void *)p;
        p += pad8((size_t)n * sizeof(int32_t));
    }
    v.records = p;
    return v;
}

static kv_status bad(const char *what)
{
    return kv_fail(KV_ERR_FORMAT, "cache state: %s; it was not written by an export_state of this "
                                  "version", what);
}

/* Records of different sizes fill exactly the bytes that their run has for them. */
static int records_fit(const kv_state_head *h, const uint8_t *run_bytes, const kv_state_run *run)
{
    if (h->record_bytes != 0 || !(h->what & KV_STATE_KV)) return run->record_total == 0;
    kv_state_head sizes = *h;
    sizes.what &= ~(uint32_t)KV_STATE_KV;
    const uint8_t *bytes = run_bytes + kv_state_run_bytes(&sizes, run->n, 0);
    int64_t total = 0;
    for (int64_t i = 0; i < run->n; i++) {
        int32_t b;
        memcpy(&b, bytes + i * (int64_t)sizeof b, sizeof b);
        if (b < 1 || b > 1 << 24) return 0;
        total += ((int64_t)b + 7) / 8 * 8;
    }
    return total == run->record_total;
}

kv_status kv_state_check(const void *blob, size_t size)
{
    kv_state_head h;
    if (size < sizeof h) return bad("shorter than its header");
    memcpy(&h, blob, sizeof h);
    if (h.magic != KV_STATE_MAGIC || h.version != KV_STATE_VERSION)
        return bad("wrong magic or version");
    if (h.total_bytes != size) return bad("size differs from the header's");
    if (h.layer0 < 0 || h.n_layers < 1 || h.n_layers > 1 << 16 || h.n_kv_heads < 1 ||
        h.n_kv_heads > 1 << 16 || h.head_dim < 1 || h.record_bytes < 0 ||
        h.record_bytes > 1 << 20 || h.seen < 0 || h.carry_bytes % 8 != 0 || h.carry_bytes > size)
        return bad("impossible dimensions");
    size_t offset = sizeof h;
    for (int64_t i = 0; i < (int64_t)h.n_layers * h.n_kv_heads; i++) {
        kv_state_run run;
        if (size - offset < sizeof run) return bad("cut off inside a run");
        memcpy(&run, (const uint8_t *)blob + offset, sizeof run);
        if (run.layer != h.layer0 + i / h.n_kv_heads || run.head != i % h.n_kv_heads)
            return bad("runs out of order");
        if (run.n < 0 || run.record_total < 0 ||
            kv_state_run_bytes(&h, run.n, run.record_total) > size - offset)
            return bad("cut off inside a run");
        if (!records_fit(&h, (const uint8_t *)blob + offset, &run))
            return bad("records of a run that do not add up");
        offset += kv_state_run_bytes(&h, run.n, run.record_total);
    }
    if (h.carry_bytes > size - offset) return bad("cut off inside the carry");
    return offset + h.carry_bytes == size ? KV_OK : bad("bytes left over behind the last run");
}
