#!/usr/bin/env python3
"""The other programs, each behind the same few functions, and one round of one of them.

usage: contestants.py NAME FILE DTYPE THREADS RUNS

Prints one JSON object. Run in a process of its own for each contestant, so that its memory is its own.
The file is given to a peer as independent pieces of 4 MiB: zipnn and openzl are slower with the whole.
"""
import importlib.metadata
import json
import mmap
import os
import resource
import statistics
import struct
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PIECE = 4 << 20
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}


class Peer:
    """What a contestant must offer. `decode_into` is None where its API returns memory of its own."""
    package = None
    settings = ""
    threads_are = "ours: pieces are shared out among them"
    pooled = True
    decode_into = None

    def __init__(self, dtype: str, threads: int):
        self.dtype, self.threads = dtype, threads
        self.width = WIDTHS.get(dtype, 1)
        self.local = threading.local()  # contexts are not for several threads at once
        self.prepare()

    def prepare(self) -> None:
        """Imports what it needs."""


class Memcpy(Peer):
    settings = "numpy's copy of the same buffer: the bound of any decoder that writes to memory"
    encode = None

    def prepare(self):
        import numpy
        self.numpy = numpy

    def decode_into(self, piece, out):
        self.numpy.copyto(self.numpy.frombuffer(out, "u1"), self.numpy.frombuffer(piece, "u1"))


class Zstd(Peer):
    package = "zstandard"
    level = 1

    def prepare(self):
        import zstandard
        self.zstandard = zstandard
        self.settings = f"level {self.level}, no checksum"

    def encode(self, piece):
        if not hasattr(self.local, "coder"):
            self.local.coder = self.zstandard.ZstdCompressor(level=self.level)
        return self.local.coder.compress(piece)

    def decode_into(self, frame, out):
        if not hasattr(self.local, "decoder"):
            self.local.decoder = self.zstandard.ZstdDecompressor()
        # the room is as large as the content, so libzstd decodes straight into it
        with self.local.decoder.stream_reader(frame, read_size=len(frame)) as reader:
            if reader.readinto(out) != len(out):
                raise ValueError("a frame ended early")


class Zstd3(Zstd):
    level = 3


class Lz4(Peer):
    package = "lz4"
    settings = "lz4.frame, default level, no checksum"

    def prepare(self):
        import lz4.frame
        self.frame = lz4.frame

    def encode(self, piece):
        return self.frame.compress(piece)

    def decode(self, frame):
        return self.frame.decompress(frame)


class Blosc2(Peer):
    package = "blosc2"
    threads_are = "its own"
    pooled = False

    def prepare(self):
        import blosc2
        self.blosc2 = blosc2
        blosc2.set_nthreads(self.threads)
        self.settings = "shuffle by the dtype's width, zstd clevel 1, no checksum"

    def encode(self, piece):
        return self.blosc2.compress2(piece, typesize=self.width, codec=self.blosc2.Codec.ZSTD, clevel=1,
                                     filters=[self.blosc2.Filter.SHUFFLE], nthreads=self.threads)

    def decode_into(self, frame, out):
        self.blosc2.decompress2(frame, dst=out, nthreads=self.threads)


class ZipNN(Peer):
    package = "zipnn"
    threads_are = "its own"
    pooled = False
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F8_E4M3": "float8_e4m3fn",
             "F8_E5M2": "float8_e5m2"}
    # it scrambles the buffer it compresses, so each run gets copies, made before the clock starts
    scrambles = True

    def prepare(self):
        import zipnn
        self.coder = zipnn.ZipNN(bytearray_dtype=self.names[self.dtype], threads=self.threads)
        self.settings = "default method, bytearray_dtype of the model, no checksum"

    def encode(self, piece):
        return self.coder.compress(piece)

    def decode(self, frame):
        return self.coder.decompress(frame)


class OpenZL(Peer):
    package = "openzl"
    threads_are = "none: the Python binding runs on one core"
    pooled = False
    settings = ("FloatDeconstruct by dtype, entropy coder for exponents and mantissas "
                "(mantissas of F32, and FP8: its Compress graph)")

    def prepare(self):
        import numpy
        import openzl.ext
        self.numpy, self.zl = numpy, openzl.ext
        self.compressor = self.zl.Compressor()
        self.compressor.select_starting_graph(self.graph(self.zl.nodes, self.zl.graphs, self.compressor))

    def graph(self, nodes, graphs, c):
        """Sign and mantissa of F32 are three bytes wide, which Entropy does not take."""
        if self.width == 1:
            return graphs.Compress()(c)
        node = {"BF16": nodes.BFloat16Deconstruct, "F16": nodes.Float16Deconstruct,
                "F32": nodes.Float32Deconstruct}[self.dtype]()
        mantissas = graphs.Compress() if self.dtype == "F32" else graphs.Entropy()
        return node(c, sign_frac=mantissas(c), exponent=graphs.Entropy()(c))

    def input(self, piece):
        whole = self.numpy.frombuffer(piece, f"u{self.width}")
        return self.zl.Input(self.zl.Type.Numeric if self.width > 1 else self.zl.Type.Serial, whole)

    def encode(self, piece):
        context = self.zl.CCtx()
        context.ref_compressor(self.compressor)
        context.set_parameter(self.zl.CParam.FormatVersion, self.zl.MAX_FORMAT_VERSION)
        return context.compress([self.input(piece)])

    def decode(self, frame):
        return self.zl.DCtx().decompress(frame)[0].content.as_nparray()


