"""kvdk - the protocol of kvdiff for candidates that are programs (docs/ops.md), for Python.

    import kvdk
    candidate = kvdk.Candidate("my-attention", contract=kvdk.BOUNDED)

    @candidate.op
    def attn_decode(call):
        call.o[...] = ...      # tensors are numpy arrays over the memory that is shared with the tester
        return 0               # a negative number: not supported; or raise kvdk.Unsupported("why")

    candidate.run()

A call has the parameters and tensors of the operation's arguments in kvdiff_kernel.h by their names; segments are a list in
call.segment, each with kind, k, v and valid. A tensor that is absent is None. Without numpy a tensor is a kvdk.Tensor: offset, dtype, dim
and stride over call.memory, a memoryview.
"""
import json
import mmap
import os
import socket
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
