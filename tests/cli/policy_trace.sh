#!/bin/sh
# kvdiff policy trace
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/trace.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
export KVDIFF_SIDES=$BUILD/sides

trace() { "$KVDIFF" policy trace "$@"; }

# rows WANTED COMMAND... : the last line is WANTED
last() {
    wanted=$1
    shift
    "$@" >"$dir/out" || return 1
    tail -1 "$dir/out"
    [ "$(tail -1 "$dir/out")" = "$wanted" ]
}
json() { # PYTHON-CONDITION-ON-d COMMAND...
    condition=$1
    shift
    "$@" | python3 -c "import json, sys; d = json.load(sys.stdin); f = d['frames']; assert $condition, f[-1]"
}

# The worked examples of docs/policy/sink.md and sliding.md, at the end of steps that this command can take.
check 'a ring by age' last '    12     10  sinks: 0-1 | ring 0: 4-11' trace sink:cap=8,sinks=2 --tokens=12
check 'a ring by slot' last '    14     10  [10 11 12 13 6 7 8 9]4' trace sink:cap=8,sinks=2 --tokens=14 --order=slot -q 3
check 'empty slots' last '     4      4  [2 3 - -]0' trace sink:cap=4,sinks=2 --tokens=4 --order=slot
check 'a window' last '     9      4  5-8' trace sliding:cap=4 --tokens=9
check 'a row per step' [ "$("$KVDIFF" policy trace full --tokens=10 -q 4 | wc -l)" -eq 5 ]
check 'both sides keep the same' sh -c '
    "$KVDIFF" policy trace sliding:cap=9 --tokens=40 -q 3 --layer=2 --head=1 | sed 1d >'"$dir"'/a &&
    "$KVDIFF" policy trace sliding:cap=9 --tokens=40 -q 3 --layer=2 --head=1 --side=emu | sed 1d | diff '"$dir"'/a -'
check 'another model and corpus' last '    20      5  15-19' trace sliding:cap=5 --corpus=synth:bytes=500,seed=3 --tokens=20
check 'JSON: one frame a step' json '[x["tokens"] for x in f] == [4, 8, 10]' trace full --tokens=10 -q 4 --format=json
check 'JSON: positions count inside the cache' json \
    '(f[-1]["og"], f[-1]["pos"], f[-1]["zone"], f[-1]["slot"]) == ([0, 7, 8, 9], [0, 1, 2, 3], ["sinks"] + ["ring 0"] * 3, [0, 1, 2, 3])' \
    trace sink:cap=3,sinks=1 --tokens=10 --format=json

# ---- storages that code: a tile is shown as its tokens -----------------------------------------------------------
check 'tiles and tail' last '    70     70  tiles: 0-63 | tail: 64-69' trace full+kvarn:tile=32 --tokens=70 -q 10
check 'whole tiles leave' last '   120     56  tiles: 64-95 | tail: 96-119' \
    trace sliding:cap=64,pos=absolute+kvarn:tile=32 --tokens=120 -q 10
check 'keys are coded in blocks, values behind them' last '    70     70  tiles: 0-37 | K coded: 38-63 | tail: 64-69' \
    trace full+kivi:residual=32 --tokens=70 -q 10

# ---- pictures: every token that is kept after every step is covered by the area of the paths ----------------
area() { # KEPT-SUM FILE : columns times tokens
    python3 - "$1" "$2" <<'PY'
import re, sys, xml.dom.minidom
text = open(sys.argv[2]).read()
xml.dom.minidom.parseString(text)
boxes = [tuple(map(int, b)) for b in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)", text)]
cells = {(x + i, y + k) for x, y, w, h in boxes for i in range(w) for k in range(h)}
assert sum(w * h for _, _, w, h in boxes) == len(cells) == int(sys.argv[1]), len(cells)
PY
}
check 'a picture is written' trace sink:cap=8,sinks=2 --tokens=30 --svg="$dir/s.svg"
check 'a picture shows what is kept' area $((55 + 20 * 10)) "$dir/s.svg"
check 'the default of a picture is longer' sh -c '"$KVDIFF" policy trace sliding:cap=4 --svg='"$dir"'/l.svg | grep -q "512 tokens"'
check 'long steps fill their columns' sh -c '"$KVDIFF" policy trace full --tokens=12 -q 6 --svg='"$dir"'/q.svg'
check 'in long steps a token is there at once' area $((6 * 6 + 6 * 12)) "$dir/q.svg"

