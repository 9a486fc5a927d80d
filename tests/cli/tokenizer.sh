#!/bin/sh
# kvdiff tokenizer, kvdiff corpus shard
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/kvtok.XXXXXX")
own=tests/golden/spm/own.model
tok() { "$KVDIFF" tokenizer "$@"; }

train() {
    tok train --vocab=400 --out="$dir/own.model" book >"$dir/out" && cat "$dir/out" &&
        cmp "$dir/own.model" "$own" && grep -q '400: 4 specials, 256 bytes' "$dir/out" && wc -l <"$dir/own.vocab" | grep -qx 400
}
check 'training on the book gives the recorded vocabulary' train
# shellcheck disable=SC2016
same() {
    tok encode "$own" corpus/text/book.txt >"$dir/ids" && tok decode "$own" "$dir/ids" >"$dir/text" &&
        cmp "$dir/text" corpus/text/book.txt
}
check 'the book survives encoding and decoding' same
check 'text on stdin, ids on stdout' sh -c "printf 'A\n' | '$KVDIFF' tokenizer encode bytes | grep -qx '69 14'"
lines() {
    printf 'a\n\nb c' | tok encode bytes --lines >"$dir/lines"
    printf '101\n\n102 36 103\n' | cmp - "$dir/lines"
}
check 'every line a text of its own' lines
check 'FILE.vocab and FILE.model are one tokenizer' sh -c \
    "'$KVDIFF' tokenizer show '$dir/own.model' | tail -n 3 >'$dir/1'; '$KVDIFF' tokenizer show '$dir/own.vocab' | tail -n 3 | cmp - '$dir/1'"
check 'pieces with their bytes' sh -c \
    "'$KVDIFF' tokenizer show '$own' --pieces --format=json | python3 -c 'import json, sys; d = json.load(sys.stdin); assert len(d) == 400 and d[260][\"lead\"] == 1 and d[260][\"bytes\"] == 0 and d[1][\"boundary\"] == 1'"
check 'help' sh -c "'$KVDIFF' tokenizer --help && '$KVDIFF' tokenizer train --help | grep -q -- --coverage"

shards() {
    "$KVDIFF" corpus shard --tokenizer="$own" --out="$dir/data" --val-docs=1 --shard-tokens=5000 book synth:bytes=20000 &&
        ls "$dir/data" | tr '\n' ' ' | grep -qx 'train_000000.bin train_000001.bin train_000002.bin val_000000.bin .*' &&
        python3 - "$dir" <<'PY'
import struct, sys
dir = sys.argv[1]
ids = [int(x) for x in open(dir + "/ids").read().split()]
got = []
for k in range(9):
    try:
        p = open(f"{dir}/data/val_{k:06d}.bin", "rb").read()
    except FileNotFoundError:
        break
    magic, version, n = struct.unpack("<3i", p[:12])
    assert (magic, version, len(p)) == (20240520, 1, 1024 + 2 * n), (magic, version, n)
    got += struct.unpack(f"<{n}H", p[1024:])
assert got == [1] + ids
PY
}
check 'shards hold BOS and the tokens of the documents' shards

refuse 'no word' 2 'train, show, encode or decode' "$KVDIFF" tokenizer
refuse 'no tokenizer' 2 'which tokenizer?' "$KVDIFF" tokenizer show
refuse 'a file that is none' 3 'no SentencePiece file' "$KVDIFF" tokenizer show corpus/text/book.txt
refuse 'a missing file' 3 '/no/such.model' "$KVDIFF" tokenizer show /no/such.model
printf '3 260 9999\n' >"$dir/bad"
decode_bad() { tok decode "$own" "$dir/bad" 2>"$dir/err" >/dev/null; [ $? -eq 2 ] && grep -q "'9999" "$dir/err"; }
check 'an id that is none' decode_bad
refuse 'nothing to train on' 2 'train on what?' "$KVDIFF" tokenizer train --out=x.model
refuse 'nowhere to write' 2 '--out=FILE.model' "$KVDIFF" tokenizer train book
refuse 'another name' 2 'ends in .model' "$KVDIFF" tokenizer train --out=x book
refuse 'too few pieces' 2 'do not hold the characters' "$KVDIFF" tokenizer train --vocab=270 --out="$dir/x.model" book
refuse 'a folder that has shards' 2 'already has' "$KVDIFF" corpus shard --tokenizer="$own" --out="$dir/data" book
refuse 'shards without a tokenizer' 2 '--tokenizer=FILE' "$KVDIFF" corpus shard --out="$dir/data" book
refuse 'shards of nothing' 2 'shards of what?' "$KVDIFF" corpus shard --tokenizer=bytes --out="$dir/e"

# ---- texts to train on
corpus() { "$KVDIFF" corpus "$@"; }
split() { corpus split --tail=10 --out="$dir/texts" book synth:bytes=9000; }
check 'ends of texts' split
whole() { # no byte is lost, no line is torn, the end is a tenth
    cat "$dir/texts/train/weigher.txt" "$dir/texts/val/weigher.txt" | cmp - corpus/text/book.txt || return 1
    [ "$(tail -c 1 "$dir/texts/train/weigher.txt" | od -An -c | tr -d ' ')" = '\n' ] || return 1
    n=$(wc -c <"$dir/texts/val/weigher.txt")
    [ "$n" -ge 4136 ] && [ "$n" -lt 4300 ]
}
check 'together they are the text' whole
refuse 'a folder that has them' 2 'is there already' corpus split --tail=10 --out="$dir/texts" book
printf 'x' >"$dir/one.txt"
refuse 'a text too short to be split' 2 'too short' corpus split --out="$dir/t2" "$dir/one.txt"
refuse 'a share of all' 2 'tail' corpus split --tail=100 --out="$dir/t2" book
recall() { corpus recall --seed="$1" --out="$dir/recall$1" "$dir/texts/train/weigher.txt"; }
check 'texts to learn retrieval from' recall 1
check 'with another seed' recall 2
asked() { # three in ten of both; every question is answered
    n=$(wc -c <"$dir/recall1/weigher.txt") m=$(wc -c <"$dir/texts/train/weigher.txt")
    [ $((n * 7)) -ge $((m * 3)) ] && [ $((n * 7)) -lt $((m * 3 + 7 * 2600)) ] || return 1
    grep -q 'The pass key is [0-9]\{5\}$' "$dir/recall1/weigher.txt" && ! cmp -s "$dir/recall1/weigher.txt" "$dir/recall2/weigher.txt"
}
check 'as many as wanted, of that seed' asked
refuse 'pieces that hold no task' 2 'bytes' corpus recall --bytes=100 --out="$dir/r3" book
refuse 'texts of nothing' 2 'which texts?' corpus recall --out="$dir/r3"
rm -rf "$dir"
done_testing
