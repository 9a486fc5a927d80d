"""A candidate that is right and lies about the time it takes: by KVDIFF_TEST_CLOCK seconds, whatever the call."""
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/process"))
import kvdk

kvdk.numpy = None  # plain Python: this test needs no library


class Liar(kvdk.Candidate):
    def _answer(self, memory, message):
        answer = super()._answer(memory, message)
        if "seconds" in answer:
            answer["seconds"] = float(os.environ["KVDIFF_TEST_CLOCK"])
        if "abi" in answer and "KVDIFF_TEST_SCHEMA" in os.environ:
            answer["schema"] = int(os.environ["KVDIFF_TEST_SCHEMA"])  # as a worker of another build would
        return answer


candidate = Liar("clock")


def row(tensor, index, n):
    return tensor.offset + 4 * tensor.stride[0] * index, f"<{n}f"


@candidate.op
def rmsnorm(call):
    if call.residual is not None:
        raise kvdk.Unsupported("no residual")
    n = call.D
    weight = struct.unpack_from(f"<{n}f", call.memory, call.weight.offset)
    for t in range(call.T):
        at, form = row(call.x, t, n)
        x = struct.unpack_from(form, call.memory, at)
        r = (sum(v * v for v in x) / n + call.eps) ** -0.5
        at, form = row(call.y, t, n)
        struct.pack_into(form, call.memory, at, *(v * r * w for v, w in zip(x, weight)))
    return 0


candidate.run()
