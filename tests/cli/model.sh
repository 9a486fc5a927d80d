#!/bin/sh
# kvdiff model
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

check 'without an argument the known models are listed' has 'smollm2' "$KVDIFF" model
check 'the same as JSON' json '[m["name"] for m in d] == ["novel", "nano", "sharp", "tiny", "nano-a", "nano-b", "nano-u", "golf-a", "golf-b", "smollm2"]' \
    "$KVDIFF" model --format=json
check 'nano in words' has '4 query, 2 KV, of 32' "$KVDIFF" model nano
check 'nano as JSON' json 'd["config"]["layers"] == 4 and d["config"]["vocab"] == 260 and d["weights"] == 624256' \
    "$KVDIFF" model nano --format=json
check 'nano has a tokenizer of bytes' json 'd["tokenizer"]["kind"] == "bytes"' "$KVDIFF" model nano --format=json
check 'tiny has none' json 'd["tokenizer"] is None' "$KVDIFF" model tiny --format=json
check 'tensors add up to the weights' \
    json 'sum(t["rows"] * t["columns"] for t in d["tensors"]) == d["weights"] and sum(t["bytes"] for t in d["tensors"]) == d["bytes"]' \
    "$KVDIFF" model nano --tensors --format=json
check 'tensors in words' has 'blk.3.ffn_down.weight' "$KVDIFF" model nano --tensors
check 'every weight can be read' has 'every weight was read' "$KVDIFF" model nano --check

check 'the model that is part of the program is the artifact, tokenizer inside' \
    json "d['sha256'] == '$(sha256sum <common/embedded/novel.kvm | cut -d' ' -f1)' and d['tokenizer']['vocab'] == 1024" \
    "$KVDIFF" model novel --format=json
check 'every weight of it can be read' has 'every weight was read' "$KVDIFF" model novel --check

gguf=${KVDIFF_MODELS:-models}/SmolLM2-135M-Instruct.Q4_1.gguf
if [ -f "$gguf" ]; then
    check 'a file by its path' json 'd["config"]["layers"] == 30 and d["tokenizer"]["vocab"] == 49152' \
        "$KVDIFF" model "$gguf" --format=json
    check 'its weights are finite' has 'every weight was read' "$KVDIFF" model smollm2 --check
    cut=${TMPDIR:-/tmp}/kvcut.$$.gguf
    head -c 1000000 "$gguf" >"$cut"
    refuse 'a truncated file' 3 "$cut" "$KVDIFF" model "$cut"
    rm -f "$cut"
else
    skip 'a file by its path' "no $gguf; run make models"
fi
refuse 'unknown name' 2 "model 'nanno' is unknown" "$KVDIFF" model nanno
refuse 'missing file' 3 '/no/such.gguf' "$KVDIFF" model /no/such.gguf
refuse 'a file of another kind' 3 'Makefile' "$KVDIFF" model ./Makefile
refuse 'a named model that was not fetched' 3 'make models' env KVDIFF_MODELS=/no/such/folder "$KVDIFF" model smollm2
refuse 'check of nothing' 2 'which model?' "$KVDIFF" model --check
refuse 'two models' 2 'one model at a time' "$KVDIFF" model nano tiny
done_testing
