/* spm_build.c - from a list of pieces with scores to the tables that encoding needs. The list comes
 * from a file that nobody vouches for. */
#include "common/spm.h"
#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { SHOWN = 48 };

static kv_status no_memory(const char *where)
{
    return kv_fail(KV_ERR_NOMEM, "%s: out of memory while reading the tokenizer", where);
}

/* ---- the list -------------------------------------------------------------------------------- */

kv_status kv_spm_source_add(kv_spm_source *f, kv_span text, float score, uint8_t type)
{
    if (f->n == f->cap) {
        const int64_t cap = f->cap ? 2 * f->cap : 1024;
        struct kv_spm_entry *v = realloc(f->v, (size_t)cap * sizeof *v);
        if (!v) return no_memory(f->where);
        f->v = v;
        f->cap = cap;
    }
    f->v[f->n++] = (struct kv_spm_entry){text, score, type};
    return KV_OK;
}

void kv_spm_source_free(kv_spm_source *f)
{
    free(f->v);
    f->v = NULL;
}

static kv_status bad(const kv_spm_source *f, int64_t id, const char *why)
{
    char shown[SHOWN];
    const kv_span s = f->v[id].text;
    return kv_fail(KV_ERR_FORMAT, "%s: piece %lld '%s' %s; fetch or train the vocabulary again",
                   f->where, (long long)id, kv_printable(s.p, s.n, shown, sizeof shown), why);
}

