#!/bin/sh
# Candidates that are PTX or machine code with a launch descriptor (docs/candidates.md, "Modules"): what is said without a CUDA device,
# and everything behind that with a driver that is none (tests/forms/fake_cuda.c), whose kernels are host functions. Whether a GPU
# does the same is not checked here.
set -u
. tests/tap.sh
. tests/opskit.sh

XDG_CACHE_HOME=$dir/cache
export CXX XDG_CACHE_HOME

compile_driver() {
    mkdir -p "$dir/driver"
    "$CC" -std=c11 -O1 -D_GNU_SOURCE -shared -fPIC -Iinclude -I. -o "$dir/driver/libcuda.so.1" tests/forms/fake_cuda.c -lm -ldl
}

# A copy of the example's descriptor beside the example's module, changed by a sed program, and a run of it with the driver.
changed() { # SED
    cp examples/ptx/attention.ptx "$dir"
    sed "$1" examples/ptx/attention.kernel.json >"$dir/c.kernel.json"
    ! cmp -s "$dir/c.kernel.json" examples/ptx/attention.kernel.json
}
driver=with_driver
on_gpu() (
    driver=
    "$@"
)
run_changed() { # STATUS SED
    changed "$2" && $driver ops_exits "$1" --kernel="$dir/c.kernel.json" --op=attn_decode --dist=normal
}

# ---- with the driver of the tests, or with the real one -------------------------------------------------------------

right() { $driver ops_exits 0 --kernel=examples/ptx/attention.kernel.json && says 'PASS 2'; }
wrong() {
    $driver ops_exits 1 --kernel=examples/ptx/attention_wrong.kernel.json --op=attn_decode --dist=normal --dist=dye &&
        says 'does not read entry 32 of the cache' && [ "$(verdict numeric)" = FAIL ]
}
two_pass() { $driver ops_exits 0 --kernel=tests/forms/rmsnorm.kernel.json --op=rmsnorm && [ "$(verdict rows)" = PASS ]; }
in_a_model() {
    $driver timeout 300 "$KVDIFF" run --device="kernel:examples/ptx/$1.kernel.json" --tokens=64 --q=1 --policy=full \
        --rows=diff --db="$dir/m.db" >"$dir/log" 2>&1
    got=$?
    cat "$dir/log"
    echo "exit status $got, wanted $2"
    [ "$got" -eq "$2" ]
}
described() {
    $driver ops_exits 0 --kernel=tests/forms/rmsnorm.kernel.json --dist=normal || return 1
    found=$("$KVDIFF" query "SELECT hex(so_sha) FROM kernel" --db="$dir/r.db" --format=csv 2>/dev/null | tail -n 1 | tr -d '"' | tr A-F a-f)
    wanted=$(cat tests/forms/rmsnorm.kernel.json tests/forms/rmsnorm.ptx | sha256sum | cut -d' ' -f1)
    echo "hash $found, wanted $wanted"
    [ "$found" = "$wanted" ]
}

# Every part of a launch counts: each change shows in a check of its own.
grid_short() { run_changed 1 's/"grid": \["T", "Hq"\], "block": 32, "shared"/"grid": ["T", "Hq - 1"], "block": 32, "shared"/' && [ "$(verdict numeric)" = FAIL ]; }
block_short() { run_changed 1 's/"block": 32, "shared"/"block": 31, "shared"/' && [ "$(verdict numeric)" = FAIL ]; }
no_end() { run_changed 1 's/"entry": "attend_end"/"when": "T > 1", &/' && [ "$(verdict numeric)" = FAIL ]; }
swapped_strides() { run_changed 1 's/{"i64": "segment0.k.stride0"}, {"i64": "segment0.k.stride1"}/{"i64": "segment0.k.stride1"}, {"i64": "segment0.k.stride0"}/' && [ "$(verdict numeric)" = FAIL ]; }
wrong_scale() { run_changed 1 's/{"f32": "scale"}/{"f32": 0.17}/' && [ "$(verdict numeric)" = FAIL ]; }
refuses() { run_changed 4 's/hd <= 4096/hd > 4096/' && says 'it requires hd > 4096'; }
refuses_some() { run_changed 0 's/hd <= 4096/hd <= 64/' && says 'PASS 1'; }

