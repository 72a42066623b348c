#!/usr/bin/env python3
"""Writes normal weights as several programs store them in 4 and 8 bits, into a folder.

usage: make_quantised.py FOLDER

Each row of a matrix has a deviation of its own, as in trained models. The same numpy gives the same files.
"""
import json
import struct
import sys
from pathlib import Path

import numpy as np

SHAPES = {"attn_q": (1024, 1024), "ffn_up": (4096, 1024), "ffn_down": (1024, 4096)}
LAYERS = 4
GROUP = 128
# numbers of E2M1, by their code without the sign
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
DTYPES = {"int8": "I8", "uint8": "U8", "uint32": "I32", "float16": "F16"}
# types of tensors in GGUF
Q4_0, Q8_0, MXFP4 = 2, 8, 39


def matrices() -> dict:
    rng = np.random.default_rng(1)

    def one(rows, columns):
        deviations = 0.02 * np.exp(0.3 * rng.standard_normal((rows, 1)))
        return (rng.standard_normal((rows, columns)) * deviations).astype(np.float32)
    return {f"blk.{layer}.{name}.weight": one(*shape) for layer in range(LAYERS) for name, shape in SHAPES.items()}


def with_scales(scales, codes) -> np.ndarray:
    """Blocks of GGUF: the bytes of a scale, then its codes."""
    scales = scales.view(np.uint8).reshape(len(codes), -1)
    return np.concatenate([scales, codes.view(np.uint8)], axis=1)


def halves(codes) -> np.ndarray:
    """32 codes of 4 bits in 16 bytes, as GGUF has them."""
    return codes[:, :16] | codes[:, 16:] << 4


def q4_0(weights) -> np.ndarray:
    blocks = weights.reshape(-1, 32)
    largest = blocks[np.arange(len(blocks)), np.abs(blocks).argmax(1)]
    scales = (largest / -8).astype(np.float16)
    codes = np.floor(blocks / scales.astype(np.float32)[:, None] + 8.5).clip(0, 15).astype(np.uint8)
    return with_scales(scales, halves(codes))


def q8_0(weights) -> np.ndarray:
    blocks = weights.reshape(-1, 32)
    scales = (np.abs(blocks).max(1) / 127).astype(np.float16)
    codes = np.round(blocks / scales.astype(np.float32)[:, None]).clip(-127, 127).astype(np.int8)
    return with_scales(scales, codes)


def mxfp4(weights) -> tuple:
    """Scales of E8M0 and codes of E2M1, one in a byte."""
    blocks = weights.reshape(-1, 32)
    exponents = np.floor(np.log2(np.abs(blocks).max(1))) - 2
    scaled = blocks / np.exp2(exponents)[:, None]
    codes = np.abs(np.abs(scaled)[:, :, None] - E2M1).argmin(2).astype(np.uint8)
    return (exponents + 127).astype(np.uint8), codes | (scaled < 0).astype(np.uint8) << 3


def gptq(weights) -> dict:
    """Codes along the input, eight in an integer, with a zero and a scale for each group of a row."""
    rows, columns = weights.shape
    groups = weights.reshape(rows, columns // GROUP, GROUP)
    low, high = groups.min(2), groups.max(2)
    scales = (high - low) / 15
    zeros = np.round(-low / scales).clip(0, 15)
    codes = (np.round(groups / scales[..., None]) + zeros[..., None]).clip(0, 15).astype(np.uint32)
    codes = codes.reshape(rows, columns).T.reshape(columns // 8, 8, rows)
    zeros = zeros.astype(np.uint32).T.reshape(columns // GROUP, rows // 8, 8)
    shifts = (4 * np.arange(8)).astype(np.uint32)
    return {"qweight": (codes << shifts[None, :, None]).sum(1, dtype=np.uint32),
            "qzeros": (zeros << shifts).sum(2, dtype=np.uint32), "scales": scales.T.astype(np.float16)}


def write_safetensors(path: Path, tensors: dict) -> None:
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape),
                        "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *(array.tobytes() for array in tensors.values())]))


def write_gguf(path: Path, kind: int, weights: dict, blocks: dict) -> None:
    def text(words: str) -> bytes:
        return struct.pack("<Q", len(words)) + words.encode()

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(blocks), 1)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    at = 0
    for name, array in blocks.items():
        rows, columns = weights[name].shape
        head += text(name) + struct.pack("<IQQIQ", 2, columns, rows, kind, at)
        at += len(padded(array.tobytes()))
    path.write_bytes(b"".join([padded(head), *(padded(array.tobytes()) for array in blocks.values())]))


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    weights = matrices()
    integers = {f"{name}.{part}": array for name, w in weights.items() for part, array in gptq(w).items()}
    write_safetensors(folder / "gptq.safetensors", integers)
    # codes without their scales
    write_safetensors(folder / "int8.safetensors",
                      {name: np.ascontiguousarray(q8_0(w)[:, 2:]).view(np.int8) for name, w in weights.items()})
    split = {}
    for name, w in weights.items():
        scales, codes = mxfp4(w)
        split |= {f"{name}_blocks": codes[:, 0::2] | codes[:, 1::2] << 4, f"{name}_scales": scales}
    write_safetensors(folder / "mxfp4.safetensors", split)
    for name, kind, blocks_of in (("q4_0", Q4_0, q4_0), ("q8_0", Q8_0, q8_0)):
        blocks = {tensor: blocks_of(w) for tensor, w in weights.items()}
        write_safetensors(folder / f"{name}-as-u8.safetensors", blocks)
        write_gguf(folder / f"{name}.gguf", kind, weights, blocks)
    joined = {name: with_scales(scales, halves(codes)) for name, (scales, codes) in
              ((name, mxfp4(w)) for name, w in weights.items())}
    write_gguf(folder / "mxfp4.gguf", MXFP4, weights, joined)


if __name__ == "__main__":
    main()
