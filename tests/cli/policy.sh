#!/bin/sh
# kvdiff policy
. tests/tap.sh

json() { # PYTHON-CONDITION-ON-d COMMAND...
    condition=$1
    shift
    "$@" | python3 -c "import json, sys; d = json.load(sys.stdin); assert $condition, d"
}

every_definition_has_a_page() {
    "$KVDIFF" policy --format=json |
        python3 -c 'import json, sys; print("\n".join(s["name"] for s in json.load(sys.stdin)["selections"]))' |
        while read -r name; do
            [ -f "docs/policy/$name.md" ] || { echo "docs/policy/$name.md is missing"; exit 1; }
            "$KVDIFF" policy | grep -q "^  $name " || { echo "$name is not in the text"; exit 1; }
        done
}
check 'every policy is listed and has its page' every_definition_has_a_page
check 'parameters carry their limits' \
    json '[p for s in d["selections"] if s["name"] == "sink" for p in s["parameters"] if p["name"] == "sinks"][0]["default"] == 4' \
    "$KVDIFF" policy --format=json
check 'words of a parameter' \
    json '[p["values"] for s in d["selections"] for p in s["parameters"] if p["name"] == "pos"] == [["rerotate", "absolute", "saturate"]]' \
    "$KVDIFF" policy --format=json
check 'canonical spelling leaves defaults out' json 'd["policy"] == "sink:cap=9"' \
    "$KVDIFF" policy sink:sinks=4,cap=9+f32 --format=json
check 'sink: entries and positions' json '(d["entries"], d["max_position"], d["bounded"]) == (13, 268, True)' \
    "$KVDIFF" policy sink:cap=9 --format=json
check 'full grows' json '(d["entries"], d["max_position"], d["bounded"]) == (1000, 999, False)' \
    "$KVDIFF" policy full --tokens=1000 --format=json
check 'sliding stays below cap' json '(d["entries"], d["max_position"]) == (9, 8)' \
    "$KVDIFF" policy sliding:cap=9 --format=json
check 'absolute positions follow the stream' json '(d["entries"], d["max_position"]) == (9, 499)' \
    "$KVDIFF" policy sliding:cap=9,pos=absolute --tokens=500 --format=json
check 'steps move the bound of sink' json 'd["max_position"] == 13' "$KVDIFF" policy sink:cap=9 -q 1 --format=json
check 'explained in words' sh -c '"$KVDIFF" policy sliding:cap=9 | grep -q "max position  8"'

refuse 'unknown selection' 2 "unknown selection 'sunk'" "$KVDIFF" policy sunk:cap=3
refuse 'unknown parameter' 2 "has no parameter 'cup'" "$KVDIFF" policy sink:cup=3
refuse 'missing parameter' 2 'cap=N is missing' "$KVDIFF" policy sink
refuse 'value out of range' 2 'cap=1' "$KVDIFF" policy sliding:cap=1
refuse 'unknown word' 2 'pos=left is unknown' "$KVDIFF" policy sliding:cap=9,pos=left
refuse 'unknown storage' 2 "unknown storage 'f8'" "$KVDIFF" policy full+f8
refuse 'tokens that are no number' 2 '--tokens=many' "$KVDIFF" policy full --tokens=many
refuse 'zero tokens a step' 2 '--q=0' "$KVDIFF" policy full -q 0
refuse 'two policies' 2 'one policy at a time' "$KVDIFF" policy full full
done_testing
