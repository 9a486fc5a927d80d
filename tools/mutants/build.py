"""build.py - compiles a changed source in place of the one of the tree, and links with it.

Nothing in the build folder is written but BUILD/mutants/. A program or library is linked from the objects that `make` has left there,
with the changed ones in the place of theirs."""
import collections
import concurrent.futures
import glob
import os
import re
import shlex
import subprocess

from mutants.sites import good_text

BUILD = os.environ.get("BUILD", "build")
OBJ = f"{BUILD}/obj"
PLAIN = f"{BUILD}/mutants/plain"
MOST_UNITS = 8  # a header that more sources of a side see: its own tests come first
SYSTEM = "-pthread -lsqlite3 -lzstd -lxxhash -ljansson -lcrypto -lm -ldl".split()

Object = collections.namedtuple("Object", "unit make path")  # source, way of making it, the object of the build


def _shell(command, **more):
    return subprocess.run(command, capture_output=True, text=True, **more)


def _flags():
    text = _shell(["make", "-s", "print-flags", f"BUILD={BUILD}"], check=True).stdout
    return dict(re.findall(r"(\w+)='([^']*)'", text))


FLAGS = _flags()
C = [FLAGS["CC"], *shlex.split(FLAGS["CFLAGS_ALL"])]
CXX = [FLAGS["CXX"], *shlex.split(FLAGS["CXXFLAGS_ALL"])]
VECTOR = {"scalar": [], "avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mfma"]}
# way of making an object: command
WAYS = {
    "c": C,
    "ref": [*C, "-DREF_BITS=32"],
    "ref64": [*C, "-DREF_BITS=64"],
    "emu": [*CXX, "-mavx2", "-mfma", "-x", "c++", "-include", "gpu/simt/simt.h"],
    "emu++": [*CXX, "-mavx2", "-mfma"],
    "blas": [*C, "-O3", "-fvisibility=hidden"],
    **{f"{bits} {isa}": [*C, *VECTOR[isa], f"-DREF_BITS={32 if bits == 'ref' else 64}", f"-DREF_ISA_{isa}"]
       for bits in ("ref", "ref64") for isa in VECTOR},
}


def objects():
    """Every object of the build: {path of it: Object}, and {header: [Object]} of what sees it."""
    found, seen_by = {}, collections.defaultdict(list)
    for depend in glob.glob(f"{OBJ}/**/*.d", recursive=True):
        with open(depend, encoding="utf-8") as f:
            words = f.read().replace("\\\n", " ").split(":", 1)[1].split("\n", 1)[0].split()
        unit = next((w for w in words if w.endswith((".cu", ".c", ".cpp"))), None)
        path, way = depend[:-2] + ".o", _way(os.path.relpath(depend[:-2], OBJ))
        if not unit or not way or not os.path.exists(path):
            continue
        found[path] = Object(unit, way, path)
        for word in {os.path.normpath(w) for w in words}:
            seen_by[word].append(found[path])
    return found, seen_by


def _way(name):
    top = name.split("/", 1)[0]
    isa = re.match(r"(ref|ref64)/kernels_(scalar|avx2|avx512)$", name)
    if isa:
        return f"{isa.group(1)} {isa.group(2)}"
    if top == "emu":
        return "emu++" if re.match(r"emu/(tests|gpu/simt)/", name) else "emu"
    if name.startswith("gpu/blas/"):
        return "blas"
    return {"ref": "ref", "ref64": "ref64", "common": "c", "tests": "c"}.get(top)


def lines_compiled(path, user):
    """Numbers of the lines of `path` that are left when `user` is compiled."""
    text = _shell([*WAYS[user.make], "-w", "-E", user.unit], check=True).stdout
    here, number, lines = False, 0, set()
    for line in text.splitlines():
        mark = re.match(r'# (\d+) "([^"]*)"', line)
        if mark:
            here, number = os.path.normpath(mark.group(2)) == path, int(mark.group(1))
            continue
        if here and line.strip():
            lines.add(number)
        number += 1
    return lines


def compile_object(tree, o, out):
    """tree: a folder with the changed source under its own name. Returns the process."""
    source = os.path.join(tree, o.unit)
    command = [WAYS[o.make][0], f"-I{tree}", *WAYS[o.make][1:], "-w", "-Wno-error", "-g0", f"-ffile-prefix-map={tree}/="]
    return _shell([*command, "-c", source if os.path.exists(source) else o.unit, "-o", out])


