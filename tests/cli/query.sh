#!/bin/sh
# `kvdiff query`: from a run to an answer, output formats, and every refusal in one line.
. tests/tap.sh
KVDIFF=${KVDIFF:-$BUILD/kvdiff}
dir=$(mktemp -d "${TMPDIR:-/tmp}/kvdiff-query.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
unset KVDIFF_DB
db=$dir/results.db

query() { "$KVDIFF" query --db "$db" "$@"; }
gives() { # WANTED ARGUMENTS...
    wanted=$1
    shift
    got=$(query "$@") || return 1
    echo "got:    $got"
    echo "wanted: $wanted"
    [ "$got" = "$wanted" ]
}

record() { "$KVDIFF" run --db "$db" --model nano --corpus book --device none --tokens 65 --q 16; }
check 'a recording fills the database' record
check 'every scored token has its row' gives 'n
64' --format=csv 'SELECT count(*) AS n FROM tok'
check 'a recording is never a pass' gives 'status
RECORDED' --format=csv 'SELECT status FROM kase'
check 'parameters are bound by name' gives 'pos
7' --format=csv 'SELECT pos FROM tok WHERE pos = :p' p=7
check 'json is an array of objects' gives '[
{"x":1,"y":null,"z":"a"}
]' --format=json "SELECT 1 AS x, NULL AS y, 'a' AS z"

every_name() { # each listed query, by name and by alias
    "$KVDIFF" query --list --format=csv | tail -n +2 | cut -d, -f1,2 | tr ',' '\n' |
        while read -r name; do
            [ -z "$name" ] || query "$name" || exit 1
        done
}
check 'every listed name and alias runs' every_name
check 'json is what a parser expects' sh -c \
    '"$1" query --db "$2" --format=json latest | python3 -c "
import json, sys
rows = json.load(sys.stdin)
assert len(rows) == 1 and rows[0][\"tokens\"] == 64 and rows[0][\"ppl_got\"] is None, rows"' \
    - "$KVDIFF" "$db"

before=$(sha256sum "$db")
refuse 'an unknown name shows the near one' 2 'close to it: drift' query drfit
refuse 'a mistake in SQL' 2 'no such column: nope' query 'SELECT nope FROM tok'
refuse 'a statement that writes' 2 'only read here' query 'DELETE FROM tok'
refuse 'two statements' 2 'more than one statement' query 'SELECT 1; SELECT 2'
refuse 'a parameter that the query has not' 2 "no parameter 'x', only: run" query latest x=1
refuse 'a parameter without a value' 2 'add p=VALUE' query 'SELECT :p'
refuse 'something that is no parameter' 2 'name=value' query SELECT 1
refuse 'no query at all' 2 'which query' query
refuse 'an unknown format' 2 'use table, csv or json' query --format=xml latest
check 'nothing was written by asking' [ "$before" = "$(sha256sum "$db")" ]

refuse 'a database that is not there' 3 'does not exist' "$KVDIFF" query --db "$dir/none.db" latest
check 'which is not made by asking' [ ! -e "$dir/none.db" ]
echo 'not a database, whatever its name says' >"$dir/text.db"
refuse 'a file that is no database' 3 'no SQLite file' "$KVDIFF" query --db "$dir/text.db" latest
refuse 'a folder' 3 'is a folder' "$KVDIFF" query --db "$dir" latest
done_testing
