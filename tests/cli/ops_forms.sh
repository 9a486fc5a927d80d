#!/bin/sh
# Candidates as CUDA sources (docs/candidates.md): right ones pass, wrong ones are caught by a named check, and what cannot be
# run is refused with its line. On a machine with a GPU the .cu files run there.
set -u
. tests/tap.sh
. tests/opskit.sh

XDG_CACHE_HOME=$dir/cache
export CXX XDG_CACHE_HOME

ops() { # STATUS ARGUMENTS...
    ops_exits "$@" --op="${op:-attn_decode}"
}

right_cu() { ops 0 --kernel=examples/cuda/attention.cu; }

cached() {
    n=$(ls "$dir"/cache/kvdiff/*.so | wc -l)
    echo "$n objects in the cache, wanted 1"
    [ "$n" -eq 1 ]
}

wrong_cu() {
    ops 1 --kernel=examples/cuda/attention_wrong.cu --dist=normal --dist=dye && says 'does not read entry' &&
        [ "$(verdict numeric)" = FAIL ] && [ "$(verdict dye)" = FAIL ]
}

# Without the barrier behind it, one warp's next sum overwrites what another one has not read.
no_barrier() {
    sed '/before the next reduction writes/d' examples/cuda/attention.cu >"$dir/barrier.cu"
    ops 1 --kernel="$dir/barrier.cu" --dist=normal && [ "$(verdict numeric)" = FAIL ]
}

diverged() {
    sed 's|^    const int64_t t = blockIdx.x|    if (threadIdx.x == 5) return;\n&|' examples/cuda/attention.cu >"$dir/diverged.cu"
    ops 1 --kernel="$dir/diverged.cu" --dist=normal && says 'barrier divergence'
}

legacy_stream() {
    sed 's|, (cudaStream_t)stream>>>|>>>|' examples/cuda/attention.cu >"$dir/legacy.cu"
    line=$(grep -n '<<<' "$dir/legacy.cu" | cut -d: -f1)
    ops 1 --kernel="$dir/legacy.cu" --dist=normal && says "legacy.cu:$line: kernel attention: launched on the default stream"
}

ptx() {
    sed 's|^    const int64_t t = blockIdx.x|    asm volatile("membar.gl;");\n&|' examples/cuda/attention.cu >"$dir/ptx.cu"
    line=$(grep -n 'asm' "$dir/ptx.cu" | cut -d: -f1)
    ops 4 --kernel="$dir/ptx.cu" && says "UNSUPPORTED  ptx.cu  -: ptx.cu:$line: inline PTX"
}

# A row of its own, and the next candidate runs; the cache knows that one.
bad_source() {
    sed 's|^__global__ void attention|__global__ vid attention|' examples/cuda/attention.cu >"$dir/bad.cu"
    line=$(grep -n 'vid attention' "$dir/bad.cu" | cut -d: -f1)
    ops 1 --kernel="$dir/bad.cu" --kernel=examples/cuda/attention.cu --dist=normal && says "bad.cu:$line" && says 'ERROR 1' && says 'PASS 1'
}

# The words of CUDA that docs/candidates.md promises, with a compiler.
features() { # COMPILER
    (
        CXX=$1
        op=rmsnorm
        ops 0 --kernel=tests/forms/features.cu && says 'PASS 1'
    )
}

# Behind shared memory and launches that were rewritten.
lines_fit() {
    sed 's|^    const kvdk_tensor &from = |    undeclared();\n&|' tests/forms/features.cu >"$dir/lines.cu"
    line=$(grep -n 'undeclared' "$dir/lines.cu" | cut -d: -f1)
    op=rmsnorm
    ops 1 --kernel="$dir/lines.cu" && says "lines.cu:$line:"
    got=$?
    op=
    return $got
}

# nvcc names a place as FILE(LINE).
nvcc_place() {
    cat >"$dir/nvcc" <<'END'
#!/bin/sh
[ "$1" = --version ] && exit 0
echo 'x.cu(60): error: identifier "vid" is undefined in f(1)'
exit 1
END
    chmod +x "$dir/nvcc"
    (
        CXX=$dir/nvcc
        ops 1 --kernel=examples/cuda/attention.cu && says 'x.cu:60: error: identifier "vid" is undefined in f(1)'
    )
}

no_compiler() {
    (
        CXX=$dir/none
        NVCC=$dir/none
        export NVCC
        ops 1 --kernel=examples/cuda/attention.cu && says "the compiler '$dir/none' cannot be run"
    )
}

if "$BUILD/kvdiff-worker" --cuda; then
    skip "the host SIMT layer" "this machine has a GPU, and .cu files run there"
    check "a CUDA source passes on the GPU" right_cu
    check "it is compiled once" cached
    check "a wrong one fails, and the entry is named" wrong_cu
    check "a source that does not compile is a row, and the next candidate runs" bad_source
    check "its words of CUDA are known to nvcc" features "$CXX"
    check "a compiler's message has the line of the source" lines_fit
else
    check "a CUDA source passes" right_cu
    check "it is compiled once" cached
    check "a wrong one fails, and the entry is named" wrong_cu
    check "a missing barrier is caught" no_barrier
    check "threads that miss a barrier are caught" diverged
    check "a launch without a stream is caught, with its line" legacy_stream
    check "inline PTX is refused, with its line" ptx
    check "a source that does not compile is a row, and the next candidate runs" bad_source
    check "its words of CUDA are known, $CXX" features "$CXX"
    for other in g++ clang++; do
        case $CXX in *$other*) continue ;; esac
        if command -v $other >/dev/null; then
            check "its words of CUDA are known, $other" features $other
        else
            skip "its words of CUDA are known, $other" "there is no $other here"
        fi
    done
    check "a compiler's message has the line of the source" lines_fit
    check "a place that nvcc names is written like others" nvcc_place
    check "a compiler that is not there is said in one line" no_compiler
fi

done_testing
