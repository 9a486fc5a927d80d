#include "difftest/kernel_judge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int is_finite(uint32_t bits)
{
    return (bits & 0x7f800000) != 0x7f800000;
}

static void note(dt_kernel_judge *j, const dt_opcase *c, const dt_op_difference *d, const dt_element_name *where,
                 const dt_probe *probe)
{
    j->first = (dt_violation){.op = c->op,
                              .token = j->token + (where->token > 0 ? where->token : 0),
                              .layer = j->layer,
                              .head = where->head,
                              .elem = where->dim,
                              .tensor = dt_op_schemas[c->op].tensors[d->bad_slot].name,
                              .ref_bits = d->ref_bits,
                              .got_bits = d->got_bits,
                              .right = d->ref_value,
                              .got = d->got_value,
                              .bound = j->info->contract == KVDK_BITEXACT ? 0 : d->bad_bound,
                              .is_nonfinite = !is_finite(d->got_bits),
                              .probe = *probe};
}

static kv_status accuse(dt_kernel_judge *j, const dt_opcase *c, const dt_op_difference *d, dt_recall_fn *recall,
                        void *ctx)
{
    dt_element_name where;
    dt_probe probe = {.kind = DT_PROBE_NOTHING};
    char at[24] = "the head", far[80];
    dt_op_impl_of(c->op)->name(c, d->bad_slot, d->bad_index, &where);
    /* Without it the message only says less. */
    if (dt_probe_applies(c->op)) (void)dt_probe_weights(c, &j->info->precision, j->token, recall, ctx, &probe);
    note(j, c, d, &where, &probe);
    const dt_violation *v = &j->first;
    const double err = v->got > v->right ? v->got - v->right : v->right - v->got;
    if (j->layer >= 0) snprintf(at, sizeof at, "layer %d", j->layer);
    if (v->bound > 0)
        snprintf(far, sizeof far, "%.3g times its bound", err / v->bound);
    else
        snprintf(far, sizeof far, "bits 0x%08x instead of 0x%08x", v->got_bits, v->ref_bits);
    return kv_fail(KV_ERR_CONTRACT, "token %lld, %s, %s: %s, %s of the call: right %.9g got %.9g, %s%s%s",
                   (long long)v->token, at, dt_op_schemas[c->op].name, v->tensor, where.text, v->right, v->got, far,
                   probe.kind ? "; " : "", probe.text);
}

kv_status dt_kernel_judge_call(dt_kernel_judge *j, dt_opcase *c, const dt_result *r, dt_recall_fn *recall, void *ctx)
{
    dt_answer right = {0};
    dt_op_difference d;
    double ratio;
    const dt_op_impl *impl = dt_op_impl_of(c->op);
    kv_status st = impl->answer(c, &j->info->precision, &right);
    if (st == KV_OK && !dt_op_trust(c, &right, &ratio))
        st = kv_fail(
            KV_ERR_INTERNAL,
            "%s at token %lld, layer %d: the reference leaves its own bound (%.3g times): a fault of the tester",
            dt_op_schemas[c->op].name, (long long)j->token, j->layer, ratio);
    if (st == KV_OK) st = dt_op_compare(c, &right, r->out, j->info->contract, 0, &d);
    dt_answer_free(&right);
    KV_TRY(st);
    j->n_judged++;
    if (d.max_ratio > j->worst_ratio) j->worst_ratio = d.max_ratio;
    return d.n_bad ? accuse(j, c, &d, recall, ctx) : KV_OK;
}
