"""sites.py - where a source can be changed mechanically, and how: one operator, one place, one new text.

A site lies in text that the build really compiles: comments, strings, preprocessor lines, branches of #if that are not taken and
the hooks of planted bugs (their good text stands for them) are no sites."""
import bisect
import collections
import importlib.util
import re

CODE = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\])+\'|^[ \t]*#[^\n]*(?:\\\n[^\n]*)*', re.S | re.M)
# operator: pattern, replacement from the match
OPERATORS = {
    "constant + 1": (r"(?<![\w.])(\d+)(?![\w.])", lambda m: str(int(m.group(1)) + 1)),
    "constant - 1": (r"(?<![\w.])([1-9]\d*)(?![\w.])", lambda m: str(int(m.group(1)) - 1)),
    "< to <=": (r" < ", lambda m: " <= "),
    "<= to <": (r" <= ", lambda m: " < "),
    "> to >=": (r" > ", lambda m: " >= "),
    ">= to >": (r" >= ", lambda m: " > "),
    "== to !=": (r" == ", lambda m: " != "),
    "+ to -": (r"(?<=[\w\)\]]) \+ (?=[\w\(])", lambda m: " - "),
    "- to +": (r"(?<=[\w\)\]]) - (?=[\w\(])", lambda m: " + "),
    "&& to ||": (r" && ", lambda m: " || "),
    "|| to &&": (r" \|\| ", lambda m: " && "),
    "modulus one less": (r"% ([\w.>-]*\w)(?![\w(])", lambda m: f"% ({m.group(1)} - 1)"),
    "wrong stride": (r"\* ([a-z][\w.]*(?:dim|width|stride|heads|n_view|ld|cap)\w*)(?![\w(])", lambda m: f"* ({m.group(1)} + 1)"),
    "swapped arguments": (r"\b(kv_sub|kv_div|gpu_min|ref_min|ref_max|gpu_margin)\(([\w.\[\]]+), ([\w.\[\]]+)\)",
                          lambda m: f"{m.group(1)}({m.group(3)}, {m.group(2)})"),
    "swapped indices": (r"\[(\w+)\]\[(\w+)\]", lambda m: f"[{m.group(2)}][{m.group(1)}]"),
    "barrier removed": (r"__syncthreads\(\);", lambda m: ";"),
    "type narrowed": (r"\bconst int64_t (?=\w+ =)", lambda m: "const int8_t "),
    "rescale dropped": (r"\bkv_mul\(([\w.\[\]]+), ([\w.\[\]]+)\)", lambda m: m.group(1)),
    "fma to product": (r"\bkv_fma\(([\w.\[\]]+), ([\w.\[\]]+), ([\w.\[\]]+)\)", lambda m: f"kv_mul({m.group(1)}, {m.group(2)})"),
    "condition negated": (r"\bif \((?=[\w!.>(-]+\))([^()]*)\)", lambda m: f"if (!({m.group(1)}))"),
    "increment dropped": (r"(?<=\w)\+\+(?=[;\])])", lambda m: ""),
}

Site = collections.namedtuple("Site", "path line operator start end before after")
_text = {}


def good_text(path):
    """The source without the hooks of planted bugs."""
    if path not in _text:
        spec = importlib.util.spec_from_file_location("mutant_hooks", "tests/cli/mutant_hooks.py")
        hooks = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(hooks)
        with open(path, encoding="utf-8") as f:
            _text[path] = hooks.without_hooks(f.read())[0]
    return _text[path]


def changed_text(site):
    text = good_text(site.path)
    return text[:site.start] + site.after + text[site.end:]


def sites_of(path, lines):
    """lines: those that the build compiles, as a set of numbers."""
    text = good_text(path)
    hidden = [(m.start(), m.end()) for m in CODE.finditer(text)]
    starts = [h[0] for h in hidden]
    for name, (pattern, change) in OPERATORS.items():
        for m in re.finditer(pattern, text):
            at, line = bisect.bisect_right(starts, m.start()) - 1, text.count("\n", 0, m.start()) + 1
            if line in lines and (at < 0 or m.start() >= hidden[at][1]):
                yield Site(path, line, name, m.start(), m.end(), m.group(), change(m))


def key_of(site):
    """What stands in the list of equivalents: the line with its change, stable while the lines around it move."""
    text = good_text(site.path)
    begin, end = text.rfind("\n", 0, site.start) + 1, (text + "\n").find("\n", site.end)
    return f"{site.path} | {text[begin:site.start].lstrip()}[[{site.before} => {site.after}]]{text[site.end:end].rstrip()}"
