#include "tests/golden/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char *golden_text_folder(void)
{
    static char folder[4096 + 16];
    if (!golden_shared()) return NULL;
    snprintf(folder, sizeof folder, "%s/smollm2", golden_shared());
    return folder;
}

int32_t golden_ids(const char *name, int32_t *ids, int32_t cap)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/excerpts/%s", golden_text_folder(), name);
    FILE *f = fopen(path, "rb");
    if (!f) golden_die("cannot open %s", path);
    const size_t n = fread(ids, sizeof *ids, (size_t)cap, f);
    fclose(f);
    return (int32_t)n;
}

int32_t golden_nll(const char *name, int token, int next, int value, int32_t *tokens, double *nll)
{
    char path[8192], line[512];
    snprintf(path, sizeof path, "%s/%s", golden_text_folder(), name);
    FILE *f = fopen(path, "r");
    if (!f) golden_die("cannot open %s", path);
    int32_t n = 0;
    while (fgets(line, sizeof line, f) && n + 1 < GOLDEN_TOKENS) {
        if (line[0] < '0' || line[0] > '9') continue; /* the header */
        char *p = line;
        for (int c = 0; *p && *p != '\n'; c++) {
            char *end;
            const double v = strtod(p, &end);
            if (c == token) tokens[n] = (int32_t)v;
            if (c == next) tokens[n + 1] = (int32_t)v;
            if (c == value) nll[n] = v;
            p = end + (*end == '\t');
        }
        n++;
    }
    fclose(f);
    return n;
}

int golden_compare(const double *want, const float *got, int32_t n, golden_bound *c)
{
    double sum_want = 0, sum_got = 0;
    int finite = 1;
    c->worst = 0;
    for (int32_t i = 0; i < n; i++) {
        finite &= isfinite(got[i]) != 0;
        c->worst = fmax(c->worst, fabs(want[i] - (double)got[i]));
        sum_want += want[i];
        sum_got += (double)got[i];
    }
    c->mean_want = sum_want / n;
    c->mean_off = fabs(sum_want - sum_got) / n;
    return finite && c->worst <= c->each && c->mean_off <= c->mean;
}
