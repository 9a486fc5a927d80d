#!/bin/sh
# `kvdiff train` and `kvdiff ttt`: refusals, interruption, resumption with the same bits, exit codes. TAP.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/train.XXXXXX")
child=
trap '[ -z "$child" ] || kill -9 "$child" 2>/dev/null; rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
data=$dir/data

shards() { "$KVDIFF" corpus shard --tokenizer=bytes --out="$data" --val-docs=1 synth:bytes=3000,seed=1 book; }
train() { # OUT OPTION...
    out=$1
    shift
    "$KVDIFF" train --config=nano-b --seq=32 --batch-tokens=128 --steps=12 --data="$data" --out="$dir/$out" --val-tokens=256 \
        --tokenizer=bytes --threads=1 "$@"
}
hash_of() { sed -n 's/^weights \([0-9a-f]*\) .*/\1/p' "$1"; }
same_hash() { # FILE FILE
    cat "$1" "$2"
    [ -n "$(hash_of "$1")" ] && [ "$(hash_of "$1")" = "$(hash_of "$2")" ]
}

check "shards of two texts" shards
check "a run from beginning to end" logged "$dir/whole.log" train whole
check "it validates, in bits per byte" grep -q '^step 12  validation  loss [0-9.]*  bits per byte [0-9.]*  tokens 256$' "$dir/whole.log"
check "half a run, on two threads" logged "$dir/half.log" train half --stop-at=5 --threads=2
refuse "a second run into the same folder" 2 "is there already; --resume" train half
check "the other half" logged "$dir/rest.log" train half --resume --save-every=3
check "the same weights" same_hash "$dir/whole.log" "$dir/rest.log"
check "every step was made once" grep -q 'from step 5 to 12$' "$dir/rest.log"
check "the model can be packed" "$KVDIFF" pack --config="$dir/half/nano-b.json" "$dir/half/nano-b.safetensors" -o "$dir/m.kvm" \
    --tokenizer=bytes
same_models() { cmp "$dir/whole/nano-b.safetensors" "$dir/half/nano-b.safetensors" && [ -s "$dir/m.kvm" ]; }
check "both runs wrote the same model" same_models
refuse "another config" 3 "it has 'lr_muon = 0.025" train half --resume --set lr_muon=0.5
check "the whole config can be printed" "$KVDIFF" train --config=mini --print-config

damage() { printf 'xxxx' | dd of="$dir/half/checkpoint.kvt" bs=1 seek=9000 conv=notrunc 2>/dev/null; }
check "(a checkpoint is damaged)" damage
refuse "it is refused" 3 "checksum does not fit" train half --resume

# A learning rate that throws the weights out of the world: exit 1, the checkpoint stays.
diverges() {
    "$KVDIFF" train --config=nano-b --seq=32 --batch-tokens=128 --steps=60 --data="$data" --out="$dir/far" --val-tokens=256 \
        --threads=1 --save-every=1 --set lr_muon=100 --set lr_scalar=100 --set lr_token=100 --set clip=0 --set eps=1e-30 \
        --set wd_scalar=100 --set wd_muon=100 --set wd_token=100 >"$dir/far.out" 2>"$dir/far.err"
    got=$?
    cat "$dir/far.out" "$dir/far.err"
    [ $got -eq 1 ] && grep -q '^kvdiff: step [0-9]*: .* not finite; training stops, the checkpoint of step [0-9]* is kept$' "$dir/far.err" &&
        [ -s "$dir/far/checkpoint.kvt" ]
}
check "a loss that is not finite ends the run" diverges

interrupts() { # SIGNAL
    rm -rf "$dir/stopped" "$dir/stop.out"
    train stopped --save-every=0 --steps=100000 --log-every=1 >"$dir/stop.out" 2>"$dir/stop.err" &
    shell=$!
    waited=0
    until grep -q '^step 2 ' "$dir/stop.out" 2>/dev/null; do
        waited=$((waited + 1))
        [ $waited -lt 1200 ] || return 1
        sleep 0.05
    done
    child=$(pgrep -P $shell) || child=$shell
    kill "-$1" "$child"
    got=0
    wait $shell || got=$?
    child=
    cat "$dir/stop.out" "$dir/stop.err"
    [ $got -eq 130 ] && grep -q '^kvdiff: interrupted at step [0-9]*; a checkpoint is written' "$dir/stop.err" &&
        [ -s "$dir/stopped/checkpoint.kvt" ]
}
check "SIGINT: a checkpoint and exit code 130" interrupts INT
check "SIGTERM: the same" interrupts TERM

touch "$dir/file"
refuse "a folder that is a file, before any step" 3 "Not a directory" train file
refuse "another vocabulary" 3 "tokens, the model 260; use the one" train x --tokenizer=tests/golden/spm/own.model
refuse "no data" 2 "--data and --out are needed" "$KVDIFF" train --config=nano-b
refuse "an unknown preset" 2 "'nano-q' is unknown" train x --config=nano-q
refuse "an unknown key" 2 "training key 'lr' is unknown" train x --set lr=3
refuse "a batch that is no multiple" 2 "multiple of seq" train x --batch-tokens=100
refuse "a folder without shards" 2 "train" "$KVDIFF" train --config=nano-b --data="$dir" --out="$dir/none"
refuse "a config file that is not there" 3 "nowhere.conf" "$KVDIFF" train --config=./nowhere.conf --data="$data" --out="$dir/none"

# ---- test-time training
ttt() { "$KVDIFF" ttt --model=nano-a --data="$data" --seq=32 --batch=4 --threads=1 --db="$dir/r.db" "$@"; }
check "full" logged "$dir/full.log" ttt --epochs=2 --tokens=512
check "its result is labelled" grep -q '^ADAPTED ON THE EVALUATED DATA *loss' "$dir/full.log"
check "score-first" logged "$dir/first.log" ttt --mode=score-first --chunk=256 --tokens=700 --stride=16 --epochs=1
check "every token is scored once" grep -q '^scored first .* tokens 672$' "$dir/first.log"
refuse "a chunk that is no multiple" 2 "multiple of the sequence" ttt --mode=score-first --chunk=100
refuse "a stride that does not divide" 2 "must divide" ttt --stride=5
check "of an artifact" logged "$dir/kvm.log" "$KVDIFF" ttt --model="$dir/m.kvm" --data="$data" --seq=32 --batch=4 --threads=1 --epochs=1 \
    --tokens=128 --db="$dir/kvm.db"
modes() { # each score is a run of its own, with a mode that no other score has
    "$KVDIFF" query --db="$dir/r.db" --format=csv "SELECT kind, mode, count(*) AS n, count(DISTINCT run_id) AS runs FROM v_case GROUP BY 1, 2" | tee "$dir/modes"
    printf '%s\n' kind,mode,n,runs ttt,ttt-full,1,1 ttt,ttt-score-first,1,1 ttt,windows,2,2 | cmp - "$dir/modes"
}
check "the database keeps them apart" modes
same_tokens() { [ "$("$KVDIFF" query --db="$dir/r.db" --format=csv "SELECT sum(n_tok) FROM kase WHERE mode='ttt-full'" | tail -1)" = 512 ]; }
check "with the tokens that were scored" same_tokens
refuse "a Llama" 3 "golf family" ttt --model=nano
done_testing
