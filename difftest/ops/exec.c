#include "difftest/ops/exec.h"

#include "common/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ZONE = 4096, ALIGN = 256, MOST_WORKSPACE = 64 << 20 };

/* Where a tensor lies, in bytes from the beginning of the region. */
typedef struct place {
    const dt_op_slot *slot;
    const kvdk_tensor *from; /* of the case */
    kvdk_tensor to;          /* with strides; data is set when the region is known */
    int64_t at, bytes;
} place;

typedef struct layout {
    place tensors[DT_OP_TENSORS];
    int n;
    int64_t workspace, workspace_bytes, bytes;
} layout;

void dt_exec_begin(dt_exec *e, dt_candidate *c)
{
    *e = (dt_exec){.candidate = c, .last_base = -1};
}

void dt_exec_end(dt_exec *e)
{
    free(e->sealed);
    memset(e, 0, sizeof *e);
}

/* Random NaNs, in fp32 as in 16-bit formats; word i of the region. */
static uint32_t noise(uint64_t salt, int64_t word)
{
    const uint64_t r = kv_splitmix64(salt + (uint64_t)word);
    return 0x7fa07fa0u | (uint32_t)(r & 0x1f) | (uint32_t)(r >> 8 & 0x1f) << 16 | (uint32_t)(r >> 32 & 0x80008000u);
}

static uint8_t noise_byte(uint64_t salt, int64_t at)
{
    return (uint8_t)(noise(salt, at / 4) >> (8 * (at % 4)));
}

/* ---- the layout
 * ------------------------------------------------------------------------------------------------------ */

static int64_t round_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

/* Rows are the last dimension that is not 1; they and everything outside move apart. */
static void spread(kvdk_tensor *t, int64_t gap)
{
    int last = 3;
    while (last > 0 && t->dim[last] == 1)
        last--;
    int64_t stride = t->dim[last] + (last > 0 ? gap : 0);
    for (int i = last - 1; i >= 0; i--) {
        t->stride[i] = stride;
        stride *= t->dim[i];
    }
}

static void lay_out(const dt_opcase *c, const dt_placement *p, uint64_t workspace, layout *l)
{
    const dt_op_schema *s = &dt_op_schemas[c->op];
    int64_t at = ZONE;
    l->n = 0;
    for (int i = 0; i < s->n_tensors; i++) {
        const kvdk_tensor *t = dt_op_tensor_of(&c->args, &s->tensors[i]);
        if (!t->data) continue;
        place *to = &l->tensors[l->n++];
        *to = (place){.slot = &s->tensors[i], .from = t, .to = *t};
        spread(&to->to, p->gap);
        to->bytes = dt_tensor_extent(&to->to) * (int64_t)dt_dtype_bytes(t->dtype);
        const int64_t room = round_up(to->bytes, ALIGN);
        to->at = p->at_end ? at + room - round_up(to->bytes, 16) : at;
        at += room + ZONE;
    }
    l->workspace = round_up(at, ALIGN);
    l->workspace_bytes = (int64_t)workspace;
    l->bytes = round_up(l->workspace + l->workspace_bytes + ZONE, ZONE);
}

/* Calls fn with the bytes of each element and its index in a contiguous array. */
typedef void element_fn(void *ctx, const place *p, int64_t at, int64_t index, size_t bytes);

static void each_element(const place *p, element_fn *fn, void *ctx)
{
    const kvdk_tensor *t = &p->to;
    const size_t bytes = dt_dtype_bytes(t->dtype);
    int64_t index = 0;
    for (int64_t i = 0; i < t->dim[0]; i++)
        for (int64_t j = 0; j < t->dim[1]; j++)
            for (int64_t k = 0; k < t->dim[2]; k++)
                for (int64_t m = 0; m < t->dim[3]; m++, index++)
                    fn(ctx, p,
                       p->at +
                           (i * t->stride[0] + j * t->stride[1] + k * t->stride[2] + m * t->stride[3]) * (int64_t)bytes,
                       index, bytes);
}

static void put_element(void *ctx, const place *p, int64_t at, int64_t index, size_t bytes)
{
    memcpy((uint8_t *)ctx + at, (const uint8_t *)p->from->data + (size_t)index * bytes, bytes);
}

