#!/bin/sh
# A side that lies once: one bit of one logit, a NaN, a decision, a byte of the cache, a failing step. The
# tester must say FAIL, at that token and for that reason; and PASS when it does not lie.
set -u
. tests/tap.sh

[ -n "${CFLAGS_ALL:-}" ] || eval "$(make -s BUILD="$BUILD" print-flags)"
dir=$(mktemp -d "${TMPDIR:-/tmp}/liar.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT

# shellcheck disable=SC2086
check "the lying side compiles" "$CC" $CFLAGS_ALL -shared -o "$dir/liar.so" tests/liar/liar.c \
    "$BUILD/libkvcommon.a" -ldl

run_with() { # LIE OPTION...
    lie=$1
    shift
    rm -f "$dir/r.db"
    LIAR_SIDE=$BUILD/sides/emu.so LIAR_LIE=$lie LIAR_TOKEN=77 "$KVDIFF" run --model nano --tokens 120 --q 16 \
        --policy sink:cap=40 --device "$dir/liar.so" --db "$dir/r.db" "$@"
}

told() { # STATUS WORDS LIE OPTION...
    status=$1
    words=$2
    shift 2
    got=0
    run_with "$@" >"$dir/out" 2>&1 || got=$?
    cat "$dir/out"
    echo "exit status $got, wanted $status with: $words"
    [ "$got" -eq "$status" ] && grep -q -- "$words" "$dir/out"
}

check "an honest side passes" told 0 'PASS 1 ' none
check "one bit of one logit fails at its token" told 1 'token 77 differ by up to 1 ulp' logit
check "a NaN fails at its token" told 1 'NaN or infinity.*token 77' nan
check "another slot in one decision fails at its token" told 1 'decision at token 77, layer 1' event
check "a missing decision fails at its token" told 1 'decision at token 77, layer 1' lost-event
check "one bit of the stored values fails after the step that stored them" told 1 'after token 79 .*K or V' state --digest-every=1
check "one bit of the stored values fails at the end at the latest" told 1 'K or V' state --digest-every=0
check "a step that fails is an error with its reason" told 1 'as told' error

# It runs in a process of its own: its end is a row, and the device behind it goes on.
ended() { # WORDS LIE
    got=0
    KVDIFF_SIDE_LIMIT=1 run_with "$2" --device emu >"$dir/out" 2>&1 || got=$?
    cat "$dir/out"
    [ "$got" -eq 1 ] && grep -q "$1" "$dir/out" && grep -q '^PASS 1  FAIL 0  ERROR 1' "$dir/out"
}
check "a crash is an error of its case alone" ended 'signal 11' segv
check "so is an abort" ended 'signal 6' abort
check "so is an exit, even with code 0" ended 'exit code 0' exit
check "so is a hang" ended 'no answer within 1 s' hang
check "so is a voice on its connection" ended 'no answer to the question' babble

stored() { # QUERY WANTED
    got=$(sqlite3 "$dir/r.db" "$1")
    echo "$1: $got"
    [ "$got" = "$2" ]
}
check "the row of the lie is stored" told 1 'FAIL 1' logit
check "  and it is the only one that differs" \
    stored 'select group_concat(pos) from tok where max_ulp > 0' 77
done_testing
