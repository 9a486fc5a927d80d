#!/bin/sh
# kvdiff policy
. tests/tap.sh

json() { # PYTHON-CONDITION-ON-d COMMAND...
    condition=$1
    shift
    "$@" | python3 -c "import json, sys; d = json.load(sys.stdin); assert $condition, d"
}

every_definition_has_a_page() {
    "$KVDIFF" policy --format=json |
        python3 -c 'import json, sys; print("\n".join(s["name"] for s in json.load(sys.stdin)["selections"]))' |
        while read -r name; do
            [ -f "docs/policy/$name.md" ] || { echo "docs/policy/$name.md is missing"; exit 1; }
            "$KVDIFF" policy | grep -q "^  $name " || { echo "$name is not in the text"; exit 1; }
        done
}
check 'every policy is listed and has its page' every_definition_has_a_page
check 'parameters carry their limits' \
    json '[p for s in d["selections"] if s["name"] == "sink" for p in s["parameters"] if p["name"] == "sinks"][0]["default"] == 4' \
    "$KVDIFF" policy --format=json
check 'words of a parameter' \
    json '[p["values"] for s in d["selections"] for p in s["parameters"] if p["name"] == "pos"] == [["rerotate", "absolute", "saturate"]]' \
    "$KVDIFF" policy --format=json
check 'canonical spelling leaves defaults out' json 'd["policy"] == "sink:cap=9"' \
    "$KVDIFF" policy sink:sinks=4,cap=9+f32 --format=json
check 'sink: entries and positions' json '(d["entries"], d["max_position"], d["bounded"]) == (13, 268, True)' \
    "$KVDIFF" policy sink:cap=9 --format=json
check 'full grows' json '(d["entries"], d["max_position"], d["bounded"]) == (1000, 999, False)' \
    "$KVDIFF" policy full --tokens=1000 --format=json
check 'sliding stays below cap' json '(d["entries"], d["max_position"]) == (9, 8)' \
    "$KVDIFF" policy sliding:cap=9 --format=json
check 'absolute positions follow the stream' json '(d["entries"], d["max_position"]) == (9, 499)' \
    "$KVDIFF" policy sliding:cap=9,pos=absolute --tokens=500 --format=json
check 'steps move the bound of sink' json 'd["max_position"] == 13' "$KVDIFF" policy sink:cap=9 -q 1 --format=json
check 'explained in words' sh -c '"$KVDIFF" policy sliding:cap=9 | grep -q "max position  8"'

# ---- list, show -----------------------------------------------------------------------------------
same() { # COMMAND-A COMMAND-B : both print the same
    eval "$1" >"$tap_tmp.a"
    eval "$2" >"$tap_tmp.b"
    diff "$tap_tmp.a" "$tap_tmp.b"
    same_rc=$?
    rm -f "$tap_tmp.a" "$tap_tmp.b"
    return $same_rc
}
check 'the page of all policies holds what the program prints' same '"$KVDIFF" policy list --format=markdown' \
    "sed -n '/^<!-- policy list -->/,/^<!-- end -->/p' docs/policy/README.md | sed '1d;\$d'"
check 'policy alone is the list' same '"$KVDIFF" policy' '"$KVDIFF" policy list'
check 'policy SPEC shows it' same '"$KVDIFF" policy sink:cap=9 -q 3' '"$KVDIFF" policy show sink:cap=9 -q 3'
check 'every storage has its parameters' \
    json '[len(s["parameters"]) for s in d["storages"]] == [0, 0, 0, 6, 3]' "$KVDIFF" policy list --format=json

pairs_are_those_that_parse() { # the table says no exactly where the parser refuses
    "$KVDIFF" policy list --format=json | python3 -c '
import json, sys
need = {"sliding": "cap=256", "sink": "cap=8", "cascade": "cap=8", "xwindow": "window=8,stride=4,cache=8", "h2o": "cap=8",
        "tova": "cap=8", "dilated": "window=8", "snapkv": "cap=40,prompt=64", "pyramid": "cap=40,prompt=64"}
for p in json.load(sys.stdin)["pairs"]:
    name, _, pos = p["selection"].partition(":")
    params = ",".join(x for x in (need.get(name), pos) if x)
    print(name + (":" + params if params else "") + "+" + p["storage"], p["legal"])' >"$tap_tmp.pairs"
    pairs_rc=0
    while read -r spec legal; do
        got=False
        "$KVDIFF" policy show "$spec" >/dev/null 2>&1 && got=True
        [ "$got" = "$legal" ] || { echo "$spec: the table says $legal, the parser $got"; pairs_rc=1; }
    done <"$tap_tmp.pairs"
    [ "$(wc -l <"$tap_tmp.pairs")" -eq 60 ] || { echo "not 60 pairs"; pairs_rc=1; }
    rm -f "$tap_tmp.pairs"
    return $pairs_rc
}
check 'the table of pairs is what the parser does' pairs_are_those_that_parse

