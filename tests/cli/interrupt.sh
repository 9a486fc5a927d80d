#!/bin/sh
# Ctrl-C and SIGTERM: exit status 130, one line, finished cases kept and marked; the same command goes on.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/interrupt.XXXXXX")
child=
trap '[ -z "$child" ] || kill -9 "$child" 2>/dev/null; rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
db=$dir/r.db

start() { # CORPUS : five documents one after the other, steps that take 5 ms longer
    "$KVDIFF" run --model nano --corpus "$1" --policy full --q 8 --threads 1 --rows none --digest-every 0 \
        --device "$BUILD/tests/sides/liar.so:lie=slow" --db "$db"
}
ask() { sqlite3 -cmd '.timeout 5000' "$db" "$1" 2>/dev/null; }
asked() { # SQL WANTED
    got=$(ask "$1")
    echo "$1: $got, wanted $2"
    [ "$got" = "$2" ]
}
begin() { # CASES : waits until as many are stored
    rm -f "$db" "$db-wal" "$db-shm"
    start passkey:len=700,depth=50,seeds=5 >"$dir/out" 2>"$dir/err" &
    child=$!
    waited=0
    while n=$(ask "SELECT count(*) FROM $2"); [ "${n:-0}" -lt "$1" ]; do
        waited=$((waited + 1))
        { [ $waited -lt 1200 ] && kill -0 $child 2>/dev/null; } || return 1
        sleep 0.05
    done
}
end() { # SIGNAL
    # the function's shell runs the program as its child: the signal goes to the program
    kill "-$1" "$(ask 'SELECT pid FROM run')"
    ended=0
    wait "$child" || ended=$?
    child=
    cat "$dir/out" "$dir/err"
    echo "exit status $ended, $(wc -l <"$dir/err") lines on stderr"
    [ "$ended" -eq 130 ] && [ "$(wc -l <"$dir/err")" -eq 1 ] && grep -q '^kvdiff: interrupted' "$dir/err"
}
goes_on() {
    start passkey:len=700,depth=50,seeds=5 >"$dir/out" 2>&1
    got=$?
    cat "$dir/out"
    [ $got -eq 0 ] && grep -q '(resumed)' "$dir/out" && grep -q '^PASS 5  FAIL 0 *$' "$dir/out"
}

for signal in INT TERM; do
    check "SIG$signal: a run with a finished case is under way" begin 1 kase
    check "SIG$signal: it ends with 130 and one line" end $signal
    check "SIG$signal: the run is marked" asked 'SELECT status || exit_code FROM run' interrupted130
    check "SIG$signal: its counts are those of the finished cases" \
        asked 'SELECT n_pass = (SELECT count(*) FROM kase) AND n_pass BETWEEN 1 AND 4 FROM run' 1
    check "SIG$signal: the same command goes on" goes_on
    check "SIG$signal: and the mark is gone" asked 'SELECT status || exit_code || n_pass || n_resumes FROM run' pass051
done
check "before the first case: a run is under way" begin 1 run
check "before the first case: it ends with 130 and one line" end INT
check "before the first case: the run is marked" asked 'SELECT status FROM run' interrupted
done_testing
