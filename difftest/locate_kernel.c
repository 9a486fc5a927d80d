#include "difftest/locate_kernel.h"

#include "difftest/kernel_side.h"

#include <stdio.h>

/* As op_names.def calls them. */
static const char *name_of(int op)
{
    switch (op) {
    case KVDK_OP_rmsnorm:
        return "rmsnorm";
    case KVDK_OP_gemm:
        return "gemm";
    default:
        return "attn";
    }
}

static const char *class_of(const dt_violation *v)
{
    if (v->is_nonfinite) return "nonfinite";
    return v->probe.kind == DT_PROBE_NOT_READ || v->probe.kind == DT_PROBE_READ ? "bug-index" : "bug-numeric";
}

static int64_t ulps(uint32_t a, uint32_t b)
{
    const int64_t x = (int32_t)a < 0 ? -(int64_t)(a & 0x7fffffff) : (int64_t)a;
    const int64_t y = (int32_t)b < 0 ? -(int64_t)(b & 0x7fffffff) : (int64_t)b;
    return x > y ? x - y : y - x;
}

int dt_locate_kernel(const dt_flow *f, dt_finding *out)
{
    if (!dt_is_kernel_side(f->s->device) || !f->session[DT_GOT]) return 0;
    const dt_violation *v = &dt_kernel_session_judge(f->session[DT_GOT])->first;
    if (v->token < 0) return 0;
    const int is_probed = v->probe.kind != DT_PROBE_NOTHING;
    out->found = DT_FOUND_VALUE;
    out->step_at = f->turn.at;
    out->step_n = f->turn.n;
    out->pos = dt_flow_pos(f, v->token);
    out->layer = v->layer;
    out->head = (int32_t)(is_probed ? v->probe.head : v->head);
    out->slot = is_probed ? v->probe.entry : -1;
    out->slot_token = -1;
    out->elem = v->elem;
    out->op = name_of(v->op);
    out->klass = class_of(v);
    out->has_values = 1;
    out->ref_bits = v->ref_bits;
    out->got_bits = v->got_bits;
    out->ref_value = v->right;
    out->got_value = v->got;
    out->ulp = ulps(v->ref_bits, v->got_bits);
    out->bound = v->bound;
    snprintf(out->where, sizeof out->where, "%s of %s", v->tensor, dt_op_schemas[v->op].name);
    snprintf(out->hypothesis, sizeof out->hypothesis, "%s", is_probed ? v->probe.text : "");
    return 1;
}
