#!/bin/sh
# The model that is part of the program. Its bits are the contract's on every machine, so what it makes of a text is pinned:
# a change of the artifact, of the forward pass or of the book shows here.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/novel.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT

run() { # DATABASE OPTION...: the default model
    db=$dir/$1.db
    shift
    "$KVDIFF" run --db="$db" --rows=none "$@"
}
ask() { "$KVDIFF" query --db="$dir/$1.db" --format=csv "$2" | tail -n +2 | tr '\n' ' '; }
says() { # WANTED DATABASE SQL
    got=$(ask "$2" "$3")
    echo "wanted '$1', got '$got'"
    [ "$got" = "$1" ]
}

check 'the default model reads the book' run book --corpus=book --tokens=513 --policy=full --policy=full+kvarn --device=none
check 'its perplexity, to the bit' says 'full,1508.4591085929883 full+kvarn,1514.2544842103189 ' book "SELECT policy, sum_nll_ref FROM v_case ORDER BY case_id"
check 'it answers passkey questions' run key --corpus=passkey:len=512,depth=10/50/90,seeds=2 --device=none \
    --policy=full --policy=full+kvarn --policy=sliding:cap=48
check 'all of them with the whole cache, none where the key was thrown away' says 'full,6 full+kvarn,6 sliding:cap=48,0 ' key \
    "SELECT policy, sum(t.ok_ref) FROM v_case JOIN retrieval t USING(case_id) GROUP BY 1 ORDER BY 1"
check 'the CUDA kernels on this CPU: the same bits' run emu --corpus=book --tokens=130 --q=32 --device=emu --policy=full \
    --policy=cascade:cap=60 --policy=xwindow:window=64,stride=16,cache=32 --policy=full+kvarn:tile=32 \
    --policy=sliding:cap=64,pos=absolute+kvarn:tile=32
done_testing
