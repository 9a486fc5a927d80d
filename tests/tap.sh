# tap.sh - for test scripts: . tests/tap.sh, then check or skip any number of times, then done_testing.
#   check NAME COMMAND...     ok when the command succeeds; its output is shown when it fails
#   refuse NAME STATUS WORDS COMMAND...  the command exits with STATUS and prints exactly one line,
#                             on stderr, which contains WORDS
#   logged FILE COMMAND...  runs it, its output in FILE and FILE.err
#   skip NAME WHY             neither passed nor failed
tap_n=0
tap_failed=0
tap_tmp=${TMPDIR:-/tmp}/tap.$$
trap 'rm -f "$tap_tmp" "$tap_tmp.out"' EXIT

tap_report() { # WORD NAME
    tap_n=$((tap_n + 1))
    [ "$1" = ok ] || tap_failed=1
    printf '%s %d - %s\n' "$1" "$tap_n" "$2"
}

check() {
    tap_name=$1
    shift
    if "$@" >"$tap_tmp" 2>&1; then
        tap_report ok "$tap_name"
    else
        sed 's/^/# /' "$tap_tmp"
        tap_report 'not ok' "$tap_name"
    fi
}

tap_refused() { # STATUS WORDS COMMAND...
    tap_status=$1
    tap_words=$2
    shift 2
    tap_got=0
    "$@" >"$tap_tmp.out" 2>"$tap_tmp.err" || tap_got=$?
    cat "$tap_tmp.out" "$tap_tmp.err"
    tap_lines=$(wc -l <"$tap_tmp.err")
    tap_found=0
    grep -qF -- "$tap_words" "$tap_tmp.err" && tap_found=1
    tap_out=$(wc -c <"$tap_tmp.out")
    rm -f "$tap_tmp.err"
    echo "exit status $tap_got (wanted $tap_status), $tap_lines lines on stderr (wanted 1 with '$tap_words')"
    [ "$tap_got" -eq "$tap_status" ] && [ "$tap_lines" -eq 1 ] && [ "$tap_found" -eq 1 ] &&
        [ "$tap_out" -eq 0 ]
}

refuse() {
    tap_title=$1
    shift
    check "$tap_title" tap_refused "$@"
}

# Runs a command with its output in FILE and FILE.err, shown as well; its status.
logged() { # FILE COMMAND...
    tap_log=$1
    shift
    tap_got=0
    "$@" >"$tap_log" 2>"$tap_log.err" || tap_got=$?
    cat "$tap_log" "$tap_log.err"
    return $tap_got
}

skip() { tap_report ok "$1 # SKIP $2"; }

done_testing() {
    echo "1..$tap_n"
    exit "$tap_failed"
}
