#include "difftest/kernel_judge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static kv_status accuse(dt_kernel_judge *j, const dt_opcase *c, const dt_op_difference *d, dt_recall_fn *recall, void *ctx)
{
    dt_element_name where;
    dt_probe probe = {.kind = DT_PROBE_NOTHING};
    char at[24] = "the head";
    dt_op_impl_of(c->op)->name(c, d->bad_slot, d->bad_index, &where);
    /* Without it the message only says less. */
    if (dt_probe_applies(c->op)) (void)dt_probe_weights(c, &j->info->precision, j->token, recall, ctx, &probe);
    const char *const colon = probe.kind ? "; " : "";
    if (j->layer >= 0) snprintf(at, sizeof at, "layer %d", j->layer);
    j->bad_token = j->token + (where.token > 0 ? where.token : 0);
    const char *const tensor = dt_op_schemas[c->op].tensors[d->bad_slot].name;
    if (j->info->contract == KVDK_BITEXACT || d->bad_bound == 0)
        return kv_fail(KV_ERR_CONTRACT, "token %lld, %s, %s: %s, %s of the call: ref %.9g (0x%08x) got %.9g (0x%08x)%s%s",
                       (long long)j->bad_token, at, dt_op_schemas[c->op].name, tensor, where.text, d->ref_value, d->ref_bits,
                       d->got_value, d->got_bits, colon, probe.text);
    return kv_fail(KV_ERR_CONTRACT, "token %lld, %s, %s: %s, %s of the call: true %.9g got %.9g, %.3g times its bound%s%s",
                   (long long)j->bad_token, at, dt_op_schemas[c->op].name, tensor, where.text, d->ref_value, d->got_value,
                   d->bad_bound > 0 ? (d->got_value > d->ref_value ? d->got_value - d->ref_value : d->ref_value - d->got_value) / d->bad_bound
                                    : 0,
                   colon, probe.text);
}

kv_status dt_kernel_judge_call(dt_kernel_judge *j, dt_opcase *c, const dt_result *r, dt_recall_fn *recall, void *ctx)
{
    dt_answer right = {0};
    dt_op_difference d;
    double ratio;
    const dt_op_impl *impl = dt_op_impl_of(c->op);
    kv_status st = impl->answer(c, &j->info->precision, &right);
    if (st == KV_OK && !dt_op_trust(c, &right, &ratio))
        st = kv_fail(KV_ERR_INTERNAL, "%s at token %lld, layer %d: the reference leaves its own bound (%.3g times): a fault of the tester",
                     dt_op_schemas[c->op].name, (long long)j->token, j->layer, ratio);
    if (st == KV_OK) st = dt_op_compare(c, &right, r->out, j->info->contract, 0, &d);
    dt_answer_free(&right);
    KV_TRY(st);
    j->n_judged++;
    if (d.max_ratio > j->worst_ratio) j->worst_ratio = d.max_ratio;
    return d.n_bad ? accuse(j, c, &d, recall, ctx) : KV_OK;
}
