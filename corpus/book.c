/* book.c - the book-like text that is part of the program: corpus/text/book.txt, written for it. */
#include "corpus/internal.h"

#include "common/hash.h"

#include "book_text.h" /* made from corpus/text/book.txt: static const char book_text[] */

const char *corpus_book_text(size_t *n)
{
    *n = sizeof book_text - 1;
    return book_text;
}

const uint8_t *corpus_book_sha(uint8_t out[32])
{
    kv_sha256(book_text, sizeof book_text - 1, out);
    return out;
}

static kv_status load(const corpus_item *item, corpus_bytes *out)
{
    (void)item;
    *out = (corpus_bytes){book_text, sizeof book_text - 1, NULL};
    return KV_OK;
}

kv_status corpus_open_book(corpus *c, const char *spec, const char *params)
{
    corpus_item *item;
    corpus_values none[1];
    KV_TRY(corpus_parse(spec, params, NULL, 0, none));
    KV_TRY(corpus_set_name(c, "book"));
    KV_TRY(corpus_add(c, "weigher", "The Weigher of Stennick", &item));
    KV_TRY(corpus_describe(item, "the built-in book", book_text, sizeof book_text - 1));
    c->info.generator = "book";
    c->load = load;
    corpus_sign_generator(c, "");
    return KV_OK;
}
