"""attention_torch.py - attention with PyTorch, in a process of its own: on the GPU that torch sees, else on the CPU.

    kvdiff ops --kernel=examples/process/attention_torch.py
"""
import kvdk

candidate = kvdk.Candidate("torch-attention", contract=kvdk.BOUNDED)
candidate.need("numpy")
torch = candidate.need("torch")
device = "cuda" if torch.cuda.is_available() else "cpu"


@candidate.op
def attn_decode(call):
    k, v, seen = (torch.from_numpy(x).to(device) for x in kvdk.view(call))
    q = torch.from_numpy(kvdk.as_f32(call.q[..., 0])).to(device)
    if k.shape[0] == 0:  # nobody sees anything
        k, v, seen = k.new_zeros(1, *k.shape[1:]), v.new_zeros(1, *v.shape[1:]), seen.new_zeros(call.T, 1)
    group = call.Hq // call.Hk
    scores = torch.einsum("thd,nhd->htn", q, k.repeat_interleave(group, dim=1)) * call.scale
    scores = scores.masked_fill(~seen, -torch.inf)
    top = scores.amax(dim=-1)
    p = torch.exp(scores - torch.where(top.isinf(), 0, top)[..., None])
    total = p.sum(dim=-1)
    o = torch.einsum("htn,nhd->thd", p, v.repeat_interleave(group, dim=1)) / torch.where(total > 0, total, 1).T[..., None]
    call.o[..., 0] = o.cpu().numpy()  # waits for the GPU
    if call.row_max is not None:
        call.row_max[:, :, 0, 0] = top.cpu().numpy()
    if call.row_sum is not None:
        call.row_sum[:, :, 0, 0] = total.cpu().numpy()
    return 0


candidate.run()
