#!/bin/sh
# The short form of `make matrix`: every legal pair of selection and storage once, 640 tokens, with steps and schedule
# seeds rotating. This script runs the pairs whose turn is a long step, short-decode.sh the others: STEPS says which. Words
# name the pairs to take, as in the long form.
set -u
. tests/tap.sh
. tests/matrix/policies

matrix_pairs | matrix_with "$@" >"$TMPDIR/pairs"

exact() { # NUMBER STEP SEED: every twelfth pair
    q=$2 seed=$3
    pairs=$(awk -v n="$1" 'NR % 12 == n' "$TMPDIR/pairs")
    [ -n "$pairs" ] || return 0
    set --
    for pair in $pairs; do
        set -- "$@" --policy="$pair"
    done
    "$KVDIFF" run --db="$TMPDIR/matrix.$q.$seed.db" --model=nano --corpus=book --tokens=641 --q="$q" --threads=1 \
        --rows=diff --device=emu:seed="$seed" "$@"
}

nothing_forgotten() {
    forgotten=$(matrix_forgotten)
    echo "tests/matrix/policies lacks: $forgotten"
    [ -z "$forgotten" ]
}
check 'every selection and storage of the program is in the matrix' nothing_forgotten

number=0
for q in 1 5 64 300; do
    for seed in 1 2 3; do
        case " ${STEPS:-64 300} " in *" $q "*) ;; *) number=$((number + 1)) && continue ;; esac
        check "$(awk -v n=$number 'NR % 12 == n' "$TMPDIR/pairs" | wc -l) pairs in steps of $q, seed $seed: 0 ulp" \
            exact $number $q $seed
        number=$((number + 1))
    done
done
done_testing
