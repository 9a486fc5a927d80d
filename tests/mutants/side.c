/* side.c - the door of a library with planted bugs (docs/mutants.md): build/mutants/emu.so and ref.so.
 *
 * It stands in front of the side's own door, which is compiled under another name, and takes the option mutant=ID out of
 * the options before they go on. The bug is a property of the process: the first session chooses it, and one that wants
 * another bug is refused as long as the library is loaded. Without the option nothing is planted. */
#include "common/backend.h"
#include "common/mutant.h"

#include <stdio.h>
#include <string.h>

#ifndef KV_MUTANTS
#    error "this door belongs to libraries that are compiled with -DKV_MUTANTS"
#endif

#ifdef MUTANT_SIDE_REF
enum { EMU = 0, REF = 1 };
const kv_backend *ref_backend(void);
static const kv_backend *inner(void) { return ref_backend(); }
#else
enum { EMU = 1, REF = 0 };
kv_side_entry_fn mutant_inner_entry;
static const kv_backend *inner(void) { return mutant_inner_entry(KV_BACKEND_ABI); }
#endif

int kv_mutant = KV_MUT_NONE;

static int chosen = -1; /* -1: no session was opened yet */

static const struct bug {
    const char *name;
    int here;
} bugs[] = {
    {"", 0},
#define MUTANT(id, side, ...) {#id, side},
#include "common/mutants.def"
#undef MUTANT
};

enum { N_BUGS = sizeof bugs / sizeof *bugs, REST_BYTES = 256 };

static kv_status find(const char *name, size_t n, int *id)
{
    for (int i = 1; i < N_BUGS; i++)
        if (strlen(bugs[i].name) == n && memcmp(bugs[i].name, name, n) == 0) {
            *id = i;
            return bugs[i].here ? KV_OK : kv_fail(KV_ERR_USAGE, "the bug %s is planted in the other library; `kvdiff mutate "
                                                                "--list` says where", bugs[i].name);
        }
    return kv_fail(KV_ERR_USAGE, "no planted bug has the name '%.*s'; `kvdiff mutate --list` shows them", (int)(n < 40 ? n : 40),
                   name);
}

/* The bug that the options name, KV_MUT_NONE when they name none, and the other options. */
static kv_status split(const char *options, int *id, char rest[REST_BYTES])
{
    size_t used = 0;
    *id = KV_MUT_NONE;
    rest[0] = '\0';
    for (const char *at = options ? options : ""; *at;) {
        const size_t n = strcspn(at, ",");
        if (strncmp(at, "mutant=", 7) == 0) {
            KV_TRY(find(at + 7, n - 7, id));
        } else {
            if (used + n + 2 > REST_BYTES) return kv_fail(KV_ERR_USAGE, "the options are longer than %d bytes", REST_BYTES);
            if (used) rest[used++] = ',';
            memcpy(rest + used, at, n);
            rest[used += n] = '\0';
        }
        at += n + (at[n] == ',');
    }
    return KV_OK;
}

static kv_status available(const char *options, char *why, size_t why_size)
{
    int id;
    char rest[REST_BYTES];
    const kv_status st = split(options, &id, rest);
    if (st == KV_OK) return inner()->available(rest, why, why_size);
    snprintf(why, why_size, "%s", kv_message());
    return st;
}

static kv_status open_session(const kv_open_args *args, kv_session **out)
{
    int id;
    char rest[REST_BYTES];
    kv_open_args a = *args;
    *out = NULL;
    KV_TRY(split(args->options, &id, rest));
    if (chosen >= 0 && id != chosen)
        return kv_fail(KV_ERR_UNSUPPORTED, "one bug at a time: this process has chosen '%s' already, not '%s'", bugs[chosen].name,
                       bugs[id].name);
    kv_mutant = chosen = id;
    a.options = rest;
    return inner()->open(&a, out);
}

const kv_backend *kv_side_entry(uint32_t abi);

__attribute__((visibility("default"))) const kv_backend *kv_side_entry(uint32_t abi)
{
    static kv_backend outer;
    if (abi != KV_BACKEND_ABI) return NULL;
    outer = *inner();
    outer.available = available;
    outer.open = open_session;
    return &outer;
}
