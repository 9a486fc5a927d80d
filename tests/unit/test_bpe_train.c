/* Training of vocabularies: against the definition carried out literally, and the same bytes
 * whatever the order of the texts. */
#include "tests/unit/kvtest.h"

#include "common/rng.h"
#include "common/tokenizer.h"
#include "corpus/bpe_train.h"
#include "corpus/bpe_words.h"

/* ---- words ----------------------------------------------------------------------------------- */

/* "word=count ..." in the order of first occurrence, U+2581 as _. */
static void list(const corpus_words *w, char *out)
{
    for (int64_t i = 0; i < w->n; i++) {
        if (i) *out++ = ' ';
        const char *p = w->bytes.p + w->v[i].at;
        for (uint32_t k = 0; k < w->v[i].n;) {
            const int space = memcmp(p + k, "\xe2\x96\x81", 3) == 0;
            *out++ = space ? '_' : p[k];
            k += space ? 3 : 1;
        }
        out += sprintf(out, "=%lld", (long long)w->v[i].count);
    }
    *out = '\0';
}

static void assert_words(const char *text, const char *words, const char *chars)
{
    corpus_words w = {0}, c = {0};
    char got[512];
    assert_ok(corpus_words_count(&w, &c, text, strlen(text)));
    list(&w, got);
    assert_string_equal(got, words);
    list(&c, got);
    assert_string_equal(got, chars);
    corpus_words_free(&w);
    corpus_words_free(&c);
}

static void texts_are_cut_into_words(void **state)
{
    (void)state;
    assert_words("", "", "");
    assert_words("ab ab", "ab=1 _ab=1", "a=2 b=2 _=1");
    assert_words("don't", "don=1 '=1 t=1", "d=1 o=1 n=1 '=1 t=1");
    assert_words("a  b ", "a=1 _b=1", "a=1 _=3 b=1");
    assert_words("a1b 23", "a=1 b=1", "a=1 1=1 b=1 _=1 2=1 3=1");
    assert_words("a\nb\t\x7f"
                 "c",
                 "a=1 b=1 c=1", "a=1 b=1 c=1");
    assert_words(" --- --", "_---=1 _--=1", "_=2 -=5");
    assert_words("a\xe2\x96\x81"
                 "b",
                 "a=1 _b=1", "a=1 _=1 b=1");
    assert_words("a\xc2\xa0"
                 "b",
                 "a=1 b=1", "a=1 \xc2\xa0=1 b=1");
}

/* ---- training against the definition -----------------------------------------------------------
 */

enum { TEXT = 900, MAX_SYMBOLS = 120, MAX_WORDS = 400 };

typedef struct naive {
    char symbol[MAX_SYMBOLS][64];
    int n, n_chars;
    int word[MAX_WORDS][40], length[MAX_WORDS];
    int n_words;
} naive;

static int chars_of(const char *s)
{
    int n = 0;
    for (; *s; s++)
        n += ((uint8_t)*s & 0xc0) != 0x80;
    return n;
}

/* Words of a text of a to d and spaces; characters by count, then by code point, the space first.
 */
static void naive_begin(naive *z, const char *text)
{
    int count[128] = {0};
    memset(z, 0, sizeof *z);
    strcpy(z->symbol[0], "\xe2\x96\x81");
    z->n = 1;
    for (const char *p = text; *p; p++)
        count[(int)*p]++;
    for (;;) {
        int best = 0;
        for (int c = 'a'; c <= 'd'; c++)
            if (count[c] > count[best] || (best == 0 && count[c] > 0)) best = c;
        if (best == 0 || count[best] == 0) break;
        z->symbol[z->n++][0] = (char)best;
        count[best] = 0;
    }
    z->n_chars = z->n;
    for (const char *p = text; *p; p++) {
        if (*p == ' ' || p == text) z->n_words++;
        const int w = z->n_words - 1;
        for (int i = 0; i < z->n_chars; i++)
            if (*p == ' ' ? i == 0 : z->symbol[i][0] == *p) z->word[w][z->length[w]++] = i;
    }
}

