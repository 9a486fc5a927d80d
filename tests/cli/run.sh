#!/bin/sh
# kvdiff run: whatever a side does wrong, the exit code, the table and the database say the same. The sides are
# tests/sides/liar*.so: emu.so with one lie and three different promises.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/run.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
db=$dir/r.db
sides=$BUILD/tests/sides
liar=$sides/liar.so

# run OPTION... : a fresh database, 120 tokens of the book in steps of 16; sets status
run() {
    rm -f "$db" "$db-wal" "$db-shm"
    status=0
    "$KVDIFF" run --model nano --corpus book --tokens 120 --q 16 --policy sink:cap=40 --threads 1 --db "$db" "$@" \
        >"$dir/out" 2>"$dir/err" || status=$?
}

# again OPTION... : the same with nothing but the model and the database given
again() {
    rm -f "$db" "$db-wal" "$db-shm"
    status=0
    "$KVDIFF" run --model nano --threads 1 --db "$db" "$@" >"$dir/out" 2>"$dir/err" || status=$?
}

asked() { # SQL WANTED
    got=$(sqlite3 "$db" "$1")
    echo "$1"
    echo "  gives  $got"
    echo "  wanted $2"
    [ "$got" = "$2" ]
}
holds() { asked "SELECT $1" 1; } # SQL-CONDITION

# The exit code, the last line of the table and the row of the run say the same.
ended() { # EXIT RUN-STATUS COUNTS
    cat "$dir/out" "$dir/err"
    echo "exit status $status, wanted $1; counts wanted: $3"
    [ "$status" -eq "$1" ] && grep -q "^$3 *\$" "$dir/out" &&
        asked 'SELECT status || exit_code FROM run' "$2$1"
}

# lies NAME OPTIONS EXIT STATUS FIRST-BAD REASON : one lying device, its verdict everywhere
verdict() { # EXIT STATUS FIRST-BAD REASON
    cat "$dir/out" "$dir/err"
    echo "exit status $status, wanted $1"
    [ "$status" -eq "$1" ] && asked "SELECT status || '@' || ifnull(first_bad_pos, '-') FROM kase" "$2@$3" &&
        holds "reason LIKE '%$4%' FROM kase" && grep -q "^weigher .*  $2\$" "$dir/out" &&
        grep -q "^ *$(sqlite3 "$db" 'SELECT substr(reason, 1, 20) FROM kase')" "$dir/out"
}
lies() {
    title=$1 options=$2
    shift 2
    run --device "$liar:$options"
    check "$title" verdict "$@"
}

# ---- every lie, through the door --------------------------------------------------------------------
run --device "$liar"
check "an honest side passes" ended 0 pass 'PASS 1  FAIL 0'
check "  every row has the reference's bits" \
    holds "n_tok = 119 AND n_bitexact = 119 AND max_ulp = 0 AND first_diff_pos IS NULL AND reason IS NULL FROM kase"
