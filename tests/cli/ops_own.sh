#!/bin/sh
# Our own kernels through the door of candidates: all operations of kvdiff_kernel.h on emu, bit for bit, and those that blas
# has, within their bounds.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/ops-own.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT

run() { # KERNEL
    logged "$dir/$1" "$KVDIFF" ops --kernel="$1" --level=0 --seed=0x5eed --db="$dir/r.db" --format=csv
}

passes() { # KERNEL OPERATION [MAX_ULP]
    row=$(grep "^\"*$1\"*,\"*$2\"*," "$dir/$1") || { echo "no row for $2"; return 1; }
    echo "$row" | tr -d '"' | awk -F, -v most="${3:-}" '{ print } $3 != "PASS" || (most != "" && $5 + 0 > most + 0) { exit 1 }' && return 0
    grep -A1 " $2 " "$dir/$1.err"
    return 1
}

check "emu: the run" run emu
for op in rmsnorm gemm rope attn_prefill attn_decode attn_colsum window_append cascade_plan cascade_move kv_quant_tile attn_quant \
    logits_nll topk; do
    check "emu: $op has the bits" passes emu "$op" 0
done
# Residuals, biases and heads of odd width are no part of its models.
check "emu: no other call is refused" awk -F, 'NR > 1 && $8 != 0 && $2 !~ /rmsnorm|gemm|cascade_move/ { print; bad = 1 }
    END { exit bad || NR != 14 }' "$dir/emu"
check "... and a refusal is said" grep -q '^PASS  emu  gemm: [0-9]* calls refused, the first .* bias' "$dir/emu.err"
check "emu: it has no other row" test "$(wc -l <"$dir/emu")" -eq 14

check "blas: the run" run blas
for op in rmsnorm gemm rope attn_prefill attn_decode logits_nll; do
    check "blas: $op is within its bound" passes blas "$op"
done

# An installation may be made of links; a side is itself under every name.
linked() {
    mkdir -p "$dir/linked/sides"
    cp "$BUILD/kvdiff" "$BUILD/kvdiff-worker" "$dir/linked"
    ln -s "$(realpath "$BUILD/sides/emu.so")" "$dir/linked/sides/emu.so"
    "$dir/linked/kvdiff" ops --kernel=emu --op=topk --level=0 --seed=7 --db="$dir/linked.db"
}
check "a side that is a link to its file has borrowed nothing" linked
done_testing
