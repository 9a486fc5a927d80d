#include "difftest/plan.h"

#include "common/hash.h"

#include <ctype.h>
#include <fnmatch.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ------------------------------------------------------------------------------------------- */

static const char *corpus_name(const dt_plan *p, int i, char *text)
{
    (void)text;
    return corpus_get_info(p->corpora[i])->name;
}

static const char *policy_name(const dt_plan *p, int i, char *text)
{
    kv_policy_format(&p->policies[i], text);
    return text;
}

static const char *side_name(const dt_plan *p, int i, char *text)
{
    (void)text;
    return p->sides[i].name;
}

/* Results go by names: two things of one name would be two cases of one key. */
static kv_status check_names(const dt_plan *p, const dt_list *l, const char *option,
                             const char *(*name)(const dt_plan *, int, char *))
{
    char a[KV_POLICY_TEXT_MAX], b[KV_POLICY_TEXT_MAX];
    for (int i = 0; i < l->n; i++)
        for (int j = 0; j < i; j++) {
            if (strcmp(l->v[i], l->v[j]) == 0)
                return kv_fail(KV_ERR_USAGE, "--%s=%s is given twice", option, l->v[i]);
            if (strcmp(name(p, i, a), name(p, j, b)) == 0)
                return kv_fail(KV_ERR_USAGE, "--%s=%s and --%s=%s are both '%s' in the results; leave one out, or "
                                             "rename it", option, l->v[i], option, l->v[j], name(p, i, a));
        }
    return KV_OK;
}

/* ---- models ------------------------------------------------------------------------------------------ */

static kv_status check_same_vocabulary(const dt_plan *p, const kv_tokenizer *other)
{
    const kv_model *a = p->model, *b = p->device_model;
    if (a->cfg.vocab_size != b->cfg.vocab_size)
        return kv_fail(KV_ERR_MISMATCH, "model '%s' has %d tokens and --device-model '%s' has %d; both sides "
                                        "need the same vocabulary", a->name, a->cfg.vocab_size, b->name,
                       b->cfg.vocab_size);
    if (!other || memcmp(kv_tokenizer_fingerprint(p->tokenizer), kv_tokenizer_fingerprint(other), 32) != 0)
        return kv_fail(KV_ERR_MISMATCH, "model '%s' and --device-model '%s' number their tokens differently; "
                                        "both sides need the same vocabulary", a->name, b->name);
    return KV_OK;
}

static kv_status open_models(dt_plan *p)
{
    const dt_options *o = p->options;
    KV_TRY(kv_model_open(o->model, NULL, &p->model, &p->tokenizer));
    p->device_model = p->model;
    if (!p->tokenizer)
        return kv_fail(KV_ERR_UNSUPPORTED, "model '%s' has no tokenizer, so it cannot read a document; use "
                                           "nano or a GGUF file", p->model->name);
    if (!o->device_model) return KV_OK;
    kv_tokenizer *other = NULL;
    kv_model *m = NULL;
    KV_TRY(kv_model_open(o->device_model, NULL, &m, &other));
    p->device_model = m;
    const kv_status st = check_same_vocabulary(p, other);
    kv_tokenizer_free(other);
    return st;
}

/* ---- documents --------------------------------------------------------------------------------------- */

static int wanted(const dt_options *o, const char *name)
{
    for (int i = 0; i < o->docs.n; i++)
        if (fnmatch(o->docs.v[i], name, 0) == 0) return 1;
    return o->docs.n == 0;
}

int32_t dt_plan_window(const dt_plan *p, int doc)
{
    return p->docs[doc].stream.is_passkey ? 0 : p->options->window;
}

int64_t dt_plan_tokens(const dt_plan *p, int doc)
{
    const int64_t n = p->docs[doc].stream.tokens.n, w = dt_plan_window(p, doc);
    return w ? n / w * w : n;
}

/* Words in the text of the first n tokens. */
static int64_t words_of(const kv_tokenizer *t, const int32_t *ids, int64_t n)
{
    int64_t words = 0;
    int inside = 0;
    for (int64_t i = 0; i < n; i++) {
        size_t bytes;
        const char *piece = kv_tokenizer_piece(t, ids[i], &bytes);
        for (size_t b = 0; b < bytes; b++) {
            const int space = isspace((unsigned char)piece[b]) != 0;
            words += !space && !inside;
            inside = !space;
        }
    }
    return words;
}

