#!/usr/bin/env python3
"""Ways to store a fine-tune as differences from its base, and one turn of one of them: from files to a file.

usage: delta_peers.py NAME encode BASE FINE_TUNE IMAGE [PROGRAM]
       delta_peers.py NAME decode BASE IMAGE FINE_TUNE [PROGRAM]
       delta_peers.py --measured COMMAND...

Prints one JSON object. Its seconds are those of reading, working and writing: of the whole process where the
contestant is a program, less interpreter and imports where it is Python. PROGRAM is ours.
"""
import importlib.metadata
import json
import os
import re
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path


# ---------------------------------------------------------------- XOR, of which BitX is one kind
FLOATS = {"BF16": 2, "F16": 2, "F32": 4}


class Xor:
    """XOR with the tensor of the same name, dtype and shape; zstd level 3 for each tensor."""
    package = "zstandard"
    settings = "each tensor's XOR with the base's in one zstd frame of level 3, no checksum"

    def __init__(self):
        import numpy
        import zstandard
        self.numpy = numpy
        self.encoder, self.decoder = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()

    def planes(self, dtype: str, different) -> list:
        return [different]

    def joined(self, dtype: str, planes: list):
        return planes[0]

    def bytes_of(self, stored):
        return self.numpy.frombuffer(stored, "u1")

    def against(self, base: dict, name: str, like: dict, stored):
        """The XOR; a tensor that the base lacks is left as it is."""
        found = base.get(name)
        if not found or any(found[0][key] != like[key] for key in ("dtype", "shape")):
            return self.bytes_of(stored)
        return self.bytes_of(stored) ^ self.bytes_of(found[1])

    def encode(self, base: Path, fine_tune: Path, image: Path) -> None:
        known, (head, found) = parsed(base.read_bytes())[1], parsed(fine_tune.read_bytes())
        with open(image, "wb") as f:
            self.write(f, head)
            for name, (like, stored) in found.items():
                for plane in self.planes(like["dtype"], self.against(known, name, like, stored)):
                    self.write(f, plane)

    def write(self, f, content) -> None:
        frame = self.encoder.compress(memoryview(content))
        f.write(struct.pack("<Q", len(frame)) + frame)

    def decode(self, base: Path, image: Path, fine_tune: Path) -> None:
        known, coded, at = parsed(base.read_bytes())[1], memoryview(image.read_bytes()), 0

        def frame():
            nonlocal at
            begin = at + 8
            at = begin + struct.unpack_from("<Q", coded, at)[0]
            return self.decoder.decompress(coded[begin:at])
        head = frame()
        with open(fine_tune, "wb") as f:
            f.write(head)
            for name, like in listed(head):
                planes = [self.bytes_of(frame()) for _ in range(self.plane_count(like["dtype"]))]
                f.write(memoryview(self.against(known, name, like, self.joined(like["dtype"], planes))))

    def plane_count(self, dtype: str) -> int:
        return 1


class BitX(Xor):
    """The scheme as published. Turned left by one bit an element has its exponent in the top byte (of F16 with
    three bits of the mantissa), and sign and mantissa below."""
    settings = ("each tensor's XOR with the base's, split into a plane of exponents and one of signs and mantissas, "
                "each in one zstd frame of level 3, no checksum")

    def plane_count(self, dtype: str) -> int:
        return 2 if dtype in FLOATS else 1

    def planes(self, dtype: str, different) -> list:
        if dtype not in FLOATS:
            return [different]
        width = FLOATS[dtype]
        words = different.view(f"<u{width}")
        turned = (words << 1 | words >> (8 * width - 1)).view("u1").reshape(-1, width)
        return [self.numpy.ascontiguousarray(turned[:, -1]), self.numpy.ascontiguousarray(turned[:, :-1]).ravel()]

    def joined(self, dtype: str, planes: list):
        if dtype not in FLOATS:
            return planes[0]
        width = FLOATS[dtype]
        turned = self.numpy.empty((planes[0].size, width), "u1")
        turned[:, -1], turned[:, :-1] = planes[0], planes[1].reshape(-1, width - 1)
        words = turned.ravel().view(f"<u{width}")
        return (words >> 1 | words << (8 * width - 1)).view("u1")


def listed(head: bytes) -> list:
    """(name, what the header says of it) in the order of the data, which the header need not have."""
    found = json.loads(head[8:])
    found.pop("__metadata__", None)
    return sorted(found.items(), key=lambda item: item[1]["data_offsets"])


