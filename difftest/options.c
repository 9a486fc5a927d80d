#include "difftest/options.h"

#include "common/model.h"
#include "common/pool.h"

#include <stdlib.h>
#include <string.h>

const char *dt_mode_name(int mode)
{
    static const char *const names[] = {"free", "locked", "follow"};
    return mode >= 0 && mode < DT_MODE_COUNT ? names[mode] : "?";
}

void dt_options_init(dt_options *o)
{
    *o = (dt_options){.model = KV_EMBEDDED_MODEL, .q = 256, .digest_every = 64, .threads = kv_cpu_count()};
}

void dt_list_free(dt_list *l)
{
    for (int i = 0; i < l->n; i++)
        free(l->v[i]);
    free(l->v);
    *l = (dt_list){0};
}

void dt_options_free(dt_options *o)
{
    dt_list_free(&o->corpora);
    dt_list_free(&o->docs);
    dt_list_free(&o->policies);
    dt_list_free(&o->devices);
}

kv_status dt_list_add(dt_list *l, const char *text, size_t n)
{
    char **v = realloc(l->v, (size_t)(l->n + 1) * sizeof *v);
    if (v) l->v = v;
    char *copy = v ? strndup(text, n) : NULL;
    if (!copy) return kv_fail(KV_ERR_NOMEM, "out of memory");
    l->v[l->n++] = copy;
    return KV_OK;
}

/* Whether text[0..n) is a bare option of the device before it. */
static int is_option(const char *text, size_t n)
{
    const char *eq = memchr(text, '=', n), *colon = memchr(text, ':', n);
    return eq && (!colon || colon > eq);
}

kv_status dt_list_add_devices(dt_list *l, const char *text)
{
    for (int more = 1; more;) {
        size_t n = strcspn(text, ",");
        while (text[n] == ',' && is_option(text + n + 1, strcspn(text + n + 1, ",")))
            n += 1 + strcspn(text + n + 1, ",");
        if (n == 0) return kv_fail(KV_ERR_USAGE, "--device: an empty name in the list; write --device=blas,emu");
        KV_TRY(dt_list_add(l, text, n));
        more = text[n] == ',';
        text += n + (size_t)more;
    }
    return KV_OK;
}

/* ---- command lines ------------------------------------------------------------------------------------------- */

char *dt_command_line(int argc, char **argv)
{
    size_t n = 1;
    for (int i = 0; i < argc; i++)
        n += 3 + 4 * strlen(argv[i]);
    char *text = malloc(n), *p = text;
    for (int i = 0; text && i < argc; i++) {
        if (i) *p++ = ' ';
        const int quote = i && argv[i][strcspn(argv[i], " \t\n'\"$`\\*?[]{}()<>|&;#~!")] != 0;
        if (quote) *p++ = '\'';
        for (const char *c = argv[i]; *c; c++) {
            if (quote && *c == '\'')
                p = stpcpy(p, "'\\''");
            else
                *p++ = *c;
        }
        if (quote) *p++ = '\'';
    }
    if (text) *p = 0;
    return text;
}
