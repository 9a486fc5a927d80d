#!/bin/sh
# kvdiff locate: stored cases by id, key and glob, cases by options, what is stored, clusters, exit codes.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/locate.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
liar=$BUILD/tests/sides/liar.so
db=$dir/r.db

lie() { # DB LIE POLICY...
    file=$1
    device=$liar:$2
    shift 2
    set -- $(printf ' --policy=%s' "$@")
    "$KVDIFF" run --model=nano --corpus=book --tokens=96 -q 16 --device="$device" --db="$file" "$@" >"$dir/run" 2>&1
}
exits() { # STATUS WORDS COMMAND...
    wanted=$1
    words=$2
    shift 2
    got=0
    "$@" >"$dir/out" 2>&1 || got=$?
    cat "$dir/out"
    echo "exit status $got, wanted $wanted with: $words"
    [ "$got" -eq "$wanted" ] && grep -q -- "$words" "$dir/out"
}
stored() { # QUERY WANTED
    got=$(sqlite3 "$db" "$1")
    echo "$1: $got"
    [ "$got" = "$2" ]
}
locate() { "$KVDIFF" locate --db="$db" "$@"; }

lie "$db" lie=victim,at=53 sink:cap=28 sink:cap=40
check 'the last run, its first failing case' exits 1 'reference evicts 25 in slot 25, device evicts 26' locate
check '  one row of the cause' stored "SELECT pos || ' ' || layer || ' ' || op || ' ' || klass || ' ' || slot || ' ' || replays || ' ' || deterministic FROM divergence" \
    '53 1 policy bug-policy 25 20 1'
check '  the eviction' stored 'SELECT pos, layer, head, ref_victim, got_victim, tie FROM evict_diff' '53|1|-1|25|26|0'
check '  the state before the step' stored 'SELECT raw_len > length(data), codec FROM divergence JOIN blob ON sha = snapshot_sha' '1|zstd'
check 'a repeat replaces the row' exits 1 'bug-policy' locate latest
check '  and adds none' stored 'SELECT count(*) || count(DISTINCT case_id) FROM divergence' 11
check 'a case by its id' exits 1 'token 53' locate 1
check 'a case by a glob on its key' exits 1 'device evicts 14' locate '*|sink:cap=40|*'
check 'the repro of a case has been run' sh -c "'$KVDIFF' locate --db='$db' 1 --format=json | grep -q '\"repro\": \"kvdiff locate .*cap=4 .*--tokens=55 --q=1\"'"
repeat() {
    line=$(sqlite3 "$db" 'SELECT repro FROM divergence WHERE case_id = 1')
    eval "exits 1 'op policy' \"\$KVDIFF\" ${line#kvdiff }"
}
check '  and fails again' repeat
check 'causes of a run' exits 1 '^2 cases, 1 causes, 0 without' locate --all
check '  query causes knows them' exits 0 'bug-policy' "$KVDIFF" query causes --db="$db"
check 'nothing is stored on request' exits 1 'token 53' locate 1 --no-store --no-shrink

rm -f "$dir/ok.db"
lie "$dir/ok.db" lie=none full
check 'a run without failures: nothing to compare' exits 4 'no failing case' "$KVDIFF" locate --db="$dir/ok.db"
check 'a case that passes does not differ' exits 0 'both sides agree' "$KVDIFF" locate 1 --db="$dir/ok.db"
check '  and has no row' [ "$(sqlite3 "$dir/ok.db" 'SELECT count(*) FROM divergence')" = 0 ]
check 'no case of that name' exits 4 "no case with a device matches 'nobody'" locate nobody

by() { "$KVDIFF" locate --model=nano --tokens=96 -q 16 --policy=sink:cap=28 --device="$liar:$1" --no-shrink --threads=1; }
check 'a case by its options' exits 1 'op head' by lie=logit,at=53
check '  that does not differ' exits 0 'both sides agree' by lie=none
check '  that the device refuses' exits 4 'refuses the case: as told' by lie=unsupported
check '  that fails on the way' exits 1 'class unknown: step: as told' by lie=step,at=40
check '  of a device that promises a bound' exits 0 'both sides agree' \
    "$KVDIFF" locate --model=nano --tokens=64 -q 16 --policy=sink:cap=28 --device=blas
bounded=$BUILD/tests/sides/liar_bounded.so
check '  of one that breaks it' exits 1 'first wrong token 53,' "$KVDIFF" locate --model=nano --tokens=96 -q 16 --policy=sink:cap=28 \
    --device="$bounded:noise=1e-2,at=53" --no-shrink --threads=1
refuse 'a case and options' 2 'leave out CASE' "$KVDIFF" locate 1 --model=nano --db="$db"
refuse 'two cases' 2 'one case too many' locate 1 2
refuse 'no device' 2 'nothing to compare the reference with' "$KVDIFF" locate --model=nano --device=none
refuse 'two models' 2 'two different models' "$KVDIFF" locate --model=nano --device-model=sharp --device="$liar:lie=none"
refuse 'no database' 3 'no.db' "$KVDIFF" locate --db="$dir/no/no.db"
refuse 'a misspelled option' 2 "did you mean --no-store" locate --no-stor
# Real bugs, where their library is built (make mutants-build); docs/mutants.md says what each of them is.
planted() { # ID OP WORDS POLICY [OPTION...]
    bug=$1
    op=$2
    words=$3
    policy=$4
    shift 4
    if [ ! -e "$BUILD/mutants/emu.so" ]; then
        skip "planted bug $bug" "make mutants-build"
        return
    fi
    "$KVDIFF" locate --model=nano --tokens=96 -q 16 --threads=1 --no-shrink --policy="$policy" \
        --device="$BUILD/mutants/emu.so:mutant=$bug" "$@" >"$dir/bug" 2>&1
    check "planted bug $bug: $op" sh -c "cat '$dir/bug'; grep -Eq ' op $op( |\$)' '$dir/bug' && grep -q '$words' '$dir/bug'"
}
planted M04 attn '1 entries are left out' full
planted M10 rope 'the first 4 keys of the view are rotated 1 positions too late' sink:cap=28
planted M12 attn 'of KV head 1 instead of 0' full
planted M35 store 'not rounded to nearest' full+f16
planted N06 swiglu 'sigmoid instead of SiLU' full
planted N11 gemm 'the last 1 of 128 inner elements' full -q 4
planted K07 colsum 'last query head does not count' cascade:cap=32
planted P05 policy 'class bug-policy' h2o:cap=24
planted Q07 attn_quant 'values: scale and zero are those of the first group' full+kivi:bits=4,group=16,residual=32
planted S02 state 'reset leaves something behind' full --warm
planted S04 state 'only behind an import' sink:cap=28 --mode=locked
done_testing
