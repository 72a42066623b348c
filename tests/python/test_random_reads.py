"""Whatever way a file is read, and wherever: the same bytes as the original, for a set time, in the manner of fsx."""

import json
import mmap
import os
import random
import subprocess
import threading
import time
import unittest

from common import bigsmall, minilm, mounted, scratch, sha256

SECONDS = float(os.environ.get("BIGSMALL_FSX_SECONDS", "2"))
LENGTHS = (1, 2, 511, 512, 4095, 4096, 4097, 65536, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1)


class Reader(threading.Thread):
    """One thread that reads at random in every way, and compares."""

    def __init__(self, path, original, seed, until):
        super().__init__()
        self.path, self.original, self.until = path, original, until
        self.random = random.Random(seed)
        self.counts = {}
        self.fault = None

    def place(self):
        size = len(self.original)
        length = self.random.choice(LENGTHS)
        # a quarter of them round the end of the file
        at = max(0, size - self.random.randrange(2 * length + 1)) if self.random.random() < 0.25 else self.random.randrange(size)
        return at, length

    def run(self):
        ways = (self.pread, self.preadv, self.private, self.shared, self.written, self.direct, self.sendfile, self.splice, self.stream)
        try:
            while time.monotonic() < self.until:
                way = self.random.choice(ways)
                at, length = self.place()
                got, at = way(at, length)
                expected = self.original[at : at + length]
                if got != expected:
                    raise AssertionError(f"{way.__name__} of {length} at {at}: {len(got)} bytes, expected {len(expected)}")
                self.counts[way.__name__] = self.counts.get(way.__name__, 0) + 1
                if self.random.random() < 0.1:
                    with open(self.path, "rb") as f:
                        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except BaseException as fault:  # noqa: BLE001 - told by the test
            self.fault = fault

    def open(self, flags=0):
        return os.open(self.path, os.O_RDONLY | flags)

    def pread(self, at, length):
        fd = self.open()
        try:
            return os.pread(fd, length, at), at
        finally:
            os.close(fd)

    def preadv(self, at, length):
        fd = self.open()
        try:
            parts = [bytearray(length // 3), bytearray(length - length // 3)]
            got = os.preadv(fd, parts, at)
            return bytes(b"".join(parts)[:got]), at
        finally:
            os.close(fd)

    def mapping(self, at, length, flags, protection=mmap.PROT_READ):
        fd = self.open()
        try:
            with mmap.mmap(fd, 0, flags=flags, prot=protection) as m:
                return bytes(m[at : at + length]), at
        finally:
            os.close(fd)

    def private(self, at, length):
        return self.mapping(at, length, mmap.MAP_PRIVATE)

    def shared(self, at, length):
        return self.mapping(at, length, mmap.MAP_SHARED)

    def written(self, at, length):
        """A private mapping that is written to: what is beside keeps its bytes."""
        fd = self.open()
        try:
            with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as m:
                at = min(at, len(m) - 1)
                m[at] ^= 0xFF
                got = bytearray(m[at : at + length])
                got[0] ^= 0xFF
                return bytes(got), at
        finally:
            os.close(fd)

    def direct(self, at, length):
        at = at // 4096 * 4096
        fd = self.open(os.O_DIRECT)
        try:
            with mmap.mmap(-1, -(-length // 4096) * 4096) as buffer:
                got = os.preadv(fd, [buffer], at)
                return buffer[: min(got, length)], at
        finally:
            os.close(fd)

    def sendfile(self, at, length):
        fd, copy = self.open(), os.memfd_create("copy")
        try:
            sent = 0
            while sent < length and (more := os.sendfile(copy, fd, at + sent, length - sent)):
                sent += more
            return os.pread(copy, length, 0), at
        finally:
            os.close(fd), os.close(copy)

    def splice(self, at, length):
        fd, (out, into) = self.open(), os.pipe()
        try:
            got = os.splice(fd, into, min(length, 65536), offset_src=at)
            taken = os.read(out, got) if got else b""
            # a splice may be short, but what comes is right, and something comes before the end
            if taken != self.original[at : at + got] or (got == 0 and at < len(self.original)):
                raise AssertionError(f"splice at {at} gave {got} bytes")
            return self.original[at : at + length], at
        finally:
            os.close(fd), os.close(out), os.close(into)

    def stream(self, at, length):
        with open(self.path, "rb") as f:
            f.seek(at)
            return f.read(length), at


class RandomReads(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.kept = scratch()
        cls.folder = cls.kept.__enter__()
        cls.original = minilm("bf16")
        (cls.folder / "small").mkdir()
        bigsmall("compress", cls.original, "-o", cls.folder / "small/m.bs")

    @classmethod
    def tearDownClass(cls):
        cls.kept.__exit__(None, None, None)

    def check(self, *options, threads=6):
        original = self.original.read_bytes()
        with mounted(self.folder / "small", *options) as mount:
            until = time.monotonic() + SECONDS
            readers = [Reader(mount / "m.safetensors", original, seed, until) for seed in range(threads)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join(timeout=60)
                self.assertFalse(reader.is_alive(), "a reader hangs")
            for reader in readers:
                if reader.fault:
                    raise reader.fault
            ways = set().union(*(reader.counts for reader in readers))
            self.assertEqual(len(ways), 9, ways)

    def test_as_it_is(self):
        self.check()

    def test_without_a_cache(self):
        self.check("--cache", "0")

    def test_with_a_cache_of_one_block(self):
        self.check("--cache", "200k", "--read-ahead", "0")

    def test_direct(self):
        self.check("--cache-mode", "direct", "--cache", "8m")

    def test_processes_while_workers_die(self):
        """Several processes read whole files while the worker is killed again and again."""
        expected = f"{sha256(self.original)}  -\n".encode()
        with mounted(self.folder / "small") as mount:
            def workers():
                listed = json.loads(bigsmall("mounts", "--json").stdout)["mounts"]
                return next(m for m in listed if m["mountpoint"] == str(mount))

            path = mount / "m.safetensors"
            script = 'for i in $(seq 10); do dd if="$0" iflag=direct bs=1M status=none | sha256sum || exit 1; done'
            readers = [subprocess.Popen(["bash", "-c", "set -o pipefail; " + script, path], stdout=subprocess.PIPE) for _ in range(4)]
            killed = 0
            last = None
            while any(r.poll() is None for r in readers):
                pid = workers()["worker_pid"]
                if pid and pid != last:
                    os.kill(pid, 9)
                    last, killed = pid, killed + 1
                time.sleep(0.01)
            for reader in readers:
                out = reader.communicate()[0]
                self.assertEqual(reader.returncode, 0)
                self.assertEqual(out, expected * 10)
            self.assertGreater(killed, 2)


if __name__ == "__main__":
    unittest.main()
