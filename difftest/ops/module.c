#include "difftest/ops/module.h"

#include "common/file.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MODULE_BYTES = 256 << 20, NAME_BYTES = 256, MACHINE_CUDA = 190 };

static const unsigned char fatbin_magic[4] = {0x50, 0xed, 0x55, 0xba};

/* ---- tokens of a PTX text ---------------------------------------------------------------------------------------- */

/* A word of letters, digits, '_', '$' and '%' (a '.' or '@' may lead it), a string, or one other character. */
typedef struct token {
    const char *p;
    size_t n;
} token;

static const char *skip_comment(const char *p)
{
    if (p[1] == '/') return p + strcspn(p, "\n");
    const char *end = strstr(p + 2, "*/");
    return end ? end + 2 : p + strlen(p);
}

static int in_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '$' ||
           c == '%';
}

/* n = 0 at the end. */
static token next(const char **at)
{
    const char *p = *at;
    for (;;) {
        p += strspn(p, " \t\r\n\f\v");
        if (p[0] != '/' || (p[1] != '/' && p[1] != '*')) break;
        p = skip_comment(p);
    }
    token t = {p, *p != '\0'};
    if (*p == '"') {
        const char *end = strchr(p + 1, '"');
        t.n = end ? (size_t)(end - p) + 1 : strlen(p);
    } else if (in_word(*p) || *p == '.') {
        while (in_word(p[t.n]))
            t.n++;
    }
    *at = p + t.n;
    return t;
}

static int is(token t, const char *word)
{
    return t.n == strlen(word) && memcmp(t.p, word, t.n) == 0;
}

/* ---- what a text holds --------------------------------------------------------------------------------------------
 */

/* Bytes of a type, ".f32"; 0: it is none. */
static uint64_t type_bytes(token t)
{
    if (t.n < 3 || t.n > 5 || t.p[0] != '.' || !strchr("usbf", t.p[1])) return 0;
    static const struct {
        const char *bits;
        uint64_t bytes;
    } sizes[] = {{"8", 1}, {"16", 2}, {"32", 4}, {"64", 8}, {"128", 16}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (t.n - 2 == strlen(sizes[i].bits) && memcmp(t.p + 2, sizes[i].bits, t.n - 2) == 0) return sizes[i].bytes;
    return 0;
}

/* From behind the '(' of an entry's parameters. */
static void read_parameters(const char *p, dt_ptx_entry *out)
{
    uint64_t bytes = 0, length = 1;
    int any = 0;
    *out = (dt_ptx_entry){0};
    for (token t = next(&p); t.n; t = next(&p)) {
        const int ends = is(t, ")");
        if (ends || is(t, ",")) {
            if (any && out->n < DT_MODULE_PARAMETERS) out->bytes[out->n] = bytes * length;
            out->n += any;
            bytes = any = 0;
            length = 1;
            if (ends) return;
        } else if (is(t, ".param")) {
            any = 1;
        } else if (is(t, "[")) {
            length = strtoull(p, NULL, 0) & UINT32_MAX;
        } else if (type_bytes(t)) {
            bytes = type_bytes(t);
        }
    }
}

/* Appends a kernel's name to a list for a message. */
static void note(char *list, size_t size, token name)
{
    const size_t used = strlen(list);
    if (!in_word(*name.p)) return;
    snprintf(list + used, size - used, "%s%.*s", used ? ", " : "", (int)(name.n < 120 ? name.n : 120), name.p);
}

static kv_status find_in_text(const char *text, const char *name, dt_ptx_entry *out)
{
    char has[400] = "";
    const char *p = text;
    for (token t = next(&p); t.n; t = next(&p)) {
        if (!is(t, ".entry")) continue;
        const token its_name = next(&p);
        if (is(its_name, name)) {
            *out = (dt_ptx_entry){0};
            if (is(next(&p), "(")) read_parameters(p, out);
            return KV_OK;
        }
        note(has, sizeof has, its_name);
    }
    return kv_fail(KV_ERR_FORMAT, "it has no kernel '%s'; it has %s", name, *has ? has : "none (.entry)");
}

kv_status dt_module_entry(const dt_module *m, const char *name, dt_ptx_entry *out)
{
    char section[NAME_BYTES + 8];
    *out = (dt_ptx_entry){.n = -1};
    if (strlen(name) >= NAME_BYTES) return kv_fail(KV_ERR_FORMAT, "a name of more than %d characters", NAME_BYTES - 1);
    if (m->kind == DT_PTX) return find_in_text(m->bytes, name, out);
    const int n = snprintf(section, sizeof section, ".text.%s", name);
    if (m->kind == DT_FATBIN || memmem(m->bytes, m->n, section, (size_t)n + 1)) return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "it has no kernel '%s'; cuobjdump -symbols shows which it has", name);
}

kv_status dt_ptx_target(const dt_module *m, char *dst, size_t size)
{
    const char *p = m->bytes;
    for (token t = next(&p); t.n; t = next(&p)) {
        if (!is(t, ".target")) continue;
        t = next(&p);
        if (t.n > 3 && t.n < size && memcmp(t.p, "sm_", 3) == 0) {
            snprintf(dst, size, "%.*s", (int)t.n, t.p);
            return KV_OK;
        }
        break;
    }
    return kv_fail(KV_ERR_FORMAT, "it is PTX without a .target sm_NN");
}

/* ---- files ---------------------------------------------------------------------------------------------------------
 */

/* A PTX text begins with .version. */
static int is_ptx(const char *text)
{
    const token t = next(&text);
    return is(t, ".version");
}

static kv_status find_kind(dt_module *m)
{
    Elf64_Ehdr head;
    if (m->n >= sizeof head && memcmp(m->bytes, ELFMAG, SELFMAG) == 0) {
        memcpy(&head, m->bytes, sizeof head);
        m->kind = DT_CUBIN;
        if (head.e_machine == MACHINE_CUDA && m->bytes[EI_CLASS] == ELFCLASS64) return KV_OK;
        return kv_fail(KV_ERR_FORMAT, "it is an ELF file, but not for a CUDA device; `nvcc -cubin` makes one");
    }
    m->kind = DT_FATBIN;
    if (m->n > 16 && memcmp(m->bytes, fatbin_magic, sizeof fatbin_magic) == 0) return KV_OK;
    m->kind = DT_PTX;
    if (!is_ptx(m->bytes))
        return kv_fail(KV_ERR_FORMAT, "it is no PTX (which begins with .version), no cubin and no fat binary");
    return strlen(m->bytes) == m->n ? KV_OK : kv_fail(KV_ERR_FORMAT, "it is PTX with a zero byte in it");
}

kv_status dt_module_take(const char *bytes, size_t n, dt_module *out)
{
    *out = (dt_module){.bytes = malloc(n + 1), .n = n};
    if (!out->bytes) return kv_fail(KV_ERR_NOMEM, "out of memory");
    if (n) memcpy(out->bytes, bytes, n);
    out->bytes[n] = '\0';
    const kv_status st = find_kind(out);
    if (st != KV_OK) dt_module_free(out);
    return st;
}

kv_status dt_module_read(const char *path, dt_module *out)
{
    char *bytes;
    size_t n;
    *out = (dt_module){0};
    KV_TRY(kv_file_read(path, MODULE_BYTES, &bytes, &n));
    const kv_status st = dt_module_take(bytes, n, out);
    free(bytes);
    if (st != KV_OK) kv_prefix_message("%s", path);
    return st;
}

void dt_module_free(dt_module *m)
{
    free(m->bytes);
    *m = (dt_module){0};
}
