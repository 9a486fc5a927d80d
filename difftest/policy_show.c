/* policy_show.c - `kvdiff policy show`: what one policy means in numbers. */
#include "difftest/cmd_policy.h"

#include "common/tile.h"
#include "difftest/cli_output.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- sizes --------------------------------------------------------------------------------------- */

/* Sizes of one layer and KV head. */
typedef struct cost {
    int64_t entries;        /* tokens kept behind the last one; bounded policies: at most */
    int bounded;            /* entries do not grow with the stream */
    double coded;           /* bytes of a token in a tile; 0: the storage has none */
    int64_t plain;          /* bytes of a token outside */
    int32_t tile;           /* tokens coded together, 0: none */
    int64_t bytes;          /* of all entries; bounded policies: at most */
} cost;

/* snapkv and pyramid replace the prompt by cap entries (pyramid: in the mean of the layers); dilated keeps one in `every` of
 * what its window has left behind. */
static int64_t entries_after(const kv_policy *p, int64_t tokens)
{
    const int64_t most = kv_policy_max_entries(p), prompt = kv_policy_first_step(p);
    if (p->selection == KV_SEL_DILATED) {
        const kv_dilated_params *d = &p->dilated;
        const int64_t far = tokens > d->window ? tokens - d->window : 0, behind = far > d->sinks ? far - d->sinks : 0;
        return tokens - far + (far - behind) + (behind + d->every - 1) / d->every;
    }
    if (prompt && tokens >= prompt && prompt >= p->snapkv.cap) return p->snapkv.cap + tokens - prompt;
    return most < tokens ? most : tokens;
}

/* Bytes of n tokens as they lie when the last one has come (docs/policy/kvarn.md, kivi.md). */
static int64_t bytes_of(const kv_policy *p, int32_t D, int64_t n)
{
    if (p->storage == KV_STORE_KVARN) {
        const kv_kvarn_layout l = kv_kvarn_layout_of(&p->kvarn, D);
        return n / l.T * l.bytes + n % l.T * 8 * D;
    }
    if (p->storage == KV_STORE_KIVI) {
        const kv_kivi_layout l = kv_kivi_layout_of(&p->kivi, D);
        const int64_t raw_v = n < l.R ? n : l.R;
        return n / l.R * l.k_bytes + n % l.R * 4 * D + (n - raw_v) * l.v_bytes + raw_v * 4 * D;
    }
    return n * 2 * D * kv_storage_value_bytes(p->storage);
}

static cost cost_of(const kv_policy *p, int32_t D, int64_t tokens)
{
    cost c = {.entries = entries_after(p, tokens), .bounded = kv_policy_max_entries(p) != INT64_MAX,
              .plain = (int64_t)2 * D * kv_storage_value_bytes(p->storage)};
    if (p->storage == KV_STORE_KVARN) {
        const kv_kvarn_layout l = kv_kvarn_layout_of(&p->kvarn, D);
        c.tile = l.T;
        c.coded = (double)l.bytes / l.T;
    }
    if (p->storage == KV_STORE_KIVI) {
        const kv_kivi_layout l = kv_kivi_layout_of(&p->kivi, D);
        c.tile = l.R;
        c.coded = (double)l.k_bytes / l.R + l.v_bytes;
    }
    c.bytes = bytes_of(p, D, c.entries);
    /* a full cache is largest with one token less than the last tile needs */
    const int64_t open = c.bounded && c.entries > 1 ? bytes_of(p, D, c.entries - 1) : 0;
    if (open > c.bytes) c.bytes = open;
    return c;
}

/* ---- output --------------------------------------------------------------------------------------- */

static json_t *param_value(const kv_policy *p, const kv_policy_param *d)
{
    char text[32];
    kv_policy_value(p, d, text);
    return d->words || d->decimal ? json_string(text) : json_integer(strtol(text, NULL, 10));
}

/* A parameter that sets others (cascade's preset) and means nothing afterwards. */
static int is_shorthand(const kv_policy_param *d) { return d->flags == KV_PARAM_ALIAS; }

static json_t *params_json(const kv_policy *p, const kv_policy_param *d, size_t n)
{
    json_t *params = json_object();
    for (size_t i = 0; i < n; i++)
        if (!is_shorthand(&d[i])) json_object_set_new(params, d[i].name, param_value(p, &d[i]));
    return params;
}

