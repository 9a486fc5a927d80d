#!/bin/sh
# Candidates that are Python programs (examples/process): right ones pass, wrong ones fail, and where a module is missing its name is
# the reason of the row. They run with the first python3 that has what they need: that of PATH, Debian's, or $KVDIFF_PYTHON.
set -u
. tests/tap.sh
. tests/opskit.sh

PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE
unset TRITON_INTERPRET PYTHONPATH

# kvdiff starts `python3`: this one.
python_is() { # FILE WORDS...
    python=$1
    shift
    mkdir -p "$dir/bin"
    printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$python" "$*" >"$dir/bin/python3"
    chmod +x "$dir/bin/python3"
}

ops_seconds=600
ops() { # STATUS EXAMPLE ARGUMENTS...
    wanted=$1
    example=$2
    shift 2
    (
        PATH=$dir/bin:$PATH
        ops_exits "$wanted" --kernel=examples/process/$example.py "$@"
    )
}

# ---- what is missing has a name: no module is there, whatever this machine has -------------------------------------------
python3=$(command -v python3)
refused() { # EXAMPLE TEXT...
    ops 4 "$1" --dist=normal && says 'UNSUPPORTED 1' && ! grep -q Traceback "$dir/log" "$dir/log.err" || return 1
    shift
    for text in "$@"; do
        says "$text" || return 1
    done
}

python_is "$python3" -E -S
for example in attention attention_wrong; do
    check "$example.py without numpy" refused $example 'no numpy here: pip install numpy for '
done
for example in attention_torch attention_torch_wrong; do
    check "$example.py without torch" refused $example 'no numpy torch here: pip install numpy torch for '
done
for example in attention_triton attention_triton_wrong; do
    check "$example.py without Triton" refused $example 'no numpy torch triton here: pip install numpy torch triton for '
done

# Modules that are none: one that cannot load its library, and a machine without a GPU.
python_is "$python3"
mkdir -p "$dir/modules/triton"
touch "$dir/modules/numpy.py"
echo 'constexpr = int' >"$dir/modules/triton/language.py"
echo 'jit = lambda kernel: kernel' >"$dir/modules/triton/__init__.py"
broken() {
    printf 'raise OSError("libtorch_cpu.so: cannot open\\nmore")\n' >"$dir/modules/torch.py"
    PYTHONPATH=$dir/modules refused attention_torch 'torch cannot be imported: OSError: libtorch_cpu.so: cannot open'
}
check "a module that is broken" broken
no_gpu() {
    printf 'class cuda:\n    is_available = staticmethod(lambda: False)\n' >"$dir/modules/torch.py"
    PYTHONPATH=$dir/modules refused attention_triton 'torch sees no GPU; with TRITON_INTERPRET=1 in the environment'
}
check "Triton without a GPU" no_gpu

# A program that says no when it is asked who it is, by a negative status; by a positive one it has failed.
opens() { # STATUS-OF-OPEN EXIT-STATUS WORDS
    cat >"$dir/opens.py" <<EOF
import json, socket
link = socket.socket(fileno=3)
for line in link.makefile("r"):
    link.sendall((json.dumps({"id": json.loads(line)["id"], "status": $1, "why": "no card here"}) + "\\n").encode())
EOF
    ops_exits "$2" --kernel="$dir/opens.py" && says "$3" && says 'no card here'
}
check "a program that refuses to begin" opens -1 4 'UNSUPPORTED 1'
check "a program that cannot begin" opens 1 1 'ERROR 1'

# ---- what they compute ---------------------------------------------------------------------------------------------------
python_with() { # MODULES
    for python in "$python3" /usr/bin/python3 ${KVDIFF_PYTHON:-}; do
        "$python" -c "import $1" 2>/dev/null && python_is "$python" && return
    done
    return 1
}

passes() { ops 0 "$@"; }
fails() { ops 1 "$@" && [ "$(verdict numeric)" = FAIL ]; }

if python_with numpy; then
    check "attention.py passes" passes attention
    check "attention_wrong.py fails" fails attention_wrong --dist=normal --dist=dye
else
    skip "attention.py" "no python3 here has numpy: NOTHING about candidates in numpy was checked"
fi
if python_with numpy,torch; then
    check "attention_torch.py passes" passes attention_torch
    check "attention_torch_wrong.py fails" fails attention_torch_wrong --dist=normal
else
    skip "attention_torch.py" "no python3 here has torch: NOTHING about candidates in PyTorch was checked"
fi
if python_with numpy,torch,triton; then
    TRITON_INTERPRET=1
    export TRITON_INTERPRET
    check "attention_triton.py passes, interpreted" passes attention_triton --dist=normal
    check "attention_triton_wrong.py fails, interpreted" fails attention_triton_wrong --dist=normal
    unset TRITON_INTERPRET
    if "$BUILD/kvdiff-worker" --cuda; then
        check "attention_triton.py passes on the GPU" passes attention_triton --dist=normal
        check "attention_triton_wrong.py fails on the GPU" fails attention_triton_wrong --dist=normal
    else
        skip "Triton's kernels on a GPU" "there is none here"
    fi
else
    skip "attention_triton.py" "no python3 here has torch and triton: NOTHING about candidates in Triton was checked"
fi

done_testing
