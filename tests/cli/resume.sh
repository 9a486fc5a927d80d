#!/bin/sh
# A run that was killed or interrupted is continued by the same command: what is finished is not repeated, and
# table and database are those of a run that nobody disturbed. The device takes 5 ms longer for every step, so
# that there is a middle.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/resume.XXXXXX")
child=
trap '[ -z "$child" ] || kill -9 "$child" 2>/dev/null; rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
db=$dir/r.db
liar=$BUILD/tests/sides/liar.so

# Twelve cases: six documents, of which the liar spoils those that have a token 690 (all), two devices.
command_line() {
    echo run --model nano --corpus passkey:len=700,depth=10/90,seeds=3 --policy sink:cap=100 --q 16 --threads 1 \
        --rows diff --digest-every 256 --device "$liar:lie=slow,$liar:lie=logit,at=690" --db "$db"
}
ask() { sqlite3 -cmd '.timeout 5000' "$db" "$1" 2>/dev/null; }
asked() { # SQL WANTED
    got=$(ask "$1")
    echo "$1: $got, wanted $2"
    [ "$got" = "$2" ]
}

begin() { # starts the run, waits until some cases are stored; its process is $child
    rm -f "$db" "$db-wal" "$db-shm"
    # shellcheck disable=SC2046
    "$KVDIFF" $(command_line) "$@" >"$dir/first.out" 2>"$dir/first.err" &
    child=$!
    waited=0
    while n=$(ask 'SELECT count(*) FROM kase'); [ "${n:-0}" -lt 4 ]; do
        waited=$((waited + 1))
        { [ $waited -lt 1200 ] && kill -0 $child 2>/dev/null; } || return 1
        sleep 0.05
    done
    kill -0 $child 2>/dev/null
}
end() { # SIGNAL WANTED-STATUS
    kill "-$1" "$child"
    ended=0
    wait "$child" || ended=$?
    child=
    cat "$dir/first.out" "$dir/first.err"
    echo "exit status $ended, wanted $2"
    [ "$ended" -eq "$2" ]
}
finish() { # the same command again; its status in $finished
    finished=0
    # shellcheck disable=SC2046
    "$KVDIFF" $(command_line) >"$dir/out" 2>"$dir/err" || finished=$?
    cat "$dir/out" "$dir/err"
    [ "$finished" -eq 1 ] # the liar fails
}

# All that was measured, without times; cases in the order of their keys.
contents() {
    sqlite3 "$1" "
        SELECT status, exit_code, n_pass, n_fail, n_error, n_skip FROM run;
        SELECT key, device, mode, q, contract, status, reason, repro, n_tok, n_words, dropped_bytes,
               quote(sum_nll_ref), quote(sum_nll_got), quote(sum_kl), quote(max_kl), n_top1_same, n_bitexact, max_ulp,
               first_bad_pos, first_diff_pos, content_ref, order_ref, score_ref, content_got, order_got, score_got
          FROM kase ORDER BY key;
        SELECT key, t.pos, tok, quote(nll_ref), quote(nll_got), quote(kl), quote(margin_ref), t.max_ulp, flags,
               n_resident FROM tok t JOIN kase USING(case_id) ORDER BY key, t.pos;
        SELECT key, pos, layer, h_ref, h_got FROM tok_hash JOIN kase USING(case_id) ORDER BY key, pos, layer;
        SELECT key, seq, side, pos, layer, head, kind, slot, og, margin_bits FROM event JOIN kase USING(case_id)
         ORDER BY key, seq;
        SELECT key, r.* FROM (SELECT case_id, ctx_len, depth_ppm, insert_pos, digits, expected, ans_ref, ans_got, ok_ref,
               ok_got, digits_ref, digits_got, quote(nll_ref), quote(nll_got), needle_resident_ref,
               needle_resident_got FROM retrieval) r JOIN kase USING(case_id) ORDER BY key;" |
        sed 's/|[0-9]*|700|/|700|/'
}
table() { sed '1d' "$1" | LC_ALL=C sort; } # without the first line, which says "resumed"
same_as_undisturbed() {
    contents "$db" >"$dir/contents" && [ -s "$dir/contents" ] && diff "$dir/undisturbed" "$dir/contents"
}
same_table() { table "$dir/out" >"$dir/table" && diff "$dir/undisturbed.table" "$dir/table"; }

# ---- undisturbed ------------------------------------------------------------------------------------------
check "the run that nobody disturbs ends by itself" finish
check "  with twelve cases" asked 'SELECT count(*) || group_concat(DISTINCT status) FROM kase' 12PASS,FAIL
contents "$db" >"$dir/undisturbed"
table "$dir/out" >"$dir/undisturbed.table"

# ---- disturbed --------------------------------------------------------------------------------------------
kept_cases() { ask "SELECT group_concat(case_id || key || wall_ms) FROM (SELECT * FROM kase WHERE case_id <= $1 ORDER BY case_id)"; }

continued() { # NAME : the same command goes on where the other stopped
    n=$(ask 'SELECT count(*) FROM kase')
    last=$(ask 'SELECT max(case_id) FROM kase')
    before=$(kept_cases "$last")
    check "$1: some cases are stored, and not all" [ "$n" -ge 4 -a "$n" -lt 12 ]
    check "$1: each of them is whole" asked 'SELECT count(*) FROM kase WHERE n_tok = 699 AND content_got IS NOT NULL' "$n"
    check "$1: the same command ends it" finish
    check "$1: it says that it resumes" grep -q '^run 1 (resumed) ' "$dir/out"
    check "$1: it is one run, continued once" asked 'SELECT count(*) || max(n_resumes) FROM run' 11
    check "$1: finished cases were not repeated" [ "$before" = "$(kept_cases "$last")" ]
    check "$1: nothing is there twice" asked 'SELECT count(*) || count(DISTINCT key) FROM kase' 1212
    check "$1: the database is that of the undisturbed run" same_as_undisturbed
    check "$1: so is the table" same_table
}

check "a run is under way" begin
check "SIGKILL ends it" end KILL 137
check "  it is left as running" asked 'SELECT status FROM run' running
continued SIGKILL

# A run that is still alive is not taken over: its process owns it.
check "another run is under way" begin
alive_is_left_alone() {
    # shellcheck disable=SC2046
    "$KVDIFF" $(command_line) --label other >"$dir/other.out" 2>&1 &
    other=$!
    while [ "$(ask 'SELECT count(*) FROM run')" != 2 ]; do
        kill -0 $other 2>/dev/null || break
        sleep 0.05
    done
    kill -9 $other
    wait $other 2>/dev/null
    cat "$dir/other.out"
    grep -q '^run 2  ' "$dir/other.out"
}
check "  whose owner lives: the same command starts a run of its own" alive_is_left_alone
check "  and that one can be killed too" end KILL 137

# What is finished or different is not continued.
finish >/dev/null
check "the last unfinished run is continued" grep -q ' (resumed) ' "$dir/out"
different() { # OPTION...
    # shellcheck disable=SC2046
    "$KVDIFF" $(command_line) --tokens 10 --policy full --device none >"$dir/out" 2>&1
    cat "$dir/out"
    ! grep -q resumed "$dir/out"
}
check "another command is another run" different
done_testing