lies "one bit of one logit" lie=logit,at=77 1 FAIL 77 'logits of token 77 differ by up to 1 ulp'
check "  the row is the only one that differs" asked 'SELECT group_concat(pos) FROM tok WHERE max_ulp > 0' 77
lies "NaN" lie=nan,at=50 1 FAIL 50 'NaN or infinity in the logits of token 50'
check "  the row is flagged and has no likelihood" asked 'SELECT (flags & 4) || (nll_got IS NULL) FROM tok WHERE pos = 50' 41
lies "infinity" lie=inf,at=50 1 FAIL 50 'NaN or infinity'
lies "a canonical NLL of its own" lie=nll,at=20 1 FAIL 20 'canonical NLL of token 20'
lies "logits that are never written" lie=mute,at=64 1 FAIL 64 'token 64'
lies "another slot" lie=slot,at=77 1 FAIL 77 'decision at token 77, layer 1'
lies "another margin" lie=margin,at=77 1 FAIL 77 'decision at token 77, layer 1'
lies "a missing decision" lie=lost,at=77 1 FAIL 77 'decision at token 77, layer 1'
lies "a decision too many" lie=extra,at=77 1 FAIL 79 '129 decisions instead of 128'
check "  both lists are kept" asked 'SELECT group_concat(n) FROM (SELECT count(*) n FROM event GROUP BY side)' 128,129
lies "a byte of K in the export" lie=k,at=77 1 FAIL 119 'cache after token 119 differs from layer 0 on: K or V bytes'
lies "a position in the export" lie=pos,at=10 1 FAIL 63 'tokens or positions'
lies "a bit of the RoPE table" lie=table,at=9 1 FAIL - 'RoPE tables differ at position 9'
lies "an export that writes nothing" lie=blank 1 ERROR - 'cache export'
lies "a step that fails" lie=step,at=77 1 ERROR - 'as told'
lies "an export that fails" lie=export 1 ERROR - 'as told'
lies "an open that fails" lie=open 1 ERROR - 'as told'
lies "a reset that fails" lie=reset 1 ERROR - 'as told'
lies "an open that is not supported" lie=unsupported 4 UNSUPPORTED - 'as told'
check "  the run is vacuous" ended 4 vacuous 'PASS 0  FAIL 0  UNSUPPORTED 1'
run --device "$liar:lie=slow"
check "a slow side passes, and its time is stored" ended 0 pass 'PASS 1  FAIL 0'
check "  as its own" holds 'got_ms >= 40 AND got_ms <= wall_ms FROM kase'
run --device "$liar:lie=none,$liar:lie=logit,at=3,$liar:lie=unsupported"
check "one liar among several decides the run" ended 1 fail 'PASS 1  FAIL 1  UNSUPPORTED 1'
check "  the counts of the run agree" asked 'SELECT n_pass || n_fail || n_unsup || n_error FROM run' 1110

# ---- contracts ----------------------------------------------------------------------------------------
run --device "$sides/liar_bounded.so:noise=1e-6"
check "a bounded side inside its bound" ended 0 pass 'PASS 1  FAIL 0'
check "  with the share of it that was used" holds "reason IS NULL AND max_ratio BETWEEN 0.0625 AND 1 AND max_ulp > 0 FROM kase"
run --device "$sides/liar_bounded.so:noise=1e-4"
check "a bounded side with large errors" ended 4 vacuous 'PASS 0  FAIL 0  UNTRUSTED 1'
check "  with their figure" holds "max_ratio > 1 AND status = 'UNTRUSTED' FROM kase"
run --device "$sides/liar_bounded.so:noise=1e-2,at=117"
check "a bounded side beyond its bound" ended 1 fail 'PASS 0  FAIL 1'
check "  with its figure" holds "max_ratio > 1 AND first_bad_pos = 117 FROM kase"
run --device "$sides/liar_bounded.so:lie=nan,at=118"
check "a bounded side must be finite" ended 1 fail 'PASS 0  FAIL 1'
run --device "$sides/liar_statistical.so"
check "a statistical side without a baseline" ended 5 inconclusive 'PASS 0  FAIL 0  INCONCLUSIVE 1'
run --device none
check "the reference alone is recorded, which is no pass" ended 0 recorded 'PASS 0  FAIL 0  RECORDED 1'
check "  nothing is compared" holds 'sum_nll_ref > 0 AND sum_nll_got IS NULL AND n_bitexact IS NULL AND max_ulp IS NULL FROM kase'
run --device "$liar" --device-model nano
check "two models are recorded" ended 0 recorded 'PASS 0  FAIL 0  RECORDED 1'
printf x >"$dir/x.txt"
again --corpus "$dir/x.txt" --device "$liar"
check "a document of one token is no pass" ended 5 inconclusive 'PASS 0  FAIL 0  INCONCLUSIVE 1'

# ---- what the table shows can be repeated ---------------------------------------------------------------
run --device "$liar:lie=logit,at=77"
repro=$(sqlite3 "$db" 'SELECT repro FROM kase')
check "the table shows the command that repeats it" grep -qF "repeat: $repro" "$dir/out"
repeats() {
    got=0
    eval "\"\$KVDIFF\" ${repro#kvdiff } --db '$dir/again.db'" || got=$?
    [ "$got" -eq 1 ] && [ "$(sqlite3 "$dir/again.db" 'SELECT key, reason FROM kase')" = "$(sqlite3 "$db" 'SELECT key, reason FROM kase')" ]
}
check "  and it does" repeats

