# opskit.sh - for test scripts about `kvdiff ops`: . tests/opskit.sh behind tests/tap.sh. $dir is a folder that goes with the script;
# compilers are there without make, too.
#   ops_exits STATUS ARGUMENTS...  a run at level 0 with a seed of its own; its output in $dir/log, its results in $dir/r.db
#   with_driver COMMAND...         finds the driver in $dir/driver, where a test has put one
#   says TEXT                      the last run said so
#   verdict CHECK                  status of a check in the last run
[ -n "${CC:-}" ] && [ -n "${CXX:-}" ] || eval "$(make -s BUILD="$BUILD" print-flags)"
dir=$(mktemp -d "${TMPDIR:-/tmp}/ops.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT

ops_exits() {
    wanted=$1
    shift
    rm -f "$dir/r.db"
    logged "$dir/log" timeout "${ops_seconds:-300}" "$KVDIFF" ops "$@" --level=0 --seed=7 --db="$dir/r.db"
    got=$?
    echo "exit status $got, wanted $wanted"
    [ "$got" -eq "$wanted" ]
}

with_driver() {
    (
        LD_LIBRARY_PATH=$dir/driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
        export LD_LIBRARY_PATH
        "$@"
    )
}

says() {
    grep -qF -- "$1" "$dir/log" "$dir/log.err" && return
    echo "it does not say: $1"
    return 1
}

verdict() {
    "$KVDIFF" query "SELECT status FROM op_verdict WHERE check_name = '$1'" --db="$dir/r.db" --format=csv | tail -n +2 | tr -d '"'
}