static void write_region(uint8_t *region, const layout *l, uint64_t salt)
{
    for (int64_t i = 0; i < l->bytes / 4; i++)
        ((uint32_t *)(void *)region)[i] = noise(salt, i);
    for (int i = 0; i < l->n; i++)
        if (l->tensors[i].slot->role != DT_OUT) each_element(&l->tensors[i], put_element, region);
}

/* ---- what happened -------------------------------------------------------------------------------------------------
 */

typedef struct look {
    const uint8_t *sealed;
    uint8_t *owned; /* 1: the byte belongs to a tensor that may be written, or was looked at already */
    void *copy;     /* of an output */
    uint64_t salt;
    int64_t unwritten, changed, first;
} look;

static void own_element(void *ctx, const place *p, int64_t at, int64_t index, size_t bytes)
{
    (void)p;
    (void)index;
    memset(((look *)ctx)->owned + at, 1, bytes);
}

static void take_element(void *ctx, const place *p, int64_t at, int64_t index, size_t bytes)
{
    look *k = ctx;
    size_t same = 0;
    memcpy((uint8_t *)k->copy + (size_t)index * bytes, k->sealed + at, bytes);
    for (size_t i = 0; i < bytes; i++)
        same += k->sealed[at + (int64_t)i] == noise_byte(k->salt, at + (int64_t)i);
    /* A byte may well be what it was by chance. */
    if (p->slot->role != DT_OUT || bytes == 1 || same != bytes) return;
    if (k->unwritten++ == 0) k->first = index;
}

static void check_element(void *ctx, const place *p, int64_t at, int64_t index, size_t bytes)
{
    look *k = ctx;
    if (memcmp(k->sealed + at, (const uint8_t *)p->from->data + (size_t)index * bytes, bytes) == 0) return;
    if (k->changed++ == 0) k->first = index;
}

static void note(dt_result *r, const char *fmt, ...) KV_PRINTF(2, 3);
static void note(dt_result *r, const char *fmt, ...)
{
    va_list list;
    va_start(list, fmt);
    if (!r->where[0]) vsnprintf(r->where, sizeof r->where, fmt, list);
    va_end(list);
}

/* Outside of the tensors nothing may have changed. */
static void check_zones(const layout *l, const look *k, dt_result *r)
{
    for (int64_t at = 0; at < l->bytes; at++) {
        const int inside = at >= l->workspace && at < l->workspace + l->workspace_bytes;
        if (k->owned[at] || inside || k->sealed[at] == noise_byte(k->salt, at)) continue;
        const place *near = NULL;
        int64_t best = INT64_MAX;
        for (int i = 0; i < l->n; i++) {
            const place *p = &l->tensors[i];
            const int64_t d = at < p->at ? p->at - at : at >= p->at + p->bytes ? at - (p->at + p->bytes) + 1 : 0;
            if (d < best) best = d, near = p;
        }
        r->guard_ok = 0;
        if (near && best == 0)
            note(r, "wrote between the rows of %s, byte %lld of it", near->slot->name, (long long)(at - near->at));
        else if (near)
            note(r, "wrote %lld bytes %s %s", (long long)best, at < near->at ? "before" : "behind", near->slot->name);
        else
            note(r, "wrote outside of all tensors");
        return;
    }
}

static kv_status inspect(const layout *l, const dt_opcase *c, uint64_t salt, dt_exec *e, dt_result *r)
{
    const dt_op_schema *s = &dt_op_schemas[c->op];
    look k = {.sealed = e->sealed, .salt = salt};
    k.owned = calloc((size_t)l->bytes, 1);
    if (!k.owned) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int i = 0; i < l->n; i++) {
        const place *p = &l->tensors[i];
        each_element(p, own_element, &k);
        if (p->slot->role == DT_IN) {
            k.changed = 0;
            each_element(p, check_element, &k);
            if (k.changed) {
                r->inputs_ok = 0;
                note(r, "changed input %s, element %lld", p->slot->name, (long long)k.first);
            }
            continue;
        }
        k.copy = r->out[p->slot - s->tensors] =
            malloc((size_t)dt_tensor_count(p->from) * dt_dtype_bytes(p->from->dtype) + 1);
        if (!k.copy) {
            free(k.owned);
            return kv_fail(KV_ERR_NOMEM, "out of memory");
        }
        k.unwritten = 0;
        each_element(p, take_element, &k);
        if (k.unwritten)
            note(r, "left %lld of %lld elements of %s unwritten, the first is %lld", (long long)k.unwritten,
                 (long long)dt_tensor_count(p->from), p->slot->name, (long long)k.first);
        r->n_unwritten += k.unwritten;
    }
    check_zones(l, &k, r);
    free(k.owned);
    return KV_OK;
}