/* The most frequent pair, lowest symbols first; 0: none occurs twice. */
static int naive_best(const naive *z, int *left, int *right)
{
    int best = 1;
    for (int l = 0; l < z->n; l++)
        for (int r = 0; r < z->n; r++) {
            int count = 0;
            if (chars_of(z->symbol[l]) + chars_of(z->symbol[r]) > 16) continue;
            for (int w = 0; w < z->n_words; w++)
                for (int i = 0; i + 1 < z->length[w]; i++)
                    count += z->word[w][i] == l && z->word[w][i + 1] == r;
            if (count <= best) continue;
            best = count;
            *left = l;
            *right = r;
        }
    return best > 1;
}

static void naive_merge(naive *z, int left, int right)
{
    char text[64];
    int id = 0;
    snprintf(text, sizeof text, "%.31s%.31s", z->symbol[left], z->symbol[right]);
    while (id < z->n && strcmp(z->symbol[id], text) != 0)
        id++;
    if (id == z->n) strcpy(z->symbol[z->n++], text);
    for (int w = 0; w < z->n_words; w++) {
        int n = 0;
        for (int i = 0; i < z->length[w]; n++) {
            const int here =
                z->word[w][i] == left && i + 1 < z->length[w] && z->word[w][i + 1] == right;
            z->word[w][n] = here ? id : z->word[w][i];
            i += here ? 2 : 1;
        }
        z->length[w] = n;
    }
}

/* Pieces from 260 on, one a line, as the .vocab file has them. */
static void naive_train(const char *text, int vocab, char *out, size_t size)
{
    static naive z;
    int left = 0, right = 0, line = 0;
    naive_begin(&z, text);
    while (260 + z.n < vocab && naive_best(&z, &left, &right))
        naive_merge(&z, left, right);
    *out = '\0';
    for (int k = 0; k < z.n; k++) {
        const int id = k == 0                 ? 0
                       : k <= z.n - z.n_chars ? z.n_chars + k - 1
                                              : k - (z.n - z.n_chars);
        snprintf(out + strlen(out), size - strlen(out), "%s\t-%d\n", z.symbol[id], line++);
    }
}

static void make_text(uint64_t seed, char *text)
{
    int run = 0;
    for (int i = 0; i < TEXT; i++) {
        const uint32_t k = kv_philox_below(seed, 1, (uint64_t)i, 10);
        const int space = i > 0 && (k >= 8 || run == 20);
        run = space ? 0 : run + 1;
        text[i] =
            space ? ' ' : (char)('a' + (k >= 4 ? kv_philox_below(seed, 2, (uint64_t)i, 2) : k));
    }
    text[TEXT] = '\0';
}

/* FILE.vocab of a training; *report may be NULL. The caller frees it. */
static char *train(const char *const *texts, int n, int vocab, double coverage,
                   corpus_bpe_report *report)
{
    corpus_bpe_trainer *t;
    kv_bytes model = {0}, text = {0};
    corpus_bpe_report unused;
    assert_ok(corpus_bpe_new(&(corpus_bpe_args){vocab, coverage}, &t));
    for (int i = 0; i < n; i++)
        assert_ok(corpus_bpe_add(t, texts[i], strlen(texts[i])));
    assert_ok(corpus_bpe_finish(t, &model, &text, report ? report : &unused));
    assert_ok(kv_bytes_add(&text, "", 1));
    corpus_bpe_free(t);
    free(model.p);
    return text.p;
}

/* The line of id 260. */
static const char *behind_the_bytes(const char *vocab)
{
    for (int i = 0; i < 260; i++)
        vocab = strchr(vocab, '\n') + 1;
    return vocab;
}

static void training_is_what_the_definition_says(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 12; seed++) {
        char text[TEXT + 1], want[8192];
        const char *texts[] = {text};
        make_text(seed, text);
        naive_train(text, 260 + 60 + (int)seed, want, sizeof want);
        char *got = train(texts, 1, 260 + 60 + (int)seed, 1, NULL);
        assert_string_equal(behind_the_bytes(got), want);
        free(got);
    }
}

static void the_order_of_texts_does_not_matter(void **state)
{
    (void)state;
    char a[TEXT + 1], b[TEXT + 1], c[TEXT + 1];
    const char *one[] = {a, b, c}, *other[] = {c, a, b};
    make_text(1, a);
    make_text(2, b);
    make_text(3, c);
    char *x = train(one, 3, 330, 1, NULL), *y = train(other, 3, 330, 1, NULL);
    assert_string_equal(x, y);
    free(x);
    free(y);
}

