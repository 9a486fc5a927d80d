#!/bin/sh
# `kvdiff ops` on candidates whose verdict is known (tests/kernels): naive passes with every operation, in double and in fp32. Bugs are in
# ops_bugs.sh, cheats and crashes in cheats.sh.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/ops.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
kernels=$BUILD/tests/kernels

rows() { # SQL
    "$KVDIFF" query "$1" --db="$dir/r.db" --format=csv | tail -n +2 | tr -d '"'
}

# ---- right ------------------------------------------------------------------------------------------------
naive_passes() {
    logged "$dir/log" "$KVDIFF" ops --kernel="$kernels/naive.so" --level=0 --seed=7 --db="$dir/r.db"
    got=$?
    passed=$(rows "SELECT count(*) FROM kase WHERE status = 'PASS'")
    others=$(rows "SELECT count(*) FROM kase WHERE status <> 'PASS'")
    echo "exit status $got (wanted 0), $passed operations passed (wanted 13), $others did not"
    [ "$got" -eq 0 ] && [ "$passed" -eq 13 ] && [ "$others" -eq 0 ]
}
check "a plain candidate passes with every operation" naive_passes

nothing_vacuous() {
    never=$(rows "SELECT group_concat(DISTINCT check_name) FROM op_verdict WHERE status = 'SKIP' AND
                  check_name NOT IN ('exact', 'dye', 'special', 'rows', 'sanitizer', 'resources')")
    echo "checks that some operation skips: ${never:-none}"
    [ -z "$never" ]
}
check "no check of behaviour was skipped for any operation" nothing_vacuous

single_passes() {
    logged "$dir/log" "$KVDIFF" ops --kernel="$kernels/single.so" --op="$1" --level=0 --seed=7 --db="$dir/single.db"
}
check "the same candidate in fp32 stays inside the bounds" single_passes '[!a]*'
check "so does its attention" single_passes 'attn_[!p]*'

# Sums in eight chains, fma, reciprocals: other bits, the same record as far as anybody may ask.
reordered_passes() { # SEED
    logged "$dir/log" "$KVDIFF" ops --kernel="$kernels/reordered.so" --op=kv_quant_tile --level=1 --seed="$1" --db="$dir/$1.db" || return 1
    for format in kivi kvarn; do
        seen=$("$KVDIFF" query "SELECT sum(max_ulp > 0), count(DISTINCT substr(shape, instr(shape, ' K') + 2, 1)) FROM op_check
            WHERE (shape LIKE 'kivi%') = ('$format' = 'kivi')" --db="$dir/$1.db" --format=csv | tail -n +2)
        echo "$format: cases that have other bits than the reference, and widths of keys: $seen"
        [ "${seen%,*}" -gt 20 ] && [ "${seen#*,}" -eq 6 ] || return 1
    done
}
check "coded tiles in another order of work pass" reordered_passes 7
check "and with other inputs" reordered_passes 0x1234

same_again() {
    what="SELECT op, shape, dist, n_elem, max_ulp, max_abs, max_ratio FROM op_check WHERE op IN ('gemm', 'topk', 'attn_quant') ORDER BY op, rowid"
    rows "$what" >"$dir/first"
    rm -f "$dir/r.db"
    for op in gemm topk attn_quant; do
        "$KVDIFF" ops --kernel="$kernels/naive.so" --op=$op --level=0 --seed=7 --db="$dir/r.db" || return 1
    done
    rows "$what" >"$dir/second"
    wc -l "$dir/first" "$dir/second"
    [ -s "$dir/first" ] && cmp "$dir/first" "$dir/second"
}
check "the same seed gives the same cases and the same numbers" same_again

# ---- wrong --------------------------------------------------------------------------------------------------
repro_shows_it() {
    rm -f "$dir/r.db"
    KVDIFF_TEST_BUG=topk_tie logged "$dir/log" "$KVDIFF" ops --kernel="$kernels/wrong.so" --op=topk --level=0 --seed=7 --db="$dir/r.db"
    again=$(sed -n 's/^ *repro: kvdiff //p' "$dir/log" | head -1)
    echo "again: $again"
    got=0
    KVDIFF_TEST_BUG=topk_tie logged "$dir/log" "$KVDIFF" $again --db="$dir/r.db" || got=$?
    [ -n "$again" ] && [ "$got" -eq 1 ]
}
check "the command printed with a failure shows it again" repro_shows_it

# ---- neither ---------------------------------------------------------------------------------------------------
exits_with() { # STATUS COMMAND...
    wanted=$1
    shift
    got=0
    "$@" || got=$?
    echo "exit status $got, wanted $wanted"
    [ "$got" -eq "$wanted" ]
}
check "an operation that the candidate lacks is not green" exits_with 4 "$KVDIFF" ops --kernel="$kernels/refuses.so" --op=gemm --db="$dir/r.db"
check "a candidate that refuses everything is not green" exits_with 4 "$KVDIFF" ops --kernel="$kernels/refuses.so" --db="$dir/r.db"
echo "no library" >"$dir/broken.so"
check "a file that cannot be loaded is an error in a row of its own" exits_with 1 "$KVDIFF" ops --kernel="$dir/broken.so" --db="$dir/r.db"

refuse "a missing file" 3 "check the path" "$KVDIFF" ops --kernel="$dir/none.so" --db="$dir/r.db"
refuse "no candidate" 2 "--kernel=FILE" "$KVDIFF" ops --db="$dir/r.db"
refuse "a pattern that no operation matches" 2 "--op=conv" "$KVDIFF" ops --kernel="$kernels/naive.so" --op=conv --db="$dir/r.db"
refuse "an unknown distribution" 2 "--dist=cauchy" "$KVDIFF" ops --kernel="$kernels/naive.so" --dist=cauchy --db="$dir/r.db"
refuse "a level that there is not" 2 "level" "$KVDIFF" ops --kernel="$kernels/naive.so" --level=4 --db="$dir/r.db"
refuse "a seed that is no number" 2 "--seed=red" "$KVDIFF" ops --kernel="$kernels/naive.so" --seed=red --db="$dir/r.db"
refuse "a word too many" 2 "naive" "$KVDIFF" ops naive --db="$dir/r.db"

listed() {
    "$KVDIFF" ops --list --format=csv >"$dir/list" || return 1
    for op in rmsnorm gemm rope attn_prefill attn_decode attn_colsum window_append cascade_plan cascade_move kv_quant_tile attn_quant \
        logits_nll topk; do
        grep -q "^\"*operation\"*,\"*$op" "$dir/list" || { echo "$op is not listed"; return 1; }
    done
}
check "--list names every operation" listed

documented() {
    missing=$("$KVDIFF" ops --list --format=csv | tail -n +2 | tr -d '"' | cut -d, -f2 | while read -r name; do
        grep -qF "\`$name\`" docs/ops.md || echo "$name"
    done)
    echo "not in docs/ops.md: ${missing:-nothing}"
    [ -z "$missing" ]
}
check "docs/ops.md has every operation, distribution and check" documented

done_testing
