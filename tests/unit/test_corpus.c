/* Corpora of files and the book: what is opened, what is checked, what is refused; spellings. */
#include "tests/unit/folderkit.h"

#include "common/hash.h"
#include "corpus/internal.h"

#include <linux/capability.h>
#include <sys/syscall.h>

static corpus *open_corpus(const char *spec)
{
    corpus *c = NULL;
    assert_ok(corpus_open(spec, &c));
    assert_non_null(c);
    return c;
}

static void refused(const char *spec, kv_status status, const char *words)
{
    corpus *c = NULL;
    assert_refused(corpus_open(spec, &c), status, words);
    assert_null(c);
}

/* ---- book ------------------------------------------------------------------------------------ */

static void the_book_is_the_file_in_the_tree(void **state)
{
    (void)state;
    size_t n, file_n;
    const char *text;
    uint8_t sha[32], *file = kvtest_read("corpus/text/book.txt", &file_n);
    corpus *c = open_corpus("book");
    const corpus_info *info = corpus_get_info(c);
    const corpus_doc *doc = corpus_get_doc(c, 0);
    assert_string_equal(info->name, "book");
    assert_string_equal(info->generator, "book");
    assert_int_equal(info->seed, -1);
    assert_int_equal(info->n_docs, 1);
    assert_ok(corpus_text(c, 0, &text, &n));
    assert_int_equal(n, file_n);
    assert_memory_equal(text, file, n);
    assert_int_equal(doc->n_bytes, n);
    assert_true(n >= 30000);
    kv_sha256(file, file_n, sha);
    assert_memory_equal(doc->text_sha, sha, 32);
    corpus_close(c);
    free(file);
}

static void documents_that_are_not_there_are_refused(void **state)
{
    (void)state;
    const char *text;
    size_t n;
    corpus_stream s;
    kv_tokenizer *tok = NULL;
    corpus *c = open_corpus("book");
    assert_ok(kv_tokenizer_bytes(&tok));
    assert_null(corpus_get_doc(c, 1));
    assert_null(corpus_get_doc(c, -1));
    assert_refused(corpus_text(c, 1, &text, &n), KV_ERR_USAGE, "'book' has no document 1");
    assert_refused(corpus_tokens(c, -1, tok, NULL, 0, &s), KV_ERR_USAGE, "no document -1");
    kv_tokenizer_free(tok);
    corpus_close(c);
    corpus_close(NULL);
}

/* ---- spellings ------------------------------------------------------------------------------- */

