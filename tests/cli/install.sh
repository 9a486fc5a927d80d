#!/bin/sh
# An installed kvdiff stands on its own: it finds sides, worker, headers and archive below its prefix, wherever that lies.
set -u
. tests/tap.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/install.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
XDG_CACHE_HOME=$dir/cache
export XDG_CACHE_HOME
prefix=$dir/stage/opt/kv

install_files() { make -s BUILD="$BUILD" install-files DESTDIR="$dir/stage" PREFIX=/opt/kv; }

only_below_prefix() {
    found=$(ls "$dir/stage" "$dir/stage/opt" | tr '\n' ' ')
    echo "$found"
    [ -L "$prefix/bin/kvdiff" ] && [ -f "$prefix/include/kvdiff_kernel.h" ] && [ "$(ls "$dir/stage/opt")" = kv ]
}

# Moved once more, and run from a folder that has nothing of the source tree.
moved() {
    mv "$prefix" "$dir/elsewhere" && mkdir "$dir/empty" && cd "$dir/empty" && "$dir/elsewhere/bin/kvdiff" --version
}

in_empty() { # COMMAND...
    (cd "$dir/empty" && timeout 300 "$dir/elsewhere/bin/kvdiff" "$@")
}

refused_line() {
    in_empty ops --kernel="$dir/elsewhere/share/kvdiff/examples/cuda/attention_wrong.cu" --op=attn_decode --dist=normal --shape=0 --level=0 --seed=7 \
        --db="$dir/r.db" >"$dir/log"
    got=$?
    cat "$dir/log"
    echo "exit status $got, wanted 1"
    [ "$got" -eq 1 ] && grep -q 'numeric' "$dir/log"
}

module_line() {
    in_empty ops --kernel="$dir/elsewhere/share/kvdiff/examples/ptx/attention.kernel.json" --level=0 --seed=7 --db="$dir/r.db" >"$dir/log"
    got=$?
    cat "$dir/log"
    echo "exit status $got, wanted 4"
    [ "$got" -eq 4 ] && grep -q 'there is no CUDA device here' "$dir/log"
}

check "make install-files" install_files
check "nothing lands outside of the prefix" only_below_prefix
check "the program runs from elsewhere" moved
check "it knows its sides" in_empty info
check "an installed example is compiled and passes" in_empty ops --kernel="$dir/elsewhere/share/kvdiff/examples/cuda/attention.cu" \
    --op=attn_decode --dist=normal --level=0 --seed=7 --db="$dir/r.db"
check "a wrong one fails" refused_line
if "$dir/elsewhere/lib/kvdiff/kvdiff-worker" --cuda; then
    skip "an installed module without a GPU" "this machine has one"
else
    check "an installed module finds its PTX, and says that it needs a GPU" module_line
fi

done_testing
