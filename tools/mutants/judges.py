"""judges.py - who is asked whether a change is a bug: the cases of `kvdiff mutate --library`, the test programs that hold the changed
object, and scripts, run with a build folder in which the changed libraries and programs stand in the place of theirs.

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

from mutants import build
from mutants.build import BUILD

SUITE_LIMIT = 120   # seconds; unchanged sides need 1 to 8
PATIENCE, GRACE = 10, 30  # a test may take so many times its time, and so many seconds more
LONG = 40           # seconds of a test program beyond which it is asked only about sources of its name
CONTROL = f"{BUILD}/mutants/control.json"

# area: scripts, the quick ones first. "ops LEVEL" is `kvdiff ops` of our own kernels; a unit test here loads the side as a file.
SCRIPTS = {
    "gpu": ["unit/test_refusals", "golden/xwindow-emu", "golden/cascade-emu", "cli/policy_trace", "golden/policies-emu", "cli/states", "ops 0", "golden/golf-emu"],
    "gpu/door": ["ops 0", "ops 1"],
    "gpu/train": ["cli/train_sides"],
    "ref": ["golden/cascade-ref", "golden/xwindow-ref", "cli/policy_trace", "golden/golf-ref", "golden/policies-ref", "laws/ref",
            "golden/policies-ref64", "cli/states", "laws/ref-golf"],
    "common": ["golden/cascade-ref", "cli/policy", "cli/policy_trace", "cli/bad_input", "golden/golf-ref", "golden/policies-ref", "cli/states",
               "golden/policies-emu"],
}


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
    bad = [line for line in out.splitlines() if line.startswith("not ok")]
    return ended and p.returncode == 0, (bad or [f"exit {p.returncode}"])[0].replace("\t", " ")[:90] if ended else "no end"


def _environment(folder, tmp):
    here = os.path.abspath(folder)
    return dict(os.environ, BUILD=here, KVDIFF=f"{here}/kvdiff", TMPDIR=tmp, CMOCKA_MESSAGE_OUTPUT="TAP", PYTHONDONTWRITEBYTECODE="1",
                CC=build.FLAGS["CC"], CXX=build.FLAGS["CXX"])


def _fingerprint(paths):
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as f:
            digest.update(f.read())
    return digest.hexdigest()


def _farm(folder):
    """A build folder of links. What is linked anew goes to its _place there."""
    os.makedirs(folder)
    for name in os.listdir(BUILD):
        if name.startswith("kvdiff") and os.path.isfile(f"{BUILD}/{name}"):
            shutil.copy(f"{BUILD}/{name}", f"{folder}/{name}")  # a program looks for sides beside itself, not beside a link to it
        elif name not in ("sides", "tests", "obj", "mutants", "asan", "tsan", "coverage"):
            os.symlink(os.path.abspath(f"{BUILD}/{name}"), f"{folder}/{name}")
    for top in ("sides", "tests", "tests/unit", "tests/emu", "tests/golden"):
        os.makedirs(f"{folder}/{top}", exist_ok=True)
        for name in os.listdir(f"{BUILD}/{top}"):
            if name not in ("unit", "emu", "golden"):
                os.symlink(os.path.abspath(f"{BUILD}/{top}/{name}"), f"{folder}/{top}/{name}")


def _place(folder, path):
    """Where the farm has a file of the build; what is there is taken away."""
    place = os.path.join(folder, os.path.relpath(path, BUILD))
    if os.path.lexists(place):
        os.unlink(place)
    return place


class Court:
    """All judges, with what each holds and how long it takes when nothing is wrong."""

    def __init__(self, jobs, say):
        self.found, self.seen_by = build.objects()
        self.recipes = build.recipes(self.found)
        self.inside = build.all_members(self.recipes, jobs)
        self.seconds = {}
        self._control(jobs, say)

    def _control(self, jobs, say):
        """Who fails without any change is no judge. What was learnt of the same programs is kept."""
        programs = [p for p in self.recipes if "/test_" in p and os.path.exists(p)]
        scripts = sorted({s for area in SCRIPTS.values() for s in area})
        print_of = _fingerprint(sorted(p for p in self.recipes if os.path.exists(p)))
        if os.path.exists(CONTROL):
            with open(CONTROL, encoding="utf-8") as f:
                kept = json.load(f)
            if kept["of"] == print_of and set(kept["seconds"]) == {*programs, *scripts}:
                self.seconds = kept["seconds"]
                return
        with tempfile.TemporaryDirectory(prefix="mutate-") as tmp:
            _farm(f"{tmp}/build")

            def ask(name):
                if name in programs:
                    self.link(name, {}, _place(f"{tmp}/build", name)).check_returncode()
                start = time.monotonic()
                passed, words = self._ask(name, f"{tmp}/build", 600)
                return name, passed, words, time.monotonic() - start

            with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
                for name, passed, words, took in pool.map(ask, [*programs, *scripts]):
                    self.seconds[name] = took
                    if not passed:
                        raise SystemExit(f"mutate: {name} fails without any change: {words}")
        with open(CONTROL, "w", encoding="utf-8") as f:
            json.dump({"of": print_of, "seconds": self.seconds}, f, indent=1)
        say(f"control: {len(programs)} test programs and {len(scripts)} scripts pass on the unchanged tree")

    def _ask(self, name, folder, limit):
        with tempfile.TemporaryDirectory(prefix="mutate-tmp-") as tmp:
            env = _environment(folder, tmp)
            if name in self.recipes:
                return _run([os.path.join(folder, os.path.relpath(name, BUILD))], env, limit)
            if name.startswith("unit/"):
                return _run([shutil.copy(f"{BUILD}/tests/{name}", _place(folder, f"{BUILD}/tests/{name}"))], env, limit)
            if name.startswith("ops "):
                return _run([f"{folder}/kvdiff", "ops", "--kernel=emu", f"--level={name[4:]}", "--seed=0x5eed", f"--db={tmp}/r.db"], env, limit)
            return _run(["sh", f"tests/{name}.sh"], env, limit)

    def _limit(self, name):
        return PATIENCE * self.seconds[name] + GRACE

    def programs_for(self, path, changed):
        """Test programs that hold a changed object: those of the same name first, then the quick ones."""
        words = set(re.split(r"[/_.]", path)) - {"gpu", "ref", "common", "policy", "c", "cu", "cuh", "h", "train"}
        chosen = []
        for p, inside in self.inside.items():
            if "/test_" not in p or not any(build.holds(inside, o) or o.path in self.recipes[p][1] for o in changed):
                continue
            namesake = bool(words & set(os.path.basename(p).split("_")))
            about_training = "train" in p, path.startswith(("gpu/train", "common/train"))
            if namesake or (about_training[0] == about_training[1] and self.seconds[p] <= LONG and area_of(path) != "gpu/door"):
                chosen.append((not namesake, self.seconds[p], p))
        return [p for _, _, p in sorted(chosen)]

    def link(self, program, changed, out):
        return build.link(self.recipes[program], {o.path: new for o, new in changed.items()}, out)

    def suite(self, path, changed, tree):
        """[verdict, check, seconds, case] of the cases of kvdiff mutate"""
        verdict = ["unreached", "-", "0", "-"]
        if area_of(path) in ("gpu/train", "gpu/door"):
            return verdict  # no case passes through these
        for side, library in (("emu", f"{BUILD}/sides/emu.so"), ("ref", f"{BUILD}/mutants/plain/ref.so")):
            if not any(build.holds(self.inside[library], o) for o in changed):
                continue
            out = f"{tree}/{side}.so"
            done = self.link(library, changed, out)
            if done.returncode != 0:
                return ["broken", first_error(done), "0", "-"]
            said = subprocess.run([f"{BUILD}/kvdiff", "mutate", f"--library={out}", f"--limit={SUITE_LIMIT}"], capture_output=True, text=True,
                                  errors="replace")
            words = said.stdout.rstrip("\n").split("\t")
            if len(words) < 4:
                return ["fault", said.stderr.strip()[:100].replace("\n", " "), "0", "-"]
            if words[0] == "found":
                return ["found", f"suite: {words[1]}", words[2], words[3].replace(out, side)]
            if words[0] == "survived":
                verdict = words[:4]
        return verdict

    def tests(self, path, changed, tree):
        start = time.monotonic()
        folder = f"{tree}/tests"
        _farm(folder)
        for p in self.programs_for(path, changed):
            done = self.link(p, changed, _place(folder, p))
            if done.returncode != 0:
                return ["broken", first_error(done), "0", "-"]
            passed, words = self._ask(p, folder, self._limit(p))
            if not passed:
                return ["found", os.path.relpath(p, f"{BUILD}/tests"), f"{time.monotonic() - start:.1f}", words]
        shutil.rmtree(folder)
        return None

    def scripts(self, path, changed, tree):
        start, folder = time.monotonic(), f"{tree}/build"
        _farm(folder)
        for p in self.recipes:
            if "/test_" in p or p.endswith("plain/ref.so") or not any(build.holds(self.inside[p], o) for o in changed):
                continue
            done = self.link(p, changed, _place(folder, p))
            if done.returncode != 0:
                return ["broken", first_error(done), "0", "-"]
        for name in SCRIPTS[area_of(path)]:
            passed, words = self._ask(name, folder, self._limit(name))
            if not passed:
                return ["found", name, f"{time.monotonic() - start:.1f}", words]
        return None


def first_error(done):
    lines = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
    return (lines or ["fails"])[0].split("error:")[-1].strip()[:80]
