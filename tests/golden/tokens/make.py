#!/usr/bin/env python3
"""Writes tests/golden/tokens/cases.json: token ids by the `tokenizers` library (not by kvdiff).

    pip install tokenizers==0.23.3 gguf==0.19.0
    tests/golden/tokens/make.py models/SmolLM2-135M-Instruct.Q4_1.gguf > tests/golden/tokens/cases.json

The library gets vocabulary and merges from the model file and does everything else itself. Each case:
the text, whether control tokens are matched in it, the ids, how many bytes have no token.
"""

import json
import sys

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PLAIN = [
    "", "The beam stood.", "the beam  stood", "  two spaces lead", "four trail    ", "\ttab\tbed",
    "line\nline\n\nparagraph\n\n\nchapter", "old\r\nline\r\nends", "1871", "in 1871, or 1872",
    "  7 lb 12½ oz", "a1b22c333", "9 cwt. 1 qr. 22½ lb.", "£214 9s. 4d.", "0x1F 1e-5 3.14",
    "I'm he's they'd we'll you've aren't they're 'tis", "I’m he’s ’twas", "O'CLOCK 'S 'RE 'LL",
    "'s't 'x ''s", "“Lively,” he said.—No?", "_Belle-Aurore_ (1798)", "Étienne, Zoë, naïveté",
    "E\u0301tienne decomposed", "Ελληνικά και Русский", "漢字かな交じり文", "عربي ١٢٣", "हिन्दी १२",
    "🛳️👩‍🔬🇸🇪", "\u00a0nbsp\u2003em\u3000wide\u2028line", "a\u200bb\u00adc\ufeffd",
    "Ⅷ ⅔ ² ①", "x" * 70, " " * 70, "ab" * 40, "\n" * 9 + "end", "...!?;: --- ***",
    "https://example.org/a?b=c&d=%20#e", "int main(void) { return 0; }\n", "a\u0004b\u0006c",
    "\u0013\u0014\u0016\u001d", "nul\u0000here", "\U0010ffff\ue000\uffff", "< |im_end|>", "<|im_end",
]
MARKED = [
    "<|im_start|>user\nHow heavy?<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|><|endoftext|>",
    "a<|im_end|>b", "a <|im_end|> b", "12<repo_name>34", "<<|im_end|>>", "it'<|im_end|>s",
    "word <|im_end|>",
]


def byte_chars():
    """GPT-2's printable alphabet: character of each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + k) for k, b in enumerate(rest)}}


def read_lists(path):
    reader = GGUFReader(path)

    def strings(key):
        field = reader.fields[key]
        return [bytes(field.parts[i]).decode("utf-8") for i in field.data]

    types = reader.fields["tokenizer.ggml.token_type"]
    types = [int(types.parts[i][0]) for i in types.data]
    return strings("tokenizer.ggml.tokens"), types, strings("tokenizer.ggml.merges")


def build(tokens, types, merges, special):
    vocab = {t: i for i, t in enumerate(tokens)}
    tok = Tokenizer(models.BPE(vocab, [tuple(m.split(" ")) for m in merges]))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tok.decoder = decoders.ByteLevel()
    if special:
        tok.add_special_tokens([AddedToken(t, normalized=False, special=True)
                                for t, k in zip(tokens, types) if k == 3])
    return tok


def main():
    tokens, types, merges = read_lists(sys.argv[1])
    chars = byte_chars()
    lost = {b for b in range(256) if chars[b] not in set(tokens)}
    cases = []
    for special, texts in ((0, PLAIN + MARKED), (1, MARKED)):
        tok = build(tokens, types, merges, special)
        for text in texts:
            ids = tok.encode(text, add_special_tokens=False).ids
            dropped = sum(b in lost for b in text.encode("utf-8"))
            cases.append({"text": text, "special": special, "ids": ids, "dropped": dropped})
    print("[")
    print(",\n".join(json.dumps(c) for c in cases))
    print("]")


if __name__ == "__main__":
    sys.exit(main())