/* Bytes of the text that tokens 1 .. n-1 stand for. */
static int64_t bytes_of(const kv_tokenizer *t, const int32_t *ids, int64_t n)
{
    int64_t bytes = 0;
    for (int64_t i = 1; i < n; i++)
        bytes += kv_tokenizer_bytes_of(t, ids[i - 1], ids[i]);
    return bytes;
}

static kv_status add_document(dt_plan *p, corpus *c, int32_t index)
{
    const dt_options *o = p->options;
    dt_document *d = &p->docs[p->n_docs];
    *d = (dt_document){.source = c, .index = index, .info = corpus_get_info(c),
                       .doc = corpus_get_doc(c, index), .n_words = -1, .n_text_bytes = -1};
    if (!wanted(o, d->doc->name)) return KV_OK;
    KV_TRY(corpus_tokens(c, index, p->tokenizer, o->cache_dir, o->tokens, &d->stream));
    p->n_docs++;
    if (d->stream.is_passkey) return KV_OK;
    const int64_t n = dt_plan_tokens(p, p->n_docs - 1);
    if (o->window && n == 0)
        return kv_fail(KV_ERR_USAGE, "document '%s' has %lld tokens, fewer than one window of %d; give a longer "
                                     "text or a smaller --window", d->doc->name,
                       (long long)d->stream.tokens.n, o->window);
    const int whole = !o->window && (o->tokens == 0 || n < o->tokens);
    d->n_text_bytes = o->window ? -1 : bytes_of(p->tokenizer, d->stream.tokens.v, n);
    d->n_words = o->window ? -1 : whole ? d->doc->n_words : words_of(p->tokenizer, d->stream.tokens.v, n);
    return KV_OK;
}

static kv_status open_corpora(dt_plan *p)
{
    const dt_options *o = p->options;
    p->corpora = calloc((size_t)o->corpora.n, sizeof *p->corpora);
    if (!p->corpora) return kv_fail(KV_ERR_NOMEM, "out of memory");
    int64_t n = 0;
    for (; p->n_corpora < o->corpora.n; p->n_corpora++) {
        KV_TRY(corpus_open(o->corpora.v[p->n_corpora], &p->corpora[p->n_corpora]));
        n += corpus_get_info(p->corpora[p->n_corpora])->n_docs;
    }
    KV_TRY(check_names(p, &o->corpora, "corpus", corpus_name));
    p->docs = calloc((size_t)n + 1, sizeof *p->docs);
    if (!p->docs) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int i = 0; i < p->n_corpora; i++)
        for (int32_t d = 0; d < corpus_get_info(p->corpora[i])->n_docs; d++)
            KV_TRY(add_document(p, p->corpora[i], d));
    if (p->n_docs == 0)
        return kv_fail(KV_ERR_USAGE, "no document matches --doc=%s; `kvdiff corpus %s` lists them",
                       o->docs.n ? o->docs.v[0] : "", o->corpora.v[0]);
    return KV_OK;
}

/* ---- policies and sides --------------------------------------------------------------------------------- */

static kv_status parse_policies(dt_plan *p)
{
    const dt_options *o = p->options;
    p->policies = calloc((size_t)o->policies.n, sizeof *p->policies);
    if (!p->policies) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (; p->n_policies < o->policies.n; p->n_policies++)
        KV_TRY(kv_policy_parse(o->policies.v[p->n_policies], &p->policies[p->n_policies]));
    return check_names(p, &o->policies, "policy", policy_name);
}

static kv_status open_sides(dt_plan *p)
{
    const dt_options *o = p->options;
    const int none = o->devices.n == 1 && strcmp(o->devices.v[0], "none") == 0;
    p->sides = calloc((size_t)o->devices.n, sizeof *p->sides);
    if (!p->sides) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (; !none && p->n_sides < o->devices.n; p->n_sides++)
        KV_TRY(dt_side_open(o->devices.v[p->n_sides], &p->sides[p->n_sides]));
    return check_names(p, &o->devices, "device", side_name);
}

