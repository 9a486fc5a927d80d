#!/bin/sh
# Whatever a command line can point at, broken in every way: one line on stderr that says what and where, exit
# status 2 (the command line) or 3 (what it points at), nothing on stdout, and no row in the database.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/bad.XXXXXX")
trap 'chmod -R u+w "$dir"; rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
db=$dir/r.db

rows() { [ -e "$1" ] || { echo 0; return; }; sqlite3 "$1" 'select (select count(*) from run) + (select count(*) from kase)'; }

no_row() {
    n=$(rows "$db")
    echo "$n rows"
    [ "$n" = 0 ]
}

# bad NAME STATUS WORDS OPTION... : run with these options is refused and leaves no row
bad() {
    title=$1 status=$2 words=$3
    shift 3
    refuse "$title" "$status" "$words" "$KVDIFF" run --db "$db" --device emu --tokens 16 "$@"
}

# ---- models --------------------------------------------------------------------------------------
check "a small model file can be made" "$BUILD/tests/fuzz/fuzz_gguf" --seeds "$dir"
good=$dir/good.gguf
mv "$dir/seed-01" "$good"

# made NAME PYTHON : a copy of the good file, b = its bytes, changed by the statement
made() {
    python3 - "$good" "$dir/$1" "$2" <<'PY'
import struct, sys
b = bytearray(open(sys.argv[1], "rb").read())
def swap(old, new, what):
    assert len(old) == len(new) and old in b
    i = b.index(old)
    b[i:i + len(old)] = new
def type_of(tensor):  # offset of the type number in a tensor's info
    i = b.index(tensor) + len(tensor)
    return i + 4 + 8 * struct.unpack_from("<I", b, i)[0]
exec(sys.argv[3])
open(sys.argv[2], "wb").write(b)
PY
}
made cut.gguf 'del b[len(b) // 2:]'
made header.gguf 'del b[20:]'
made flipped.gguf 'b[16 + 5] ^= 1'
made magic.gguf 'b[0] ^= 1'
made version.gguf 'b[4] = 9'
made arch.gguf 'i = b.index(b"general.architecture") + 32; assert b[i:i+5] == b"llama"; b[i:i+5] = b"mamba"'
made type.gguf 'struct.pack_into("<I", b, type_of(b"blk.0.ffn_norm.weight"), 99)'
made missing.gguf 'struct.pack_into("<Q", b, 8, struct.unpack_from("<Q", b, 8)[0] - 1)'
made stranger.gguf 'swap(b"blk.0.ffn_up.weight", b"blk.0.ffn_xp.weight", 0)'
made merges.gguf 'swap(b"tokenizer.ggml.merges", b"tokenizer.ggml.mergez", 0)'
: >"$dir/empty.gguf"
printf 'hello' >"$dir/plain.txt"

check "the good file is accepted" \
    "$KVDIFF" run --db "$dir/good.db" --device emu --tokens 16 --model "$good"
bad "a truncated model" 3 'cut.gguf' --model "$dir/cut.gguf"
bad "a model cut off in its header" 3 'header.gguf' --model "$dir/header.gguf"
bad "a flipped bit in a count" 3 'flipped.gguf' --model "$dir/flipped.gguf"
bad "a flipped bit in the magic number" 3 'not a GGUF file' --model "$dir/magic.gguf"
bad "an unknown version of the format" 3 'GGUF version 9' --model "$dir/version.gguf"
bad "an unknown architecture" 3 "architecture 'mamba'" --model "$dir/arch.gguf"
bad "an unknown tensor type" 3 'type 99' --model "$dir/type.gguf"
bad "a missing tensor" 3 "'blk.0.ffn_down.weight' is missing" --model "$dir/missing.gguf"
bad "a tensor that no Llama has" 3 "'blk.0.ffn_xp.weight'" --model "$dir/stranger.gguf"
bad "a tokenizer without merges" 3 "'tokenizer.ggml.merges' is missing" --model "$dir/merges.gguf"
bad "an empty model file" 3 'is empty' --model "$dir/empty.gguf"
bad "a model that is not there" 3 'nowhere.gguf' --model "$dir/nowhere.gguf"
bad "a model that is a folder" 3 'not a regular file' --model "$dir/"
bad "an unknown model name" 2 "model 'gpt5' is unknown" --model gpt5