class OpenZLBytes(OpenZL):
    settings = "TransposeSplit into the bytes of an element, entropy coder for each"

    def graph(self, nodes, graphs, c):
        if self.width == 1:
            return graphs.Entropy()(c)
        split = nodes.TransposeSplit()(c, graphs.Entropy()(c))
        return nodes.ConvertSerialToStruct(struct_size_bytes=self.width)(c, split)

    def input(self, piece):
        return self.zl.Input(self.zl.Type.Serial, self.numpy.frombuffer(piece, "u1"))


PEERS = {"memcpy": Memcpy, "zipnn": ZipNN, "openzl-float": OpenZL, "openzl-bytes": OpenZLBytes,
         "blosc2": Blosc2, "zstd-1": Zstd, "zstd-3": Zstd3, "lz4": Lz4}


# ---------------------------------------------------------------- one round
def resident_kb() -> int:
    """Resident memory now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def anonymous(size: int) -> memoryview:
    """Memory that is new from the system, without the huge pages that numpy asks for."""
    return memoryview(mmap.mmap(-1, size))


class Round:
    """Times one peer with one file."""

    def __init__(self, peer: Peer, original: bytes, runs: int):
        self.peer, self.runs, self.original = peer, runs, memoryview(original)
        self.size = len(original)
        self.starts = range(0, self.size, PIECE)
        self.pool = ThreadPoolExecutor(peer.threads) if peer.pooled and peer.threads > 1 else None

    def each(self, function, *items) -> list:
        return list((self.pool.map if self.pool else map)(function, *items))

    def timed(self, function, prepare=lambda: None):
        """GB/s of the median run, processor seconds for a GB, and what the last run gave."""
        seconds, cpu = [], []
        for _ in range(self.runs):
            result = None  # what the run before gave is let go first
            given = prepare()
            begun, cpu_begun = time.perf_counter(), time.process_time()
            result = function(given)
            seconds.append(time.perf_counter() - begun)
            cpu.append(time.process_time() - cpu_begun)
        return self.size / statistics.median(seconds) / 1e9, statistics.fmean(cpu) * 1e9 / self.size, result

    def pieces(self, of) -> list:
        return [memoryview(of)[at:at + PIECE] for at in self.starts]

    def encode(self) -> dict:
        if self.peer.encode is None:
            self.frames = self.pieces(self.original)
            return {}
        copies = getattr(self.peer, "scrambles", False)
        gbps, cpu, self.frames = self.timed(
            lambda given: self.each(self.peer.encode, given),
            lambda: [bytearray(piece) for piece in self.pieces(self.original)] if copies
            else self.pieces(self.original))
        ratio = sum(map(len, self.frames)) / self.size
        return {"ratio": ratio, "encode_gbps": gbps, "encode_cpu_s_per_gb": cpu}

    def decode_fresh(self) -> dict:
        """Into memory that is new: a new mapping, or the objects which the peer makes, all of them kept."""
        if self.peer.decode_into:
            def run(out):
                self.each(self.peer.decode_into, self.frames, self.pieces(out))
                return self.pieces(out)
            gbps, _, got = self.timed(run, lambda: anonymous(self.size))
        else:
            gbps, _, got = self.timed(lambda _: self.each(self.peer.decode, self.frames))
        return {"decode_fresh_gbps": gbps, "exact": self.is_exact(got)}

    def decode_window(self) -> dict:
        """Into a buffer of one piece that is used again; without such an API the objects are dropped one by
        one, and the allocator hands the same warm memory out again."""
        def into_window(frame, size):
            if not hasattr(self.peer.local, "window"):
                self.peer.local.window = memoryview(bytearray(PIECE))
            self.peer.decode_into(frame, self.peer.local.window[:size])

        def dropped(frame, _):
            self.peer.decode(frame)
        lengths = [min(PIECE, self.size - at) for at in self.starts]
        decode = into_window if self.peer.decode_into else dropped
        self.each(decode, self.frames[:1], lengths[:1])  # the window is warm from here on
        gbps, cpu, _ = self.timed(lambda _: self.each(decode, self.frames, lengths) and None)
        return {"decode_window_gbps": gbps, "decode_window_cpu_s_per_gb": cpu}

    def decode_resident(self) -> dict:
        """Into memory of the model's size that was used before."""
        if not self.peer.decode_into:
            return {}
        out = anonymous(self.size)
        out[:] = bytes(self.size)
        into = self.pieces(out)
        gbps, _, _ = self.timed(lambda _: self.each(self.peer.decode_into, self.frames, into) and None)
        return {"decode_resident_gbps": gbps, "exact": self.is_exact(into)}

    def is_exact(self, got) -> bool:
        return len(got) == len(self.starts) and all(
            memoryview(a).cast("B") == b for a, b in zip(got, self.pieces(self.original)))


