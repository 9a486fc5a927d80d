#!/bin/sh
# Does the compiler keep live local arrays apart with the project's flags (docs/numerics.md, section 7)?
# From the environment: CC, CFLAGS_ALL, CXX, CXXFLAGS_ALL (make exports them), NVCC.
set -u
. tests/tap.sh

source=tests/canary/stack_reuse.c
dir=$(mktemp -d "${TMPDIR:-/tmp}/canary.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT

if [ -z "${CFLAGS_ALL:-}" ] || [ -z "${CXXFLAGS_ALL:-}" ]; then
    eval "$(make -s print-flags)"
fi

# Prints what the canary prints. Warnings are off: the source looks suspicious on purpose.
canary() { # COMPILER AND FLAGS...
    rm -f "$dir/canary"
    "$@" -w -o "$dir/canary" >"$dir/log" 2>&1 || { cat "$dir/log"; echo 'does not compile'; return; }
    "$dir/canary" || true
}

prints() { # WORD COMPILER...
    wanted=$1
    shift
    got=$(canary "$@")
    echo "$* printed: $got"
    [ "$got" = "$wanted" ]
}

without() { printf '%s' "$1" | sed 's/-fstack-reuse=none//g'; }

# These releases were seen to print WRONG; others of gcc may have been mended by their distributor.
affected() {
    "$1" --version 2>/dev/null | grep -qi clang && return 1
    case $("$1" -dumpfullversion 2>/dev/null) in 11.3.* | 12.2.*) return 0 ;; esac
    return 1
}

# shellcheck disable=SC2086
control() { # NAME COMPILER FLAGS
    if affected "$2"; then
        check "$1: the canary sees the fault when the flag is left out" \
            prints WRONG "$2" $(without "$3") "$source"
    else
        skip "$1: the canary sees the fault when the flag is left out" \
            "$2 is no release that is known to be affected"
    fi
}

# shellcheck disable=SC2086
for level in -O1 -O2 -O3; do
    check "C, $level: arrays are kept apart" prints ok "$CC" $CFLAGS_ALL $level "$source"
    check "C++, $level: arrays are kept apart" prints ok "$CXX" $CXXFLAGS_ALL $level -x c++ "$source"
done
control C "$CC" "$CFLAGS_ALL -O2"
control C++ "$CXX" "$CXXFLAGS_ALL -O2 -x c++"

nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if [ -x "$nvcc" ]; then
    check "host code of nvcc: arrays are kept apart" \
        prints ok "$nvcc" -ccbin "$CXX" -O2 -x cu -Xcompiler -ffp-contract=off,-fno-strict-aliasing \
        -Xcompiler "$("$CXX" --version | grep -qi clang && echo -O2 || echo -fstack-reuse=none)" "$source"
else
    skip "host code of nvcc: arrays are kept apart" "nvcc is not on this machine"
fi
done_testing
