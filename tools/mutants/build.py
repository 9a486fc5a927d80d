"""build.py - compiles a changed source in place of the one of the tree, and links with it.

Nothing in the build folder is written but its mutants/. A program or library is linked from the objects that `make` has left there,
with the changed ones in the place of theirs."""
import collections
import concurrent.futures
import glob
import os
import re
import shlex
import subprocess

from mutants.sites import good_text

MOST_UNITS = 8  # a header that more sources of a side see: its own tests come first
SYSTEM = "-pthread -lsqlite3 -lzstd -lxxhash -ljansson -lcrypto -lm -ldl".split()
VECTOR = {"scalar": [], "avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mfma"]}

Object = collections.namedtuple("Object", "unit make name")  # source, way of making it, name below obj/


def shell(command, **more):
    return subprocess.run(command, capture_output=True, text=True, **more)


def way_of(name):
    """How an object is made; None: no mutant changes it."""
    top = name.split("/", 1)[0]
    isa = re.match(r"(ref|ref64)/kernels_(scalar|avx2|avx512)\.o$", name)
    if isa:
        return f"{isa.group(1)} {isa.group(2)}"
    if top == "emu":
        return "emu++" if re.match(r"emu/(tests|gpu/simt)/", name) else "emu"
    if name.startswith("gpu/blas/"):
        return "blas"
    return {"ref": "ref", "ref64": "ref64", "common": "c", "tests": "c"}.get(top)


