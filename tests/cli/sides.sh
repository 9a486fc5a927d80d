#!/bin/sh
# Devices that `kvdiff run` must refuse: one line, no row, no database. tests/sides/ holds their sources.
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/kvsides.XXXXXX")
run() { "$KVDIFF" run --model=nano --corpus=book --tokens=8 --db="$dir/r.db" --device="$1"; }
bad() { # NAME STATUS WORDS DEVICE
    refuse "$1" "$2" "$3" run "$4"
}
so() { echo "$BUILD/tests/sides/$1.so"; }

bad 'unknown name' 2 "'blass' is unknown" blass
bad 'unknown option' 2 "'fast' is unknown" blas:fast
bad 'missing file' 3 'cannot open' ./no/such.so
bad 'a library that is no side' 3 'exports no kv_side_entry' "$(so no_entry)"
bad 'a side of another version' 3 'does not speak ABI 2' "$(so other_abi)"
bad 'another ABI number' 3 'speaks ABI 43' "$(so wrong_number)"
bad 'an incomplete table' 3 'no step' "$(so incomplete)"
bad 'an undefined symbol' 3 'kv_nobody_has_this' "$(so undefined)"
bad 'a side that cannot run here' 3 'no abacus in this machine' "$(so unavailable)"
printf 'text' >"$dir/text.so"
bad 'text with the name of a library' 3 'not a complete 64-bit shared object' "$dir/text.so"
head -c 3000 "$(so stub)" >"$dir/cut.so"
bad 'a truncated library' 3 'not a complete 64-bit shared object' "$dir/cut.so"
nothing_written() { [ ! -e "$dir/r.db" ]; }
check 'nothing was written' nothing_written

# Refusing a model or a policy is no fault: the case says so, and a run without any other is vacuous.
unsupported() {
    status=0
    run "$(so stub)" >"$dir/out" 2>&1 || status=$?
    cat "$dir/out"
    [ $status -eq 4 ] && grep -q UNSUPPORTED "$dir/out"
}
check 'a side that refuses to open makes the run vacuous' unsupported
rm -rf "$dir"
done_testing
