#!/bin/sh
# Trainers of other sides: the same bits as the reference in everything that a step leaves, checkpoints and models that can be
# exchanged, refusals. The layer that runs the kernels here takes a seed for the order of threads and blocks. TAP.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/trainsides.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
data=$dir/data

shards() { "$KVDIFF" corpus shard --tokenizer=bytes --out="$data" --val-docs=1 synth:bytes=3000,seed=1 book; }
check "shards of two texts" shards

# High rates, so that everything that starts as 0 or 1 is something else at the second step.
compare() { # PRESET SIDE OPTION...
    preset=$1 side=$2
    shift 2
    "$KVDIFF" train --config="$preset" --data="$data" --compare="$side" --seq=40 --batch-tokens=80 --steps=3 --threads=2 --log-every=1 \
        --set lr_token=0.5 --set lr_muon=0.3 --set lr_scalar=0.3 --set clip=5 "$@"
}
same() { # PRESET SIDE OPTION...: three steps
    compare "$@" >"$dir/log" 2>&1
    got=$?
    cat "$dir/log"
    [ $got -eq 0 ] && [ "$(grep -c 'the same bits$' "$dir/log")" -eq 3 ]
}
check "nano-a" same nano-a emu
check "nano-b, another order of threads and blocks" same nano-b emu:seed=1
check "nano-u, another order" same nano-u emu:seed=2
check "late quantisation, Newton-Schulz in bf16" same nano-u emu:seed=3 --set qat_below=1.1 --set ns5_bf16=1
check "SGD, chains of more than one block" same nano-u emu --set optimizer=sgd --seq=264 --batch-tokens=264
check "odd shapes, features off" same nano-u emu:seed=4 --set optimizer=adamw --set ema=0 --set vocab_size=263 --set ffn_dim=130 \
    --set sidecar_hidden=5 --set d_model=66 --set tied_head=0 --set smear=0 --set unet_skips=0 --set branch_scales=0 --set q_gain=0
check "and others off" same nano-b emu:seed=6 --set resid_mix=0 --set logit_softcap=0 --set bigram_rows=0 --set bigram_dim=0 \
    --set k_shift=0 --set v_shift=0 --set rope_base_len=0
check "wide shapes: several blocks and rounds of lanes, large matrices orthogonal at first" same nano-a emu --seq=16 --batch-tokens=32 \
    --set bigram_dim=64 --set d_model=264 --set ffn_dim=264 --set head_dim=72 --set rope_dims=40 --set n_layers=2 --set xsa_layers=1 \
    --set local_v=1

differs() {
    compare nano-a ref64 >"$dir/differs" 2>&1
    got=$?
    cat "$dir/differs"
    [ $got -eq 1 ] && grep -q '^step [01]: .* differs: ref .*, ref64 ' "$dir/differs"
}
check "a difference is named, exit code 1" differs

train() { # OUT OPTION...
    out=$1
    shift
    "$KVDIFF" train --config=nano-b --seq=32 --batch-tokens=64 --steps=4 --data="$data" --out="$dir/$out" --val-tokens=128 --threads=1 "$@"
}
hash_of() { sed -n 's/^weights \([0-9a-f]*\) .*/\1/p' "$1"; }
same_lines() { # FILE FILE: hash and validation
    cat "$1" "$2"
    [ -n "$(hash_of "$1")" ] && [ "$(grep -v 'tokens a step' "$1")" = "$(grep -v 'tokens a step' "$2")" ]
}
check "the reference, from beginning to end" logged "$dir/ref.log" train ref
check "emu, from beginning to end" logged "$dir/emu.log" train emu --side=emu:seed=5
check "losses, validation and weights are the same" same_lines "$dir/ref.log" "$dir/emu.log"
check "the reference begins" logged "$dir/begun.log" train mixed --stop-at=2
check "emu goes on from its checkpoint" logged "$dir/mixed.log" train mixed --resume --side=emu --stop-at=3
check "and the reference from emu's" logged "$dir/ended.log" train mixed --resume
same_results() {
    [ "$(hash_of "$dir/ref.log")" = "$(hash_of "$dir/ended.log")" ] && cmp "$dir/ref/nano-b.safetensors" "$dir/mixed/nano-b.safetensors" &&
        cmp "$dir/ref/nano-b.safetensors" "$dir/emu/nano-b.safetensors"
}
check "all three wrote the same model" same_results

ttt() { "$KVDIFF" ttt --model=nano-a --data="$data" --seq=32 --batch=4 --threads=1 --db="$dir/r.db" "$@"; }
check "test-time training, reference" logged "$dir/ttt.ref" ttt --epochs=3 --tokens=512
check "test-time training, emu" logged "$dir/ttt.emu" ttt --epochs=3 --tokens=512 --side=emu
check "the same" same_lines "$dir/ttt.ref" "$dir/ttt.emu"
check "score-first, reference" logged "$dir/first.ref" ttt --mode=score-first --chunk=128 --tokens=384 --epochs=1
check "score-first, emu" logged "$dir/first.emu" ttt --mode=score-first --chunk=128 --tokens=384 --epochs=1 --side=emu
check "the same" same_lines "$dir/first.ref" "$dir/first.emu"

diverges() {
    train far --side=emu --steps=60 --save-every=1 --set lr_muon=100 --set lr_scalar=100 --set lr_token=100 --set clip=0 --set eps=1e-30 \
        --set wd_scalar=100 --set wd_muon=100 --set wd_token=100 >"$dir/far.out" 2>"$dir/far.err"
    got=$?
    cat "$dir/far.out" "$dir/far.err"
    [ $got -eq 1 ] && grep -q '^kvdiff: emu: step [0-9]*: .* not finite; training stops, the checkpoint of step [0-9]* is kept$' "$dir/far.err"
}
check "a loss that is not finite ends the run" diverges

refuse "a side without a trainer" 3 "side 'blas' has no trainer" train x --side=blas
refuse "a policy as a side" 3 "has no trainer" train x --side=policy:full
refuse "an unknown side" 2 "'emus' is unknown" train x --side=emus
refuse "an unknown option of a side" 2 "unknown option 'fast'" train x --side=emu:fast
refuse "an unknown option of the reference" 2 "option 'fast' is unknown" train x --side=ref:fast
refuse "the reference's kernels for another side" 2 "--isa=avx2 chooses kernels of the reference" train x --side=emu --isa=avx2
refuse "comparing with a side without a trainer" 3 "has no trainer" compare nano-a blas
refuse "a checkpoint of other numbers" 3 "numbers of 4 bytes" train mixed --resume --side=ref64
refuse "heads that the side does not have" 3 "needs a multiple of 4" train x --side=emu --set head_dim=14 --set rope_dims=8
done_testing
