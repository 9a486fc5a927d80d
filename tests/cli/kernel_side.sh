#!/bin/sh
# kernel:FILE: a candidate's operations inside the reference. Our own kernels pass at 0 ulp; errors planted into a naive one are found at
# their token with the entry of the view that is to blame.
set -u
. tests/tap.sh

[ -n "${CC:-}" ] || eval "$(make -s BUILD="$BUILD" print-flags)"

dir=$(mktemp -d "${TMPDIR:-/tmp}/kernel.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT
source=examples/c/naive_attention.c

build() { # NAME [SED]
    sed -E "${2:-}" $source >"$dir/$1.c"
    [ -z "${2:-}" ] || ! cmp -s "$dir/$1.c" $source || { echo "the expression changes nothing"; return 1; }
    "$CC" -O2 -shared -fPIC -I include -o "$dir/$1.so" "$dir/$1.c" -lm
}

run() { # STATUS WORDS NAME OPTION...
    status=$1
    words=$2
    name=$3
    shift 3
    rm -f "$dir/r.db"
    logged "$dir/log" "$KVDIFF" run --model=nano --tokens=100 --q=3 --device="kernel:$name" --db="$dir/r.db" "$@"
    got=$?
    echo "exit status $got (wanted $status), wanted: $words"
    [ "$got" -eq "$status" ] && grep -Eq -- "$words" "$dir/log"
}

check "a naive kernel compiles" build naive
check "  and stays inside its bounds under policies" run 0 '^PASS 4 ' "$dir/naive.so" --policy=full --policy=sink:cap=40 --policy=h2o:cap=32 \
    --policy=cascade:cap=48,n=2+f16
check "our own kernels give the bits" run 0 '^PASS 2 ' "$BUILD/sides/emu.so" --policy=full --policy=sink:cap=40
check "  one of them alone does, too" run 0 '^PASS 1 ' "$BUILD/sides/emu.so,ops=gemm"
check "under a storage of tiles attention is not its own, and nothing was checked" run 4 'was never called' "$dir/naive.so" \
    --policy=full+kvarn:tile=32

bug() { # NAME SED WORDS
    check "$1 compiles" build "$1" "$2"
    check "$1 is found" run 1 "$3" "$dir/$1.so" --policy=full
}
bug last_entry 's/t \+ 1 : s->k.dim\[0\]/t + 1 : s->k.dim[0] - (s->k.dim[0] > 8)/' 'token 9, layer 0.*head 0 does not read entry 8 of the cache'
bug future 's/KVDK_SELF \? t \+ 1/KVDK_SELF ? t + 2 > s->k.dim[0] ? t + 1 : t + 2/' \
    'token 0, layer 0.*token 0 head 0 reads entry 1 of the step itself, which it must not see'
bug wrong_head 's/score\(a, s, t, head, i\) - max/score(a, s, t, head ^ 1, i) - max/' 'token [0-9]+, layer 0.*attn_decode.*head 0'
bug scale 's/return sum \* \(float\)a->scale/return sum * (float)a->scale * 0.5f/' 'token 1, layer 0.*entry 0 of the step itself the weight'
bug kv_head 's/head \/ \(a->Hq \/ a->Hk\), d\);$/head % a->Hk, d);/' 'token [0-9]+, layer 0, attn_decode'

wrong_example() {
    "$CC" -O2 -shared -fPIC -I include -o "$dir/wrong.so" examples/c/naive_attention_wrong.c -lm &&
        run 1 'token 9, layer 0.*head 0 does not read entry 8 of the cache' "$dir/wrong.so" --policy=full
}
check "the wrong example is found" wrong_example

# The same from a CUDA source.
cu_bug() {
    sed 's/t + 1 : s.k.dim\[0\];/t + 1 : s.k.dim[0] - (s.k.dim[0] > 8);/' examples/cuda/attention.cu >"$dir/last.cu"
    ! cmp -s "$dir/last.cu" examples/cuda/attention.cu || return 1
    XDG_CACHE_HOME=$dir run 1 'token 9, layer 0, attn_decode.*head 0 does not read entry 8 of the cache' "$dir/last.cu" --policy=full
}
cu_located() {
    "$KVDIFF" locate --db="$dir/r.db" >"$dir/log"
    cat "$dir/log"
    grep -q 'first wrong token 9' "$dir/log" && grep -q 'op attn  layer 0  head 0  slot 8' "$dir/log"
}
check "a CUDA source with an entry left out is found" cu_bug
check "  and located: token, operation, head, slot" cu_located

refused() { # STATUS WORDS SPEC
    refuse "refused: $2" "$1" "$2" "$KVDIFF" run --model=nano --tokens=20 --device="kernel:$3" --db="$dir/none.db"
}
refused 2 "a model takes rmsnorm, gemm" "$dir/naive.so,ops=topk"
refused 2 "has no gemm" "$dir/naive.so,ops=gemm"
refused 2 "it needs the file of a candidate" ""
refused 3 "No such file" "$dir/nobody.so"
check "nothing was written" test ! -e "$dir/none.db"

# A kernel that dies in the middle: a row, and the device behind it is run.
dying() {
    rm -f "$dir/r.db"
    "$KVDIFF" run --model=nano --tokens=60 --q=3 --device="kernel:$dir/dies.so,emu" --db="$dir/r.db" >"$dir/log" 2>&1
    got=$?
    cat "$dir/log"
    [ "$got" -eq 1 ] && grep -q 'signal 4' "$dir/log" && grep -q '^PASS 1  FAIL 0  ERROR 1' "$dir/log"
}
check "a kernel that dies compiles" build dies 's/^    \(void\)stream;/    (void)stream; if (a->segment[0].k.dim[0] > 30) __builtin_trap();/'
check "a kernel that dies is an error of its case alone" dying
done_testing
