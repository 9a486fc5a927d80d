#!/bin/sh
# kvdiff corpus
. tests/tap.sh

json() { # PYTHON-CONDITION-ON-d COMMAND...
    condition=$1
    shift
    "$@" | python3 -c "import json, sys; d = json.load(sys.stdin); assert $condition, d"
}
has() { # WORDS COMMAND...
    words=$1
    shift
    "$@" >"$tap_tmp.has" && grep -qF -- "$words" "$tap_tmp.has"
    found=$?
    cat "$tap_tmp.has"
    rm -f "$tap_tmp.has"
    return $found
}

dir=$(mktemp -d "${TMPDIR:-/tmp}/kvcorpus.XXXXXX")
printf 'One two three.\n' >"$dir/b.txt"
printf 'caf\303\251 four\n' >"$dir/a.txt"
printf 'bad \377 byte\n' >"$dir/bad.bin"

check 'the book ships inside the program' json 'd["generator"] == "book" and d["documents"][0]["bytes"] >= 30000' \
    "$KVDIFF" corpus book --format=json
check 'the book in words' has '1 document' "$KVDIFF" corpus book
check 'a folder in name order' json '[(x["name"], x["words"], x["bytes"]) for x in d["documents"]] == [("a", 2, 11), ("b", 3, 15)]' \
    "$KVDIFF" corpus "$dir" --format=json
check 'bytes are nano tokens' json '[x["tokens"] for x in d["documents"]] == [11, 15] and all(x["dropped_bytes"] == 0 for x in d["documents"])' \
    "$KVDIFF" corpus "$dir" --model=nano --format=json
sha_of_file() {
    want=$(sha256sum "$dir/b.txt" | cut -d' ' -f1)
    "$KVDIFF" corpus "$dir/b.txt" --format=json | grep -q "$want"
}
check 'the fingerprint is that of the file' sha_of_file
check 'tokens in the table' has 'dropped' "$KVDIFF" corpus "$dir" -m nano
check 'passkey documents are made of tokens' \
    json 'len(d["documents"]) == 2 and all(x["words"] is None for x in d["documents"])' \
    "$KVDIFF" corpus passkey:len=1024,depth=10/90,seeds=1 --model=nano --format=json
synth_twice() {
    "$KVDIFF" corpus synth:bytes=50000,seed=3 --format=json >"$dir/one"
    "$KVDIFF" corpus synth:bytes=50000,seed=3 --format=json >"$dir/two"
    cmp "$dir/one" "$dir/two"
}
check 'generated text is the same every time' synth_twice

refuse 'no corpus' 2 'which corpus?' "$KVDIFF" corpus
refuse 'two corpora' 2 'one corpus at a time' "$KVDIFF" corpus book book
refuse 'missing file' 3 '/no/such/book.txt' "$KVDIFF" corpus /no/such/book.txt
refuse 'invalid UTF-8' 3 'bad.bin' "$KVDIFF" corpus "$dir/bad.bin"
: >"$dir/empty.txt"
refuse 'empty document' 3 'empty' "$KVDIFF" corpus "$dir/empty.txt"
refuse 'model without a tokenizer' 3 'no tokenizer' "$KVDIFF" corpus book --model=tiny
refuse 'unknown model' 2 "'nanno' is unknown" "$KVDIFF" corpus book --model=nanno
rm -rf "$dir"
done_testing
