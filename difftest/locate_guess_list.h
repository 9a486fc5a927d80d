/* locate_guess_list.h - mistakes that a file of guesses tries one after the other, with their class and their words: an
 * enumeration and two tables from one list. */
#ifndef KV_DIFFTEST_LOCATE_GUESS_LIST_H
#define KV_DIFFTEST_LOCATE_GUESS_LIST_H

#define DT_MISTAKE_SYMBOL(symbol, klass, what) symbol,
#define DT_MISTAKE_KLASS(symbol, klass, what)  klass,
#define DT_MISTAKE_TEXT(symbol, klass, what)   what,

/* LIST(X) has an X(symbol, class of table klass, what is wrong) for each, the first of which is no mistake at all. Defines type mistake,
 * N_MISTAKES, klasses[] and texts[]. */
#define DT_MISTAKES(LIST)                                             \
    typedef enum mistake { LIST(DT_MISTAKE_SYMBOL) N_MISTAKES } mistake; \
    static const char *const klasses[] = {LIST(DT_MISTAKE_KLASS)};    \
    static const char *const texts[] = {LIST(DT_MISTAKE_TEXT)}

#endif