/* ---- checks ------------------------------------------------------------------------------------------------ */

static kv_status check_context(const dt_plan *p)
{
    const int64_t limit = p->model->cfg.max_pos;
    if (limit == 0 || p->options->allow_long) return KV_OK;
    for (int d = 0; d < p->n_docs; d++)
        for (int i = 0; i < p->n_policies; i++) {
            const int64_t w = dt_plan_window(p, d), n = dt_plan_tokens(p, d);
            const int64_t fed = w ? w : n + p->docs[d].stream.answer.n;
            const int64_t most = kv_policy_max_position(&p->policies[i], fed, p->options->q);
            char text[KV_POLICY_TEXT_MAX];
            if (most < limit) continue;
            kv_policy_format(&p->policies[i], text);
            return kv_fail(KV_ERR_CONTEXT, "document '%s' under policy %s reaches position %lld, but model '%s' "
                                           "was trained for %lld; use --tokens=%lld, a policy whose positions "
                                           "stay in the cache, or --allow-long", p->docs[d].doc->name, text,
                           (long long)most, p->model->name, (long long)limit, (long long)limit);
        }
    return KV_OK;
}

/* A policy that works on the models, and documents that hold the prompt that it asks for. */
static kv_status check_policy(const dt_plan *p, const kv_policy *policy)
{
    KV_TRY(kv_policy_fit(policy, &p->model->cfg));
    KV_TRY(kv_policy_fit(policy, &p->device_model->cfg));
    const int32_t prompt = kv_policy_first_step(policy);
    char text[KV_POLICY_TEXT_MAX];
    kv_policy_format(policy, text);
    for (int d = 0; d < p->n_docs; d++) {
        const int32_t w = dt_plan_window(p, d);
        const int64_t n = w ? w : dt_plan_tokens(p, d);
        if (n >= prompt) continue;
        if (w)
            return kv_fail(KV_ERR_USAGE, "policy %s needs a prompt of %d tokens, and --window=%d feeds chunks of %d; use "
                                         "--window=%d or prompt=%d", text, prompt, w, w, prompt + prompt % 2, w);
        return kv_fail(KV_ERR_USAGE, "policy %s needs a prompt of %d tokens, and document '%s' has %lld; use prompt=%lld, a "
                                     "longer text, or --doc to leave it out", text, prompt, p->docs[d].doc->name,
                       (long long)n, (long long)n);
    }
    return KV_OK;
}

static kv_status check_policies(const dt_plan *p)
{
    for (int i = 0; i < p->n_policies; i++)
        KV_TRY(check_policy(p, &p->policies[i]));
    return KV_OK;
}

/* ---- identity ---------------------------------------------------------------------------------------------- */

char *dt_plan_options_json(const dt_plan *p)
{
    const dt_options *o = p->options;
    json_t *j = json_pack("{s:b, s:i, s:i, s:b, s:i, s:s, s:I, s:i}", "all_events", o->all_events != 0,
                          "digest_every", o->digest_every, "keep", o->keep, "allow_long",
                          o->allow_long != 0, "window", o->window, "mode", dt_mode_name(o->mode), "tokens",
                          (json_int_t)o->tokens, "q", o->q);
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(j);
    return text;
}

static void add_text(kv_sha256_ctx *h, const char *s) { kv_sha256_add(h, s, strlen(s) + 1); }

static kv_status take_fingerprint(dt_plan *p)
{
    kv_sha256_ctx h;
    char key[DT_KEY_MAX], *json = dt_plan_options_json(p);
    if (!json) return kv_fail(KV_ERR_NOMEM, "out of memory");
    kv_sha256_begin(&h);
    add_text(&h, json);
    free(json);
    kv_sha256_add(&h, p->model->sha256, sizeof p->model->sha256);
    kv_sha256_add(&h, p->device_model->sha256, sizeof p->device_model->sha256);
    for (int s = 0; s < p->n_sides; s++) {
        add_text(&h, p->sides[s].name);
        kv_sha256_add(&h, p->sides[s].so_sha, sizeof p->sides[s].so_sha);
    }
    for (int d = 0; d < p->n_docs; d++) {
        kv_sha256_add(&h, p->docs[d].stream.token_sha, sizeof p->docs[d].stream.token_sha);
        for (int i = 0; i < p->n_policies; i++) {
            dt_plan_key(p, d, i, NULL, key, sizeof key);
            add_text(&h, key);
        }
    }
    kv_sha256_end(&h, p->fingerprint);
    return KV_OK;
}

