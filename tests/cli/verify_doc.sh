#!/bin/sh
# docs/verify-your-kernel.md, followed to the letter: its source, its commands; then the same kernel with an entry left out, which must be
# located.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/verify.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
page=docs/verify-your-kernel.md

# The page's commands say build/kvdiff and ./; they are run in a folder that has both.
ln -s "$(dirname "$(realpath "$KVDIFF")")" "$dir/build"
ln -s "$PWD/include" "$dir/include"
awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' $page >"$dir/my_attention.c"
awk '/^```sh$/ { on = 1; next } /^```$/ { on = 0 } on' $page >"$dir/commands"

command_of() { sed -n "$1p" "$dir/commands"; } # NUMBER

follow() { # NUMBER STATUS
    line=$(command_of "$1")
    echo "$line"
    got=0
    (cd "$dir" && KVDIFF_DB=$dir/r.db sh -c "$line") || got=$?
    echo "exit status $got, wanted $2"
    [ "$got" -eq "$2" ]
}

check "the page has a source and four commands" test "$(wc -l <"$dir/commands")" -eq 4 -a -s "$dir/my_attention.c"
check "it compiles as the page says" follow 1 0
check "its operation passes every check" follow 2 0
check "it passes inside a model" follow 3 0

# One entry less of what is stored, once there are a few.
sed 's/token + 1 : s->k.dim\[0\]/token + 1 : s->k.dim[0] - (s->k.dim[0] > 8)/' "$dir/my_attention.c" >"$dir/wrong.c"
check "the planted error changes the source" sh -c "! cmp -s '$dir/my_attention.c' '$dir/wrong.c'"
cp "$dir/wrong.c" "$dir/my_attention.c"
check "it compiles as well" follow 1 0

says() { # NUMBER WORDS...
    number=$1
    shift
    line=$(command_of "$number")
    (cd "$dir" && KVDIFF_DB=$dir/r.db sh -c "$line") >"$dir/out" 2>&1
    cat "$dir/out"
    for word in "$@"; do
        grep -q "$word" "$dir/out" || { echo "missing: $word"; return 1; }
    done
}
check "the operation fails" follow 2 1
check "  and the entry is named" says 2 'does not read entry 59 of the cache'
check "inside the model it fails" follow 3 1
check "  with token, layer, operation, head and entry" says 3 'token [0-9]*, layer 0, attn_decode' 'head [0-9]* does not read entry [0-9]* of the cache'
check "and the search says the same of the stored case" follow 4 1
check "  slot included" says 4 'op attn  layer 0  head 0  slot [0-9]' 'does not read entry'
done_testing
