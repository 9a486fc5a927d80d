#!/bin/sh
# kvdiff's own commands and what every command shares: help, version, mistakes; `kvdiff info`.
. tests/tap.sh

has() { # WORDS COMMAND...
    words=$1
    shift
    "$@" >"$tap_tmp.has" 2>&1
    status=$?
    cat "$tap_tmp.has"
    grep -qF -- "$words" "$tap_tmp.has"
    found=$?
    rm -f "$tap_tmp.has"
    [ $status -eq 0 ] && [ $found -eq 0 ]
}
json() { # PYTHON-CONDITION-ON-d COMMAND...
    condition=$1
    shift
    "$@" | python3 -c "import json, sys; d = json.load(sys.stdin); assert $condition, d"
}

check 'help names every command' sh -c 'for c in run query info model corpus policy; do "$KVDIFF" help | grep -q "^  $c " || exit 1; done'
check '--help is help' has 'usage: kvdiff COMMAND' "$KVDIFF" --help
check 'version names ABI and commit' has 'ABI 2, commit' "$KVDIFF" --version
for c in run query info model corpus policy; do
    check "help $c shows its options" has "Usage: kvdiff $c" "$KVDIFF" help $c
    check "$c --help shows its options" has "Usage: kvdiff $c" "$KVDIFF" $c --help
done
refuse 'no command' 2 'no command given' "$KVDIFF"
refuse 'unknown command' 2 "unknown command 'frobnicate'" "$KVDIFF" frobnicate
refuse 'mistyped command' 2 "did you mean 'corpus'?" "$KVDIFF" copus
refuse 'swapped letters' 2 "did you mean 'info'?" "$KVDIFF" ifno
refuse 'help for an unknown command' 2 "did you mean 'query'?" "$KVDIFF" help qurey
refuse 'unknown option' 2 "unknown option '--colour'" "$KVDIFF" info --colour
refuse 'mistyped option' 2 'did you mean --format?' "$KVDIFF" info --fromat=json
refuse 'a prefix is no option' 2 "unknown option '--form'" "$KVDIFF" info --form=json
refuse 'unknown letter' 2 "unknown option '-x'" "$KVDIFF" info -x
refuse 'missing value' 2 '--format needs a value' "$KVDIFF" info --format
refuse 'value for a word' 2 '--check takes no value' "$KVDIFF" model nano --check=yes
refuse 'unknown format' 2 'use text or json' "$KVDIFF" info --format=xml
refuse 'too many arguments' 2 'takes no arguments' "$KVDIFF" info now

check 'info lists the sides that run' has 'runs, bit-exact, linked in' "$KVDIFF" info
check 'info as JSON' json 'd["build"]["abi"] == 2 and d["machine"]["usable_cores"] >= 1' \
    "$KVDIFF" info --format=json
check 'blas runs and is bounded' \
    json '[(s["runs"], s["contract"], len(s["sha256"])) for s in d["sides"] if s["name"] == "blas"] == [(True, "bounded", 64)]' \
    "$KVDIFF" info --format=json
check 'a side that is not there has a reason' \
    json 'all(s["reason"] and not s["runs"] for s in d["sides"] if not s["name"].startswith("ref"))' \
    env KVDIFF_SIDES=/no/such/folder "$KVDIFF" info --format=json
full_disk() {
    [ -c /dev/full ] || return 0
    "$KVDIFF" info >/dev/full 2>"$tap_tmp.full"
    status=$?
    cat "$tap_tmp.full"
    rm -f "$tap_tmp.full"
    [ $status -eq 3 ]
}
check 'output that cannot be written is a failure' full_disk
done_testing