void dt_plan_key(const dt_plan *p, int doc, int policy, const char *device, char *dst, size_t size)
{
    char text[KV_POLICY_TEXT_MAX], model[256], mode[64];
    const dt_options *o = p->options;
    kv_policy_format(&p->policies[policy], text);
    if (p->device_model == p->model)
        snprintf(model, sizeof model, "%s", p->model->name);
    else
        snprintf(model, sizeof model, "%s~%s", p->model->name, p->device_model->name);
    if (o->window)
        snprintf(mode, sizeof mode, "%s,window=%d", dt_mode_name(o->mode), o->window);
    else
        snprintf(mode, sizeof mode, "%s", dt_mode_name(o->mode));
    snprintf(dst, size, "%s/%s|%s|%s|%s|len=%lld|%s|q=%d", p->docs[doc].info->name, p->docs[doc].doc->name,
             model, text, device ? device : "none", (long long)dt_plan_tokens(p, doc), mode, o->q);
}

/* Appends " --name='value'", quoted where a shell needs it. */
static void add_option(char *dst, size_t size, const char *name, const char *value)
{
    const size_t at = strlen(dst);
    const int plain = value[strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                          "._-=/:,+%@")] == 0;
    snprintf(dst + at, size - at, plain ? " --%s=%s" : " --%s='%s'", name, value);
}

static void add_number(char *dst, size_t size, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    add_option(dst, size, name, text);
}

void dt_plan_repro(const dt_plan *p, int doc, int policy, const char *device, char *dst, size_t size)
{
    const dt_options *o = p->options;
    const corpus *source = p->docs[doc].source;
    char text[KV_POLICY_TEXT_MAX];
    kv_policy_format(&p->policies[policy], text);
    snprintf(dst, size, "kvdiff run");
    add_option(dst, size, "model", o->model);
    if (o->device_model) add_option(dst, size, "device-model", o->device_model);
    for (int i = 0; i < p->n_corpora; i++)
        if (p->corpora[i] == source) add_option(dst, size, "corpus", o->corpora.v[i]);
    add_option(dst, size, "doc", p->docs[doc].doc->name);
    add_option(dst, size, "policy", text);
    add_option(dst, size, "device", device ? device : "none");
    if (o->tokens) add_number(dst, size, "tokens", o->tokens);
    add_number(dst, size, "q", o->q);
    if (o->mode != DT_MODE_FREE) add_option(dst, size, "mode", dt_mode_name(o->mode));
    if (o->window) add_number(dst, size, "window", o->window);
    if (o->allow_long) snprintf(dst + strlen(dst), size - strlen(dst), " --allow-long");
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static kv_status make(dt_plan *p)
{
    KV_TRY(parse_policies(p));
    KV_TRY(open_sides(p));
    KV_TRY(open_models(p));
    KV_TRY(open_corpora(p));
    KV_TRY(check_policies(p));
    KV_TRY(check_context(p));
    return take_fingerprint(p);
}

kv_status dt_plan_make(const dt_options *o, dt_plan *out)
{
    *out = (dt_plan){.options = o};
    const kv_status st = make(out);
    if (st != KV_OK) dt_plan_free(out);
    return st;
}

void dt_plan_free(dt_plan *p)
{
    for (int i = 0; i < p->n_sides; i++)
        dt_side_close(&p->sides[i]);
    for (int i = 0; i < p->n_docs; i++)
        corpus_stream_free(&p->docs[i].stream);
    for (int i = 0; i < p->n_corpora; i++)
        corpus_close(p->corpora[i]);
    kv_tokenizer_free(p->tokenizer);
    if (p->device_model != p->model) kv_model_close(p->device_model);
    kv_model_close(p->model);
    free(p->sides);
    free(p->docs);
    free(p->corpora);
    free(p->policies);
    *p = (dt_plan){0};
}