# ---- texts ---------------------------------------------------------------------------------------
mkdir "$dir/none"
: >"$dir/zero.txt"
printf 'fine so far \303\050 not here' >"$dir/latin.txt"
bad "a book of no length" 3 'zero.txt' --model nano --corpus "$dir/zero.txt"
bad "a book that is not UTF-8" 3 'latin.txt' --model nano --corpus "$dir/latin.txt"
bad "a book that is not there" 3 'gone.txt' --model nano --corpus "$dir/gone.txt"
bad "a folder without books" 3 'none' --model nano --corpus "$dir/none"
bad "an unknown parameter of a generator" 2 "no parameter 'bites'" --model nano --corpus synth:bites=5

# ---- the command line ------------------------------------------------------------------------------
bad "an unknown policy" 2 "unknown selection 'snik'" --model nano --policy snik:cap=4
bad "an unknown policy parameter" 2 "no parameter 'size'" --model nano --policy sink:cap=4,size=3
bad "a policy parameter out of range" 2 'nearest legal value is 1' --model nano --policy sink:cap=0
bad "a context longer than the model's" 2 'allow-long' --model "$good" --corpus book --tokens 200
bad "steps of no token" 2 'q' --model nano --q 0
bad "an unknown device" 2 'emo' --model nano --device emo
bad "an option with another value than allowed" 2 'mode' --model nano --mode freely

# ---- sides -----------------------------------------------------------------------------------------
cp "$good" "$dir/no.so"
bad "a device that is no shared object" 3 'no.so' --model nano --device "$dir/no.so"
bad "a device that is not there" 3 'gone.so' --model nano --device "$dir/gone.so"
printf 'int nothing;\n' >"$dir/s.c"
printf 'const void *kv_side_entry(unsigned abi);\nconst void *kv_side_entry(unsigned abi) { return abi ? 0 : 0; }\n' >"$dir/o.c"
"${CC:-cc}" -shared -fPIC -o "$dir/s.so" "$dir/s.c" && "${CC:-cc}" -shared -fPIC -o "$dir/o.so" "$dir/o.c"
bad "a shared object that is no side" 3 'kv_side_entry' --model nano --device "$dir/s.so"
bad "a side of another ABI" 3 'ABI' --model nano --device "$dir/o.so"
bad "two sides with different vocabularies" 3 'vocabular' --model nano --device-model "$good"
check "none of these left a row" no_row

# ---- databases -------------------------------------------------------------------------------------
db_refused() { # NAME WORDS FILE
    before=$(sha256sum "$3" 2>/dev/null)
    refuse "$1" 3 "$2" "$KVDIFF" run --db "$3" --device emu --model nano --tokens 16
    check "  and left as it was" [ "$before" = "$(sha256sum "$3" 2>/dev/null)" ]
}
sqlite3 "$dir/foreign.db" 'create table t(x); insert into t values(1)'
db_refused "a database of another program" 'foreign.db' "$dir/foreign.db"
printf 'no database at all, but long enough to be looked at as one, page by page' >"$dir/text.db"
db_refused "a file that is no database" 'text.db' "$dir/text.db"
head -c 6000 "$dir/good.db" >"$dir/torn.db"
db_refused "a torn database" 'torn.db' "$dir/torn.db"
refuse "a database in a folder that is not there" 3 'gone' \
    "$KVDIFF" run --db "$dir/gone/r.db" --device emu --model nano --tokens 16
if [ "$(id -u)" -eq 0 ]; then
    refuse "a database where nothing can be written" 3 '/proc' \
        "$KVDIFF" run --db /proc/r.db --device emu --model nano --tokens 16
else
    mkdir "$dir/locked"
    chmod a-w "$dir/locked"
    refuse "a database where nothing can be written" 3 'locked' \
        "$KVDIFF" run --db "$dir/locked/r.db" --device emu --model nano --tokens 16
fi
done_testing