static void unknown_spellings_are_refused_with_what_is_known(void **state)
{
    (void)state;
    static const struct {
        const char *spec, *words;
    } cases[] = {
        {"", "corpus '' is empty"},
        {"bok",
         "corpus 'bok' is unknown: no file or folder has that name, and the kinds are book, "},
        {"Book", "corpus 'Book' is unknown"},
        {"syn:bytes=3", "corpus 'syn:bytes=3' is unknown"},
        {"a\nb", "corpus 'a\\x0Ab': control characters in a name"},
        {"synth:bytes=\n", "corpus 'synth:bytes=\\x0A': control characters in a name"},
        {"book:x=1", "there is no parameter 'x'; known: none"},
        {"book:", "there is no parameter ''; known: none"},
        {"synth:", "there is no parameter ''; known: bytes, seed"},
        {"synth:byte=3", "there is no parameter 'byte'; known: bytes, seed"},
        {"synth:bytes", "'bytes' needs a value (length of the text)"},
        {"synth:bytes=", "'bytes' needs a value"},
        {"synth:bytes=0", "bytes=0 is outside 1..1073741824"},
        {"synth:bytes=2G", "bytes=2G is outside 1..1073741824"},
        {"synth:bytes=-1", "bytes=-1 is not a whole number"},
        {"synth:bytes=1.5", "bytes=1.5 is not a whole number"},
        {"synth:bytes=1K", "bytes=1K is not a whole number"},
        {"synth:bytes=9999999999999999999999", "is not a whole number"},
        {"synth:bytes=9223372036854775807k", "is not a whole number"},
        {"synth:bytes=1/2", "bytes=1/2 is not a whole number"},
        {"synth:seed=1,seed=2", "seed is given twice"},
        {"synth:seed=1,,bytes=3", "there is no parameter ''"},
        {"passkey", "len=... is missing (tokens of a document)"},
        {"passkey:depth=50", "len=... is missing"},
        {"passkey:len=63", "len=63 is outside 64..67108864"},
        {"passkey:len=1k/1024", "len has 1024 twice"},
        {"passkey:len=1k,depth=100.1", "depth=100.1 is outside 0..100"},
        {"passkey:len=1k,depth=1.00001", "depth=1.00001 is not a number"},
        {"passkey:len=1k,depth=1.", "depth=1. is not a number"},
        {"passkey:len=1k,depth=.5", "depth=.5 is not a number"},
        {"passkey:len=1k,depth=5k", "depth=5k is not a number"},
        {"passkey:len=1k,depth=1//2", "depth= is not a number"},
        {"passkey:len=1k,depth=50/", "depth= is not a number"},
        {"passkey:len=1k,seeds=0", "seeds=0 is outside 1..16384"},
        {"passkey:len=1k/2k,depth=1/2,seeds=9999", "39996 documents; 16384 are possible"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refused(cases[i].spec, KV_ERR_USAGE, cases[i].words);
}

static void lists_have_at_most_64_values(void **state)
{
    (void)state;
    char spec[1024] = "passkey:len=64";
    for (int i = 65; i < 64 + CORPUS_LIST_MAX; i++)
        snprintf(spec + strlen(spec), sizeof spec - strlen(spec), "/%d", i);
    corpus *c = open_corpus(spec);
    assert_int_equal(corpus_get_info(c)->n_docs, CORPUS_LIST_MAX);
    corpus_close(c);
    strcat(spec, "/200");
    refused(spec, KV_ERR_USAGE, "len has more than 64 values");
}

static void equal_spellings_have_one_canonical_form(void **state)
{
    (void)state;
    static const struct {
        const char *spec, *name;
    } cases[] = {
        {"synth", "synth:bytes=1048576,seed=1"},
        {"synth:seed=7", "synth:bytes=1048576,seed=7"},
        {"synth:seed=007,bytes=2k", "synth:bytes=2048,seed=7"},
        {"passkey:len=1k", "passkey:len=1024,depth=50,seeds=1"},
        {"passkey:seeds=2,depth=0/12.50/100.0,len=4k/1024",
         "passkey:len=4096/1024,depth=0/12.5/100,seeds=2"},
        {"passkey:len=1k,depth=0.0001", "passkey:len=1024,depth=0.0001,seeds=1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        corpus *c = open_corpus(cases[i].spec);
        assert_string_equal(corpus_get_info(c)->name, cases[i].name);
        corpus *again = open_corpus(cases[i].name);
        assert_string_equal(corpus_get_info(again)->name, cases[i].name);
        assert_memory_equal(corpus_get_info(again)->manifest_sha, corpus_get_info(c)->manifest_sha,
                            32);
        corpus_close(again);
        corpus_close(c);
    }
}

/* ---- a file ---------------------------------------------------------------------------------- */

static void a_file_is_one_document_called_after_itself(void **state)
{
    (void)state;
    const char *text;
    size_t n;
    uint8_t sha[32];
    corpus *c = open_corpus(put_file("My book (1).txt", "Two words.\n"));
    const corpus_doc *doc = corpus_get_doc(c, 0);
    assert_string_equal(corpus_get_info(c)->name, "My_book__1_");
    assert_string_equal(corpus_get_info(c)->generator, "files");
    assert_int_equal(corpus_get_info(c)->n_docs, 1);
    assert_string_equal(doc->name, "My_book__1_");
    assert_string_equal(doc->title, "My_book__1_");
    assert_int_equal(doc->n_bytes, 11);
    assert_int_equal(doc->n_words, 2);
    assert_ok(corpus_text(c, 0, &text, &n));
    assert_int_equal(n, 11);
    assert_memory_equal(text, "Two words.\n", 11);
    kv_sha256(text, n, sha);
    assert_memory_equal(doc->text_sha, sha, 32);
    corpus_close(c);
}

static void an_empty_file_is_refused(void **state)
{
    (void)state;
    refused(put_file("nothing.txt", ""), KV_ERR_FORMAT, "nothing.txt: empty");
}

static void invalid_utf8_is_refused_with_file_and_offset(void **state)
{
    (void)state;
    refused(put_file("latin1.txt", "caf\xe9 au lait"), KV_ERR_FORMAT,
            "latin1.txt: byte 3 (0xE9): a sequence that breaks off");
    put_file("good.txt", "fine");
    refused(folderkit_path, KV_ERR_FORMAT, "latin1.txt: byte 3 (0xE9)");
}

static void what_is_no_regular_file_is_refused(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(in_folder("pipe.txt"), 0600), 0);
    refused(in_folder("pipe.txt"), KV_ERR_IO, "pipe.txt: not a regular file");
    refused(folderkit_path, KV_ERR_IO, "pipe.txt: not a regular file");
    refused("/dev/null", KV_ERR_IO, "/dev/null: not a regular file");
    refused(in_folder("missing.txt"), KV_ERR_IO, "No such file or directory; check the path");
    put_file("plain.txt", "text");
    refused(in_folder("plain.txt/below.txt"), KV_ERR_IO, "Not a directory");
}

static void a_file_name_that_would_break_the_line_is_refused(void **state)
{
    (void)state;
    put_file("two\nlines.txt", "text");
    refused(folderkit_path, KV_ERR_USAGE, "two\\x0Alines.txt': control characters in a name");
}

static void a_file_that_changes_after_opening_is_noticed(void **state)
{
    (void)state;
    const char *text;
    size_t n;
    corpus_stream s;
    kv_tokenizer *tok = NULL;
    assert_ok(kv_tokenizer_bytes(&tok));
    corpus *c = open_corpus(put_file("book.txt", "before"));
    put_file("book.txt", "behind");
    assert_refused(corpus_text(c, 0, &text, &n), KV_ERR_MISMATCH, "book.txt: changed since");
    assert_refused(corpus_tokens(c, 0, tok, NULL, 0, &s), KV_ERR_MISMATCH, "changed since");
    assert_int_equal(unlink(in_folder("book.txt")), 0);
    assert_refused(corpus_text(c, 0, &text, &n), KV_ERR_IO, "cannot open");
    put_file("book.txt", "before");
    assert_ok(corpus_text(c, 0, &text, &n));
    put_file("book.txt", "behind");
    assert_ok(corpus_text(c, 0, &text, &n)); /* kept since it was fetched */
    assert_memory_equal(text, "before", 6);
    corpus_close(c);
    kv_tokenizer_free(tok);
}

/* ---- a folder -------------------------------------------------------------------------------- */

static void a_folder_gives_its_texts_in_byte_order(void **state)
{
    (void)state;
    put_file("b.txt", "b");
    put_file("a b.txt", "a b");
    put_file("a-b.txt", "a-b");
    put_file("a_b.txt", "a_b");
    put_file("Z.txt", "Z");
    put_file("notes.md", "no text");
    put_file(".hidden.txt", "\xff");
    put_file(".txt", "\xff");
    corpus *c = open_corpus(folderkit_path);
    static const char *const names[] = {"Z", "a_b", "a-b", "a_b-2", "b"};
    assert_int_equal(corpus_get_info(c)->n_docs, 5);
    for (int32_t i = 0; i < 5; i++)
        assert_string_equal(corpus_get_doc(c, i)->name, names[i]);
    assert_string_equal(corpus_get_info(c)->name, strrchr(folderkit_path, '/') + 1);
    corpus_close(c);
    char with_slash[600];
    snprintf(with_slash, sizeof with_slash, "%s//", folderkit_path);
    c = open_corpus(with_slash);
    assert_string_equal(corpus_get_info(c)->name, strrchr(folderkit_path, '/') + 1);
    corpus_close(c);
}

static void a_folder_without_texts_is_refused(void **state)
{
    (void)state;
    refused(folderkit_path, KV_ERR_IO, "the folder has no *.txt");
    put_file("manifest.json", "[]");
    refused(folderkit_path, KV_ERR_IO, "the folder has no *.txt");
}

/* Root may read everything as long as it has the capabilities to: the test puts them aside. For
 * anybody else this changes nothing. */
static void override_permissions(int on)
{
    enum { BITS = 1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH };
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    assert_int_equal(syscall(SYS_capget, &head, data), 0);
    if (on)
        data[0].effective |= data[0].permitted & BITS;
    else
        data[0].effective &= ~(uint32_t)BITS;
    assert_int_equal(syscall(SYS_capset, &head, data), 0);
}

static void a_folder_or_file_that_may_not_be_read_is_refused(void **state)
{
    (void)state;
    put_file("a.txt", "text");
    override_permissions(0);
    assert_int_equal(chmod(in_folder("a.txt"), 0), 0);
    refused(folderkit_path, KV_ERR_IO, "a.txt: cannot open: Permission denied; check the path");
    refused(in_folder("a.txt"), KV_ERR_IO, "a.txt: cannot open: Permission denied");
    assert_int_equal(chmod(folderkit_path, 0300), 0);
    refused(folderkit_path, KV_ERR_IO, "cannot open the folder: Permission denied");
    assert_int_equal(chmod(folderkit_path, 0), 0);
    refused(in_folder("a.txt"), KV_ERR_IO, "a.txt': Permission denied; check the path");
    assert_int_equal(chmod(folderkit_path, 0700), 0);
    override_permissions(1);
}

static void the_signature_changes_with_any_document(void **state)
{
    (void)state;
    uint8_t sha[4][32];
    put_file("a.txt", "one");
    put_file("b.txt", "two");
    for (int i = 0; i < 4; i++) {
        if (i == 1) put_file("b.txt", "twx");
        if (i == 2) put_file("c.txt", "three");
        if (i == 3) {
            put_file("b.txt", "two");
            assert_int_equal(unlink(in_folder("c.txt")), 0);
        }
        corpus *c = open_corpus(folderkit_path);
        memcpy(sha[i], corpus_get_info(c)->manifest_sha, 32);
        corpus_close(c);
    }
    assert_memory_not_equal(sha[0], sha[1], 32);
    assert_memory_not_equal(sha[1], sha[2], 32);
    assert_memory_equal(sha[0], sha[3], 32);
}

/* ---- manifest.json --------------------------------------------------------------------------- */

/* SHA-256 of "abc" (FIPS 180-2, appendix B.1). */
#define SHA_ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

static void a_manifest_gives_titles_and_is_checked(void **state)
{
    (void)state;
    put_file("a.txt", "abc");
    put_file("b.txt", "not listed");
    put_file("manifest.json",
             "[{\"file\": \"a.txt\", \"title\": \"Alphabet, the \\u00c9nd\", "
             "\"bytes\": 3, \"words\": 1, \"year\": 1871, \"sha256\": \"" SHA_ABC "\"}]");
    corpus *c = open_corpus(folderkit_path);
    assert_string_equal(corpus_get_doc(c, 0)->title, "Alphabet, the \xc3\x89nd");
    assert_string_equal(corpus_get_doc(c, 0)->name, "a");
    assert_string_equal(corpus_get_doc(c, 1)->title, "b");
    corpus_close(c);
}

static void a_text_that_differs_from_its_manifest_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json, *words;
    } cases[] = {
        {"[{\"file\": \"a.txt\", \"bytes\": 4}]",
         "a.txt: manifest.json says 4 bytes, the file has 3"},
        {"[{\"file\": \"a.txt\", \"words\": 2}]",
         "a.txt: manifest.json says 2 words, the file has 1"},
        {"[{\"file\": \"a.txt\", \"sha256\": "
         "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61"
         "f20015ae\"}]",
         "f20015ae, the file has " SHA_ABC},
        {"[{\"file\": \"gone.txt\"}]", "manifest.json: lists 'gone.txt', which the folder lacks"},
    };
    put_file("a.txt", "abc");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_file("manifest.json", cases[i].json);
        refused(folderkit_path, KV_ERR_MISMATCH, cases[i].words);
    }
}

