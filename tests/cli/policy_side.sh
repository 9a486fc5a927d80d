#!/bin/sh
# policy:SPEC as a device: the reference under another policy, measured against --policy and never judged.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/policy.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
db=$dir/r.db

run() { "$KVDIFF" run --model=nano --corpus=book --tokens=301 --q=16 --threads=1 --db="$db" "$@"; }
holds() { # SQL-CONDITION
    echo "$1"
    [ "$(sqlite3 "$db" "SELECT $1")" = 1 ]
}

check 'a measurement succeeds' run --policy=full \
    --device=policy:full,policy:sink:cap=40,policy:sliding:cap=64,pos=absolute
check 'and is recorded, not judged' holds "count(*) = 3 AND sum(status = 'RECORDED') = 3 FROM kase"
check 'a policy against itself: no bit differs' \
    holds "sum_kl = 0 AND n_bitexact = n_tok AND n_tok = 300 FROM kase WHERE device = 'policy:full'"
check 'a small cache is told from full, from its first eviction on' \
    holds "sum_kl > 0 AND first_diff_pos = 48 FROM kase WHERE device = 'policy:sink:cap=40'"
check 'no decision is reported as a difference' holds "count(*) = 0 FROM event"

# The other side of the measurement is what the policy gives when it is run by itself.
alone() {
    run --policy=sink:cap=40 --device=none &&
        holds "count(DISTINCT printf('%.17g', s)) = 1 AND count(*) = 2 FROM (
            SELECT sum_nll_got AS s FROM kase WHERE device = 'policy:sink:cap=40'
            UNION ALL SELECT sum_nll_ref FROM kase WHERE device = 'none')"
}
check 'its NLL is that of the policy alone' alone

refuse 'a policy must be named' 2 'it needs a policy' run --device=policy
refuse 'a wrong policy' 2 'cap' run --device=policy:sink
refuse 'xwindow has steps of its own' 2 'xwindow' run --device=policy:xwindow:window=64,cache=48,stride=8
done_testing