# ---- retrieval ------------------------------------------------------------------------------------------
passkey() { # DEVICE
    again --corpus passkey:len=700,depth=20/80,seeds=1 --policy full --q 64 --rows none --device "$1"
}
passkey "$liar"
check "passkey documents pass" ended 0 pass 'PASS 2  FAIL 0'
check "  with both answers" asked 'SELECT count(*) FROM retrieval WHERE ans_ref = ans_got AND nll_ref = nll_got AND needle_resident_ref > 100' 2
passkey "$liar:lie=answer,at=700"
check "another answer fails" ended 1 fail 'PASS 0  FAIL 2'
check "  behind the prompt" asked "SELECT count(*) FROM kase JOIN retrieval USING(case_id) WHERE first_bad_pos = 700 AND ans_got <> ans_ref AND ok_got = 0 AND reason LIKE 'answer %'" 2
passkey "$liar:lie=snapshot"
check "a snapshot that fails is an error" ended 1 fail 'PASS 0  FAIL 0  ERROR 2'

# ---- what is run ------------------------------------------------------------------------------------------
run --device "$liar:lie=cache,at=70" --mode locked
check "locked mode starts every step from the reference's cache" \
    holds "n_bitexact = 119 AND mode = 'locked' AND status = 'FAIL' FROM kase"
run --device emu --mode follow
check "follow mode replays the reference's decisions, or says that it cannot" \
    holds "mode = 'follow' AND status IN ('PASS', 'UNSUPPORTED') FROM kase"
run --device "$liar" --window 40 --tokens 150
check "half windows score positions w/2 to w-2 of every chunk" \
    asked "SELECT count(*) || ',' || count(*) FILTER (WHERE pos % 40 BETWEEN 20 AND 38) || ',' || max(pos) FROM tok" 57,57,118
check "  the key says so" holds "key LIKE '%|len=120|free,window=40|q=16' FROM kase"
run --device "$liar:lie=logit,at=77" --rows diff
check "--rows=diff keeps the rows that differ" asked 'SELECT group_concat(pos) FROM tok' 77
run --device "$liar:lie=logit,at=77" --rows none
check "--rows=none keeps none and judges all the same" ended 1 fail 'PASS 0  FAIL 1'
check "  really none" asked 'SELECT count(*) FROM tok' 0
run --device "$liar" --digest-every 16
check "--digest-every chooses the places" asked 'SELECT group_concat(pos) FROM tok_hash' 15,31,47,63,79,95,111,119
run --device "$liar" --digest-every 0
check "  and 0 only the end" asked 'SELECT group_concat(pos) FROM tok_hash' 119
run --device "$liar" --all-events
check "--all-events keeps what agrees" asked 'SELECT count(*) FROM event' 1568
run --device "$liar" --policy full --policy sliding:cap=30,pos=saturate --label 'three at once'
check "policies are cases of their own" asked 'SELECT count(DISTINCT policy_id) || count(*) FROM kase' 33
check "  and the run has its label" asked 'SELECT label FROM run' 'three at once'

# ---- books with a manifest: perplexity per word ---------------------------------------------------------
mkdir "$dir/pg"
printf 'It was a bright cold day in April.\n' >"$dir/pg/one.txt"
printf 'Call me what you like.\nSome years ago, it rained.\n' >"$dir/pg/two.txt"
printf 'left out' >"$dir/pg/three.txt"
cat >"$dir/pg/manifest.json" <<'JSON'
[{"file": "one.txt", "title": "First", "words": 8}, {"file": "two.txt", "title": "Second", "words": 10}]
JSON
again --corpus "$dir/pg" --doc one --doc 'tw*' --device "$liar"
check "books of a folder are chosen by name" asked "SELECT group_concat(title) FROM document JOIN kase USING(doc_id)" First,Second
check "  with their words" asked 'SELECT group_concat(n_words) FROM kase' 8,10
word_perplexity() {
    for book in one two; do
        wanted=$(sqlite3 "$db" "SELECT printf('%.6g', exp(sum_nll_ref / n_words)) FROM kase WHERE key LIKE 'pg/$book|%'")
        echo "$book: $wanted"
        grep -q "^$book .* $wanted " "$dir/out" || return 1
    done
}
check "  and exp(sum of NLL / words) in the table" word_perplexity
check "  which sums all but the first byte" asked "SELECT group_concat(n_tok) FROM kase" 34,49
done_testing
