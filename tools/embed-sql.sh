#!/bin/sh
# Turns a folder of SQL files into C initialisers, on stdout.
#   embed-sql.sh migrations FOLDER   {number, "name", "text"} for every NNNN_name.sql
#   embed-sql.sh queries FOLDER      {"name", "alias", "about", "params", "text"} for every name.sql,
#                                    sorted by name; the first line is "-- what it answers", then may
#                                    follow "-- alias: q1" and "-- parameters: run (the last)"
set -eu
export LC_ALL=C
kind=$1
folder=$2

fail() {
    echo "embed-sql.sh: $*" >&2
    exit 1
}

# The text of a file as a C string literal, one source line per line; no trigraph can arise.
literal() { sed 's/[\\"]/\\&/g; s/??/?\\?/g; s/^/     "/; s/$/\\n"/' "$1"; }

migration() {
    stem=$(basename "$1" .sql)
    case $stem in
    [0-9][0-9][0-9][0-9]_*) ;;
    *) fail "$1: a migration is called NNNN_name.sql" ;;
    esac
    number=$(echo "${stem%%_*}" | sed 's/^0*//')
    expected=$((expected + 1))
    [ "$number" = "$expected" ] || fail "$1: the next migration is number $expected"
    printf '    {%d, "%s",\n' "$number" "${stem#*_}"
}

# The part of the head's comment that follows the given words, as the inside of a C string literal.
head_line() { sed -n "2,3s/^-- $2: //p" "$1" | sed 's/[\\"]/\\&/g'; }

query() {
    about=$(sed -n '1s/^-- //p' "$1" | sed 's/[\\"]/\\&/g')
    [ -n "$about" ] || fail "$1: the first line must be a comment that says what it answers"
    printf '    {"%s", "%s", "%s", "%s",\n' "$(basename "$1" .sql)" "$(head_line "$1" alias)" \
        "$about" "$(head_line "$1" parameters)"
}

expected=0
for file in "$folder"/*.sql; do
    [ -f "$file" ] || fail "$folder: no SQL files"
    case $kind in
    migrations) migration "$file" ;;
    queries) query "$file" ;;
    *) fail "unknown kind '$kind'" ;;
    esac
    literal "$file"
    echo '    },'
done