# Errors of a call, in words and with their place.
shared_short() { run_changed 1 's/4 \* hd/4 * hd - 4/' && says 'it said: kvdiff-worker: CUDA, the work of the call: CUDA_ERROR_ILLEGAL_ADDRESS'; }
shared_refused() { run_changed 1 's/"4 \* hd"/"225 * 1024 + 4 * hd - hd * 4"/' && says "launches[1]: 'attend': 230400 bytes of shared memory beside 0 of its own: CUDA_ERROR_INVALID_VALUE"; }
shared_large() { run_changed 0 's/"4 \* hd"/"100 * 1024"/'; }
division() { run_changed 1 's/"Hq \/ Hk"/"Hq \/ (Hk - 2)"/' && says "c.kernel.json: ops.attn_decode.launches[1].parameters[15]: 'Hq / (Hk - 2)': division by zero at character 4"; }
no_range() { run_changed 1 's/{"i32": "segment0.k.dim0"}/{"i32": "segment0.k.dim0 + 2147483648"}/' && says 'does not fit into i32'; }
too_many_threads() { run_changed 1 's/"block": 32, "shared"/"block": ["hd", "hd"], "shared"/' && says 'launches[1].block: 4096 threads; a device takes 1024'; }
scratch_away() { run_changed 1 's/"row_sum": "4 \* T \* Hq"/"row_sum": "0 - T"/' && says 'ops.attn_decode.scratch.row_sum: -1 bytes'; }

# What is refused when it is opened: a row of its own, and one line.
sticks() {
    sed 's/T > 100000/T > 1/' tests/forms/rmsnorm.kernel.json >"$dir/s.kernel.json"
    cp tests/forms/rmsnorm.ptx "$dir"
    with_driver ops_exits 1 --kernel="$dir/s.kernel.json" --dist=normal && says 'CUDA_ERROR_ILLEGAL_ADDRESS'
}
jit_log() {
    changed 's/attention.ptx/refused.ptx/' && { cat examples/ptx/attention.ptx && echo '// refused'; } >"$dir/refused.ptx" &&
        with_driver ops_exits 1 --kernel="$dir/c.kernel.json" &&
        says 'refused.ptx: the driver does not take it: CUDA_ERROR_INVALID_PTX: ptxas application ptx input, line 12; error   : Unknown instruction'
}
cubin() { # machine code: the driver alone knows its parameters
    printf '\177ELF\002\001\001\000\000\000\000\000\000\000\000\000\002\000\276\000' >"$dir/x.cubin"
    head -c 64 /dev/zero >>"$dir/x.cubin"
    printf '.text.attend_begin\000.text.attend\000.text.attend_end\000' >>"$dir/x.cubin"
    changed 's/attention.ptx/x.cubin/' && with_driver ops_exits "$1" --kernel="$dir/c.kernel.json" --op=attn_decode --dist=normal
}
cubin_parameters() {
    printf '\000.text.crash\000' >>"$dir/x.cubin"
    changed 's/attention.ptx/x.cubin/;s/"attend_end"/"crash"/' && with_driver ops_exits 1 --kernel="$dir/c.kernel.json" &&
        says "launches[4]: 'crash' has fewer parameters than the 10 that are given"
}

cubin_sizes() {
    changed 's/attention.ptx/x.cubin/;s/{"f32": "scale"}/{"f64": "scale"}/' && with_driver ops_exits 1 --kernel="$dir/c.kernel.json" &&
        says "c.kernel.json: ops.attn_decode.launches[1]: parameters[16] of 'attend' has 4 bytes there, f64 has 8"
}
fatbin() { # may be compressed: the driver looks for the kernels
    { printf '\120\355\125\272' && head -c 60 /dev/zero; } >"$dir/x.fatbin"
    changed 's/attention.ptx/x.fatbin/;s/"attend_end"/"attend_fin"/' && with_driver ops_exits 1 --kernel="$dir/c.kernel.json" &&
        says "ops.attn_decode.launches[4]: $dir/x.fatbin: kernel 'attend_fin': CUDA_ERROR_NOT_FOUND"
}

# The example of the manual is well-formed: only its module is missing.
documented() {
    sed -n '/^```json$/,/^```$/p' docs/candidates.md | sed '/^```/d' >"$dir/doc.kernel.json"
    ops_exits 1 --kernel="$dir/doc.kernel.json" && says "doc.kernel.json  -: $dir/norm.ptx: cannot"
}

# ---- without a device ------------------------------------------------------------------------------------------------

