#!/bin/sh
# kvdiff pack and kvdiff inspect. The full-size model is packed at level 1 here; what level 22 gives is in docs/artifact.md.
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/pack.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT

json() { # PYTHON-CONDITION-ON-d COMMAND...
    condition=$1
    shift
    "$@" | python3 -c "import json, sys; d = json.load(sys.stdin); assert $condition, d"
}
has() { # WORDS COMMAND...
    words=$1
    shift
    "$@" | tee "$dir/has" | grep -qF -- "$words" || { cat "$dir/has"; return 1; }
}
pack() { "$KVDIFF" pack --level=1 "$@"; }
inspect() { "$KVDIFF" inspect "$@"; }

# ---- small models ----------------------------------------------------------------------------------
check 'a small model is packed' pack nano-b -o "$dir/b.kvm" --passthrough-max=1024 --note seed=2 --note why=test
check 'config, notes and sizes in words' has 'note' inspect "$dir/b.kvm"
check 'a note' has 'why=test' inspect "$dir/b.kvm"
check 'tensors in words' has 'blocks.3.mlp.proj.weight' inspect "$dir/b.kvm"
check 'as JSON: classes' json 'sorted({t["class"] for t in d["tensors"]}) == ["fp16", "int6", "int8"] and sum(t["class"] == "int6" for t in d["tensors"]) == 24' \
    inspect "$dir/b.kvm" --json
check 'as JSON: sizes add up' json 'd["size"]["payload"] == sum(t["bytes"] for t in d["tensors"]) and d["size"]["file"] == 64 + d["size"]["meta"] + d["size"]["packed"] and d["size"]["total"] == d["size"]["file"] + 90261' \
    inspect "$dir/b.kvm" --format=json --code-bytes=90261
check 'as JSON: the size is that of the file' json "d['size']['file'] == $(wc -c <"$dir/b.kvm")" inspect "$dir/b.kvm" --json
check 'as JSON: notes and tokenizer' json 'd["notes"] == {"seed": "2", "why": "test"} and d["tokenizer"]["kind"] == "bytes"' \
    inspect "$dir/b.kvm" --json
check 'as JSON: a budget that is not kept' json 'd["size"]["fits"] is False' inspect "$dir/b.kvm" --json --code-bytes=16000000
check 'a budget that is not kept, in words' has 'too many' inspect "$dir/b.kvm" --code-bytes=16000000
check 'no error against itself' json 'all(t["error"]["largest"] == 0 for t in d["tensors"])' \
    inspect "$dir/b.kvm" --json --against="$dir/b.kvm"
check 'errors against the original: half a step of 1/31 at most' \
    json 'all(0 < t["error"]["rms"] <= t["error"]["largest"] < 0.0162 for t in d["tensors"] if t["class"] == "int6")' \
    inspect "$dir/b.kvm" --json --against=nano-b
check 'without floors they are smaller' pack nano-b -o "$dir/fine.kvm" --passthrough-max=1024 --no-floors
check '  by far' json 'all(t["error"]["largest"] < 0.01 for t in d["tensors"] if t["class"] == "int6") and d["quantiser"]["floors"] is False' \
    inspect "$dir/fine.kvm" --json --against=nano-b
check 'packing an artifact again changes nothing' pack "$dir/b.kvm" -o "$dir/again.kvm"
check '  not a byte' cmp "$dir/b.kvm" "$dir/again.kvm"
check 'the same without a tokenizer' pack "$dir/b.kvm" -o "$dir/bare.kvm" --tokenizer=none
check '  has none' json 'd["tokenizer"]["kind"] == "none" and d["notes"]["seed"] == "2"' inspect "$dir/bare.kvm" --json