static void rare_characters_become_bytes(void **state)
{
    (void)state;
    const char *texts[] = {"aaaa aaab aaab aaab z\xc3\xa9"}; /* 13 a, 4 spaces, 3 b, z, e-acute */
    corpus_bpe_report r;
    char *v = train(texts, 1, 300, 0.9, &r);
    assert_int_equal(r.character_pieces, 3);
    assert_null(strstr(v, "z\t"));
    assert_null(strstr(v, "\xc3\xa9\t"));
    free(v);
    v = train(texts, 1, 300, 1, &r);
    assert_int_equal(r.character_pieces, 5);
    assert_non_null(strstr(v, "\xc3\xa9\t"));
    assert_int_equal(r.words, 3);
    assert_true(r.pieces < 300); /* nothing is left to merge */
    free(v);
}

static void impossible_trainings_are_refused(void **state)
{
    (void)state;
    corpus_bpe_trainer *t = NULL;
    kv_bytes m = {0}, v = {0};
    corpus_bpe_report r;
    assert_refused(corpus_bpe_new(&(corpus_bpe_args){260, 1}, &t), KV_ERR_USAGE, "260 pieces");
    assert_refused(corpus_bpe_new(&(corpus_bpe_args){300, 0}, &t), KV_ERR_USAGE, "coverage of 0");
    assert_refused(corpus_bpe_new(&(corpus_bpe_args){300, 1.5}, &t), KV_ERR_USAGE,
                   "coverage of 1.5");
    assert_null(t);
    assert_ok(corpus_bpe_new(&(corpus_bpe_args){263, 1}, &t));
    assert_ok(corpus_bpe_add(t, "abc", 3));
    assert_refused(corpus_bpe_add(t, "a\xff", 2), KV_ERR_FORMAT, "byte 1");
    assert_refused(corpus_bpe_finish(t, &m, &v, &r), KV_ERR_USAGE, "263 pieces do not hold");
    corpus_bpe_free(t);
    corpus_bpe_free(NULL);
    assert_ok(corpus_bpe_new(&(corpus_bpe_args){264, 1}, &t));
    assert_ok(corpus_bpe_add(t, "abc", 3));
    assert_ok(corpus_bpe_finish(t, &m, &v, &r));
    assert_int_equal(r.pieces, 264);
    corpus_bpe_free(t);
    free(m.p);
    free(v.p);
}

/* Recorded: another rule of training would be another contract (tests/golden/spm/make.py says how).
 */
static void the_books_vocabulary_is_the_recorded_one(void **state)
{
    (void)state;
    corpus_bpe_trainer *t;
    kv_bytes m = {0}, v = {0};
    corpus_bpe_report r;
    kv_tokenizer *from_model, *from_vocab;
    size_t n, want_n;
    uint8_t *book = kvtest_read("corpus/text/book.txt", &n);
    uint8_t *want = kvtest_read("tests/golden/spm/own.model", &want_n);
    assert_ok(corpus_bpe_new(&(corpus_bpe_args){400, 0.999}, &t));
    assert_ok(corpus_bpe_add(t, (char *)book, n));
    assert_ok(corpus_bpe_finish(t, &m, &v, &r));
    assert_int_equal(m.n, want_n);
    assert_memory_equal(m.p, want, want_n);
    assert_ok(kv_tokenizer_from_model(m.p, m.n, "own.model", &from_model));
    assert_ok(kv_tokenizer_from_vocab(v.p, v.n, "own.vocab", &from_vocab));
    assert_memory_equal(kv_tokenizer_fingerprint(from_model), kv_tokenizer_fingerprint(from_vocab),
                        32);
    kv_tokenizer_free(from_model);
    kv_tokenizer_free(from_vocab);
    corpus_bpe_free(t);
    free(m.p);
    free(v.p);
    free(want);
    free(book);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_cut_into_words),
        cmocka_unit_test(training_is_what_the_definition_says),
        cmocka_unit_test(the_order_of_texts_does_not_matter),
        cmocka_unit_test(rare_characters_become_bytes),
        cmocka_unit_test(impossible_trainings_are_refused),
        cmocka_unit_test(the_books_vocabulary_is_the_recorded_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