bad_descriptor() { # SED MESSAGE
    changed "$1" && ops_exits 1 --kernel="$dir/c.kernel.json" && says "ERROR  c.kernel.json  -: $2"
}
bare() { ops_exits 1 --kernel=examples/ptx/attention.ptx && says 'a ptx alone does not say how it is launched; write a NAME.kernel.json beside it'; }
assembled() { ops_exits 4 --kernel=examples/ptx/attention.kernel.json && says 'UNSUPPORTED  attention.kernel.json  -: there is no CUDA device here' && says 'ptxas takes attention.ptx'; }
old_target() { ops_exits 4 --kernel=tests/forms/rmsnorm.kernel.json && says 'ptxas takes rmsnorm.ptx (.target sm_50)'; }
beside_others() { ops_exits 0 --kernel=examples/ptx/attention.kernel.json --kernel="$BUILD/tests/kernels/naive.so" --op=topk --dist=normal && says 'UNSUPPORTED 1'; }
not_assembled() {
    changed 's/attention.ptx/broken.ptx/' && sed 's/mov.u32/mov.u33/' examples/ptx/attention.ptx >"$dir/broken.ptx" &&
        ops_exits 1 --kernel="$dir/c.kernel.json" && says 'ERROR  c.kernel.json  -: ptxas does not take broken.ptx: ptxas' && says "line"
}
assembler() { # PTXAS STATUS TEXT
    (
        PTXAS=$1
        export PTXAS
        ops_exits "$2" --kernel=examples/ptx/attention.kernel.json && says "$3"
    )
}
no_assembler() { # PATH without one
    (
        PTXAS=
        PATH=/usr/bin:/bin
        if command -v ptxas >/dev/null || [ -x /usr/local/cuda/bin/ptxas ]; then exit 77; fi
        ops_exits 4 --kernel=examples/ptx/attention.kernel.json && says 'was not assembled, as there is no ptxas here'
    )
}
machine_code() { changed 's/attention.ptx/x.cubin/' && ops_exits 4 --kernel="$dir/c.kernel.json" && says 'x.cubin is machine code, which nobody has looked at'; }
model_without() {
    timeout 100 "$KVDIFF" run --device=kernel:examples/ptx/attention.kernel.json --tokens=16 --db="$dir/m.db" >"$dir/log" 2>&1
    got=$?
    cat "$dir/log"
    echo "exit status $got, wanted 3 or 4"
    { [ "$got" -eq 3 ] || [ "$got" -eq 4 ]; } && says 'there is no CUDA device here'
}

# ---- the examples -----------------------------------------------------------------------------------------------------

# What is committed is what nvcc makes of the source, comments about its version aside.
reproduced() { # NAME
    "$nvcc" -ptx -arch=compute_75 -o "$dir/$1.ptx" "examples/ptx/$1.cu" && diff "$dir/$1.ptx" "examples/ptx/$1.ptx"
}
compiled() { # KIND NAME STATUS
    "${NVCC:-nvcc}" "-$1" -arch=native -o "$dir/$2.$1" "examples/ptx/$2.cu" &&
        sed "s/$2.ptx/$2.$1/" "examples/ptx/$2.kernel.json" >"$dir/c.kernel.json" &&
        ops_exits "$3" --kernel="$dir/c.kernel.json" --dist=normal
}
source_runs() { # STATUS LINE
    { echo "$2" && cat examples/ptx/attention.cu tests/forms/ptx_host.cu; } >"$dir/source.cu"
    ops_exits "$1" --kernel="$dir/source.cu" --op=attn_decode --dist=normal
}

