#!/usr/bin/env python3
"""layers - who may know whom, checked on what was built: the headers that each object was made from (-MMD)
and the symbols that it wants (nm). Two planted violations, in a copy of the tree, show that both checks
can fail. TAP; BUILD is the build folder."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

# folder: folders whose headers and symbols it may use. The tester knows the reference by its door.
MAY_USE = {
    "common": {"common"},
    "ref": {"common", "ref"},
    "corpus": {"common", "corpus"},
    "gpu": {"common", "gpu"},
    "difftest": {"common", "corpus", "difftest"},
}
DOORS = {
    "difftest": (
        {"ref/backend.h", "ref/train/door.h", "ref/ops.h", "ref/hooks.h"},
        {"ref_backend", "ref64_backend", "ref_trainer_door", "ref64_trainer_door", "ref_session_hook"}
        | {"ref_op_" + op for op in ("rmsnorm", "gemm", "gemm_epilogue", "rope", "attention", "colsum", "cascade_plan",
                                     "kvarn_tile", "kivi_tile", "kvarn_attention", "nll")},
    ),
}


def layer_of(path):
    """Folder of a source or header path relative to the root; None for generated and system files."""
    top = path.split("/", 1)[0]
    return top if top in MAY_USE and "/" in path else None


def objects(root, build):
    """Yields (layer, object, .d file). ref64 is ref compiled again, emu/gpu is gpu."""
    base = os.path.join(root, build, "obj")
    for folder, _, files in os.walk(base):
        for name in sorted(files):
            path = os.path.join(folder, name)
            inner = os.path.relpath(path, base)
            inner = re.sub(r"^(emu|cuda)/", "", inner)
            inner = re.sub(r"^ref64/", "ref/", inner)
            if name.endswith(".o") and layer_of(inner):
                yield layer_of(inner), path, path[:-2] + ".d"


def prerequisites(d_file):
    with open(d_file, encoding="utf-8") as f:
        text = f.read().replace("\\\n", " ")
    return text.split(":", 1)[1].split("\n", 1)[0].split()


def include_violations(root, build):
    """Lines 'object: header' for every header from a folder that the object's must not know."""
    bad = []
    for layer, obj, d_file in objects(root, build):
        if not os.path.exists(d_file):
            bad.append(f"{obj}: no dependency file beside it")
            continue
        doors = DOORS.get(layer, (set(), set()))[0]
        for header in prerequisites(d_file):
            header = os.path.normpath(header)
            other = layer_of(header)
            if other and other not in MAY_USE[layer] and header not in doors:
                bad.append(f"{obj} ({layer}) was made from {header}")
    return bad


def symbols(obj):
    """(defined, wanted) global symbols of an object."""
    text = subprocess.run(["nm", "-g", "-P", obj], check=True, capture_output=True, text=True).stdout
    defined, wanted = set(), set()
    for line in text.splitlines():
        name, kind = line.split()[:2]
        (wanted if kind in "Uvw" else defined).add(name)
    return defined, wanted


def call_violations(root, build):
    """Lines 'object wants symbol' for every symbol that only a forbidden folder defines."""
    homes, wants, bad = {}, [], []
    for layer, obj, _ in objects(root, build):
        defined, wanted = symbols(obj)
        for name in defined:
            homes.setdefault(name, set()).add(layer)
        wants.append((layer, obj, wanted))
    for layer, obj, wanted in wants:
        doors = DOORS.get(layer, (set(), set()))[1]
        for name in sorted(wanted):
            found = homes.get(name)
            if found and not found & MAY_USE[layer] and name not in doors:
                bad.append(f"{obj} ({layer}) wants {name}, which lives in {', '.join(sorted(found))}")
    return bad


class Tap:
    def __init__(self):
        self.n, self.failed = 0, False

    def test(self, name, ok, details=()):
        self.n += 1
        for line in details if not ok else ():
            print(f"# {line}")
        self.failed |= not ok
        print(f"{'ok' if ok else 'not ok'} {self.n} - {name}")


def compile_in(tree, targets):
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "BUILD")}
    run = subprocess.run(["make", "-s", "BUILD=b", *(f"b/obj/{t}" for t in targets)], cwd=tree, env=env,
                         capture_output=True, text=True)
    return run.returncode == 0, run.stderr.splitlines()[-3:]


def plant(tap, title, check, edits, expected):
    """Copies what is needed, applies edits (path: text to append), compiles, expects check to object."""
    with tempfile.TemporaryDirectory(prefix="layers-") as tree:
        shutil.copy("Makefile", tree)
        for folder in ("common", "ref"):
            shutil.copytree(folder, os.path.join(tree, folder))
        clean_ok, why = compile_in(tree, ["ref/rope.o"])
        clean = check(tree, "b")
        for path, text in edits.items():
            os.makedirs(os.path.dirname(os.path.join(tree, path)), exist_ok=True)
            with open(os.path.join(tree, path), "a", encoding="utf-8") as f:
                f.write(text)
        targets = [p[:-2] + ".o" for p in edits if p.endswith(".c")]
        ok, why_planted = compile_in(tree, targets)
        found = check(tree, "b")
        tap.test(title, clean_ok and ok and not clean and any(expected in line for line in found),
                 [*why, *why_planted, *clean, *found, f"wanted an objection that contains '{expected}'"])


def main():
    tap, build = Tap(), os.environ.get("BUILD", "build")
    seen = {}
    for layer, _, _ in objects(".", build):
        seen[layer] = seen.get(layer, 0) + 1
    tap.test("objects of every layer were built", set(seen) == set(MAY_USE),
             [f"in {build}/obj: {seen}; run make all first"])
    bad = include_violations(".", build)
    tap.test("no object was made from a header of a layer that it must not know", not bad, bad)
    bad = call_violations(".", build)
    tap.test("no object wants a symbol of a layer that it must not know", not bad, bad)
    plant(tap, "an include from ref into gpu, planted in a copy, is found", include_violations,
          {"gpu/planted.h": "int gpu_planted(void);\n", "ref/rope.c": '\n#include "gpu/planted.h"\n'},
          "made from gpu/planted.h")
    plant(tap, "a call from ref into gpu, planted in a copy, is found", call_violations,
          {"gpu/planted.c": "int gpu_planted(void);\nint gpu_planted(void)\n{\n    return 1;\n}\n",
           "ref/rope.c": "\nint gpu_planted(void);\nint ref_caller(void);\n"
                         "int ref_caller(void)\n{\n    return gpu_planted();\n}\n"},
          "wants gpu_planted")
    print(f"1..{tap.n}")
    return tap.failed


if __name__ == "__main__":
    sys.exit(main())
