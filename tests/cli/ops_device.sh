#!/bin/sh
# A candidate with device memory: the worker's copies, pointers and errors, with a driver that is not one (tests/forms/fake_cuda.c).
# What a real driver does is not checked here.
set -u
. tests/tap.sh

[ -n "${CC:-}" ] || eval "$(make -s BUILD="$BUILD" print-flags)"
dir=$(mktemp -d "${TMPDIR:-/tmp}/device.XXXXXX")
trap 'rm -rf "$dir" "$tap_tmp" "$tap_tmp.out"' EXIT

compile() { # SOURCE NAME -D...
    source=$1
    name=$2
    shift 2
    "$CC" -std=c11 -O1 -D_GNU_SOURCE -shared -fPIC -Iinclude -I. "$@" -o "$dir/$name" "tests/forms/$source.c" -lm -ldl
}

# The driver is found only where it is wanted.
with_driver() { LD_LIBRARY_PATH=$dir/driver "$@"; }

ops() { # STATUS NAME
    rm -f "$dir/r.db"
    logged "$dir/log" with_driver timeout 300 "$KVDIFF" ops --kernel="$dir/$2.so" --level=0 --seed=7 --dist=normal --db="$dir/r.db"
    got=$?
    echo "exit status $got, wanted $1"
    [ "$got" -eq "$1" ]
}

verdict() { # CHECK
    "$KVDIFF" query "SELECT status FROM op_verdict WHERE check_name = '$1'" --db="$dir/r.db" --format=csv | tail -n +2 | tr -d '"'
}

outside() { ops 1 outside && [ "$(verdict guard)" = FAIL ]; }
sticks() { ops 1 sticks && grep -q 'it said: kvdiff-worker: CUDA, the work of the call: CUDA_ERROR_ILLEGAL_ADDRESS' "$dir/log"; }

no_driver() {
    LD_LIBRARY_PATH=$dir "$KVDIFF" ops --kernel="$dir/device.so" --level=0 --db="$dir/r.db" >"$dir/log"
    cat "$dir/log"
    grep -q 'it wants device memory, and' "$dir/log"
}

mkdir "$dir/driver"
check "the driver compiles" compile fake_cuda driver/libcuda.so.1
check "the candidate compiles" compile device device.so
check "the worker sees a device" with_driver "$BUILD/kvdiff-worker" --cuda
check "a right candidate passes" ops 0 device
check "a write before all tensors compiles" compile device outside.so -DOUTSIDE
check "it is found, although the device has its own memory" outside
check "an error that sticks compiles" compile device sticks.so -DSTICKS
check "it ends the process with a line, and the run goes on" sticks
if "$BUILD/kvdiff-worker" --cuda; then
    skip "a machine without a driver" "this one has a GPU"
else
    check "without a driver it is an error in one line" no_driver
fi

done_testing
