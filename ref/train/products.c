/* products.c - matrix products of training: forward, for gradients of inputs and of weights. Work is split by blocks of
 * the result, so that no sum depends on the number of threads. */
#include "ref/train/graph.h"

enum {
    ROWS = 96,         /* rows of a task */
    PANELS = 16,       /* panels of a task */
    GRADIENT_ROWS = 48,
    GRADIENT_PANELS = 4,
    STRIP = 32 /* columns of a task that sums over tokens */
};

typedef struct product_job {
    const ref_graph *gr;
    const real *a;
    int64_t lda, m, k, n, rows, panels, strips;
    const real *b; /* panels */
    real *c;
} product_job;

static void product_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const product_job *j = arg;
    const int64_t row = task / j->strips * j->rows, col = task % j->strips * j->panels * REF_PANEL;
    const ref_gemm_job job = {.a = j->a + row * j->lda, .lda = j->lda, .m = ref_min(j->rows, j->m - row), .k = j->k,
                              .reals = j->b + col * j->k, .n = ref_min(j->panels * REF_PANEL, j->n - col),
                              .c = j->c + row * j->n + col, .ldc = j->n};
    j->gr->kernels->gemm(&job);
}

static void run_product(product_job *j)
{
    const int64_t width = j->panels * REF_PANEL;
    j->strips = (j->n + width - 1) / width;
    kv_pool_run(j->gr->pool, (j->m + j->rows - 1) / j->rows * j->strips, product_task, j);
}

void REF(product)(const ref_graph *gr, const real *x, kv_role role, int32_t layer, real *c)
{
    const ref_param *p = ref_param_of(gr->params, role, layer);
    product_job j = {.gr = gr, .a = x, .lda = p->cols, .m = gr->T, .k = p->cols, .n = p->rows, .rows = ROWS, .panels = PANELS,
                     .b = gr->forward[p - gr->params->p], .c = c};
    run_product(&j);
}

void REF(product_back)(const ref_graph *gr, const real *dy, kv_role role, int32_t layer, real *dx)
{
    const ref_param *p = ref_param_of(gr->params, role, layer);
    product_job j = {.gr = gr, .a = dy, .lda = p->rows, .m = gr->T, .k = p->rows, .n = p->cols, .rows = ROWS, .panels = PANELS,
                     .b = gr->back[p - gr->params->p], .c = dx};
    run_product(&j);
}

/* ---- gradients of weights -------------------------------------------------------------------------------------- */

typedef struct turn_job {
    const ref_graph *gr;
    const real *x;
    int64_t width;
} turn_job;

/* Rows a multiple of 256 apart would compete for the same lines of the cache. */
static int64_t turned_stride(const ref_graph *gr) { return gr->T % REF_TB ? gr->T : gr->T + REF_PANEL; }

static void panel_task(void *arg, int64_t panel, int worker)
{
    (void)worker;
    const turn_job *j = arg;
    REF(pack_cols)(j->x, j->width, j->width, j->gr->T, panel, panel + 1, j->gr->work.panels);
}

static void turn_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const turn_job *j = arg;
    const int64_t first = task * REF_PANEL;
    REF(transpose)(j->x, j->width, j->gr->T, first, ref_min(first + REF_PANEL, j->width), turned_stride(j->gr), j->gr->work.transposed);
}

void REF(take_inputs)(const ref_graph *gr, const real *x, int64_t k)
{
    turn_job j = {gr, x, k};
    kv_pool_run(gr->pool, (k + REF_PANEL - 1) / REF_PANEL, panel_task, &j);
}

void REF(weight_gradient)(const ref_graph *gr, const real *dy, int64_t n, int64_t k, real *out)
{
    turn_job t = {gr, dy, n};
    kv_pool_run(gr->pool, (n + REF_PANEL - 1) / REF_PANEL, turn_task, &t);
    product_job j = {.gr = gr, .a = gr->work.transposed, .lda = turned_stride(gr), .m = n, .k = gr->T, .n = k,
                     .rows = GRADIENT_ROWS, .panels = GRADIENT_PANELS, .b = gr->work.panels, .c = out};
    run_product(&j);
}

/* ---- sums over tokens --------------------------------------------------------------------------------------------- */

typedef struct channel_job {
    const ref_graph *gr;
    const real *a, *b;
    int64_t width;
    real *out;
} channel_job;

static void channel_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const channel_job *j = arg;
    const int64_t c = task * STRIP;
    j->gr->kernels->train->channel_sums(j->a + c, j->width, j->b ? j->b + c : NULL, j->width, j->gr->T,
                                        ref_min(STRIP, j->width - c), j->out + c);
}

void REF(channel_gradient)(const ref_graph *gr, const real *a, const real *b, int64_t width, real *out)
{
    channel_job j = {gr, a, b, width, out};
    kv_pool_run(gr->pool, (width + STRIP - 1) / STRIP, channel_task, &j);
}
