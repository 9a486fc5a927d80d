"""kvdk - the protocol of kvdiff for candidates that are programs (docs/ops.md), for Python.

    import kvdk
    candidate = kvdk.Candidate("my-attention", contract=kvdk.BOUNDED)

    @candidate.op
    def attn_decode(call):
        call.o[...] = ...      # tensors are numpy arrays over the memory that is shared with the tester
        return 0               # a negative number: not supported; or raise kvdk.Unsupported("why")

    candidate.run()

What the program needs and this machine may not have is asked for, rather than imported: where it is missing every call is refused, and
the reason stands in the tester's row.

    torch = candidate.need("torch")

A call has the parameters and tensors of the operation's arguments in kvdiff_kernel.h by their names; segments are a list in
call.segment, each with kind, k, v and valid. A tensor that is absent is None. Without numpy a tensor is a kvdk.Tensor: offset, dtype, dim
and stride over call.memory, a memoryview.
"""
import importlib
import json
import mmap
import os
import socket
import sys
import time

try:
    import numpy
except ImportError:
    numpy = None

BITEXACT, BOUNDED, STATISTICAL = 0, 1, 2
NO_PROMISE, SAME_CALL, SAME_ROW = 0, 1, 2
SINK, CACHE, SELF = 0, 1, 2
F32, F16, BF16 = 0, 1, 2
SOCKET, MEMORY = 3, 4
ABI = 1

# bf16 has no type in numpy: its bits come as uint16.
TYPES = {"f32": ("<f4", 4), "f16": ("<f2", 2), "bf16": ("<u2", 2), "i32": ("<i4", 4), "i64": ("<i8", 8), "u8": ("u1", 1)}


class Unsupported(Exception):
    """The candidate does not do this; recorded as UNSUPPORTED, which is never a pass."""


class Absent:
    """Stands in for a module that is not here, so that a file with its decorators can be read to the end."""

    def __getattr__(self, name):
        return self

    def __call__(self, *arguments, **more):
        return self


class Tensor:
    """A tensor as the message describes it; dim and stride in elements."""

    def __init__(self, memory, told):
        self.memory, self.offset, self.dtype = memory, told["offset"], told["dtype"]
        self.dim, self.stride, self.read_only = told["dim"], told["stride"], told["read_only"]

    def array(self):
        """A numpy view of it; it always has four dimensions, the last ones of size 1 where the operation has fewer."""
        kind, size = TYPES[self.dtype]
        view = numpy.ndarray(self.dim, kind, self.memory, self.offset, [s * size for s in self.stride])
        if self.read_only:
            view.flags.writeable = False
        return view


def as_f32(array):
    """A copy of a tensor in fp32; bits of bf16 (uint16) are widened."""
    if array.dtype == numpy.uint16:
        return (array.astype(numpy.uint32) << 16).view(numpy.float32)
    return array.astype(numpy.float32)


def view(call):
    """Of a call of attention: K and V [n][Hk][hd] of all segments in fp32, zeros where an entry is dead, and seen [T][n], bool: whether
    a token sees an entry."""
    keys, values = [numpy.zeros((0, call.Hk, call.hd), numpy.float32)], [numpy.zeros((0, call.Hk, call.hd), numpy.float32)]
    seen = [numpy.zeros((call.T, 0), bool)]
    for s in call.segment:
        if s.k is None:
            continue
        n = s.k.shape[0]
        alive = numpy.ones(n, bool) if s.valid is None else s.valid[:, 0, 0, 0] != 0
        keys.append(numpy.where(alive[:, None, None], as_f32(s.k[..., 0]), numpy.float32(0)))
        values.append(numpy.where(alive[:, None, None], as_f32(s.v[..., 0]), numpy.float32(0)))
        seen.append(numpy.tri(call.T, n, dtype=bool) & alive if s.kind == SELF else numpy.broadcast_to(alive, (call.T, n)))
    return numpy.concatenate(keys), numpy.concatenate(values), numpy.concatenate(seen, axis=1)


def map_memory():
    """The memory that is shared with the tester, whole."""
    return memoryview(mmap.mmap(MEMORY, os.fstat(MEMORY).st_size))


class Part:
    """Parameters and tensors by name."""

    def __init__(self, **members):
        self.__dict__.update(members)

    def __getattr__(self, name):  # only what is not there comes here: an optional tensor
        if name.startswith("_"):
            raise AttributeError(name)
        return None


class Candidate:
    """What this program offers, and the loop that answers the tester."""

    def __init__(self, name, contract=BOUNDED, determinism=SAME_CALL, precision=(F32, F32, F32)):
        self.name, self.contract, self.determinism, self.precision = name, contract, determinism, list(precision)
        self.ops = {}
        self.missing, self.refusals = [], []

    def refuse(self, why):
        """Every call is refused from now on, with this line."""
        self.refusals.append(why)

    def need(self, module):
        """The module; where it cannot be imported a stand-in, and every call is refused."""
        package = module.partition(".")[0]
        try:
            return importlib.import_module(module)
        except Exception as error:  # a broken installation fails in many ways
            if isinstance(error, ModuleNotFoundError) and error.name == package:
                self.missing += [package] if package not in self.missing else []
            else:
                self.refuse(f"{package} cannot be imported: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            return Absent()

    def _refusal(self):
        names = " ".join(self.missing)
        return "; ".join([f"no {names} here: pip install {names} for {sys.executable}"] * bool(names) + self.refusals)

    def op(self, function):
        """Decorator: the function is the operation of its name."""
        self.ops[function.__name__] = function
        return function

    def _read(self, memory, message):
        segments = [Part() for _ in range(message["params"].get("n_segments", 0))]
        call = Part(memory=memory, segment=segments)

        def put(name, value):
            head, dot, member = name.partition(".")
            if not dot:
                setattr(call, name, value)
            elif int(head[len("segment"):]) < len(segments):  # "segment0.k"
                setattr(segments[int(head[len("segment"):])], member, value)

        for name, value in message["params"].items():
            put(name, value)
        for name, told in message["tensors"].items():
            tensor = Tensor(memory, told)
            put(name, tensor if numpy is None else tensor.array())
        return call

    def _answer(self, memory, message):
        what = message.get("do")
        if what == "open":
            return {"status": 0, "abi": ABI, "name": self.name, "contract": self.contract, "determinism": self.determinism,
                    "memory": 0, "precision": self.precision, "fast_math": 0, "has_workspace": False, "ops": sorted(self.ops)}
        if what != "call":
            return {"status": 1, "why": f"it does not answer '{what}'"}
        if message["op"] not in self.ops:
            return {"status": -1, "why": "it has no such operation"}
        if self.missing or self.refusals:
            return {"status": -1, "why": self._refusal()}
        start = time.monotonic()
        try:
            status = self.ops[message["op"]](self._read(memory, message))
        except Unsupported as why:
            return {"status": -1, "why": str(why)}
        except Exception as error:  # whatever it is, the tester shall read it
            return {"status": 1, "why": f"{type(error).__name__}: {error}"}
        return {"status": int(status or 0), "seconds": time.monotonic() - start, "fpenv": True}

    def run(self):
        """Answers one JSON object a line with one, until the tester closes the connection."""
        try:
            link = socket.socket(fileno=SOCKET)
            memory = map_memory()
        except (OSError, ValueError):
            raise SystemExit("kvdiff starts this program for itself: kvdiff ops --kernel=FILE.py")
        with link.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if message.get("block", 0) > len(memory):  # it has grown
                    memory = map_memory()
                answer = self._answer(memory, message)
                answer["id"] = message["id"]
                link.sendall((json.dumps(answer) + "\n").encode())
