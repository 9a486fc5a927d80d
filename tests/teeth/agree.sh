#!/bin/sh
# agree.sh - ref and emu on nano: all policies, steps that wrap around; red when a single bit differs.
set -eu
build=${BUILD:-build}
make -s -j2 BUILD="$build" "$build/kvdiff" "$build/sides/emu.so"
"$build/kvdiff" run --model nano --device emu --tokens 300 --q 24 --policy full --policy sink:cap=40,sinks=3 \
    --policy sliding:cap=50 --policy sliding:cap=50,pos=absolute --policy sliding:cap=50,pos=saturate \
    --db "$build/agree.db"
