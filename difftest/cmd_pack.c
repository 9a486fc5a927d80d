/* cmd_pack.c - `kvdiff pack`: a model of the golf family into one quantised file. */
#include "difftest/artifact.h"
#include "difftest/cli.h"
#include "difftest/cli_output.h"

#include "common/file.h"
#include "common/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_CONFIG = 256, OPT_FROM, OPT_NO_FLOORS, OPT_PASSTHROUGH, OPT_TOKENIZER, OPT_NOTE, OPT_LEVEL };

typedef struct request {
    const char *from, *out, *config, *tokenizer;
    char *notes; /* lines; owned */
    int64_t passthrough;
    int no_floors, has_passthrough, level;
} request;

/* What becomes of it. */
typedef struct material {
    kv_model *model;
    kv_kvm *repacked;  /* the artifact that it came from, or NULL */
    char *blob;        /* of --tokenizer */
    char *notes;       /* all of them */
    kv_kvm_extras extras;
} material;

/* ---- the command line ----------------------------------------------------------------------- */

static error_t add_note(request *r, const char *note)
{
    char *all = NULL;
    if (strchr(note, '\n')) return dt_usage("--note: one line at a time");
    if (asprintf(&all, "%s%s\n", r->notes ? r->notes : "", note) < 0) return ENOMEM;
    free(r->notes);
    r->notes = all;
    return 0;
}

static error_t parse_end(const request *r)
{
    if (!r->from) return dt_usage("which model? give a golf model by name, a .kvm file or a .safetensors file");
    if (!r->out) return dt_usage("where to? give a file with -o FILE.kvm");
    const int weights = dt_has_suffix(r->from, ".safetensors");
    if (weights && !r->config) return dt_usage("'%s' has weights but no config; give one with --config", r->from);
    if (!weights && r->config) return dt_usage("--config belongs to a .safetensors file; '%s' has a config of its own", r->from);
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    int64_t n = 0;
    error_t e = 0;
    switch (key) {
    case ARGP_KEY_ARG:
    case OPT_FROM:
        if (r->from) return dt_usage("'%s': one model at a time", arg);
        r->from = arg;
        return 0;
    case 'o':
        r->out = arg;
        return 0;
    case OPT_CONFIG:
        r->config = arg;
        return 0;
    case OPT_NO_FLOORS:
        r->no_floors = 1;
        return 0;
    case OPT_PASSTHROUGH:
        r->has_passthrough = 1;
        return dt_parse_number("passthrough-max", arg, 0, INT64_C(1) << 40, &r->passthrough);
    case OPT_TOKENIZER:
        r->tokenizer = arg;
        return 0;
    case OPT_NOTE:
        return add_note(r, arg);
    case OPT_LEVEL:
        e = dt_parse_number("level", arg, 1, 22, &n);
        r->level = (int)n;
        return e;
    case ARGP_KEY_END:
        return parse_end(r);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"output", 'o', "FILE", 0, "the artifact", 0},
    {"from", OPT_FROM, "FILE", 0, "the same as the argument", 0},
    {"config", OPT_CONFIG, "NAME|JSON", 0, "for .safetensors: a golf preset, JSON text or a JSON file", 0},
    {"no-floors", OPT_NO_FLOORS, NULL, 0, "steps of small rows may be finer than 1/31 and 1/127", 0},
    {"passthrough-max", OPT_PASSTHROUGH, "N", 0, "tensors of at most N elements stay fp16 (65536)", 0},
    {"tokenizer", OPT_TOKENIZER, "FILE|bytes|none", 0, "a SentencePiece model, the byte vocabulary, or none", 0},
    {"note", OPT_NOTE, "KEY=VALUE", 0, "where the model comes from; repeatable", 0},
    {"level", OPT_LEVEL, "N", 0, "of zstd, 1 to 22 (22)", 0},
    {NULL, 0, NULL, 0, NULL, 0},
};

static const struct argp parser = {
    options,
    parse,
    "MODEL|FILE.kvm|FILE.safetensors",
    "Quantises a model of the golf family, compresses it, and writes it into one file (docs/artifact.md).",
    NULL,
    NULL,
    NULL};

