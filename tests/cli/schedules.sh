#!/bin/sh
# Prompts, windows and questions from outside: what is refused before anything is written, what the table and the exit
# code say.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/schedules.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
db=$dir/r.db

run() { # EXIT WORDS OPTION... : a fresh database; the words are in the output
    wanted=$1 words=$2 status=0
    shift 2
    rm -f "$db" "$db-wal" "$db-shm"
    "$KVDIFF" run --model nano --threads 1 --db "$db" "$@" >"$dir/out" 2>&1 || status=$?
    cat "$dir/out"
    echo "exit status $status, wanted $wanted with '$words'"
    [ "$status" -eq "$wanted" ] && grep -q -- "$words" "$dir/out"
}
holds() { # SQL-CONDITION
    got=$(sqlite3 "$db" "SELECT $1")
    echo "SELECT $1: $got"
    [ "$got" = 1 ]
}

printf 'a short text' >"$dir/short.txt"
refuse "a document shorter than the prompt" 2 "needs a prompt of 20 tokens, and document 'short' has 12; use prompt=12" \
    "$KVDIFF" run --model nano --corpus book --corpus "$dir/short.txt" --tokens 100 --policy snapkv:cap=8,window=4,prompt=20 \
    --device emu --db "$db"
check "  leaves no database behind" test ! -e "$db"
refuse "a chunk shorter than the prompt" 2 '--window=16 feeds chunks of 16' "$KVDIFF" run --model nano --window 16 \
    --tokens 100 --policy pyramid:cap=8,window=4,prompt=20 --device emu --db "$db"
refuse "a policy that does not fit the model" 2 'xwindow: layers=9, but the model has 4' "$KVDIFF" run --model nano \
    --tokens 100 --policy xwindow:window=8,stride=4,cache=4,layers=9 --device emu --db "$db"
check "  leave no database behind either" test ! -e "$db"

check "a prompt comes first, whatever --q is" run 0 'PASS 2 ' --tokens 100 --q 7 --all-events --device emu \
    --policy snapkv:cap=8,window=4,prompt=20 --policy pyramid:cap=8,window=4,prompt=20
check "  its tokens leave in its own step" holds "count(DISTINCT pos) = 1 AND min(pos) = 19 FROM event WHERE kind = 1"
check "  and the cache holds what is left of it and all that followed" holds \
    "n_resident = 8 + 77 FROM tok WHERE pos = 96 AND case_id = 1"
check "windows score every token once" run 0 'RECORDED 1' --tokens 100 --q 7 --policy xwindow:window=16,stride=4,cache=8 \
    --device none
check "  and --q stands in the key only" holds "n_tok = 99 AND q = 7 AND key LIKE '%|q=7' AND (SELECT count(*) FROM tok) = 99 FROM kase"
check "a question under windows is unsupported" run 4 'UNSUPPORTED 1' --corpus passkey:len=700,depth=50,seeds=1 \
    --policy xwindow:window=350,stride=350,cache=0 --device none
check "  although its prompt was read" holds "n_tok = 699 AND reason LIKE 'xwindow cannot answer%' FROM kase"
check "  and nothing was retrieved" holds "count(*) = 0 FROM retrieval"
check "the size of the cache is in the table" run 0 ' 0.047 ' --tokens 100 --policy sink:cap=20 --device emu
check "  as it is in the database" holds "bytes_ref = 4 * 2 * 24 * 256 AND bytes_got = bytes_ref FROM kase"
done_testing