static void a_malformed_manifest_is_refused_with_the_entry(void **state)
{
    (void)state;
    static const struct {
        const char *json, *words;
    } cases[] = {
        {"", "manifest.json: line "},
        {"[", "manifest.json: line "},
        {"[]x", "manifest.json: line 1: "},
        {"[\n\n\xff]", "manifest.json: line "},
        {"{\"file\": \"a.txt\"}", "not an array"},
        {"[1]", "entry 1 is not an object"},
        {"[{}]", "entry 1: \"file\" must be the name of a *.txt"},
        {"[{\"file\": 3}]", "entry 1: \"file\" must be a line of text"},
        {"[{\"file\": \"../a.txt\"}]", "entry 1: \"file\" must be the name of a *.txt in the same"},
        {"[{\"file\": \"manifest.json\"}]", "entry 1: \"file\" must be the name of a *.txt"},
        {"[{\"file\": \".txt\"}]", "entry 1: \"file\" must be"},
        {"[{\"file\": \"a.txt\"}, {\"file\": \"a.txt\"}]", "lists 'a.txt' twice"},
        {"[{\"file\": \"a.txt\", \"file\": \"b.txt\"}]", "manifest.json: line 1: "},
        {"[{\"file\": \"a.txt\", \"title\": \"two\\nlines\"}]",
         "entry 1: \"title\" must be a line"},
        {"[{\"file\": \"a.txt\", \"title\": \"\"}]", "entry 1: \"title\" must be a line"},
        {"[{\"file\": \"a.txt\", \"title\": \"x\\u0000y\"}]", "manifest.json: line 1: "},
        {"[{\"file\": \"a.txt\", \"bytes\": -1}]", "entry 1: \"bytes\" must be a whole number"},
        {"[{\"file\": \"a.txt\", \"bytes\": 3.0}]", "entry 1: \"bytes\" must be a whole number"},
        {"[{\"file\": \"a.txt\", \"words\": \"1\"}]", "entry 1: \"words\" must be a whole number"},
        {"[{\"file\": \"a.txt\", \"words\": 99999999999999999999}]", "manifest.json: line 1: "},
        {"[{\"file\": \"a.txt\", \"sha256\": \"ab\"}]", "entry 1: \"sha256\" must be 64 hex"},
        {"[{\"file\": \"a.txt\", \"sha256\": "
         "\"ga7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61"
         "f20015ad\"}]",
         "entry 1: \"sha256\" must be 64 hex"},
    };
    put_file("a.txt", "abc");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_file("manifest.json", cases[i].json);
        refused(folderkit_path, KV_ERR_FORMAT, cases[i].words);
    }
    assert_int_equal(unlink(in_folder("manifest.json")), 0);
    assert_int_equal(mkdir(in_folder("manifest.json"), 0700), 0);
    refused(folderkit_path, KV_ERR_IO, "manifest.json: not a regular file");
}