/* ---- material ------------------------------------------------------------------------------- */

static kv_status open_named(const char *name, material *m)
{
    kv_tokenizer *tok;
    KV_TRY(kv_model_open(name, NULL, &m->model, &tok));
    if (tok && strcmp(kv_tokenizer_kind(tok), "bytes") == 0) m->extras.tokenizer_kind = KV_KVM_BYTES;
    kv_tokenizer_free(tok);
    return KV_OK;
}

static kv_status open_weights(const request *r, material *m)
{
    kv_config cfg;
    m->extras = (kv_kvm_extras){.quant = kv_quant_default(), .notes = ""};
    if (r->config) {
        KV_TRY(dt_config_parse(r->config, &cfg));
        return dt_weights_open(r->from, &cfg, &m->model);
    }
    if (!dt_has_suffix(r->from, ".kvm")) return open_named(r->from, m);
    KV_TRY(kv_kvm_open(r->from, &m->repacked));
    m->extras = m->repacked->extras;
    return kv_kvm_model(m->repacked, r->from, &m->model);
}

static kv_status take_tokenizer(const char *name, material *m)
{
    m->extras.tokenizer = NULL;
    m->extras.tokenizer_bytes = 0;
    m->extras.tokenizer_kind = strcmp(name, "bytes") == 0 ? KV_KVM_BYTES : KV_KVM_NO_TOKENIZER;
    if (m->extras.tokenizer_kind == KV_KVM_BYTES || strcmp(name, "none") == 0) return KV_OK;
    KV_TRY(kv_file_read(name, KV_KVM_MAX_META, &m->blob, &m->extras.tokenizer_bytes));
    kv_tokenizer *tok;
    KV_TRY(kv_tokenizer_from_model(m->blob, m->extras.tokenizer_bytes, name, &tok));
    kv_tokenizer_free(tok);
    m->extras.tokenizer = m->blob;
    m->extras.tokenizer_kind = KV_KVM_SENTENCEPIECE;
    return KV_OK;
}

static kv_status gather(const request *r, material *m)
{
    KV_TRY(open_weights(r, m));
    if (r->tokenizer) KV_TRY(take_tokenizer(r->tokenizer, m));
    if (asprintf(&m->notes, "%s%s", m->extras.notes, r->notes ? r->notes : "") < 0) {
        m->notes = NULL;
        return kv_fail(KV_ERR_NOMEM, "out of memory");
    }
    m->extras.notes = m->notes;
    m->extras.level = r->level;
    if (r->no_floors) m->extras.quant.floors = 0;
    if (r->has_passthrough) m->extras.quant.passthrough_max = r->passthrough;
    return KV_OK;
}

static void release(material *m)
{
    kv_model_close(m->model);
    kv_kvm_close(m->repacked);
    free(m->blob);
    free(m->notes);
}

static kv_status pack(const request *r, material *m)
{
    uint8_t *bytes;
    size_t n;
    KV_TRY(gather(r, m));
    KV_TRY(kv_kvm_pack(m->model, &m->extras, &bytes, &n));
    const int written = kv_file_replace(r->out, bytes, n);
    const kv_status st = written ? KV_OK : kv_file_error(r->out, "write the artifact");
    free(bytes);
    if (st == KV_OK)
        printf("%s: %" PRId64 " weights in %zu bytes; %lld of %d are left for the program\n", r->out, kv_model_weights(m->model), n,
               (long long)DT_ARTIFACT_BUDGET - (long long)n, DT_ARTIFACT_BUDGET);
    return st;
}

int dt_cmd_pack(int argc, char **argv)
{
    request r = {.level = KV_KVM_LEVEL};
    material m = {0};
    int done;
    const int code = dt_argp(&parser, argc, argv, &r, &done);
    const kv_status st = done ? KV_OK : pack(&r, &m);
    release(&m);
    free(r.notes);
    if (done) return code;
    return st == KV_OK ? dt_close_output() : dt_report_failure(st);
}