static kv_status check_entry(const kv_spm_source *f, int64_t id)
{
    const struct kv_spm_entry *e = &f->v[id];
    if (e->type < KV_TOKEN_NORMAL || e->type > KV_TOKEN_BYTE)
        return bad(f, id, "has no known type");
    if (e->type == KV_TOKEN_UNUSED)
        return kv_fail(
            KV_ERR_UNSUPPORTED,
            "%s: piece %lld is marked unused, which is not supported; use the vocabulary "
            "as it was trained",
            f->where, (long long)id);
    if (e->text.n > KV_SPM_PIECE_MAX) return bad(f, id, "is longer than 512 bytes");
    if (!(e->score - e->score == 0)) return bad(f, id, "has a score that is not finite");
    uint32_t cp;
    for (size_t at = 0, step; at < e->text.n; at += step) {
        step = kv_utf8_next(e->text.p + at, e->text.n - at, &cp);
        if (step == 0) return bad(f, id, "is not UTF-8");
    }
    return KV_OK;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that "<0xAB>" names; -1: it names none. */
static int byte_of(const char *p, size_t n)
{
    if (n != 6 || memcmp(p, "<0x", 3) != 0 || p[5] != '>') return -1;
    const int hi = hex_digit(p[3]), lo = hex_digit(p[4]);
    return hi < 0 || lo < 0 ? -1 : 16 * hi + lo;
}

static size_t decode(uint8_t type, const char *text, size_t n, char *out)
{
    size_t used = 0;
    if (type == KV_TOKEN_BYTE) {
        *out = (char)byte_of(text, n);
        return 1;
    }
    for (size_t at = 0; at < n;) {
        const int is_space = n - at >= 3 && memcmp(text + at, KV_SPM_SPACE, 3) == 0;
        out[used++] = is_space ? ' ' : text[at];
        at += is_space ? 3 : 1;
    }
    return used;
}

static kv_status add_piece(const kv_spm_source *f, int64_t id, kv_spm *s)
{
    const kv_span text = f->v[id].text;
    KV_TRY(check_entry(f, id));
    const uint8_t type = f->v[id].type;
    if (type == KV_TOKEN_BYTE) {
        const int b = byte_of(text.p, text.n);
        if (b < 0) return bad(f, id, "is marked as a byte and is not written like <0x0A>");
        s->byte_id[b] = (int32_t)id;
    }
    if (type == KV_TOKEN_UNKNOWN) {
        if (s->unk >= 0) return bad(f, id, "is a second unknown piece");
        s->unk = (int32_t)id;
    }
    s->score[id] = f->v[id].score;
    return kv_vocab_add(&s->vocab, text.p, text.n, type, decode, f->where);
}

static kv_status add_pieces(const kv_spm_source *f, kv_spm *s)
{
    uint64_t bytes = 0;
    for (int64_t id = 0; id < f->n; id++)
        bytes += f->v[id].text.n;
    KV_TRY(kv_vocab_reserve(&s->vocab, (uint64_t)f->n, bytes, f->where));
    s->score = malloc((size_t)f->n * sizeof *s->score);
    if (!s->score) return no_memory(f->where);
    memset(s->byte_id, 0xff, sizeof s->byte_id);
    s->unk = -1;
    for (int64_t id = 0; id < f->n; id++)
        KV_TRY(add_piece(f, id, s));
    int n_bytes = 0;
    for (int b = 0; b < 256; b++)
        n_bytes += s->byte_id[b] >= 0;
    s->byte_fallback = f->byte_fallback < 0 ? n_bytes > 0 : f->byte_fallback;
    if (s->byte_fallback && n_bytes < 256)
        return kv_fail(
            KV_ERR_FORMAT,
            "%s: %d of the 256 byte pieces are there; fetch or train the vocabulary again",
            f->where, n_bytes);
    return KV_OK;
}

/* ---- characters ------------------------------------------------------------------------------ */

/* Pieces that a text can be made of. */
static int is_text(const kv_spm *s, int32_t id)
{
    return s->vocab.type[id] == KV_TOKEN_NORMAL || s->vocab.type[id] == KV_TOKEN_USER;
}

static int32_t find_text(const kv_spm *s, const char *p, size_t n)
{
    const int32_t id = kv_vocab_find(&s->vocab, p, n);
    return id >= 0 && is_text(s, id) ? id : -1;
}

static int ascending(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int32_t slow_char_id(const kv_spm *s, const char *p, size_t n)
{
    uint32_t cp;
    const int32_t id = find_text(s, p, n);
    if (id >= 0) return id;
    if (kv_utf8_next(p, n, &cp) != n || s->n_orphans == 0) return KV_SPM_NOBODY;
    const uint32_t *found = bsearch(&cp, s->orphans, (size_t)s->n_orphans, sizeof cp, ascending);
    return found ? s->vocab.n + (int32_t)(found - s->orphans) : KV_SPM_NOBODY;
}

int32_t kv_spm_char_id(const kv_spm *s, const char *p, size_t n)
{
    const uint8_t b = (uint8_t)p[0];
    return n == 1 && b < 128 ? s->ascii_id[b] : slow_char_id(s, p, n);
}

typedef void visit_char(kv_spm *s, const char *p, size_t n, uint32_t cp, uint32_t before);

/* Every character of every piece that a text can be made of; before = UINT32_MAX for the first. */
static void each_char(kv_spm *s, visit_char *visit)
{
    for (int32_t id = 0; id < s->vocab.n; id++) {
        if (!is_text(s, id)) continue;
        const kv_span t = kv_vocab_text(&s->vocab, id);
        uint32_t cp, before = UINT32_MAX;
        for (size_t at = 0, step; at < t.n; at += step, before = cp) {
            step = kv_utf8_next(t.p + at, t.n - at, &cp);
            visit(s, t.p + at, step, cp, before);
        }
    }
}

static void add_orphan(kv_spm *s, const char *p, size_t n, uint32_t cp, uint32_t before)
{
    (void)before;
    if (find_text(s, p, n) < 0) s->orphans[s->n_orphans++] = cp;
}

static void count_orphan(kv_spm *s, const char *p, size_t n, uint32_t cp, uint32_t before)
{
    (void)cp, (void)before;
    s->n_orphans += find_text(s, p, n) < 0;
}

static kv_status find_chars(kv_spm *s, const char *where)
{
    each_char(s, count_orphan);
    s->orphans = malloc(((size_t)s->n_orphans + 1) * sizeof *s->orphans);
    if (!s->orphans) return no_memory(where);
    s->n_orphans = 0;
    each_char(s, add_orphan);
    qsort(s->orphans, (size_t)s->n_orphans, sizeof *s->orphans, ascending);
    int32_t unique = 0;
    for (int32_t i = 0; i < s->n_orphans; i++)
        if (i == 0 || s->orphans[i] != s->orphans[unique - 1]) s->orphans[unique++] = s->orphans[i];
    s->n_orphans = unique;
    for (int c = 0; c < 128; c++) {
        const char text = (char)c;
        s->ascii_id[c] = slow_char_id(s, &text, 1);
    }
    return KV_OK;
}

/* ---- joints ---------------------------------------------------------------------------------- */

static void add_joint(kv_spm *s, const char *p, size_t n, uint32_t cp, uint32_t before)
{
    (void)p, (void)n;
    if (before != UINT32_MAX) *kv_spm_joint_slot(s, before, cp) = kv_spm_joint_key(before, cp);
}

static kv_status find_joints(kv_spm *s, const char *where)
{
    const uint64_t slots = kv_slots_for(s->vocab.text.at[s->vocab.n]);
    s->joint_mask = slots - 1;
    s->joints = calloc(slots, sizeof *s->joints);
    if (!s->joints) return no_memory(where);
    each_char(s, add_joint);
    return KV_OK;
}

/* ---- pairs ----------------------------------------------------------------------------------- */

typedef struct scored {
    float score;
    int32_t id;
} scored;

static int better_first(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Equal scores share a rank. */
static kv_status rank_scores(const kv_spm *s, const char *where, int32_t *rank)
{
    scored *v = malloc((size_t)s->vocab.n * sizeof *v);
    if (!v) return no_memory(where);
    for (int32_t id = 0; id < s->vocab.n; id++)
        v[id] = (scored){s->score[id], id};
    qsort(v, (size_t)s->vocab.n, sizeof *v, better_first);
    for (int32_t i = 0, r = 0; i < s->vocab.n; i++) {
        if (i > 0 && v[i].score != v[i - 1].score) r = i;
        rank[v[i].id] = r;
    }
    free(v);
    return KV_OK;
}

static int32_t part_id(const kv_spm *s, const char *p, size_t n)
{
    uint32_t cp;
    return kv_utf8_next(p, n, &cp) == n ? kv_spm_char_id(s, p, n) : find_text(s, p, n);
}

/* All places where two parts of the piece meet that a text can be made of; returns how many and,
 * with rank, enters them. */
static uint64_t split(kv_spm *s, int32_t id, const int32_t *rank)
{
    const kv_span t = kv_vocab_text(&s->vocab, id);
    uint64_t n = 0;
    uint32_t cp;
    for (size_t at = kv_utf8_next(t.p, t.n, &cp); at < t.n;
         at += kv_utf8_next(t.p + at, t.n - at, &cp)) {
        const int32_t left = part_id(s, t.p, at), right = part_id(s, t.p + at, t.n - at);
        if (left < 0 || right < 0) continue;
        n++;
        if (rank)
            *kv_merges_slot(&s->pairs, left, right) =
                (kv_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank[id], id};
    }
    return n;
}

static kv_status find_pairs(kv_spm *s, const char *where)
{
    uint64_t n = 0;
    for (int32_t id = 0; id < s->vocab.n; id++)
        if (is_text(s, id)) n += split(s, id, NULL);
    KV_TRY(kv_merges_reserve(&s->pairs, n));
    int32_t *rank = malloc((size_t)s->vocab.n * sizeof *rank);
    kv_status st = rank ? rank_scores(s, where, rank) : no_memory(where);
    for (int32_t id = 0; st == KV_OK && id < s->vocab.n; id++)
        if (is_text(s, id)) split(s, id, rank);
    free(rank);
    return st;
}

/* ---- all of it ------------------------------------------------------------------------------- */

kv_status kv_spm_build(const kv_spm_source *f, kv_spm *s)
{
    KV_TRY(add_pieces(f, s));
    KV_TRY(find_chars(s, f->where));
    KV_TRY(find_joints(s, f->where));
    KV_TRY(find_pairs(s, f->where));
    return kv_marks_build(&s->vocab, &s->marks);
}

void kv_spm_free(kv_spm *s)
{
    kv_vocab_free(&s->vocab);
    kv_marks_free(&s->marks);
    kv_merges_free(&s->pairs);
    free(s->score);
    free(s->joints);
    free(s->orphans);
    free(s->norm.units);
    free(s->norm.rewritten);
    *s = (kv_spm){0};
}
