#!/bin/sh
# A candidate with device memory: the worker's copies, pointers and errors, with a driver that is not one (tests/forms/fake_cuda.c).
# What a real driver does is not checked here.
set -u
. tests/tap.sh
. tests/opskit.sh

compile() { # SOURCE NAME -D...
    source=$1
    name=$2
    shift 2
    "$CC" -std=c11 -O1 -D_GNU_SOURCE -shared -fPIC -Iinclude -I. "$@" -o "$dir/$name" "tests/forms/$source.c" -lm -ldl
}

ops() { # STATUS NAME
    with_driver ops_exits "$1" --kernel="$dir/$2.so" --dist=normal
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
