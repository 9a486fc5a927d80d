#!/bin/sh
# kvdiff coverage: what was visited, what was not, and the exit code.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/coverage.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
db=$dir/r.db
liar=$BUILD/tests/sides/liar.so

run() { # OPTION... : 60 tokens of the book
    "$KVDIFF" run --model nano --corpus book --tokens 60 --threads 1 --db "$db" "$@" >"$dir/run" 2>&1
    cat "$dir/run"
}
cov() { # EXIT WORDS OPTION... : the words are on stdout or stderr
    wanted=$1 words=$2 status=0
    shift 2
    "$KVDIFF" coverage --db "$db" "$@" >"$dir/out" 2>"$dir/err" || status=$?
    cat "$dir/out" "$dir/err"
    echo "exit status $status, wanted $wanted with '$words'"
    [ "$status" -eq "$wanted" ] && cat "$dir/out" "$dir/err" | grep -q -- "$words"
}

listed() {
    "$KVDIFF" coverage --list --format=csv >"$dir/list" &&
        [ "$(wc -l <"$dir/list")" -eq "$(($(grep -c '^X(' difftest/coverage.def) + 1))" ]
}
check "--list shows every cell without a database" listed
refuse "a database that is not there" 3 'none.db' "$KVDIFF" coverage --db "$dir/none.db"
refuse "cells that do not exist" 2 'no cell matches --cells=nothing' "$KVDIFF" coverage --db "$db" --cells=nothing
refuse "a run that is no number" 2 'the number of a run' "$KVDIFF" coverage --db "$db" --run=last
refuse "a word too many" 2 'no option' "$KVDIFF" coverage cascade

check "the reference alone" run --policy sink:cap=8,sinks=2 --q 1 --device none
check "  has visited nothing: nobody was compared" cov 4 'no passed case' --cells='sink.*'
check "a side that fails" run --policy sink:cap=8,sinks=2 --q 1 --device "$liar:lie=logit,at=7"
check "  has visited nothing either" cov 4 'no passed case' --cells='sink.*'
check "an exact side, steps of one token" run --policy sink:cap=8,sinks=2 --q 1 --device emu
check "  leaves one cell open, by name" cov 1 '^kvdiff: 1 cells were not visited: sink.own$' --cells='sink.*'
check "  and the others are counted" cov 1 '^sink.filling  *10  *1 ' --cells='sink.*'
check "  in the table" cov 1 '^4 of 5 cells visited' --cells='sink.*'
check "  of all cells most are open" cov 1 'full.within .*kivi.pieces'
check "steps longer than the ring" run --policy sink:cap=8,sinks=2 --q 16 --device emu
check "  close it: exit code 0" cov 0 '^5 of 5 cells visited' --cells='sink.*'
check "  each run by itself is told apart" cov 1 'sink.own' --cells='sink.*' --run=3
check "  and each device" cov 4 'device blas' --cells='sink.*' --device=blas
check "a bounded side that replays the reference's decisions" run --policy sliding:cap=8 --q 4 --device blas
check "  does not count by itself" cov 1 'sliding.rerotate.first' --cells='sliding.rerotate.*'
check "  but when it is named" cov 1 'not visited: sliding.rerotate.whole sliding.rerotate.pieces' --cells='sliding.rerotate.*' \
    --device=blas
quoted() { "$KVDIFF" query coverage --db "$db" --format=csv | grep '^sink.own,'; }
check "the named query knows what was visited" quoted
json() { "$KVDIFF" coverage --db "$db" --cells='sink.*' --format=json | python3 -c 'import json, sys; d = json.load(sys.stdin)
assert len(d) == 5 and all(c["times"] > 0 for c in d)'; }
check "JSON" json
done_testing
