#!/usr/bin/env python3
"""Make a base in BF16 of a model, or a fine-tune of it: the model with noise, rounded to BF16.

usage: make_fine_tune.py MODEL.safetensors OUTPUT.safetensors NOISE

NOISE is the standard deviation of what is added to a weight, as a part of its tensor's own; 0 gives the base. It is
added before the rounding, as training steps go to weights of more bits than are published. Such noise is normal and
alike everywhere, which no real fine-tune is. Integers stay as they are. The same numpy gives the same bytes.
"""
import json
import struct
import sys
from pathlib import Path

import numpy as np

from contestants import tensors
from make_large import bf16

PIECE = 1 << 22  # elements made at once, to keep memory small
SEED = 1


def floats(dtype: str, stored) -> np.ndarray | None:
    """F32 and BF16 as F32."""
    if dtype == "F32":
        return np.frombuffer(stored, "<f4")
    if dtype == "BF16":
        return (np.frombuffer(stored, "<u2").astype("<u4") << 16).view("<f4")
    return None


def write_tensor(f, values: np.ndarray, noise: float, rng) -> None:
    std = noise * float(values.std(dtype="f8"))
    for at in range(0, values.size, PIECE):
        piece = values[at:at + PIECE]
        f.write(bf16(piece + np.float32(std) * rng.standard_normal(piece.size, "f4")))


def main() -> None:
    model, output, noise = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    found, at, header = tensors(model), 0, {"__metadata__": {"format": "pt"}}
    for name, (dtype, shape, stored) in found.items():
        size = {"F32": len(stored) // 2}.get(dtype, len(stored))
        header[name] = {"dtype": {"F32": "BF16"}.get(dtype, dtype), "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(SEED)
    part = output.with_suffix(".part")
    with open(part, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for dtype, _, stored in found.values():
            values = floats(dtype, stored)
            if values is None:
                f.write(stored)
            else:
                write_tensor(f, values, noise, rng)
    part.rename(output)  # a file of this name is whole


if __name__ == "__main__":
    main()