#define in_a_folder(test) cmocka_unit_test_setup_teardown(test, folderkit_make, folderkit_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_book_is_the_file_in_the_tree),
        cmocka_unit_test(documents_that_are_not_there_are_refused),
        cmocka_unit_test(unknown_spellings_are_refused_with_what_is_known),
        cmocka_unit_test(lists_have_at_most_64_values),
        cmocka_unit_test(equal_spellings_have_one_canonical_form),
        in_a_folder(a_file_is_one_document_called_after_itself),
        in_a_folder(an_empty_file_is_refused),
        in_a_folder(invalid_utf8_is_refused_with_file_and_offset),
        in_a_folder(what_is_no_regular_file_is_refused),
        in_a_folder(a_file_name_that_would_break_the_line_is_refused),
        in_a_folder(a_file_that_changes_after_opening_is_noticed),
        in_a_folder(a_folder_gives_its_texts_in_byte_order),
        in_a_folder(a_folder_without_texts_is_refused),
        in_a_folder(a_folder_or_file_that_may_not_be_read_is_refused),
        in_a_folder(the_signature_changes_with_any_document),
        in_a_folder(a_manifest_gives_titles_and_is_checked),
        in_a_folder(a_text_that_differs_from_its_manifest_is_refused),
        in_a_folder(a_malformed_manifest_is_refused_with_the_entry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
