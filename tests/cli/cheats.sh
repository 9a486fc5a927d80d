#!/bin/sh
# Candidates that try to look right without being it, and candidates that end badly (tests/cheats). Every cheat must be caught by
# the check named here, every crash must become a row, and the candidate behind it must still run.
set -u
. tests/tap.sh

[ -n "${CFLAGS_ALL:-}" ] || eval "$(make -s BUILD="$BUILD" print-flags)"
dir=$(mktemp -d "${TMPDIR:-/tmp}/cheats.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT

# Without sanitizers: what is loaded into the worker must not bring them along.
compile() { # SOURCE NAME -D...
    source=$1
    name=$2
    shift 2
    "$CC" -std=c11 -O1 -Wall -Wextra -shared -fPIC -I. "$@" -o "$dir/$name.so" "tests/cheats/$source.c" -lm -ldl -pthread
}

rows() { # QUERY
    "$KVDIFF" query "$1" --db="$dir/r.db" --format=csv | tail -n +2 | tr -d '"'
}

caught_by() { # CHECK NAME
    check=$1
    name=$2
    rm -f "$dir/r.db"
    logged "$dir/log" "$KVDIFF" ops --kernel="$dir/$name.so" --level=0 --seed=7 --db="$dir/r.db"
    got=$?
    verdict=$(rows "SELECT status FROM op_verdict WHERE check_name = '$check'")
    echo "exit status $got (wanted 1), check $check says ${verdict:-nothing} (wanted FAIL)"
    [ "$got" -eq 1 ] && [ "$verdict" = FAIL ]
}

cheat() { # CHEAT CHECK
    check "$1 compiles" compile cheats "$1" "-DCHEAT=$1"
    check "$1 is caught by $2" caught_by "$2" "$1"
}

cheat zeros numeric
cheat stale unwritten
cheat inputs inputs
cheat late late
cheat precision numeric
cheat pointers hidden
cheat wildcard numeric
cheat first_ten numeric
cheat benchmark timing
cheat fallback borrowed

# Mistakes that only the surroundings of a call, or several calls, show.
cheat overrun guard
cheat before guard
cheat dense guard
cheat reads_beyond poison
cheat racing rerun
cheat batched rows
KVDIFF_TEST_COUNT=$dir/processes
export KVDIFF_TEST_COUNT
cheat aged fresh
if [ "$(uname -m)" = x86_64 ]; then
    cheat flushes fpenv
else
    skip "flushes is caught by fpenv" "the test sets MXCSR, which only x86 has"
fi

# A right candidate with a wrong clock.
clock() { # SECONDS CHECK
    rm -f "$dir/r.db"
    KVDIFF_TEST_CLOCK=$1 logged "$dir/log" "$KVDIFF" ops --kernel=tests/cheats/clock.py --level=0 --seed=7 --db="$dir/r.db"
    got=$?
    verdict=$(rows "SELECT group_concat(check_name) FROM op_verdict WHERE status = 'FAIL'")
    echo "exit status $got, failed: $verdict (wanted $2)"
    [ "$got" -eq 1 ] && [ "$verdict" = "$2" ]
}
check "no time at all is too good" clock 0 too_good
check "so is less than none, and no clock says it" clock -1 timing,too_good
check "more than the tester has seen pass is no time, either" clock 3600 timing

of_another_build() {
    KVDIFF_TEST_CLOCK=1 KVDIFF_TEST_SCHEMA=1 "$KVDIFF" ops --kernel=tests/cheats/clock.py --level=0 --seed=7 --db="$dir/s.db" >"$dir/log" 2>&1
    [ $? -ne 0 ] && cat "$dir/log" && grep -q 'kvdiff-worker and kvdiff are of different builds' "$dir/log"
}
check "a worker of another build is told so" of_another_build

shown_again() { # NAME
    rm -f "$dir/r.db"
    "$KVDIFF" ops --kernel="$dir/$1.so" --level=0 --seed=7 --db="$dir/r.db" >/dev/null
    line=$(rows "SELECT repro FROM op_verdict WHERE n_bad > 0 ORDER BY check_name LIMIT 1")
    echo "$line"
    got=0
    KVDIFF_DB=$dir/again.db sh -c "$(echo "$line" | sed "s|^kvdiff|$KVDIFF|")" || got=$?
    [ "$got" -eq 1 ]
}
for name in overrun dense reads_beyond batched; do
    check "the command beside a failure of $name shows it again" shown_again $name
done

# A bad end, then the next candidate in the same run: honest enough to be judged.
survived() { # STATUS NAME
    status=$1
    name=$2
    rm -f "$dir/r.db"
    logged "$dir/log" "$KVDIFF" ops --kernel="$dir/$name.so" --kernel="$dir/inputs.so" --level=0 --seed=7 --limit=1 --db="$dir/r.db"
    got=$?
    first=$(rows "SELECT status FROM kase ORDER BY case_id LIMIT 1")
    next=$(rows "SELECT status FROM kase WHERE device = 'cheat-inputs'")
    left=$(pgrep -f "kvdiff-worker.*$dir" | wc -l)
    echo "exit status $got (wanted 1), $name is ${first:-missing} (wanted $status), the next one ${next:-missing} (wanted FAIL)"
    [ "$got" -eq 1 ] && [ "$first" = "$status" ] && [ "$next" = FAIL ] && [ "$left" -eq 0 ]
}

crash() { # STATUS NAME -D...
    status=$1
    name=$2
    shift 2
    check "$name compiles" compile crashes "$name" "$@"
    check "$name is $status, and the next candidate runs" survived "$status" "$name"
}

for kind in segv fpe aborted exited killed flood stack babble fails; do
    crash ERROR $kind -DCRASH=$kind
done
for kind in stopped loop closed forked; do
    crash TIMEOUT $kind -DCRASH=$kind
done
crash UNSUPPORTED refuses -DCRASH=refuses
crash ERROR at_init -DCRASH=segv -DAT_INIT
crash ERROR exit_at_init -DCRASH=exited -DAT_INIT

memory_runs_out() {
    rm -f "$dir/r.db"
    logged "$dir/log" "$KVDIFF" ops --kernel="$dir/memory.so" --level=0 --seed=7 --limit=60 --db="$dir/r.db"
    rows "SELECT status FROM kase"
    [ "$(rows "SELECT status FROM kase")" = ERROR ] && grep -q 'signal 6' "$dir/log"
}
check "memory compiles" compile crashes memory -DCRASH=memory
check "memory runs out at the limit of its process, not of the machine" memory_runs_out

alone_refused() { # STATUS NAME
    rm -f "$dir/r.db"
    got=0
    "$KVDIFF" ops --kernel="$dir/$2.so" --level=0 --db="$dir/r.db" >/dev/null 2>&1 || got=$?
    echo "exit status $got, wanted $1"
    [ "$got" -eq "$1" ]
}
check "a run in which nothing is supported is not green" alone_refused 4 refuses

done_testing
