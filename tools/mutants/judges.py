"""judges.py - who is asked whether a change is a bug: the cases of `kvdiff mutate --library`, the test programs that hold the changed
object, scripts, run with a build folder in which the changed libraries and programs stand in the place of theirs, and the test programs
once more under AddressSanitizer, for what is read or written beside an array.

The dearest come last, and the first that says no ends it. Every judge is first asked about the unchanged tree: who fails there is no judge."""
import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

SUITE_LIMIT = 30    # seconds; unchanged sides need 2 to 12
PATIENCE, GRACE = 5, 20  # a test may take so many times its time, and so many seconds more
LONG = 25           # seconds of a test program beyond which it is asked only about sources of its name

# area: scripts, the quick ones first. "ops LEVEL" is `kvdiff ops` of our own kernels; a unit test here loads the side as a file.
SCRIPTS = {
    "gpu": ["unit/test_refusals", "unit/test_many_layers", "unit/test_large_states", "golden/xwindow-emu", "golden/cascade-emu", "cli/policy_trace", "golden/policies-emu", "cli/states",
            "ops 0", "golden/golf-emu", "laws/emu"],
    "gpu/door": ["ops 0", "ops 1"],
    "gpu/train": ["cli/train_sides"],
    "ref": ["golden/cascade-ref", "golden/xwindow-ref", "cli/policy_trace", "golden/golf-ref", "golden/policies-ref", "laws/ref",
            "golden/policies-ref64", "cli/states"],
    "common": ["golden/cascade-ref", "cli/policy", "cli/policy_trace", "cli/bad_input", "golden/golf-ref", "golden/policies-ref", "cli/states",
               "golden/policies-emu"],
}
ALIVE = ["alive", "-", "0", "-"]


def area_of(path):
    folder = os.path.dirname(path)
    return folder if folder in SCRIPTS else path.split("/", 1)[0]