check 'bytes of rows' json '(d["bytes_per_token"], d["bytes"]) == (512, 13 * 512)' "$KVDIFF" policy show sink:cap=9 --format=json
check 'bytes of halves' json '(d["bytes_per_token"], d["bytes"]) == (256, 13 * 256)' \
    "$KVDIFF" policy show sink:cap=9+bf16 --format=json
check 'bytes of a kvarn token at head_dim 128' json '(d["bytes_per_token"], d["bytes_per_token_uncoded"]) == (108, 1024)' \
    "$KVDIFF" policy show full+kvarn --head-dim=128 --format=json
check 'bytes of tiles and tail' json 'd["bytes"] == 3 * 32 * 36 + 4 * 256' \
    "$KVDIFF" policy show full+kvarn:tile=32 --head-dim=32 --tokens=100 --format=json
check 'a window of tiles is largest with an open one' json 'd["bytes"] == 3 * 32 * 36 + 31 * 256' \
    "$KVDIFF" policy show sliding:cap=128,pos=absolute+kvarn:tile=32 --head-dim=32 --format=json
check 'bytes of kivi blocks and rows' json 'd["bytes"] == 3 * 512 + 4 * 128 + 68 * 16 + 32 * 128' \
    "$KVDIFF" policy show full+kivi:residual=32 --head-dim=32 --tokens=100 --format=json
check 'bytes of a model' json '(d["head_dim"], d["cache_bytes"]) == (32, 4 * 2 * 13 * 256)' \
    "$KVDIFF" policy show sink:cap=9 --model=nano --format=json
check 'storage parameters are shown' json 'd["storage_parameters"] == {"bits": 4, "group": 32, "residual": 128}' \
    "$KVDIFF" policy show full+kivi:bits=4 --format=json
check 'a compressed prompt, and what follows' json '(d["entries"], d["bounded"]) == (76, False)' \
    "$KVDIFF" policy show snapkv:cap=40,prompt=64 --tokens=100 --format=json

refuse 'the list takes no policy' 2 'kvdiff policy show full' "$KVDIFF" policy list full
refuse 'show needs a policy' 2 'show which policy' "$KVDIFF" policy show
refuse 'one policy is no markdown' 2 '--format=markdown' "$KVDIFF" policy show full --format=markdown
refuse 'unknown format' 2 '--format=html' "$KVDIFF" policy list --format=html
refuse 'a head that kvarn cannot rotate' 2 "head_dim is 48" "$KVDIFF" policy show full+kvarn --head-dim=48
refuse 'no such model' 3 'nowhere.gguf' "$KVDIFF" policy show full --model=nowhere.gguf

refuse 'unknown selection' 2 "unknown selection 'sunk'" "$KVDIFF" policy sunk:cap=3
refuse 'unknown parameter' 2 "has no parameter 'cup'" "$KVDIFF" policy sink:cup=3
refuse 'missing parameter' 2 'cap=N is missing' "$KVDIFF" policy sink
refuse 'value out of range' 2 'cap=1' "$KVDIFF" policy sliding:cap=1
refuse 'unknown word' 2 'pos=left is unknown' "$KVDIFF" policy sliding:cap=9,pos=left
refuse 'unknown storage' 2 "unknown storage 'f8'" "$KVDIFF" policy full+f8
refuse 'tokens that are no number' 2 '--tokens=many' "$KVDIFF" policy full --tokens=many
refuse 'zero tokens a step' 2 '--q=0' "$KVDIFF" policy full -q 0
refuse 'two policies' 2 'one policy at a time' "$KVDIFF" policy full full
done_testing