class Build:
    """One build folder, and the words that `make` was given for it."""

    def __init__(self, folder, *words):
        text = shell(["make", "-s", "print-flags", f"BUILD={folder}", *words], check=True).stdout
        flags = dict(re.findall(r"(\w+)='([^']*)'", text))
        self.folder, self.obj, self.plain = folder, f"{folder}/obj", f"{folder}/mutants/plain"
        self.c = [flags["CC"], *shlex.split(flags["CFLAGS_ALL"])]
        self.cxx = [flags["CXX"], *shlex.split(flags["CXXFLAGS_ALL"])]
        self.sanitizers = [w for w in self.c if w.startswith("-fsanitize")]
        self.libs = [f"{folder}/libkv{name}.a" for name in ("difftest", "corpus", "ref", "common")]
        self.ways = self._ways()
        self.found, self.seen_by = self._objects()
        self.recipes = self._recipes()

    # ---- objects ----

    def _ways(self):
        vectors = [*VECTOR["avx2"]]
        kernels = {f"{side} {isa}": [*self.c, *VECTOR[isa], f"-DREF_BITS={bits}", f"-DREF_ISA_{isa}"]
                   for side, bits in (("ref", 32), ("ref64", 64)) for isa in VECTOR}
        return {"c": self.c, "ref": [*self.c, "-DREF_BITS=32"], "ref64": [*self.c, "-DREF_BITS=64"], **kernels,
                "emu": [*self.cxx, *vectors, "-x", "c++", "-include", "gpu/simt/simt.h"], "emu++": [*self.cxx, *vectors],
                "blas": [*self.c, "-O3", "-fvisibility=hidden"]}

    def _objects(self):
        """{path of an object: Object}, and {source or header: [Object]} of what sees it."""
        found, seen_by = {}, collections.defaultdict(list)
        for depend in glob.glob(f"{self.obj}/**/*.d", recursive=True):
            with open(depend, encoding="utf-8") as f:
                words = f.read().replace("\\\n", " ").split(":", 1)[1].split("\n", 1)[0].split()
            unit = next((w for w in words if w.endswith((".cu", ".c", ".cpp"))), None)
            path = depend[:-2] + ".o"
            name = os.path.relpath(path, self.obj)
            if not unit or not way_of(name) or not os.path.exists(path):
                continue
            found[path] = Object(unit, way_of(name), name)
            for word in {os.path.normpath(w) for w in words}:
                seen_by[word].append(found[path])
        return found, seen_by

    def path_of(self, o):
        return f"{self.obj}/{o.name}"

    def lines_compiled(self, path, user):
        """Numbers of the lines of `path` that are left when `user` is compiled."""
        text = shell([*self.ways[user.make], "-w", "-E", user.unit], check=True).stdout
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

    def compile(self, tree, o, out):
        """tree: a folder with the changed source under its own name. Returns the process."""
        source, way = os.path.join(tree, o.unit), self.ways[o.make]
        return shell([way[0], f"-I{tree}", *way[1:], "-w", "-Wno-error", "-g0", f"-ffile-prefix-map={tree}/=", "-c",
                      source if os.path.exists(source) else o.unit, "-o", out])

    def plain_object(self, path, o):
        """The bytes of the object when nothing is changed, compiled in the same manner."""
        tree, out = f"{self.plain}/src", f"{self.plain}/{path.replace('/', '_')}@{o.name.replace('/', '_')}"
        if not os.path.exists(out):
            put(tree, path, good_text(path))
            part = f"{out}.{os.getpid()}.{id(o)}"
            self.compile(tree, o, part).check_returncode()
            os.replace(part, out)
        with open(out, "rb") as f:
            return f.read()

    # ---- programs and libraries ----

    def _recipes(self):
        """{program: (linker, its own objects, archives, further words)}"""
        table, aid = {}, f"{self.folder}/tests/libunitaid.a"
        emu = sorted(p for p, o in self.found.items() if o.make in ("emu", "emu++") and "/emu/gpu/" in p and not p.endswith("simt/user.o"))
        aids = sorted(p for p in self.found if "/emu/tests/emu/" in p and not os.path.basename(p).startswith("test_"))
        library, c, cxx = ["-shared", "-Wl,--exclude-libs,ALL"], self.c[0], self.cxx[0]
        table[f"{self.folder}/kvdiff"] = (c, [f"{self.obj}/difftest/main.o"], self.libs, [])
        table[f"{self.folder}/sides/emu.so"] = (cxx, emu, self.libs[-1:], library)
        table[f"{self.plain}/ref.so"] = (cxx, [f"{self.folder}/mutants/obj/side_ref.o"], self.libs[2:], library)
        for test in glob.glob(f"{self.folder}/tests/emu/test_*"):
            own = [f"{self.obj}/emu/tests/emu/{os.path.basename(test)}.o", *aids, *emu]
            table[test] = (cxx, own, self.libs[-1:], ["-lcmocka"])
        for test in glob.glob(f"{self.folder}/tests/unit/test_*"):
            table[test] = (c, [f"{self.obj}/tests/unit/{os.path.basename(test)}.o"], [aid, *self.libs], ["-lcmocka"])
        for name in ("cascade", "policies", "xwindow", "golf"):
            own = [f"{self.obj}/tests/golden/{o}.o" for o in (name, "golden", "duels", "first_tile", "text")]
            own += [f"{self.obj}/tests/golden/golf_{o}.o" for o in ("evaluation", "weights") if name == "golf"]
            table[f"{self.folder}/tests/golden/{name}"] = (c, own, self.libs, [])
        laws = f"{self.folder}/tests/laws/laws"
        if os.path.exists(laws):
            table[laws] = (c, sorted(glob.glob(f"{self.obj}/tests/laws/*.o")), self.libs, ["-lcmocka"])
        return table

    def _archive_of(self, path):
        tops = ((self.libs[3], f"{self.obj}/common/"), (self.libs[2], f"{self.obj}/ref"))
        return next((a for a, top in tops if path.startswith(top)), None)

    def link(self, program, changed, out, trace=False):
        """changed: {object of the build: the one in its place}. One that an archive has comes first and so instead of that member."""
        linker, own, archives, words = self.recipes[program]
        here = [changed.get(o, o) for o in own]
        here += [new for old, new in changed.items() if old not in own and self._archive_of(old) in archives]
        return shell([linker, *self.sanitizers, "-o", out, *here, "-Wl,--start-group", *archives, "-Wl,--end-group", *words,
                      *(["-Wl,-t", "-Wl,-t"] if trace else []), *SYSTEM])

    def members(self, program):
        """What the program holds: paths of its own objects, and (archive, member) of the rest."""
        done = self.link(program, {}, os.devnull, trace=True)
        return set(self.recipes[program][1]) | set(re.findall(r"\(([^()]+\.a)\)([\w.-]+\.o)", done.stdout + done.stderr))

    def all_members(self, programs, jobs):
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            return dict(zip(programs, pool.map(self.members, programs)))

    def holds(self, inside, o):
        """inside: of members(). Two objects of an archive may have one name; both count then."""
        path = self.path_of(o)
        return path in inside or (self._archive_of(path), os.path.basename(path)) in inside


def put(tree, path, text):
    target = os.path.join(tree, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "w", encoding="utf-8") as f:
        f.write(text)
