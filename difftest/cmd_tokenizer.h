/* cmd_tokenizer.h - the parts of `kvdiff tokenizer`, and what `kvdiff corpus shard` shares with it.
 */
#ifndef KV_DIFFTEST_CMD_TOKENIZER_H
#define KV_DIFFTEST_CMD_TOKENIZER_H

#include "common/tokenizer.h"
#include "difftest/cli.h"

/* FILE.model, FILE.vocab, FILE.gguf, or "bytes". */
kv_status dt_open_tokenizer(const char *name, kv_tokenizer **out);

/* Commands below a command; they parse their own options. */
int dt_tokenizer_train(int argc, char **argv);
int dt_corpus_shard(int argc, char **argv);  /* `kvdiff corpus shard` */
int dt_corpus_split(int argc, char **argv);  /* `kvdiff corpus split` */
int dt_corpus_recall(int argc, char **argv); /* `kvdiff corpus recall` */

#endif