def put(tree, path, text):
    target = os.path.join(tree, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "w", encoding="utf-8") as f:
        f.write(text)


def plain_object(path, o):
    """The bytes of the object when nothing is changed, compiled in the same manner."""
    tree, out = f"{PLAIN}/src", f"{PLAIN}/{path.replace('/', '_')}@{o.path.replace('/', '_')}"
    if not os.path.exists(out):
        put(tree, path, good_text(path))
        part = f"{out}.{os.getpid()}.{id(o)}"
        compile_object(tree, o, part).check_returncode()
        os.replace(part, out)
    with open(out, "rb") as f:
        return f.read()


# ---- programs and libraries ----------------------------------------------------------------------------------------

LIBS = [f"{BUILD}/libkv{name}.a" for name in ("difftest", "corpus", "ref", "common")]
AIDS = f"{BUILD}/tests/libunitaid.a"


def _emu_objects(found):
    return sorted(p for p, o in found.items() if o.make in ("emu", "emu++") and "/emu/gpu/" in p and not p.endswith("simt/user.o"))


def recipes(found):
    """{program: (linker, its own objects, archives, further words)}"""
    table, emu = {}, _emu_objects(found)
    table[f"{BUILD}/kvdiff"] = (C[0], [f"{OBJ}/difftest/main.o"], LIBS, [])
    table[f"{BUILD}/sides/emu.so"] = (CXX[0], emu, LIBS[-1:], ["-shared", "-Wl,--exclude-libs,ALL"])
    table[f"{BUILD}/mutants/plain/ref.so"] = (CXX[0], [f"{BUILD}/mutants/obj/side_ref.o"], LIBS[2:], ["-shared", "-Wl,--exclude-libs,ALL"])
    aids = sorted(p for p in found if "/emu/tests/emu/" in p and not os.path.basename(p).startswith("test_"))
    for test in glob.glob(f"{BUILD}/tests/emu/test_*"):
        table[test] = (CXX[0], [f"{OBJ}/emu/tests/emu/{os.path.basename(test)}.o", *aids, *emu], LIBS[-1:], ["-lcmocka"])
    for test in glob.glob(f"{BUILD}/tests/unit/test_*"):
        table[test] = (C[0], [f"{OBJ}/tests/unit/{os.path.basename(test)}.o"], [AIDS, *LIBS], ["-lcmocka"])
    for name in ("cascade", "policies", "xwindow", "golf"):
        own = [f"{OBJ}/tests/golden/{o}.o" for o in (name, "golden", "duels", "first_tile", "text")]
        own += [f"{OBJ}/tests/golden/golf_{o}.o" for o in ("evaluation", "weights") if name == "golf"]
        table[f"{BUILD}/tests/golden/{name}"] = (C[0], own, LIBS, [])
    return table


def link(recipe, changed, out, trace=False):
    """changed: {object of the build: the one in its place}. An object that an archive has comes first and so instead of that member."""
    linker, own, archives, words = recipe
    objects_here = [changed.get(o, o) for o in own] + [new for old, new in changed.items() if old not in own and _archive_of(old) in archives]
    return _shell([linker, "-o", out, *objects_here, "-Wl,--start-group", *archives, "-Wl,--end-group", *words,
                   *(["-Wl,-t", "-Wl,-t"] if trace else []), *SYSTEM])


def members(recipe):
    """What the program holds: paths of its own objects, and archive(member) of the rest."""
    done = link(recipe, {}, os.devnull, trace=True)
    return set(recipe[1]) | set(re.findall(r"\(([^()]+\.a)\)([\w.-]+\.o)", done.stdout + done.stderr))


def _archive_of(path):
    return next((a for a, top in ((LIBS[3], f"{OBJ}/common/"), (LIBS[2], f"{OBJ}/ref")) if path.startswith(top)), None)


def holds(inside, o):
    """inside: of members(). Two objects of an archive may have one name; both count then."""
    return o.path in inside or (_archive_of(o.path), os.path.basename(o.path)) in inside


def all_members(table, jobs):
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return dict(zip(table, pool.map(members, table.values())))
