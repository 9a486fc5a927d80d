#!/usr/bin/env python3
"""mutant_hooks - the hooks of planted bugs (common/mutant.h) are not in the product: the preprocessed sources are, token for
token, those of a copy in which every KV_MUT(ID, bad, good) was replaced by its good text by another program, this one; and no
shipped binary has the variable that chooses a bug. Every hook is in the table and the table's bugs have hooks. TAP."""
import concurrent.futures
import glob
import os
import re
import subprocess
import sys
import tempfile

FOLDERS = ("common", "ref", "gpu")
HOOK = re.compile(r"\bKV_MUT\(")


def sources():
    found = glob.glob("include/*.h")
    for folder in FOLDERS:
        for path in glob.glob(f"{folder}/**/*", recursive=True):
            if path.endswith((".c", ".h", ".cu", ".cuh", ".def", ".cpp")):
                found.append(path)
    return sorted(found)


def closing(text, at):
    """Index of the bracket that closes the one before `at`, and the commas at its level; comments and strings aside."""
    depth, commas = 1, []
    token = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\])*"|[()\[\]{},]', re.S)
    for m in token.finditer(text, at):
        c = m.group()
        if c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
            if depth == 0:
                return m.start(), commas
        elif c == "," and depth == 1:
            commas.append(m.start())
    raise ValueError("a bracket stays open")


def without_hooks(text):
    """The text with every hook replaced by its good text; lines keep their numbers. Also the ids, in order."""
    ids = []
    while True:
        m = HOOK.search(text)
        if not m:
            return text, ids
        end, commas = closing(text, m.end())
        if len(commas) != 2:
            raise ValueError(f"a hook with {len(commas) + 1} parts: {text[m.start():end][:80]}")
        ids.append(text[m.end():commas[0]].strip())
        good = text[commas[1] + 1:end].strip()
        lines = text[m.start():end].count("\n") - good.count("\n")
        text = text[:m.start()] + good + "\n" * lines + text[end + 1:]


def without_brackets(text):
    while True:
        outer = re.sub(r"[(\[][^()\[\]]*[)\]]", "", text)
        if outer == text:
            return text
        text = outer


def unsafe(path):
    """Hooks whose good text has an operator at the top and stands beside one that binds at least as tightly: bad(...) is in
    brackets, good is not, so that the two would mean different things."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    for m in HOOK.finditer(text):
        end, commas = closing(text, m.end())
        good = without_brackets(text[commas[1] + 1:end]).replace("->", ".").strip()
        before, after = text[:m.start()].rstrip()[-1:], text[end + 1:].lstrip()[:1]
        operators = re.search(r"[-+*/%&|^<>?=]", good)
        sum_only = not re.search(r"[&|^<>?=]", good)
        if operators and (before in "*/%-&|^<>!~)" or after in "*/%&|^<>" or (before == "+" and not sum_only)):
            yield f"{path}: {text[m.start():end + 1]}"


def write_copy(tree, paths):
    ids = []
    for path in paths:
        with open(path, encoding="utf-8") as f:
            text = f.read()
        if path != "common/mutant.h":
            text, own = without_hooks(text)
            ids += own
            text = text.replace('#include "common/mutant.h"\n', "\n")
        target = os.path.join(tree, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8") as f:
            f.write(text)
    return ids


def tokens(root, unit):
    """Tokens of a preprocessed unit."""
    if unit.endswith(".cu"):
        command = [os.environ.get("CXX", "g++"), "-std=c++17", "-x", "c++", "-include", "gpu/simt/simt.h"]
    else:
        command = [os.environ.get("CC", "gcc"), "-std=c11", "-DREF_BITS=32", "-DREF_ISA_scalar", "-x", "c"]
    done = subprocess.run([*command, "-D_GNU_SOURCE", "-I.", "-E", "-P", unit], cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.splitlines()[0])
    return re.findall(r'"(?:\\.|[^"\\])*"|[\w.]+|\S', done.stdout)


def differing(tree, units):
    def compare(unit):
        return None if tokens(".", unit) == tokens(tree, unit) else unit
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [unit for unit in pool.map(compare, units) if unit]


def table():
    with open("common/mutants.def", encoding="utf-8") as f:
        return re.findall(r"^MUTANT\((\w+), (\w+),", f.read(), re.M)


def has_symbol(path):
    names = subprocess.run(["nm", "-a", path], capture_output=True, text=True, check=True).stdout
    return re.search(r"\bkv_mutant\b", names) is not None


class Tap:
    def __init__(self):
        self.n, self.failed = 0, False

    def test(self, name, ok, details=()):
        self.n += 1
        for line in details if not ok else ():
            print(f"# {line}")
        self.failed |= not ok
        print(f"{'ok' if ok else 'not ok'} {self.n} - {name}", flush=True)


def main():
    tap, build = Tap(), os.environ.get("BUILD", "build")
    paths = sources()
    units = [p for p in paths if p.endswith((".c", ".cu")) and not p.startswith(("gpu/blas/", "ref/train/"))]
    with tempfile.TemporaryDirectory(prefix="hooks-") as tree:
        ids = write_copy(tree, paths)
        bad = differing(tree, units)
        tap.test(f"{len(ids)} hooks: {len(units)} preprocessed sources are those with the good text", not bad, bad)
        with open(os.path.join(tree, "ref/policy/sink.c"), "a", encoding="utf-8") as f:
            f.write("\nextern int planted;\n")
        tap.test("a difference, planted in the copy, is found", differing(tree, ["ref/policy/sink.c"]) == ["ref/policy/sink.c"])
    bad = [line for path in paths if path != "common/mutant.h" for line in unsafe(path)]
    tap.test("no good text is torn apart by the operator beside it", not bad, bad)
    rows = table()
    names = [name for name, _ in rows]
    tap.test("every bug of the table has a hook and every hook is in the table", set(names) == set(ids),
             [f"without a hook: {sorted(set(names) - set(ids))}", f"not in the table: {sorted(set(ids) - set(names))}"])
    tap.test("no two bugs have one name", len(set(names)) == len(names))
    shipped = [f"{build}/kvdiff", *glob.glob(f"{build}/sides/*.so")]
    bad = [path for path in shipped if has_symbol(path)]
    tap.test(f"no shipped binary can plant a bug ({len(shipped)} looked at)", not bad and len(shipped) > 2, bad)
    mutated = [path for path in glob.glob(f"{build}/mutants/*.so")]
    tap.test("the mutated libraries can, and the question is able to say so", all(map(has_symbol, mutated)), mutated)
    print(f"1..{tap.n}")
    return tap.failed


if __name__ == "__main__":
    sys.exit(main())