def parsed(whole: bytes) -> tuple[bytes, dict]:
    """The header with its length, and name -> what the header says and the bytes."""
    start = 8 + struct.unpack_from("<Q", whole)[0]
    data = memoryview(whole)[start:]
    return whole[:start], {name: (like, data[slice(*like["data_offsets"])]) for name, like in listed(whole[:start])}


# ---------------------------------------------------------------- the Python package of our name
class PythonBigsmall:
    package = "bigsmall"
    settings = "compress_delta and decompress_delta, balanced, one worker"

    def __init__(self):
        os.environ["BIGSMALL_DISABLE_VERSION_CHECK"] = "1"  # it would ask PyPI while the clock runs
        import bigsmall
        self.bigsmall = bigsmall

    def encode(self, base: Path, fine_tune: Path, image: Path) -> None:
        self.bigsmall.compress_delta(fine_tune, base, image, workers=1, progress=False)

    def decode(self, base: Path, image: Path, fine_tune: Path) -> None:
        self.bigsmall.decompress_delta(image, base, fine_tune, progress=False)


# ---------------------------------------------------------------- programs
def window_log(base: Path) -> int:
    """What zstd and xdelta3 must see of the base: all of it."""
    return max(27, base.stat().st_size.bit_length())


def ours(program, base, source, output, encoding) -> list:
    verb = "compress" if encoding else "decompress"
    against = ["--base", base] if base else []
    return [program, verb, source, *against, "-o", output, "--threads", "1", "--no-progress", "--quiet"]


def zstd(_, base, source, output, encoding) -> list:
    return ["zstd", "-q", "-f", *(["-3", "-T1"] if encoding else ["-d"]), f"--long={window_log(base)}",
            f"--patch-from={base}", source, "-o", output]


def xdelta3(_, base, source, output, encoding) -> list:
    return ["xdelta3", "-e" if encoding else "-d", "-f", "-q", "-B", 1 << window_log(base), "-s", base, source, output]


def printed_version(command: list) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    return re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr).group()


PROGRAMS = {
    "bigsmall": (ours, "--base, profile balanced, one thread; read back and compared, synced to the disk; decoding "
                       "compares the checksum of every block and the file's sha256"),
    "bigsmall alone": (lambda program, base, *rest: ours(program, None, *rest),
                       "the same without the base: what a delta saves"),
    "zstd --patch-from": (zstd, "-3 --long, the window as large as the base, one thread"),
    "xdelta3": (xdelta3, "default level, the window as large as the base"),
}
PYTHON = {"bitx": BitX, "xor + zstd-3": Xor, "python-bigsmall": PythonBigsmall}
VERSIONS = {"zstd --patch-from": ["zstd", "--version"], "xdelta3": ["xdelta3", "-V"]}


def ran(command: list) -> dict:
    """Runs a program: seconds by the clock and of processors, and the most memory it had. The kernel counts what we
    had when we started it as its own, so we must be small ourselves."""
    begun = time.perf_counter()
    child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stderr.close()
    if child.returncode:
        raise RuntimeError((said.strip().splitlines() or [f"exit status {child.returncode}"])[-1])
    return {"s": seconds, "cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}


def called(function) -> dict:
    def processors():
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    begun, cpu_begun = time.perf_counter(), processors()
    function()
    return {"s": time.perf_counter() - begun, "cpu_s": processors() - cpu_begun}


def one_turn(name: str, verb: str, base: Path, source: Path, output: Path, program: str) -> dict:
    if name in PROGRAMS:
        words, settings = PROGRAMS[name]
        found = ran(words(program, base, source, output, verb == "encode"))
        return found | {"version": printed_version(VERSIONS.get(name, [program, "--version"])), "settings": settings}
    contestant = PYTHON[name]()
    found = called(lambda: getattr(contestant, verb)(base, source, output))
    return found | {"version": f"{contestant.package} {importlib.metadata.version(contestant.package)}",
                    "settings": contestant.settings}


def main() -> None:
    if sys.argv[1:2] == ["--measured"]:
        return print(json.dumps(ran(sys.argv[2:])))
    name, verb, base, source, output, *program = sys.argv[1:]
    try:
        found = one_turn(name, verb, Path(base), Path(source), Path(output), *(program or [""]))
    except Exception as error:  # whatever a contestant throws is its row in the table
        found = {"error": f"{type(error).__name__}: {error}"[:200]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
