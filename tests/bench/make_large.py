#!/usr/bin/env python3
"""Make a BF16 .safetensors of 988 MB with the names and shapes of a language model of 0.5 B parameters.

usage: make_large.py OUTPUT.safetensors

The values are random: normal, with a standard deviation for each tensor and a log-normal scale for each row,
which gives exponents about as trained weights have them. It is synthetic: its ratio is no published model's.
A fixed seed: the same numpy gives the same bytes.
"""
import json
import struct
import sys
from pathlib import Path

import numpy as np

LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY, KV = 24, 896, 4864, 151936, 128
ROWS = 8192  # made at once, to keep memory small
SEED = 20260704


def shapes() -> dict:
    """Name -> shape and the scale of the values."""
    found = {"model.embed_tokens.weight": ((VOCABULARY, HIDDEN), 0.015)}
    for n in range(LAYERS):
        layer = f"model.layers.{n}."
        for name, rows in (("q", HIDDEN), ("k", KV), ("v", KV)):
            found[f"{layer}self_attn.{name}_proj.weight"] = ((rows, HIDDEN), 0.03)
            found[f"{layer}self_attn.{name}_proj.bias"] = ((rows,), 0.5)
        found[f"{layer}self_attn.o_proj.weight"] = ((HIDDEN, HIDDEN), 0.025)
        found[f"{layer}mlp.gate_proj.weight"] = ((INTERMEDIATE, HIDDEN), 0.025)
        found[f"{layer}mlp.up_proj.weight"] = ((INTERMEDIATE, HIDDEN), 0.02)
        found[f"{layer}mlp.down_proj.weight"] = ((HIDDEN, INTERMEDIATE), 0.02)
        found[f"{layer}input_layernorm.weight"] = ((HIDDEN,), None)
        found[f"{layer}post_attention_layernorm.weight"] = ((HIDDEN,), None)
    return found | {"model.norm.weight": ((HIDDEN,), None)}


def bf16(x: np.ndarray) -> bytes:
    """Nearest, ties to even; finite values."""
    bits = x.astype("<f4").view("<u4")
    bits += 0x7fff + (bits >> 16 & 1)
    return (bits >> 16).astype("<u2").tobytes()


def write_values(f, rng, shape, scale) -> None:
    if scale is None:  # a norm: near one
        f.write(bf16(1 + 0.1 * rng.standard_normal(shape, "f4")))
    elif len(shape) == 1:
        f.write(bf16(scale * rng.standard_normal(shape, "f4")))
    else:
        std = scale * np.exp(0.2 * rng.standard_normal())
        for first in range(0, shape[0], ROWS):
            rows = min(ROWS, shape[0] - first)
            scales = std * np.exp(0.25 * rng.standard_normal((rows, 1), "f4"))
            f.write(bf16(rng.standard_normal((rows, shape[1]), "f4") * scales))


def main() -> None:
    output, at, header = Path(sys.argv[1]), 0, {"__metadata__": {"format": "pt"}}
    for name, (shape, _) in shapes().items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = output.with_suffix(".part")
    rng = np.random.default_rng(SEED)
    with open(part, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for shape, scale in shapes().values():
            write_values(f, rng, shape, scale)
    part.rename(output)  # a file of this name is whole


if __name__ == "__main__":
    main()
