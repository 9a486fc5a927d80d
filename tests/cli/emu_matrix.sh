#!/bin/sh
# The short form of `make emu-matrix`: one schedule seed, 512 tokens, every policy wrapping around.
set -u
. tests/tap.sh

exact() { # STEP
    "$KVDIFF" run --db="$TMPDIR/matrix.db" --model=nano --corpus=book --tokens=513 --q="$1" --device=emu:seed=1 \
        --policy=full --policy=sliding:cap=100 --policy=sliding:cap=100,pos=absolute \
        --policy=sliding:cap=100,pos=saturate --policy=sink:cap=60
}
for q in 1 7 64; do
    check "nano, 512 tokens in steps of $q, five policy modes: 0 ulp" exact $q
done
done_testing