check "the driver compiles" compile_driver
check "a right module passes" right
check "a wrong one fails, and the entry is named" wrong
check "two passes with scratch, a launch that is left out, the struct by value" two_pass
check "a right one passes inside of a model" in_a_model attention 0
check "a wrong one fails inside of a model" in_a_model attention_wrong 1
check "its hash is that of both files" described
check "a grid that is too small is found" grid_short
check "a block that is too small is found" block_short
check "a launch that is left out is found" no_end
check "swapped strides are found" swapped_strides
check "a wrong number is found" wrong_scale
check "what it requires is refused, never passed" refuses
check "what it does not require is checked" refuses_some
check "an overrun of shared memory ends the process with a line" shared_short
check "shared memory beyond the device is said" shared_refused
check "shared memory beyond 48 KiB is asked for" shared_large
check "a division by zero is said with its place" division
check "a number that does not fit is said" no_range
check "too many threads are said" too_many_threads
check "a scratch that cannot be is said" scratch_away
check "an error that sticks ends the process, and the run goes on" sticks
check "the driver's assembler is quoted" jit_log
check "machine code runs" cubin 0
check "parameters of machine code are compared by the driver" cubin_parameters
check "so are their sizes" cubin_sizes
check "kernels of a fat binary are looked for by the driver" fatbin
check "the example of docs/candidates.md is well-formed" documented
check "a module without a descriptor is refused" bare
check "an unknown key" bad_descriptor 's/"requires"/"require"/' "c.kernel.json: ops.attn_decode: unknown key 'require'; known are requires, scratch, launches"
check "an unknown operation" bad_descriptor 's/"attn_decode": {/"attention": {/' "c.kernel.json: ops: there is no operation 'attention'; there are rmsnorm, gemm,"
check "an unknown name" bad_descriptor 's/\["T", "Hq"\]/["T", "H"]/' "c.kernel.json: ops.attn_decode.launches[0].grid[1]: 'H': unknown name 'H'; attn_decode knows T, Hq,"
check "an unknown tensor" bad_descriptor 's/"parameters": \["o"/"parameters": ["out"/' "c.kernel.json: ops.attn_decode.launches[0].parameters[0]: 'out' is no tensor of attn_decode; it has q,"
check "an unknown kernel" bad_descriptor 's/"attend_end"/"attend_fin"/' "c.kernel.json: ops.attn_decode.launches[4]: attention.ptx: it has no kernel 'attend_fin'; it has attend_begin, attend, attend_end"
check "a parameter too few" bad_descriptor 's/{"f32": "scale"},//' "c.kernel.json: ops.attn_decode.launches[1]: attention.ptx: 'attend' has 22 parameters, 21 are given"
check "a parameter of another size" bad_descriptor 's/{"f32": "scale"}/{"f64": "scale"}/' "c.kernel.json: ops.attn_decode.launches[1]: attention.ptx: parameters[16] of 'attend' has 4 bytes there, f64 has 8"
check "a missing module" bad_descriptor 's/attention.ptx/none.ptx/' "$dir/none.ptx: cannot"
check "a module that is none" bad_descriptor 's/attention.ptx/c.kernel.json/' "$dir/c.kernel.json: it is no PTX"
check "no JSON" bad_descriptor '1s/{//' "c.kernel.json: line 2, column"

if "$BUILD/kvdiff-worker" --cuda; then
    skip "what is said without a device" "this machine has a GPU"
    check "on the GPU: a right module passes" on_gpu right
    check "on the GPU: a wrong one fails, and the entry is named" on_gpu wrong
    check "on the GPU: a right one passes inside of a model" on_gpu in_a_model attention 0
    check "on the GPU: a wrong one fails inside of a model" on_gpu in_a_model attention_wrong 1
    check "on the GPU: a grid that is too small is found" on_gpu grid_short
    check "on the GPU: strides in the wrong order" on_gpu swapped_strides
    check "on the GPU: more shared memory than anybody asks for" on_gpu shared_large
    for kind in cubin fatbin; do
        check "on the GPU: a right one as a $kind" on_gpu compiled $kind attention 0
        check "on the GPU: a wrong one as a $kind" on_gpu compiled $kind attention_wrong 1
    done
elif command -v ptxas >/dev/null || [ -x /usr/local/cuda/bin/ptxas ]; then
    check "without a device: UNSUPPORTED, after ptxas took it" assembled
    check "an architecture that ptxas has given up" old_target
    check "text that ptxas does not take is an error with its first message" not_assembled
    check "an assembler that cannot be run is said" assembler "$dir/none" 1 "the assembler '$dir/none' cannot be run"
    check "beside a candidate that passes" beside_others
    check "machine code is not looked at" machine_code
    check "inside of a model it does not run either" model_without
else
    check "without ptxas it says so" no_assembler
    skip "what ptxas takes" "there is no ptxas here"
fi

nvcc=${NVCC:-}
[ -n "$nvcc" ] || nvcc=$(command -v nvcc) || nvcc=/usr/local/cuda/bin/nvcc
made_by=$(sed -n 's/^\/\/ Cuda compilation tools, //p' examples/ptx/attention.ptx)
if "$nvcc" --version 2>/dev/null | grep -qF "$made_by"; then
    check "attention.ptx is made from its source" reproduced attention
    check "attention_wrong.ptx is made from its source" reproduced attention_wrong
else
    skip "the PTX of the examples is made from their sources" "there is no nvcc of '$made_by' here"
fi
if "$BUILD/kvdiff-worker" --cuda; then
    skip "their source in the host SIMT layer" "this machine has a GPU"
else
    check "the source of attention.ptx passes in the host SIMT layer" source_runs 0 '#define TAIL 0'
    check "that of attention_wrong.ptx fails there" source_runs 1 '#define TAIL 1'
fi

done_testing