def _run(command, env, limit):
    """[passed, words]. A script's children end with it."""
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          start_new_session=True) as p:
        try:
            out, ended = p.communicate(timeout=limit)[0], True
        except subprocess.TimeoutExpired:
            out, ended = "", False
        try:
            os.killpg(p.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    bad = [line for line in out.splitlines() if line.startswith("not ok") or "AddressSanitizer:" in line or "runtime error:" in line]
    return ended and p.returncode == 0, (bad or [f"exit {p.returncode}"])[0].replace("\t", " ")[:90] if ended else "no end"


def _fingerprint(paths):
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as f:
            digest.update(f.read())
    return digest.hexdigest()


def first_error(done):
    lines = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
    return (lines or ["fails"])[0].split("error:")[-1].strip()[:80]


class Court:
    """The judges of one build, with what each holds and how long it takes when nothing is wrong."""

    def __init__(self, build, jobs, scripts):
        self.build, self.jobs = build, jobs
        self.inside = build.all_members(list(build.recipes), jobs)
        self.programs = [p for p in build.recipes if "/test_" in p]
        self.names = [*self.programs, *sorted({s for area in SCRIPTS.values() for s in area} if scripts else ())]
        self.seconds = self._control()

    def _control(self):
        """Who fails without any change is no judge. What was learnt of the same programs is kept."""
        kept_in = f"{self.build.folder}/mutants/control.json"
        print_of = _fingerprint(sorted(p for p in self.build.recipes if os.path.exists(p)))
        if os.path.exists(kept_in):
            with open(kept_in, encoding="utf-8") as f:
                kept = json.load(f)
            if kept["of"] == print_of and set(kept["seconds"]) == set(self.names):
                return kept["seconds"]
        seconds = {}
        with tempfile.TemporaryDirectory(prefix="mutate-") as tmp:
            folder = f"{tmp}/build"
            self._farm(folder)

            def ask(name):
                if name in self.programs:
                    self.build.link(name, {}, self._place(folder, name)).check_returncode()
                start = time.monotonic()
                passed, words = self._ask(name, folder, 600)
                return name, passed, words, time.monotonic() - start

            with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
                for name, passed, words, took in pool.map(ask, self.names):
                    seconds[name] = took
                    if not passed:
                        raise SystemExit(f"mutate: {name} fails without any change: {words}")
        os.makedirs(os.path.dirname(kept_in), exist_ok=True)
        with open(kept_in, "w", encoding="utf-8") as f:
            json.dump({"of": print_of, "seconds": seconds}, f, indent=1)
        print(f"control: {len(self.names)} judges of {self.build.folder} pass the unchanged tree", flush=True)
        return seconds

    def _farm(self, folder):
        """A build folder of links. What is linked anew goes to its _place there."""
        here = self.build.folder
        os.makedirs(folder)
        for name in os.listdir(here):
            if name.startswith("kvdiff") and os.path.isfile(f"{here}/{name}"):
                shutil.copy(f"{here}/{name}", f"{folder}/{name}")  # a program looks for sides beside itself, not beside a link to it
            elif name not in ("sides", "tests", "obj", "mutants", "asan", "tsan", "coverage"):
                os.symlink(os.path.abspath(f"{here}/{name}"), f"{folder}/{name}")
        for top in ("sides", "tests", "tests/unit", "tests/emu", "tests/golden", "tests/laws"):
            os.makedirs(f"{folder}/{top}", exist_ok=True)
            for name in os.listdir(f"{here}/{top}") if os.path.isdir(f"{here}/{top}") else ():
                if top != "tests" or name not in ("unit", "emu", "golden", "laws"):
                    os.symlink(os.path.abspath(f"{here}/{top}/{name}"), f"{folder}/{top}/{name}")

    def _place(self, folder, path):
        """Where the farm has a file of the build; what is there is taken away."""
        place = os.path.join(folder, os.path.relpath(path, self.build.folder))
        if os.path.lexists(place):
            os.unlink(place)
        return place

    def _ask(self, name, folder, limit):
        with tempfile.TemporaryDirectory(prefix="mutate-tmp-") as tmp:
            here = os.path.abspath(folder)
            env = dict(os.environ, BUILD=here, KVDIFF=f"{here}/kvdiff", TMPDIR=tmp, CMOCKA_MESSAGE_OUTPUT="TAP",
                       PYTHONDONTWRITEBYTECODE="1", CC=self.build.c[0], CXX=self.build.cxx[0])
            if name in self.programs:
                return _run([self._place_of(folder, name)], env, limit)
            if name.startswith("unit/"):
                program = f"{self.build.folder}/tests/{name}"
                return _run([shutil.copy(program, self._place(folder, program))], env, limit)
            if name.startswith("ops "):
                return _run([f"{here}/kvdiff", "ops", "--kernel=emu", f"--level={name[4:]}", "--seed=0x5eed", f"--db={tmp}/r.db"], env, limit)
            return _run(["sh", f"tests/{name}.sh"], env, limit)

    def _place_of(self, folder, path):
        return os.path.join(folder, os.path.relpath(path, self.build.folder))

    def _limit(self, name):
        return PATIENCE * self.seconds[name] + GRACE

    def _held_by(self, program, changed):
        return any(self.build.holds(self.inside[program], o) for o in changed)

    def _link(self, program, changed, out):
        return self.build.link(program, {self.build.path_of(o): new for o, new in changed.items()}, out)

    def _programs_for(self, path, changed):
        """Test programs that hold a changed object: those of the same name first, then the quick ones."""
        words = set(re.split(r"[/_.]", path)) - {"gpu", "ref", "common", "policy", "c", "cu", "cuh", "h", "train"}
        trains, chosen = path.startswith(("gpu/train", "common/train")), []
        for p in self.programs:
            if not self._held_by(p, changed):
                continue
            namesake = bool(words & set(os.path.basename(p).split("_")))
            if namesake or (("train" in p) == trains and self.seconds[p] <= LONG and area_of(path) != "gpu/door"):
                chosen.append((not namesake, self.seconds[p], p))
        return [p for _, _, p in sorted(chosen)]

    def compiled(self, path, objects, tree):
        """({object: new object}, verdict that ends it)"""
        changed, same = {}, True
        for i, o in enumerate(objects):
            out = os.path.join(tree, f"{i}.{os.path.basename(self.build.folder)}.o")
            done = self.build.compile(tree, o, out)
            if done.returncode != 0:
                return {}, ["broken", first_error(done), "0", "-"]
            changed[o] = out
            if same:
                with open(out, "rb") as f:
                    same = f.read() == self.build.plain_object(path, o)
        return changed, ["same code", "-", "0", "-"] if same else None

    def cases(self, path, changed, tree):
        """[verdict, check, seconds, case] of the cases of kvdiff mutate"""
        if area_of(path) in ("gpu/train", "gpu/door"):
            return ALIVE  # no case passes through these
        for side, library in (("emu", f"{self.build.folder}/sides/emu.so"), ("ref", f"{self.build.plain}/ref.so")):
            if not self._held_by(library, changed):
                continue
            out = f"{tree}/{side}.so"
            done = self._link(library, changed, out)
            if done.returncode != 0:
                return ["broken", first_error(done), "0", "-"]
            said = subprocess.run([f"{self.build.folder}/kvdiff", "mutate", f"--library={out}", "--once", f"--limit={SUITE_LIMIT}"],
                                  capture_output=True, text=True, errors="replace")
            words = said.stdout.rstrip("\n").split("\t")
            if len(words) < 4:
                return ["fault", said.stderr.strip()[:100].replace("\n", " "), "0", "-"]
            if words[0] == "found":
                return ["found", f"suite: {words[1]}", words[2], words[3].replace(out, side)]
        return ALIVE

    def tests(self, path, changed, tree, prefix=""):
        start, folder = time.monotonic(), f"{tree}/tests"
        self._farm(folder)
        try:
            for p in self._programs_for(path, changed):
                done = self._link(p, changed, self._place(folder, p))
                if done.returncode != 0:
                    return ["broken", first_error(done), "0", "-"]
                passed, words = self._ask(p, folder, self._limit(p))
                if not passed:
                    name = os.path.relpath(p, f"{self.build.folder}/tests")
                    return ["found", prefix + name, f"{time.monotonic() - start:.1f}", words]
            return None
        finally:
            shutil.rmtree(folder)

    def scripts(self, path, changed, tree):
        start, folder = time.monotonic(), f"{tree}/build"
        self._farm(folder)
        for p in self.build.recipes:
            if p in self.programs or p.endswith("plain/ref.so") or not self._held_by(p, changed):
                continue
            done = self._link(p, changed, self._place(folder, p))
            if done.returncode != 0:
                return ["broken", first_error(done), "0", "-"]
        for name in SCRIPTS[area_of(path)]:
            passed, words = self._ask(name, folder, self._limit(name))
            if not passed:
                return ["found", name, f"{time.monotonic() - start:.1f}", words]
        return None