# ---- weights in and out ----------------------------------------------------------------------------
check 'weights come out' inspect "$dir/b.kvm" --export="$dir/b.safetensors" --json
check 'and go in again' pack --from="$dir/b.safetensors" --config=nano-b -o "$dir/in.kvm" --passthrough-max=1024 --tokenizer=bytes --note seed=2 --note why=test
check '  to the same file' cmp "$dir/b.kvm" "$dir/in.kvm"
check 'with a config of its own' pack "$dir/b.safetensors" --config='{"base": "nano-b", "rope_dims": 4, "bos_id": 3}' -o "$dir/own.kvm"
check '  that is kept' json 'd["config"]["rope_dims"] == 4 and d["config"]["bos_id"] == 3 and d["config"]["d_model"] == 64' inspect "$dir/own.kvm" --json
inspect "$dir/own.kvm" --json | python3 -c 'import json, sys; json.dump(json.load(sys.stdin)["config"], open(sys.argv[1], "w"))' "$dir/own.json"
check 'the config that inspect prints is one for pack' pack "$dir/b.safetensors" --config="$dir/own.json" -o "$dir/own2.kvm"
check '  the same' cmp "$dir/own.kvm" "$dir/own2.kvm"
check 'an artifact is a model' has 'blocks.3.attn.c_k.weight' "$KVDIFF" model "$dir/b.kvm" --tensors
check 'whose weights are finite' has 'every weight was read' "$KVDIFF" model "$dir/b.kvm" --check
check 'and runs' has 'RECORDED' "$KVDIFF" run --model="$dir/b.kvm" --device=none --tokens=40 --db="$dir/r.db"

# ---- the budget ------------------------------------------------------------------------------------
check 'a full-size model is packed' has 'are left for the program' pack golf-b -o "$dir/full.kvm"
check 'with the largest program of the published ones it keeps the budget' \
    json 'd["size"]["fits"] is True and d["size"]["total"] > 15500000 and d["size"]["payload"] == 27059370' \
    inspect "$dir/full.kvm" --json --code-bytes=90261

# ---- mistakes --------------------------------------------------------------------------------------
refuse 'no model' 2 'which model?' "$KVDIFF" pack -o "$dir/x.kvm"
refuse 'no output' 2 '-o FILE.kvm' "$KVDIFF" pack nano-b
refuse 'a Llama' 3 'golf family' "$KVDIFF" pack nano -o "$dir/x.kvm"
refuse 'weights without a config' 2 'give one with --config' "$KVDIFF" pack "$dir/b.safetensors" -o "$dir/x.kvm"
refuse 'a config that is not needed' 2 'has a config of its own' "$KVDIFF" pack nano-b --config=nano-a -o "$dir/x.kvm"
refuse 'a config that does not fit' 3 "'blocks.0.attn.k_gain' has no place" "$KVDIFF" pack "$dir/b.safetensors" --config='{"base": "nano-b", "use_k_gain": false}' -o "$dir/x.kvm"
refuse 'an unknown preset' 2 'no golf preset' "$KVDIFF" pack "$dir/b.safetensors" --config=nano-c -o "$dir/x.kvm"
refuse 'a mistyped field' 2 'did you mean "rope_dims"?' "$KVDIFF" pack "$dir/b.safetensors" --config='{"base": "nano-b", "rope_dim": 4}' -o "$dir/x.kvm"
refuse 'a field of another type' 2 '"rope_dims" must be a whole number' "$KVDIFF" pack "$dir/b.safetensors" --config='{"base": "nano-b", "rope_dims": "4"}' -o "$dir/x.kvm"
refuse 'a config that is no JSON' 2 '--config: line 1' "$KVDIFF" pack "$dir/b.safetensors" --config='{"base"' -o "$dir/x.kvm"
refuse 'a note without a value' 2 'note 1 is not key=value' "$KVDIFF" pack nano-b --note seed -o "$dir/x.kvm"
refuse 'the same note twice' 2 "'seed' appears twice" "$KVDIFF" pack nano-b --note seed=1 --note seed=2 -o "$dir/x.kvm"
refuse 'a level that zstd does not have' 2 'from 1 to 22' "$KVDIFF" pack nano-b --level=23 -o "$dir/x.kvm"
refuse 'a tokenizer that is none' 3 'Makefile' "$KVDIFF" pack nano-b --tokenizer=./Makefile -o "$dir/x.kvm"
refuse 'a folder that is not there' 3 "$dir/no/x.kvm" "$KVDIFF" pack nano-b --level=1 -o "$dir/no/x.kvm"
check 'none of these left a file' [ ! -e "$dir/x.kvm" ]
head -c 5000 "$dir/b.kvm" >"$dir/cut.kvm"
refuse 'a truncated artifact' 3 'cut.kvm: 5000 bytes, but its parts claim' "$KVDIFF" inspect "$dir/cut.kvm"
refuse 'another file' 3 'not an artifact' "$KVDIFF" inspect ./Makefile
refuse 'an original of another shape' 3 "'tok_emb.weight' is 1024 x 512" "$KVDIFF" inspect "$dir/b.kvm" --against=golf-b
refuse 'no artifact' 2 'which artifact?' "$KVDIFF" inspect
done_testing