static void print_params(const kv_policy *p, const kv_policy_param *d, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char value[32];
        if (is_shorthand(&d[i])) continue;
        kv_policy_value(p, &d[i], value);
        printf("  %-11s %s\n", d[i].name, value);
    }
}

static int show_json(const dt_policy_question *r, const kv_policy *p, const char *text, const kv_config *cfg, cost c)
{
    size_t n, m;
    const kv_policy_param *d = kv_selection_params(p->selection, &n), *e = kv_storage_params(p->storage, &m);
    json_t *j = json_pack("{s:s, s:s, s:s, s:o, s:o, s:b, s:I, s:i, s:I, s:I, s:i, s:I}", "policy", text, "selection",
                          kv_selection_name(p->selection), "storage", kv_storage_name(p->storage), "parameters",
                          params_json(p, d, n), "storage_parameters", params_json(p, e, m), "bounded", c.bounded,
                          "tokens", (json_int_t)r->tokens, "q", r->q, "entries", (json_int_t)c.entries, "max_position",
                          (json_int_t)kv_policy_max_position(p, r->tokens, r->q), "head_dim", cfg->head_dim, "bytes",
                          (json_int_t)c.bytes);
    json_object_set_new(j, "bytes_per_token", c.tile ? json_real(c.coded) : json_integer((json_int_t)c.plain));
    if (c.tile) json_object_set_new(j, "bytes_per_token_uncoded", json_integer((json_int_t)c.plain));
    if (r->model) {
        json_object_set_new(j, "model", json_string(r->model));
        json_object_set_new(j, "cache_bytes", json_integer((json_int_t)(c.bytes * cfg->n_layers * cfg->n_kv_heads)));
    }
    return dt_print_json(j);
}

static void print_bytes(const dt_policy_question *r, const kv_policy *p, const kv_config *cfg, cost c)
{
    printf("bytes         ");
    if (c.tile) printf("%.6g a token in tiles of %d, ", c.coded, c.tile);
    printf("%" PRId64 " a token%s at head_dim %d; %s%" PRId64 " per layer and KV head\n", c.plain,
           c.tile ? " outside" : "", cfg->head_dim, c.bounded ? "at most " : "", c.bytes);
    if (r->model)
        printf("model         %s: %d layers, %d KV heads: %s%" PRId64 " bytes\n", r->model, cfg->n_layers,
               cfg->n_kv_heads, c.bounded ? "at most " : "",
               c.bytes * cfg->n_layers * cfg->n_kv_heads);
    if (p->selection == KV_SEL_PYRAMID) printf("              (in the mean of the layers)\n");
}

static int show_text(const dt_policy_question *r, const kv_policy *p, const char *text, const kv_config *cfg, cost c)
{
    size_t n;
    const kv_policy_param *d = kv_selection_params(p->selection, &n);
    printf("policy        %s\nselection     %s: %s\n", text, kv_selection_name(p->selection),
           kv_selection_about(p->selection));
    print_params(p, d, n);
    printf("storage       %s: %s\n", kv_storage_name(p->storage), kv_storage_about(p->storage));
    d = kv_storage_params(p->storage, &n);
    print_params(p, d, n);
    printf("entries kept  %" PRId64 " per layer and KV head after %" PRId64 " tokens%s\n", c.entries, r->tokens,
           c.bounded ? "" : "; grows with the stream");
    print_bytes(r, p, cfg, c);
    printf("max position  %" PRId64 " at %d tokens per step\n", kv_policy_max_position(p, r->tokens, r->q), r->q);
    return dt_close_output();
}

static kv_status read_question(const dt_policy_question *r, kv_policy *p, kv_config *cfg)
{
    kv_model *m;
    KV_TRY(kv_policy_parse(r->spec, p));
    *cfg = (kv_config){.head_dim = r->head_dim, .n_layers = INT32_MAX};
    if (r->model) {
        KV_TRY(kv_model_open(r->model, NULL, &m, NULL));
        *cfg = m->cfg;
        kv_model_close(m);
    }
    return kv_policy_fit(p, cfg);
}

int dt_policy_show(const dt_policy_question *r)
{
    kv_policy p;
    kv_config cfg;
    char text[KV_POLICY_TEXT_MAX];
    const kv_status st = read_question(r, &p, &cfg);
    if (st != KV_OK) return dt_report_failure(st);
    kv_policy_format(&p, text);
    const cost c = cost_of(&p, cfg.head_dim, r->tokens);
    return r->json ? show_json(r, &p, text, &cfg, c) : show_text(r, &p, text, &cfg, c);
}