/* Is somebody still writing? Threads that outlive the call get a moment to show themselves. */
static void check_late(const uint8_t *region, const layout *l, dt_exec *e, dt_result *r)
{
    nanosleep(&(struct timespec){0, 30000000}, NULL);
    if (memcmp(region, e->sealed, (size_t)l->bytes) == 0) return;
    r->late_ok = 0;
    note(r, "memory changed after the call had returned");
}

/* ---- the call -------------------------------------------------------------------------------------------------------
 */

static kv_status seal(dt_exec *e, const uint8_t *region, int64_t bytes)
{
    if ((size_t)bytes > e->sealed_bytes) {
        uint8_t *p = realloc(e->sealed, (size_t)bytes);
        if (!p) return kv_fail(KV_ERR_NOMEM, "out of memory");
        e->sealed = p;
        e->sealed_bytes = (size_t)bytes;
    }
    memcpy(e->sealed, region, (size_t)bytes);
    return KV_OK;
}

static int64_t choose_base(dt_exec *e, const dt_placement *p, int64_t bytes, size_t block)
{
    int64_t base = p->base >= 0 ? p->base : e->next_base;
    if (base + bytes > (int64_t)block) base = 0;
    if (p->base < 0) e->next_base = base + bytes + ZONE;
    e->last_base = base;
    return base;
}

static kv_status ask_workspace(dt_exec *e, const dt_opcase *c, uint8_t *memory, uint64_t *bytes, dt_result *out)
{
    dt_args probe = c->args;
    const dt_op_schema *s = &dt_op_schemas[c->op];
    for (int i = 0; i < s->n_tensors; i++) { /* shapes only */
        kvdk_tensor *t = dt_op_tensor(&probe, &s->tensors[i]);
        if (t->data) t->data = memory;
    }
    dt_candidate_workspace(e->candidate, c->op, &probe, bytes, &out->reply);
    if (out->reply.outcome == DT_DONE && *bytes > MOST_WORKSPACE) {
        out->reply.outcome = DT_REFUSED;
        snprintf(out->reply.why, sizeof out->reply.why,
                 "it wants %llu bytes of workspace, more than the %d of the tester", (unsigned long long)*bytes,
                 MOST_WORKSPACE);
    }
    return KV_OK;
}

kv_status dt_exec_call(dt_exec *e, const dt_opcase *c, const dt_placement *p, dt_result *out)
{
    layout l;
    size_t block;
    uint64_t workspace;
    uint8_t *memory = dt_candidate_memory(e->candidate, &block);
    *out = (dt_result){.guard_ok = 1, .inputs_ok = 1, .workspace_ok = 1, .late_ok = 1};
    e->n_calls++;
    KV_TRY(ask_workspace(e, c, memory, &workspace, out));
    if (out->reply.outcome != DT_DONE) return KV_OK;
    lay_out(c, p, workspace, &l);
    if (l.bytes > (int64_t)block)
        return kv_fail(KV_ERR_USAGE, "%s %s needs %lld bytes, more than the block shared with a candidate",
                       dt_op_schemas[c->op].name, c->title, (long long)l.bytes);
    uint8_t *region = memory + choose_base(e, p, l.bytes, block);
    write_region(region, &l, p->salt);
    dt_args args = c->args;
    for (int i = 0; i < l.n; i++) {
        kvdk_tensor *t = dt_op_tensor(&args, l.tensors[i].slot);
        *t = l.tensors[i].to;
        t->data = region + l.tensors[i].at;
        t->read_only = l.tensors[i].slot->role == DT_IN;
    }
    args.call.workspace = l.workspace_bytes ? region + l.workspace : NULL;
    args.call.workspace_bytes = (uint64_t)l.workspace_bytes;
    dt_candidate_call(e->candidate, c->op, &args, &out->reply);
    KV_TRY(seal(e, region, l.bytes));
    if (out->reply.outcome != DT_DONE) return KV_OK;
    if (p->watch_late) check_late(region, &l, e, out);
    return inspect(&l, c, p->salt, e, out);
}

void dt_result_free(dt_result *r)
{
    for (int i = 0; i < DT_OP_TENSORS; i++)
        free(r->out[i]);
    memset(r->out, 0, sizeof r->out);
}