# ---- without a model: the rule alone, against another program's values ------------------------------------------
check 'cascade by a law of scores' last '    24     14  [22 23 20 21]2 [18 12 14 16]1 [6 8 11 5]3' \
    trace cascade:sinks=2,n=3,window=4 --score-law=lin:37,11,10 --tokens=24 --order=slot
check 'equal scores: the incoming token wins' last '    24     14  [22 23 20 21]2 [19 13 15 17]1 [7 9 11 5]3' \
    trace cascade:sinks=2,n=3,window=4 --score-law=zero --tokens=24 --order=slot
check 'rings by age' last '    24     14  sinks: 0-1 | ring 2: 5-6 8 11 | ring 1: 12 14 16 18 | ring 0: 20-23' \
    trace cascade:sinks=2,n=3,window=4 --score-law=lin:37,11,10 --tokens=24
check 'digests' last '4096 fe632cd5d13336f6' \
    trace cascade:sinks=4,n=4,window=64 --score-law=mul:2654435761 --digest-at=4,68,260,4096
check 'digests of the other side' last '4096 fe632cd5d13336f6' \
    trace cascade:sinks=4,n=4,window=64 --score-law=mul:2654435761 --digest-at=4,68,260,4096 --side=emu
check 'as many digests as were asked for' [ "$("$KVDIFF" policy trace sink:cap=4 --score-law=zero --digest-at=4,5,9 | wc -l)" -eq 3 ]
check 'a picture of rings' trace cascade:sinks=2,n=3,window=4 --score-law=zero --tokens=40 --svg="$dir/c.svg"
check 'it shows what is kept' area $((14 * 15 / 2 + 26 * 14)) "$dir/c.svg"
check 'a colour per ring' [ "$(grep -c '<path' "$dir/c.svg")" -eq 4 ]

# ---- refusals ------------------------------------------------------------------------------------------------
refuse 'no policy' 2 'trace which policy' trace
refuse 'a policy that cannot be' 2 'cap=N is missing' trace sliding
refuse 'two policies' 2 'one policy at a time' trace full full
refuse 'an unknown option' 2 'did you mean --side' trace full --sides=ref
refuse 'an unknown side' 2 "'nobody'" trace full --side=nobody
refuse 'a side that is not there' 3 'nowhere.so' trace full --side=./nowhere.so
refuse 'no such layer' 2 '--layer=9' trace full --layer=9
refuse 'no such head' 2 '--head=2' trace full --head=2
refuse 'a text that is too short' 2 'the document has only' trace full --corpus=synth:bytes=100,seed=1 --tokens=1000
refuse 'a prompt longer than the stream' 2 'less than the policy' trace snapkv:cap=40,prompt=64 --tokens=32
refuse 'slots of a policy without rings' 2 'has no rings' trace full --order=slot
refuse 'an unknown order' 2 '--order=size' trace full --order=size
refuse 'picture and JSON' 2 'choose one' trace full --svg=x.svg --format=json
refuse 'a picture where none can be' 3 'cannot write' trace sink:cap=4 --tokens=9 --svg="$dir/no/where.svg"
refuse 'a side that lacks the policy' 3 'liar' trace full --side="$BUILD/tests/sides/liar.so:lie=unsupported"
refuse 'a side that is another policy' 2 'trace that one' trace full --side=policy:full
refuse 'a side whose step fails' 6 'liar' trace full --side="$BUILD/tests/sides/liar.so:lie=step"
refuse 'a side that exports nothing' 3 'liar' trace full --side="$BUILD/tests/sides/liar.so:lie=blank"
refuse 'a law for a policy that needs attention' 2 'needs a model' trace full --score-law=zero
refuse 'an unknown law' 2 '--score-law=square' trace sink:cap=4 --score-law=square
refuse 'a law with a model' 2 'without a model' trace sink:cap=4 --score-law=zero --model=nano
refuse 'digests without a law' 2 '--score-law' trace sink:cap=4 --digest-at=4
refuse 'digests out of order' 2 'ascending' trace sink:cap=4 --score-law=zero --digest-at=4,3
refuse 'digests and a length' 2 'leave --tokens out' trace sink:cap=4 --score-law=zero --digest-at=4 --tokens=9
refuse 'a side without traces' 3 "side 'blas' cannot run a policy without a model" trace sink:cap=4 --score-law=zero --side=blas
done_testing
