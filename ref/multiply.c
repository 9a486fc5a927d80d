#include "ref/multiply.h"

enum { GEMM_ROWS = 96, GEMM_PANELS = 16 };

static void product_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const ref_products *g = arg;
    const int64_t row = task / g->n_strips * GEMM_ROWS, strip = task % g->n_strips;
    const ref_product *p = g->p;
    while (strip >= p->first + p->strips)
        p++;
    const int64_t K = p->w->k, col = (strip - p->first) * g->strip_panels * REF_PANEL;
    const ref_gemm_job job = {.a = g->x + row * K, .lda = K, .m = ref_min(GEMM_ROWS, g->m - row), .k = K,
                              .panels = p->w->panels + col * K, .has_min = p->w->has_min,
                              .codes = p->w->codes ? p->w->codes + col / REF_PANEL * (K / 32) : NULL,
                              .n = ref_min(g->strip_panels * REF_PANEL, p->w->n - col),
                              .c = p->c + row * p->w->n + col, .ldc = p->w->n, .cold = g->cold};
    g->kernels->gemm(&job);
}

/* Few rows: strips as wide as an even share of the threads allows, since every weight is read once.
 * Many rows: strips whose weights stay in the second-level cache. */
static int64_t strip_panels(const ref_products *g)
{
    const int threads = kv_pool_threads(g->pool);
    if (g->m > GEMM_ROWS / 2) return GEMM_PANELS;
    const int64_t panels = (g->p[0].w->n + REF_PANEL - 1) / REF_PANEL;
    return threads == 1 ? panels : ref_round_up((panels + 4 * threads - 1) / (4 * threads), 4);
}

void REF(multiply)(ref_products *g)
{
    g->strip_panels = strip_panels(g);
    g->n_strips = 0;
    for (int i = 0; i < g->n; i++) {
        const int64_t panels = (g->p[i].w->n + REF_PANEL - 1) / REF_PANEL;
        g->p[i].first = g->n_strips;
        g->p[i].strips = (panels + g->strip_panels - 1) / g->strip_panels;
        g->n_strips += g->p[i].strips;
    }
    kv_pool_run(g->pool, (g->m + GEMM_ROWS - 1) / GEMM_ROWS * g->n_strips, product_task, g);
}
