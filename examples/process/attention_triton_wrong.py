"""attention_triton_wrong.py - attention_triton.py with entries behind the last one taken for visible: in the last, incomplete block each of
them adds the exponential of a score of 0 to the sum. Where n is a multiple of the block, everything is right.

    kvdiff ops --kernel=examples/process/attention_triton_wrong.py                       on a GPU
    TRITON_INTERPRET=1 kvdiff ops --kernel=examples/process/attention_triton_wrong.py    without one, by Triton's interpreter
"""
import os

import kvdk

candidate = kvdk.Candidate("triton-attention-wrong", contract=kvdk.BOUNDED)
candidate.need("numpy")
torch = candidate.need("torch")
triton = candidate.need("triton")
tl = candidate.need("triton.language")
device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
if device == "cuda" and not torch.cuda.is_available():
    candidate.refuse("torch sees no GPU; with TRITON_INTERPRET=1 in the environment Triton runs on the CPU")


@triton.jit
def attend(q, k, v, seen, o, row_max, row_sum, T, Hq, Hk, hd, n, scale, ENTRIES: tl.constexpr, WIDTH: tl.constexpr):
    """One token and query head: ENTRIES at a time, by an online softmax."""
    t, head = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, WIDTH)
    row = (t * Hq + head) * hd + d
    x = tl.load(q + row, mask=d < hd, other=0.0)
    top, total, sums = float("-inf"), 0.0, tl.zeros([WIDTH], tl.float32)
    first = 0
    while first < n:  # not range(): interpreted, it fails on Triton 3.6 beside NumPy 2.5
        i = first + tl.arange(0, ENTRIES)
        is_seen = tl.load(seen + t * n + i, mask=i < n, other=1) != 0
        at = (i[:, None] * Hk + head // (Hq // Hk)) * hd + d[None, :]
        inside = (i < n)[:, None] & (d < hd)[None, :]
        s = tl.sum(tl.load(k + at, mask=inside, other=0.0) * x[None, :], axis=1) * scale
        s = tl.where(is_seen, s, float("-inf"))
        highest = tl.maximum(top, tl.max(s, axis=0))
        base = tl.where(highest == float("-inf"), 0.0, highest)
        p, old = tl.exp(s - base), tl.exp(top - base)
        total = total * old + tl.sum(p, axis=0)
        sums = sums * old + tl.sum(p[:, None] * tl.load(v + at, mask=inside, other=0.0), axis=0)
        top = highest
        first += ENTRIES
    tl.store(o + row, sums / tl.where(total > 0, total, 1.0), mask=d < hd)
    tl.store(row_max + head * T + t, top)
    tl.store(row_sum + head * T + t, total)


@candidate.op
def attn_decode(call):
    k, v, seen = (torch.from_numpy(x).to(device) for x in kvdk.view(call))
    q = torch.from_numpy(kvdk.as_f32(call.q[..., 0])).to(device)
    o, top, total = torch.empty_like(q), q.new_empty(call.Hq, call.T), q.new_empty(call.Hq, call.T)
    attend[(call.T, call.Hq)](q, k, v, seen.to(torch.uint8), o, top, total, call.T, call.Hq, call.Hk, call.hd, k.shape[0],
                              call.scale, ENTRIES=128, WIDTH=triton.next_power_of_2(call.hd))
    call.o[..., 0] = o.cpu().numpy()  # waits for the GPU
    if call.row_max is not None:
        call.row_max[:, :, 0, 0] = top.cpu().numpy()
    if call.row_sum is not None:
        call.row_sum[:, :, 0, 0] = total.cpu().numpy()
    return 0


candidate.run()
