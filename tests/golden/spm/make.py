#!/usr/bin/env python3
"""make - rules.model and cases.json, by SentencePiece 0.2.3 (pip install sentencepiece==0.2.3). Run in the
project root:

    build/kvdiff tokenizer train --vocab=400 --out=tests/golden/spm/own.model book
    python3 tests/golden/spm/make.py

own.model is kvdiff's. SentencePiece trains rules.model, with a normaliser's map, a prefix and user tokens, and
says what ids both give."""
import hashlib
import json
import os
import random

import sentencepiece as spm

FOLDER = "tests/golden/spm"
RULES = [("A", "a"), ("ff", "(ff)"), ("fi", "FI"), ("\u00c9", "\u00e9"), ("\n", " "), ("\t", " "), ("\u200b", ""),
         ("\u3000", " "), ("...", "\u2026"), ("..", ". ."), ("\u2581", " ")]
POOL = list("abcthe  \t\u2581\u3000\u00e9\u00c9\u2014\u201c\u201d\u00bd\ud55c\u4e2d\U0001f600\u200b\u0301.,.'<s>01A"
            "ff") + ["the ", "<sep>", " and", "ffi", "  ", "<0x41>", "\n", "...", "\u2581and", "ing", " "]


def train_rules():
    with open("rules.tsv", "w", encoding="utf-8") as f:
        for src, dst in RULES:
            f.write(" ".join(f"{ord(c):X}" for c in src) + "\t" + " ".join(f"{ord(c):X}" for c in dst) + "\n")
    spm.SentencePieceTrainer.train(
        input="corpus/text/book.txt", model_prefix="rules", model_type="bpe", vocab_size=400,
        normalization_rule_tsv="rules.tsv", byte_fallback=True, num_threads=1, character_coverage=0.99,
        user_defined_symbols=["<sep>", "\u2581and", "ing "], split_by_whitespace=False,
        allow_whitespace_only_pieces=True, max_sentencepiece_length=12, minloglevel=2)
    os.replace("rules.model", f"{FOLDER}/rules.model")
    os.remove("rules.vocab")
    os.remove("rules.tsv")


def texts():
    rnd = random.Random(1)
    yield from ["", " ", "  ", "a", " a", "a ", "The weigher", "It's 1,234.50 today.", "caf\u00e9", "\u00c9",
                "off the cliff", "x\n\ny\tz", "ing ing", "no<sep>yes", "end...", "the the  the   the"]
    for _ in range(64):
        yield "".join(rnd.choice(POOL) for _ in range(rnd.randint(1, 20)))


def main():
    train_rules()
    with open("corpus/text/book.txt", encoding="utf-8", newline="") as f:
        book = f.read()
    out = {"made_by": f"SentencePiece {spm.__version__}", "models": {}}
    for name in ("own", "rules"):
        p = spm.SentencePieceProcessor(model_file=f"{FOLDER}/{name}.model")
        ids = p.encode(book)
        sha = hashlib.sha256(b"".join(i.to_bytes(4, "little") for i in ids)).hexdigest()
        out["models"][name] = {"book": {"tokens": len(ids), "sha256": sha},
                               "cases": [[t, p.encode(t)] for t in texts()]}
    with open(f"{FOLDER}/cases.json", "w", encoding="utf-8") as f:
        f.write(json.dumps(out, ensure_ascii=True, separators=(",", ":")).replace("],[\"", "],\n[\"") + "\n")


if __name__ == "__main__":
    main()
