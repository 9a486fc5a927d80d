#!/usr/bin/env python3
"""Writes common/unicode_tables.c: where the character class that pre-tokenizers ask for changes.

    tools/gen_unicode.py > common/unicode_tables.c

Letters are the general categories L*, numbers N*, spaces the property White_Space (the \\s of the
tokenizers' regular expressions); everything else is "other". Data: the package unicodedata2 where
it is installed (its version says which Unicode), else Python's own unicodedata. The committed table
is Unicode 16.0.0: what the tokenizers library 0.23 uses for \\p{L} and \\p{N}.
"""

import sys

try:
    import unicodedata2 as ucd
except ImportError:
    import unicodedata as ucd

OTHER, LETTER, NUMBER, SPACE = range(4)

# PropList.txt, White_Space; unchanged since Unicode 6.3 (unicodedata does not carry the property).
WHITE_SPACE = [(0x09, 0x0D), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680),
               (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F),
               (0x3000, 0x3000)]
SPACES = {c for first, last in WHITE_SPACE for c in range(first, last + 1)}


def char_class(c):
    if c in SPACES:
        return SPACE
    return {"L": LETTER, "N": NUMBER}.get(ucd.category(chr(c))[0], OTHER)


def main():
    edges, last = [], None
    for c in range(0x110000):
        k = char_class(c)
        if k != last:
            edges.append(c << 2 | k)
            last = k
    print(f"/* Made by tools/gen_unicode.py from Unicode {ucd.unidata_version}: do not edit. */")
    print('#include "common/utf8.h"\n')
    print(f'const char kv_unicode_version[] = "{ucd.unidata_version}";\n')
    print(f"const uint32_t kv_unicode_n_edges = {len(edges)};\n")
    print("/* Each entry: first code point << 2 | class, up to the next entry. */")
    print("/* clang-format off */")
    print("const uint32_t kv_unicode_edges[] = {")
    for i in range(0, len(edges), 10):
        print("    " + " ".join(f"0x{e:x}," for e in edges[i:i + 10]))
    print("};")
    print("/* clang-format on */")


if __name__ == "__main__":
    sys.exit(main())
