#!/bin/sh
# tests/kernels/wrong.c has one bug at a time; each must be found by the checks named here, in the words of the operation.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/ops-bugs.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
kernels=$BUILD/tests/kernels

rows() { # SQL
    "$KVDIFF" query "$1" --db="$dir/r.db" --format=csv | tail -n +2 | tr -d '"'
}

bug_found() { # BUG OP WORDS CHECK...
    bug=$1
    op=$2
    words=$3
    shift 3
    rm -f "$dir/r.db"
    KVDIFF_TEST_BUG=$bug logged "$dir/log" "$KVDIFF" ops --kernel="$kernels/wrong.so" --op="$op" ${only:-} --level=0 --seed=7 --db="$dir/r.db"
    got=$?
    [ "$got" -eq 1 ] || { echo "exit status $got, wanted 1"; return 1; }
    grep -qF -- "$words" "$dir/log" || { echo "'$words' is not said"; return 1; }
    for name in "$@"; do
        verdict=$(rows "SELECT status FROM op_verdict WHERE check_name = '$name'")
        [ "$verdict" = FAIL ] || { echo "check $name says ${verdict:-nothing}, wanted FAIL"; return 1; }
    done
}

bug() {
    check "$1 in $2 is found by $(shift 3; echo "$*")" bug_found "$@"
}

bug rmsnorm_tail rmsnorm "D=257" numeric
bug gemm_tail gemm "element 16 of K" numeric exact dye
bug gemm_bias gemm "bias" numeric exact
bug gemm_interleaved gemm "silu_mul" numeric
bug gemm_beta gemm "got nan" numeric exact dye
bug rope_pairing rope "half" numeric exact dye
bug rope_position rope "cosine read" numeric exact dye
bug attn_mask attn_decode "of the self" numeric special exact dye
bug attn_heads attn_decode "head 1" numeric special exact dye
bug attn_max attn_decode "row_max" numeric special
bug colsum_causal attn_colsum "share of token" numeric dye
bug colsum_block attn_colsum "T=257" numeric
bug colsum_weights attn_colsum "weights" numeric special exact dye
bug append_start window_append "place of token" numeric dye
bug append_value window_append "v_cache" numeric dye
bug append_ring window_append "start" numeric dye
bug plan_eager cascade_plan "of ring" numeric exact
bug plan_tie cascade_plan "constant" numeric exact
bug move_in_place cascade_move "place of slot" numeric dye
bug move_value cascade_move "v_cache" numeric dye
bug nibble_order kv_quant_tile "K code of token" numeric exact
bug tile_std kv_quant_tile "K S of channel" numeric
bug tile_zero kv_quant_tile "K Z of channel" numeric
bug tile_sign kv_quant_tile "K Z of channel" numeric exact
bug tile_neighbour kv_quant_tile "K S of channel" numeric
bug tile_group kv_quant_tile "K code of token" numeric exact
bug tile_truncate kv_quant_tile "K code of token" numeric
bug tile_half_twice kv_quant_tile "K S of channel" numeric

# The other format: a listed shape of kivi.
only=--shape=8
bug nibble_order kv_quant_tile "kivi tile=64 hd=64 K4 V4 group=32, normal: record, K code of token" numeric exact
bug tile_sign kv_quant_tile "K Z of channel 0 group 0" numeric exact
bug tile_neighbour kv_quant_tile "K S of channel 0 group 0" numeric
bug tile_group kv_quant_tile "K code of token" numeric
bug tile_truncate kv_quant_tile "K code of token" numeric
bug tile_half_twice kv_quant_tile "K S of channel" numeric
only=

bug nibble_order attn_quant "head 0" numeric
bug quant_token_scale attn_quant "head 0" numeric
bug quant_tail attn_quant "tail=" numeric
bug quant_unrotated attn_quant "head 0" numeric
bug nll_softcap logits_nll "softcap=30" numeric
bug nll_block logits_nll "V=8193" numeric special
bug topk_nan topk "NaN" numeric
bug topk_tie topk "place" exact

no_bug() {
    KVDIFF_TEST_BUG=none "$KVDIFF" ops --kernel="$kernels/wrong.so" --op='[grw]*' --level=0 --seed=7 --db="$dir/r.db"
}
check "the same candidate without a bug passes" no_bug

done_testing
