#!/bin/sh
# The short form of the golf part of `make matrix`, 160 tokens: every pair on nano-u, which has all features; a part of
# them on nano-a and nano-b, with other steps and schedule seeds.
set -u
. tests/tap.sh
. tests/matrix/policies

matrix_golf | matrix_with "$@" >"$TMPDIR/pairs"

exact() { # MODEL STEP SEED PART: pairs whose number leaves this remainder by 3, or all
    pairs=$(awk -v n="$4" 'n == "all" || NR % 3 == n' "$TMPDIR/pairs")
    [ -n "$pairs" ] || return 0
    model=$1 q=$2 seed=$3
    set --
    for pair in $pairs; do
        set -- "$@" --policy="$pair"
    done
    "$KVDIFF" run --db="$TMPDIR/golf.$model.db" --model="$model" --corpus=book --tokens=161 --q="$q" --threads=1 \
        --rows=diff --device=emu:seed="$seed" "$@"
}

check 'every pair on nano-u in steps of 5: 0 ulp' exact nano-u 5 1 all
check 'a third of them on nano-a in steps of 64: 0 ulp' exact nano-a 64 2 0
check 'a third of them on nano-b, token by token: 0 ulp' exact nano-b 1 3 1
check 'a third of them on nano-b in one step: 0 ulp' exact nano-b 300 4 2
done_testing
