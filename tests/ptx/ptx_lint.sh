#!/bin/sh
# Does the exact mode's device code hold only the operations that docs/numerics.md allows? No GPU is needed:
# every gpu/*.cu is compiled to PTX with the build's flags and read.
#
#   1. No .approx, .ftz, .full or .rz on floating point; no min or max of floats, no atomics on them; every
#      add, sub, mul, div, sqrt, rcp, fma and mad of f32 or f64 carries .rn.
#   2. The PTX is the same with --fmad=true: then nothing in the source leaves contraction to the compiler.
#
# Controls that must fail stand beside this file. From the environment: NVCC (default: PATH, then
# /usr/local/cuda), CUDA_ARCH (sm_90a). Prints registers and spills of every kernel.
set -u
. tests/tap.sh

arch=${CUDA_ARCH:-sm_90a}
nvcc=${NVCC:-}
[ -n "$nvcc" ] || nvcc=$(command -v nvcc) || nvcc=/usr/local/cuda/bin/nvcc
if ! "$nvcc" --version >/dev/null 2>&1; then
    echo "1..0 # SKIP no nvcc in PATH or /usr/local/cuda; set NVCC to check the device code"
    exit 0
fi
dir=$(mktemp -d "${TMPDIR:-/tmp}/ptx.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT

to_ptx() { # SOURCE FMAD OUTPUT
    "$nvcc" -arch="compute_${arch#sm_}" -ptx -std=c++17 -O3 --fmad="$2" -I. "$1" -o "$3"
}

# Prints the offending lines of a PTX file.
offences() { # PTX
    awk '
    /^[ \t]*\/\// || /^[ \t]*\./ { next }
    {
        op = $1
        if (op ~ /^@/) op = $2
        sub(/;$/, "", op)
        if (op !~ /[.](f16|bf16|f32|f64)(x2)?$/ && op !~ /[.]f(32|64)[.]/) next
        bad = op ~ /[.](approx|ftz|full|rz)([.]|$)/ || op ~ /^(min|max|atom|red)[.]/ ||
              (op ~ /^(add|sub|mul|div|sqrt|rcp|fma|mad)[.]/ && op !~ /[.]rn[.]/)
        if (bad) { print FILENAME ":" FNR ": " $0; n++ }
    }
    END { exit n > 0 }' "$1"
}

lint() { # SOURCE
    stem=$dir/$(echo "$1" | tr / _)
    to_ptx "$1" false "$stem.ptx" || return 1
    offences "$stem.ptx" || return 1
    grep -q '^\.visible \.entry\|^\.entry' "$stem.ptx" || return 0
    to_ptx "$1" true "$stem.fused" || return 1
    diff "$stem.ptx" "$stem.fused" >"$stem.diff" && return 0
    echo "$1 changes with --fmad: it has bare operators on floats; write kv_add, kv_mul, kv_fma"
    head -20 "$stem.diff"
    return 1
}

fails_because() { # WORDS SOURCE
    out=$(lint "$2") && { echo "$2 passes"; return 1; }
    echo "$out" | head -5
    echo "$out" | grep -q -- "$1"
}

bare_operations() {
    to_ptx tests/ptx/planted_contraction.cu true "$dir/bare.ptx" || return 1
    ! offences "$dir/bare.ptx"
}

for source in gpu/*.cu gpu/policy/*.cu gpu/train/*.cu gpu/door/*.cu; do
    check "$source: only operations of the contract" lint "$source"
done
check 'control: a * b + c is found' fails_because 'bare operators' tests/ptx/planted_contraction.cu
check 'control: operations without .rn are found' bare_operations
check 'control: expf is found' fails_because 'approx' tests/ptx/planted_expf.cu
check 'control: a float maximum is found' fails_because 'max' tests/ptx/planted_fmaxf.cu
check 'control: a float atomic is found' fails_because 'atom\|red' tests/ptx/planted_atomic.cu

echo "# registers  spilled bytes  shared bytes  kernel ($arch)"
for ptx in "$dir"/gpu_*.ptx; do
    grep -q '\.entry' "$ptx" || continue
    "$(dirname "$nvcc")/ptxas" -v -arch="$arch" "$ptx" -o "$dir/cubin" 2>"$dir/info" || cat "$dir/info"
    awk '
    /Compiling entry function/ { split($0, part, "\047"); kernel = part[2] }
    /spill stores/ { for (i = 1; i < NF; i++) if ($(i + 2) == "spill") { spilled = $i; break } }
    /Used .* registers/ {
        shared = 0
        for (i = 1; i <= NF; i++) { if ($i == "registers,") regs = $(i - 1); if ($i ~ /^smem/) shared = $(i - 2) }
        printf "%s %s %s %s\n", regs, spilled, shared, kernel
    }' "$dir/info"
done | "$(command -v cu++filt || command -v c++filt || echo cat)" |
    awk '{ regs = $1; sp = $2; sh = $3; sub(/^[^ ]+ [^ ]+ [^ ]+ /, ""); sub(/^void /, ""); sub(/\(anonymous namespace\)::/, ""); sub(/\(.*/, "");
           printf "# %9s  %13s  %12s  %s\n", regs, sp, sh, $0; n++ }
         END { printf "# %d kernels\n", n }'
done_testing
