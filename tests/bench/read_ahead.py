#!/usr/bin/env python3
"""What the kernel's own read-ahead of a mount costs and brings: the same reads with several values of read_ahead_kb,
interleaved in one run, beside the plain file.

usage: read_ahead.py MODEL.safetensors IMAGE.bs [--rounds N] [--values 128,1024,4096,16384]

The value `own` is what the mount sets by itself. As root, with Python's safetensors and torch. "Cold" drops the decoded pages and the plain file's; the image's bytes stay in
the page cache where it says "at hand", and come from the disk where it says "disk".
"""
import argparse
import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(os.environ.get("BIGSMALL_BIN") or ROOT / "target/release")

CLONE = """
import sys, time, torch
from safetensors.torch import load_file
begun = time.perf_counter()
model = {name: tensor.clone() for name, tensor in load_file(sys.argv[1]).items()}
print(time.perf_counter() - begun)
"""
SLICES = """
import random, sys, time
from safetensors import safe_open
rng, taken = random.Random(int(sys.argv[2])), []
with safe_open(sys.argv[1], "pt") as f:
    names = [n for n in f.keys() if len(f.get_slice(n).get_shape()) == 2]
    for _ in range(300):
        part = f.get_slice(rng.choice(names))
        row = rng.randrange(part.get_shape()[0])
        begun = time.perf_counter()
        part[row:row + 1].sum()
        taken.append(time.perf_counter() - begun)
print(*taken)
"""


def forget(path):
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def python(code, *words):
    out = subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, stdout=subprocess.PIPE)
    return [float(word) for word in out.stdout.split()]


def faults(path, seed, advise):
    size, rng, taken = os.path.getsize(path), random.Random(seed), []
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
        if advise:
            m.madvise(mmap.MADV_RANDOM)
        for _ in range(1000):
            at = rng.randrange(size // 4096) * 4096
            begun = time.perf_counter()
            m[at]
            taken.append(time.perf_counter() - begun)
    return taken


def preads(path, seed):
    size, rng, taken = os.path.getsize(path), random.Random(seed), []
    with open(path, "rb", buffering=0) as f:
        for _ in range(1000):
            at = rng.randrange(size - 4096)
            begun = time.perf_counter()
            os.pread(f.fileno(), 4096, at)
            taken.append(time.perf_counter() - begun)
    return taken


def setting(point):
    """Where the kernel's read-ahead of what is mounted there is set."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[4] == str(point):
            found = Path(f"/sys/class/bdi/{fields[2]}/read_ahead_kb")
    return found


def measure(case, path, image, round_number, samples):
    def note(what, values):
        samples.setdefault((what, case), []).extend(values)

    def cold(of_disk=False):
        forget(path)
        if image and of_disk:
            forget(image)
        elif image:
            image.read_bytes()

    cold(of_disk=True)
    note("load_file and clone, cold, disk", python(CLONE, path))
    cold()
    note("load_file and clone, cold, at hand", python(CLONE, path))
    note("load_file and clone, warm", python(CLONE, path))
    cold()
    note("get_slice of one row", python(SLICES, path, round_number))
    cold()
    note("page fault", faults(path, round_number, False))
    cold()
    note("page fault, MADV_RANDOM", faults(path, round_number, True))
    cold()
    note("pread of 4 KiB", preads(path, round_number))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--values", default="128,1024,4096,16384")
    parser.add_argument("--flags", default="")
    given = parser.parse_args()
    samples = {}
    with tempfile.TemporaryDirectory() as point:
        subprocess.run([BIN / "bigsmall", "mount", "-q", *given.flags.split(), given.image.parent, point], check=True)
        try:
            mounted = Path(point) / f"{given.image.stem}.safetensors"
            knob = setting(point)
            own = knob.read_text().strip()
            values = given.values.split(",")
            for number in range(given.rounds):
                for value in ["plain file", *values]:
                    if value == "plain file":
                        measure(value, given.model, None, number, samples)
                        continue
                    knob.write_text(own if value == "own" else value)
                    measure(value, mounted, given.image, number, samples)
        finally:
            subprocess.run([BIN / "bigsmall", "unmount", "-q", "--lazy", point], check=False)
    cases = ["plain file", *values]
    print(f"| read_ahead_kb (the mount's own: {own}) | " + " | ".join(cases) + " |")
    print("|---|" + "---|" * len(cases))
    for what in dict.fromkeys(what for what, _ in samples):
        taken = [sorted(samples[what, case]) for case in cases]
        if what.startswith("load"):
            plain = statistics.median(taken[0])
            row = [f"{statistics.median(t):.3f} s, {statistics.median(t) / plain:.2f} x" for t in taken]
            print(f"| {what} | " + " | ".join(row) + " |")
            continue
        for label, at in (("p50", 0.5), ("p99", 0.99), ("mean", None)):
            values_us = [statistics.mean(t) if at is None else t[int(len(t) * at)] for t in taken]
            print(f"| {what}, {label}, us | " + " | ".join(f"{v * 1e6:.1f}" for v in values_us) + " |")
    print(json.dumps({"loadavg": os.getloadavg(), "kernel": os.uname().release}), file=sys.stderr)


if __name__ == "__main__":
    main()
