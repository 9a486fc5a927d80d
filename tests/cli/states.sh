#!/bin/sh
# Every state of every policy and storage (difftest/coverage.def) is visited by runs of a few seconds: rings and tiles
# whose edges fall inside, at and behind a step, steps longer than the cache, scores that tie; emu, bit for bit.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/states.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
db=$dir/r.db

# run DEVICE MODEL TOKENS Q POLICY... : all of them pass
run() {
    device=$1 model=$2 tokens=$3 q=$4
    shift 4
    for policy; do
        set -- "$@" --policy="$policy"
        shift
    done
    "$KVDIFF" run --corpus book --threads 1 --device "$device" --rows none --db "$db" --model "$model" --tokens "$tokens" \
        --q "$q" "$@" 2>&1
}

check "chunks inside, across and at the edge" run emu nano 512 100 full full+f16 full+bf16
check "  and at the edge" run emu nano 256 64 full
check "pieces: steps longer than the cache" run emu nano 200 64 sliding:cap=40 sliding:cap=40,pos=absolute \
    sliding:cap=40,pos=saturate sink:cap=20+f16 sink:cap=20+bf16 h2o:cap=24,heavy=20 cascade:cap=24,n=4,sinks=2 \
    dilated:window=20
check "steps as long as the cache" run emu nano 200 64 sliding:cap=64 sliding:cap=64,pos=absolute sliding:cap=64,pos=saturate
check "prompts below and above the cap, of layers that keep the same and that do not" run emu nano 120 16 \
    snapkv:cap=40,window=8,prompt=32 pyramid:cap=40,window=8,prompt=32 pyramid:cap=40,window=8,prompt=60 \
    pyramid:cap=20,window=8,prompt=60
for model in nano sharp; do
    check "scores, $model" run emu $model 120 8 h2o:cap=16 tova:cap=16 cascade:cap=16,n=4,sinks=2 \
        snapkv:cap=20,window=8,prompt=40 pyramid:cap=20,window=8,prompt=60
done
check "token by token" run emu nano 120 1 h2o:cap=16 tova:cap=16 cascade:cap=16,n=4,sinks=2 cascade:cap=16,select=newest \
    cascade:cap=16,select=oldest sink:cap=20 sliding:cap=40 sliding:cap=40,pos=absolute sliding:cap=40,pos=saturate \
    dilated:window=20
check "windows" run emu nano 120 16 xwindow:window=32,stride=8,cache=24 xwindow:window=32,stride=8,cache=24,layers=2 \
    xwindow:window=32,stride=8,cache=24,ver=published xwindow:window=32,stride=16,cache=0
check "tiles, token by token" run emu nano 70 1 full+kvarn:tile=32 full+kivi:group=16,residual=32
check "tiles, several in a step, and pieces" run emu nano 200 70 full+kvarn:tile=32 full+kivi:group=16,residual=32 \
    sliding:cap=64,pos=absolute+kvarn:tile=32 sliding:cap=64,pos=absolute+kivi:group=16,residual=32
complete() { "$KVDIFF" coverage --db "$db" "$@" 2>&1; }
check "no state is left out" complete
done_testing
