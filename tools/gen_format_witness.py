#!/usr/bin/env python3
"""gen_format_witness - writes tests/golden/formats: blocks of every weight format, and what they mean.

    python3 -m pip install gguf && tools/gen_format_witness.py [FOLDER]

For each type: TYPE.blocks (random bytes with finite scales) and TYPE.f32 (the fp32 weights that the
Python package `gguf` makes of them, little endian). manifest.json says with which version and lists
SHA-256 sums. Deterministic: the same package gives the same files."""
import hashlib
import json
import os
import random
import sys
from importlib.metadata import version

import gguf
import numpy as np

# type: (blocks, offsets of the fp16 scales in a block)
TYPES = {
    "F32": (64, []), "F16": (64, []), "BF16": (64, []),
    "Q8_0": (6, [0]), "Q4_0": (6, [0]), "Q4_1": (6, [0, 2]),
    "Q4_K": (3, [0, 2]), "Q5_K": (3, [0, 2]), "Q6_K": (3, [208]),
}


def finite_half(rng, ordinary):
    """Bits of a finite fp16 of any sign; unless ordinary, subnormals and both extremes as well."""
    odd = [rng.randrange(0x7C00), rng.randrange(0x0400), 0x0001, 0x7BFF, 0x0000]
    return (rng.randrange(0x2000, 0x4000) if ordinary else rng.choice(odd)) | rng.choice([0, 0x8000])


def scalar_block(name, rng):
    if name == "F16":
        return finite_half(rng, False).to_bytes(2, "little")
    exponent = rng.choice([rng.randrange(255), 0])  # 255 would be infinity or NaN
    bits = rng.getrandbits(1) << 31 | exponent << 23 | rng.getrandbits(23)
    return (bits >> 16).to_bytes(2, "little") if name == "BF16" else bits.to_bytes(4, "little")


def blocks(name, count, scales, rng):
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    data = bytearray()
    for i in range(count):
        if not scales:
            data += scalar_block(name, rng)
            continue
        block = bytearray(rng.getrandbits(8) for _ in range(size))
        for at in scales:
            block[at:at + 2] = finite_half(rng, i % 2 == 0).to_bytes(2, "little")
        data += block
    return bytes(data)


def widened(name, data):
    qtype = gguf.GGMLQuantizationType[name]
    raw = np.frombuffer(data, dtype=np.uint8)
    if name == "F32":
        return raw.view("<f4")
    if name == "F16":
        return raw.view("<f2").astype("<f4")
    return gguf.quants.dequantize(raw, qtype).astype("<f4", copy=False)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/golden/formats"
    os.makedirs(folder, exist_ok=True)
    manifest = {"made_by": "tools/gen_format_witness.py", "gguf": version("gguf"), "types": {}}
    for name, (count, scales) in TYPES.items():
        rng = random.Random("kvdiff " + name)
        data = blocks(name, count, scales, rng)
        values = widened(name, data).reshape(-1)
        assert np.isfinite(values).all()
        entry = {"weights": int(values.size), "bytes": len(data)}
        for suffix, content in (("blocks", data), ("f32", values.tobytes())):
            with open(os.path.join(folder, f"{name}.{suffix}"), "wb") as f:
                f.write(content)
            entry[suffix] = hashlib.sha256(content).hexdigest()
        manifest["types"][name] = entry
    with open(os.path.join(folder, "manifest.json"), "w", encoding="ascii") as f:
        json.dump(manifest, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
