#!/bin/sh
# `kvdiff mutate`: bugs are found, the control is clean, what cannot be done is refused, a bug that nobody finds makes the exit
# status 1. Planted are a few; `make mutants` takes all.
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/kvmutate.XXXXXX")
mutate() { "$KVDIFF" mutate --db="$dir/r.db" --jobs=2 "$@"; }
says() { # STATUS WORDS COMMAND...
    status=$1 words=$2
    shift 2
    got=0
    "$@" >"$dir/out" 2>&1 || got=$?
    cat "$dir/out"
    [ $got -eq "$status" ] && grep -q -- "$words" "$dir/out"
}
ask() { "$KVDIFF" query --db="$dir/r.db" --format=csv "$1" | tail -n +2; }

check 'the list has a line for every bug' says 0 '^M01 .*ring modulus off by one' mutate --list
check 'a family of the list' says 0 '^R02 .*before their places' mutate --list --only=race
refuse 'no bug has such a name' 2 'no bug matches --only=Z99' mutate --only=Z99
refuse 'an unknown tier' 2 'use quick, stream or nightly' mutate --tier=slow
refuse 'an unknown set of judges' 2 'use same or all' mutate --judges=some
refuse 'an unknown contract' 2 'use bitexact or bounded' mutate --contract=loose
refuse 'no case has such a policy' 2 'of tier quick has a policy that matches' mutate --only=M01 --cases=none
refuse 'cases of a control' 2 'streams texts instead' mutate --control --cases=full
refuse 'a word' 2 'name bugs with --only' mutate M01
refuse 'the option of a bug that does not exist' 2 "no planted bug has the name 'Z99'" \
    "$KVDIFF" run --model=nano --tokens=8 --db="$dir/no.db" --device="$BUILD/mutants/emu.so:mutant=Z99"
refuse 'a bug of the other library' 2 'planted in the other library' \
    "$KVDIFF" run --model=nano --tokens=8 --db="$dir/no.db" --device="$BUILD/mutants/emu.so:mutant=F01"
refuse 'a library that is missing' 3 'make mutants-build' mutate --only=M01 --libs="$dir"
mkdir "$dir/honest"
cp "$BUILD/sides/emu.so" "$dir/honest/emu.so"
refuse 'a library without bugs' 3 'has no planted bugs' mutate --only=M01 --libs="$dir/honest"
nothing_written() { [ ! -e "$dir/r.db" ] && [ ! -e "$dir/no.db" ]; }
check 'nothing was written' nothing_written

check 'bugs of both libraries are found, the control is clean' says 0 'found 4 of 4 planted bugs' \
    mutate --only='[MF]1[79]'
check '... which is said' grep -q 'no alarm without a bug' "$dir/out"
check 'a bug that ends the process is found, and the tester survives' says 0 'found 1 of 1' mutate --only=R02 --cases='cascade:cap=24,n=3*'
check '... among the cases that were asked for' grep -q '^run [0-9]*  2 cases, tier quick' "$dir/out"
check 'an equivalent bug is not asked for' says 0 'found 0 of 0' mutate --only=G42 --cases='sink*'
stored() {
    ask "SELECT count(*), sum(detected), sum(localised_op IS NOT NULL AND first_pos >= 0), sum(judge_allclose IS NOT NULL)
         FROM mutant_result JOIN mutant USING(mutant_id) WHERE NOT equivalent" | tee "$dir/stored"
    grep -q '^5,5,4,5' "$dir/stored"
}
through_the_list() { # every case of it, and no bit differed
    ask "SELECT outcome, cases FROM mutant_result JOIN mutant USING(mutant_id) WHERE code = 'G42'" | grep -x 'unreached,10'
}
check '... but goes through the list' through_the_list
check 'results are in the database: alarm, place, other judges' stored
check 'the named query knows them' says 0 'softmax' "$KVDIFF" query --db="$dir/r.db" mutants run=1
check 'the control alone' says 0 'no alarm' mutate --control --tokens=900

check 'a bug breaks a bound as well, the unmutated library keeps it' says 0 'found 1 of 1' mutate --only=M04 --contract=bounded \
    --cases='sink*'

# The reference without a hook behind the door of the one that has them: whatever is asked for is not there.
toothless() {
    mkdir "$dir/toothless"
    ${CC:-gcc} -shared -o "$dir/toothless/ref.so" "$BUILD/mutants/obj/side_ref.o" -Wl,--start-group "$BUILD/libkvref.a" \
        "$BUILD/libkvcommon.a" -Wl,--end-group -pthread -lxxhash -lzstd -ljansson -lcrypto -lm -ldl
}
check 'a library that only promises bugs is built' toothless
check 'a bug that nobody finds makes the exit status 1' says 1 '^unreached  F17' mutate --only=F17 --cases='sink*' --libs="$dir/toothless"
check '... and the sum is right' grep -q 'found 0 of 1' "$dir/out"

check 'such a library alone: nothing is found' says 1 '^unreached' "$KVDIFF" mutate --cases='sink*' --library="$dir/toothless/ref.so"
check '... and once is enough' says 1 '^alive' "$KVDIFF" mutate --once --cases='sink*' \
    --library="$dir/toothless/ref.so"
refuse 'a library that is not there' 3 'no such file' "$KVDIFF" mutate --library="$dir/none.so"
draw() { tools/mutate -n 9 --seed="$1" --list >"$dir/drawn.$2"; }
same_sample() { draw 4 a && draw 4 b && cmp "$dir/drawn.a" "$dir/drawn.b" && draw 5 c && ! cmp -s "$dir/drawn.a" "$dir/drawn.c"; }
check 'mechanical changes follow from their seed' same_sample

# A bug that hangs has a time limit for each case; long cases do not keep so short a one, the control's neither.
check 'a case that does not come to its end is an alarm' says 1 'no end of the case within' mutate --only=M17 --limit=1 \
    --tier=nightly --cases='sink:cap=252'

interrupted() {
    "$KVDIFF" mutate --db="$dir/i.db" --jobs=1 --only='[MF]*' --cases='full*' >"$dir/first" 2>&1 &
    pid=$!
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        sleep 1
        n=$("$KVDIFF" query --db="$dir/i.db" --format=csv 'SELECT count(*) FROM mutant_result' 2>/dev/null | tail -n 1)
        [ "${n:-0}" -gt 0 ] 2>/dev/null && break
    done
    kill -INT $pid
    wait $pid
    [ $? -eq 130 ] && "$KVDIFF" query --db="$dir/i.db" --format=csv "SELECT status FROM run" | grep -q interrupted
}
check 'an interrupted benchmark keeps what it has' interrupted
rm -rf "$dir"
done_testing
