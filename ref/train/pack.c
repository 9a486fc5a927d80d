#include "ref/train/pack.h"

#include <string.h>

void REF(pack_rows)(const real *w, int64_t ldw, int64_t n, int64_t k, int64_t first, int64_t last, real *panels)
{
    for (int64_t p = first; p < last; p++) {
        real *panel = panels + p * k * REF_PANEL;
        const int64_t rows = ref_min(REF_PANEL, n - p * REF_PANEL);
        if (rows < REF_PANEL) memset(panel, 0, (size_t)(k * REF_PANEL) * sizeof *panel);
        for (int64_t j = 0; j < rows; j++) {
            const real *row = w + (p * REF_PANEL + j) * ldw;
            for (int64_t i = 0; i < k; i++)
                panel[i * REF_PANEL + j] = row[i];
        }
    }
}

void REF(pack_cols)(const real *w, int64_t ldw, int64_t n, int64_t k, int64_t first, int64_t last, real *panels)
{
    for (int64_t p = first; p < last; p++) {
        real *panel = panels + p * k * REF_PANEL;
        const int64_t cols = ref_min(REF_PANEL, n - p * REF_PANEL);
        for (int64_t i = 0; i < k; i++) {
            memcpy(panel + i * REF_PANEL, w + i * ldw + p * REF_PANEL, (size_t)cols * sizeof *panel);
            if (cols < REF_PANEL) memset(panel + i * REF_PANEL + cols, 0, (size_t)(REF_PANEL - cols) * sizeof *panel);
        }
    }
}

void REF(transpose)(const real *w, int64_t ldw, int64_t k, int64_t first, int64_t last, int64_t ldo, real *out)
{
    enum { TILE = 16 };
    for (int64_t n0 = first; n0 < last; n0 += TILE)
        for (int64_t k0 = 0; k0 < k; k0 += TILE) {
            const int64_t n1 = ref_min(n0 + TILE, last), k1 = ref_min(k0 + TILE, k);
            for (int64_t n = n0; n < n1; n++)
                for (int64_t i = k0; i < k1; i++)
                    out[n * ldo + i] = w[i * ldw + n];
        }
}
