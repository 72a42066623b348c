#!/usr/bin/env python3
"""How near a delta image comes to what the differences hold: for each pair the order-0 entropy of the differences, given the
exponent of the base, beside what the image spends on blocks, tables, states, index and the rest.

    python3 tests/bench/delta_entropy.py BASE.safetensors TUNED.safetensors IMAGE.bs ...

Sizes are bytes. `pooled` is the entropy with one distribution for each exponent of the base, shared by all tensors of a dtype; `tensor` with
one for each tensor and exponent. Both are Miller-Madow corrected (`plain` is pooled without that): distributions learnt from the few elements of a tensor
look narrower than they are. Tensors that the image stores without their base count in neither; they are `alone`. What a state
holds above the 2^16 with which coding begins is payload, and is counted in `coded`; `states` is what is left of them, with the heads."""
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import decode_bs

# dtype: unsigned words, bits of mantissa
FLOATS = {"BF16": ("<u2", 7), "F16": ("<u2", 10), "F32": ("<u4", 23), "F8_E4M3": ("u1", 3), "F8_E5M2": ("u1", 2)}
SAME, DELTAS = 12, range(13, 18)
STATES_PLAIN = 64 * 5 // 2  # low halves and widths


def tensors(path: str) -> dict:
    """Name: (dtype, bytes) of each tensor of a safetensors file."""
    data = Path(path).read_bytes()
    size = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]])
            for name, t in header.items()}


def keys(dtype: str, tuned: bytes, base: bytes) -> np.ndarray:
    """For each element the base's exponent, then the zigzagged difference of the two as ordered integers."""
    words, mantissa = FLOATS[dtype]
    t, b = (np.frombuffer(side, words).astype(np.int64) for side in (tuned, base))
    width = 8 * np.dtype(words).itemsize
    low, half = (1 << width - 1) - 1, 1 << width - 1
    ordered = lambda x: np.where(x >= half, -1 - (x & low), x)
    d = ordered(t) - ordered(b)
    d = (d + half & (1 << width) - 1) - half
    return (b & low) >> mantissa << 32 | (d << 1 ^ d >> 63) & (1 << width) - 1


def entropy(keys: np.ndarray) -> tuple:
    """Bytes that the differences hold given the exponent: as counted, and Miller-Madow corrected."""
    pairs, counts = np.unique(keys, return_counts=True)
    _, first = np.unique(pairs >> 32, return_index=True)
    totals = np.add.reduceat(counts, first)
    bits = (totals * np.log2(totals)).sum() - (counts * np.log2(counts)).sum()
    bias = (len(pairs) - len(first)) / 2 / math.log(2)
    return bits / 8, (bits + bias) / 8


def state_payload(block: bytes) -> tuple:
    """Of a coded block: bytes of its states, and what they hold above the states of the beginning."""
    x, end = decode_bs.states(block, 4, 64)
    return end - 4, np.log2(x / 65536.0).sum() / 8


def image_spans(data: bytes) -> tuple:
    """Header fields and for each span (name, shares tables, bytes of tables, [(codec, coded bytes)])."""
    index_len, = struct.unpack_from("<Q", data, 64)
    features, = struct.unpack_from("<Q", data, 32)
    files, = struct.unpack_from("<I", data, 88)
    index, parts, p = data[128:128 + index_len], {}, 0
    while p < index_len:
        tag, flags, stored, plain = struct.unpack_from("<IIQQ", index, p)
        payload = index[p + 24:p + 24 + stored]
        parts[tag] = decode_bs.zstd(payload, plain) if flags & 2 else payload
        p += 24 + decode_bs.align(stored, 8)
    spans, p, at = [], 0, decode_bs.align(128 + index_len, 16)
    receipts = struct.iter_unpack("<16sII", parts[3][32 * files:])
    blocks = struct.iter_unpack("<QIBBxx", parts[4])
    while p < len(parts[2]):
        _, shift, _, dtype, rank, name_len, repeats, length = struct.unpack_from("<BBBBH2xIIQ", parts[2], p)
        name = parts[2][p + 24 + dtype:p + 24 + dtype + name_len].decode()
        p += 24 + dtype + name_len + 8 * rank
        _, tables, shares = next(receipts)
        coded = []
        if length and not (repeats and features & 1):
            at = decode_bs.align(at, 4096 if length >> 24 else 16)
            at = decode_bs.align(at + tables, 16)
            for _ in range(0, length, 1 << shift):
                _, size, codec, _ = next(blocks)
                coded.append((codec, data[at:at + size]))
                at = decode_bs.align(at + size, 16)
        spans.append((name, shares * (features >> 1 & 1), tables, coded))
    return index_len, spans


def measure(base_path: str, tuned_path: str, image_path: str) -> dict:
    base, tuned, data = tensors(base_path), tensors(tuned_path), Path(image_path).read_bytes()
    index_len, spans = image_spans(data)
    row = dict.fromkeys(("plain", "pooled", "tensor", "coded", "tables", "states", "index", "alone", "rest"), 0)
    pool = {}
    for name, _, tables, blocks in spans:
        is_delta = any(codec == SAME or codec in DELTAS for codec, _ in blocks)
        row["tables" if is_delta else "alone"] += tables
        for codec, block in blocks:
            if codec in DELTAS:
                size, held = state_payload(block)
                row["states"] += 4 + size - held
                row["coded"] += len(block) - 4 - size + held
            else:
                row["coded" if is_delta else "alone"] += len(block)
        if is_delta:
            dtype, bytes_ = tuned[name]
            of = keys(dtype, bytes_, base[name][1])
            row["tensor"] += entropy(of)[1]
            pool.setdefault(dtype, []).append(of)
    for of in pool.values():
        plain, pooled = entropy(np.concatenate(of))
        row["plain"] += plain
        row["pooled"] += pooled
    row["index"] = 2 * index_len
    row["total"] = len(data)
    parts = ("coded", "tables", "states", "index", "alone")
    row["rest"] = len(data) - sum(row[part] for part in parts)
    row["over"] = 100 * ((row["coded"] + row["tables"]) / row["pooled"] - 1) if row["pooled"] else 0
    row["percent"] = 100 * len(data) / Path(tuned_path).stat().st_size
    return row


def main() -> None:
    paths = sys.argv[1:]
    if not paths or len(paths) % 3:
        sys.exit(__doc__)
    names = ("plain", "pooled", "tensor", "coded", "tables", "states", "index", "alone", "rest", "total")
    print(f"{'image':<12}" + "".join(f"{name:>10}" for name in names) + "   coded+tables over pooled   total %")
    for base, tuned, image in zip(paths[::3], paths[1::3], paths[2::3]):
        row = measure(base, tuned, image)
        cells = "".join(f"{row[name]:>10.0f}" for name in names)
        print(f"{Path(image).stem:<12}{cells}{row['over']:>+27.2f}{row['percent']:>10.3f}")


if __name__ == "__main__":
    main()
