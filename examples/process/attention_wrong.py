"""attention_wrong.py - attention.py with the wrong map from query heads to KV heads: head % Hk instead of head // (Hq / Hk).
The scores of grouped heads belong to another KV head; where Hk is 1 or Hq, everything is right.

    kvdiff ops --kernel=examples/process/attention_wrong.py
"""
import kvdk

candidate = kvdk.Candidate("numpy-attention-wrong", contract=kvdk.BOUNDED)
np = candidate.need("numpy")


def entries(call, t):
    """K [n][Hk][hd] and V of the entries that token t sees."""
    keys, values = [], []
    for s in call.segment:
        if s.k is None:
            continue
        n = t + 1 if s.kind == kvdk.SELF else s.k.shape[0]
        alive = np.ones(n, bool) if s.valid is None else s.valid[:n, 0, 0, 0] != 0
        keys.append(kvdk.as_f32(s.k[:n, :, :, 0])[alive])
        values.append(kvdk.as_f32(s.v[:n, :, :, 0])[alive])
    return np.concatenate(keys), np.concatenate(values)


@candidate.op
def attn_decode(call):
    group = call.Hq // call.Hk
    for t in range(call.T):
        k, v = entries(call, t)
        for head in range(call.Hq):
            scores = (k[:, head % call.Hk] @ call.q[t, head, :, 0]) * np.float32(call.scale)
            top = scores.max(initial=-np.inf)
            p = np.exp(scores - top) if len(scores) else scores
            total = p.sum(dtype=np.float32)
            call.o[t, head, :, 0] = p @ v[:, head // group] / total if len(scores) else 0
            if call.row_max is not None:
                call.row_max[head, t, 0, 0] = top
            if call.row_sum is not None:
                call.row_sum[head, t, 0, 0] = total
    return 0


candidate.run()