def version(package: str | None) -> str:
    return importlib.metadata.version(package) if package else ""


def one_round(name: str, path: Path, dtype: str, threads: int, runs: int) -> dict:
    peer = PEERS[name](dtype, threads)
    before = resident_kb()  # the interpreter and the libraries, which are not counted
    timed = Round(peer, path.read_bytes(), runs)
    found = timed.encode() | timed.decode_fresh()
    # by now original, compressed and one decoded copy were held at once
    found["peak_mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6
    resident = timed.decode_resident()
    found["exact"] = found["exact"] and resident.pop("exact", True)
    found |= resident | timed.decode_window()
    return found | {"version": version(peer.package), "settings": peer.settings,
                    "into": bool(peer.decode_into), "threads_are": peer.threads_are}


# ---------------------------------------------------------------- those that work on files
def tensors(path: Path) -> dict:
    """Name -> dtype, shape and bytes, read without any library."""
    whole = memoryview(path.read_bytes())
    start = 8 + struct.unpack_from("<Q", whole)[0]
    header = json.loads(bytes(whole[8:start]))
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], whole[start + t["data_offsets"][0]:start + t["data_offsets"][1]])
            for name, t in header.items()}


class PythonBigsmall:
    package = "bigsmall"
    settings = "files on the disk, balanced; one run only, as it is slow"
    threads_are = "its own processes for encoding, one for decoding"
    into = None
    runs = 1

    def __init__(self, threads: int):
        os.environ["BIGSMALL_DISABLE_VERSION_CHECK"] = "1"  # it would ask PyPI while the clock runs
        import bigsmall
        self.bigsmall, self.threads = bigsmall, threads

    def compress(self, path: Path, image: Path) -> None:
        self.bigsmall.compress(path, image, workers=self.threads, progress=False)

    def decompress(self, image: Path, _: Path) -> None:
        self.bigsmall.decompress(image, progress=False)

    def restore(self, image: Path, back: Path) -> None:
        self.bigsmall.decompress(image, back, progress=False)


class Lmz:
    package = "lmzip"
    settings = "files on the disk, level 1, its checksums of chunks"
    threads_are = "its own"
    into = "file"
    runs = None

    def __init__(self, threads: int):
        import lmz
        self.lmz, self.threads = lmz, threads

    def compress(self, path: Path, image: Path) -> None:
        self.lmz.compress(str(path), str(image), workers=self.threads)

    def decompress(self, image: Path, back: Path) -> None:
        back.unlink(missing_ok=True)
        self.lmz.decompress(str(image), str(back), workers=self.threads)

    restore = decompress


FILES = {"python-bigsmall": PythonBigsmall, "lmz": Lmz}


def on_files(name: str, path: Path, threads: int, runs: int) -> dict:
    """A program that takes files and gives files, or arrays of its own."""
    program = FILES[name](threads)
    before, size = resident_kb(), path.stat().st_size
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        image, back = Path(folder) / "image", Path(folder) / "back.safetensors"

        def timed(function, *places):
            seconds, cpu = [], []
            for _ in range(program.runs or runs):
                begun = time.perf_counter(), os.times()
                function(*places)
                now = os.times()
                seconds.append(time.perf_counter() - begun[0])
                cpu.append(sum(now[:4]) - sum(begun[1][:4]))
            return size / statistics.median(seconds) / 1e9, statistics.fmean(cpu) * 1e9 / size
        encode, encode_cpu = timed(program.compress, path, image)
        decode, _ = timed(program.decompress, image, back)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        program.restore(image, back)
        same = back.read_bytes() == path.read_bytes()
        return {"ratio": image.stat().st_size / size, "encode_gbps": encode,
                "encode_cpu_s_per_gb": encode_cpu, "decode_fresh_gbps": decode,
                "peak_mb": (peak - before) * 1024 / 1e6, "exact": same,
                "tensors_exact": same or tensors(back) == tensors(path), "version": version(program.package),
                "settings": program.settings, "into": program.into, "threads_are": program.threads_are}


def main() -> None:
    name, path, dtype, threads, runs = sys.argv[1:]
    try:
        if name in FILES:
            found = on_files(name, Path(path), int(threads), int(runs))
        else:
            found = one_round(name, Path(path), dtype, int(threads), int(runs))
    except Exception as error:  # whatever a peer throws is its row in the table
        found = {"error": f"{type(error).__name__}: {error}"[:200]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
