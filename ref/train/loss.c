/* loss.c - the head: logits, losses, and their gradients in place. */
#include "ref/train/graph.h"

typedef struct loss_job {
    const ref_graph *gr;
    int gradients;
    real share;
} loss_job;

static void loss_task(void *arg, int64_t t, int worker)
{
    const loss_job *j = arg;
    const ref_graph *gr = j->gr;
    const int64_t V = gr->cfg->vocab_size;
    real *scratch = gr->scratch[worker].p;
    ref_loss_job job = {.z = gr->dz + t * V, .n = V, .target = gr->targets[t], .cap = (real)gr->cfg->logit_softcap,
                        .share = j->share, .gradients = j->gradients, .bent = scratch, .logits = scratch + ref_round_up(V, 16)};
    gr->nll[t] = gr->kernels->train->loss_row(&job);
}

static kv_status mean(const ref_graph *gr, double *loss)
{
    double sum = 0;
    for (int64_t t = 0; t < gr->T; t++) {
        const double x = (double)gr->nll[t];
        if (!(x - x == 0))
            return kv_fail(KV_ERR_NONFINITE, "the loss of token %lld of sequence %lld is not finite", (long long)(t % gr->S),
                           (long long)(t / gr->S));
        sum = sum + x;
    }
    *loss = sum / (double)gr->T;
    return KV_OK;
}

kv_status REF(graph_head)(ref_graph *gr, int gradients, double *loss)
{
    loss_job j = {gr, gradients, (real)(1.0 / (double)gr->T)};
    REF(product)(gr, gr->fx, ref_head_role(gr->cfg), 0, gr->dz);
    kv_pool_run(gr->pool, gr->T, loss_task, &j);
    return mean(gr, loss);
}
