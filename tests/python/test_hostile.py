"""Files made to do harm, written from docs/format.md alone: every one is an error in words, with little memory and in little time, or
serves exactly what it holds; and in a mount nothing beside it notices.

Each test has the name of what is tried, as the table of docs/SECURITY.md lists it.
"""
import hashlib
import importlib.util
import json
import os
import random
import struct
import subprocess
import sys
import unittest
from pathlib import Path

from common import DECODER, PROGRAM, bigsmall, mounted, scratch, sha256

spec = importlib.util.spec_from_file_location("decode_bs", DECODER)
decode_bs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(decode_bs)
xxh3 = decode_bs.xxh3

MAGIC = b"\x89BigSml\n"
# beyond what the program takes for `--version`
MEMORY_MAX = 64 << 20
SECONDS_MAX = 20
# what a hostile file may be answered with: findings, a request that makes no sense, not found or unreadable, damage, a missing base, another version, a limit
REFUSALS = {1, 2, 3, 4, 5, 6, 8}
U64 = (1 << 64) - 1


def align(x, a):
    return -(-x // a) * a


def section(tag, payload, flags=1, plain=None, stored=None):
    head = struct.pack("<IIQQ", tag, flags, len(payload) if stored is None else stored, len(payload) if plain is None else plain)
    return head + payload + bytes(-len(payload) % 8)


def span(kind=1, name=b"w", dtype=b"U8", shape=None, length=0, shift=17, lanes=6, repeats=0, rank=None, name_len=None):
    shape = [length] if shape is None else shape
    if kind != 1:
        name = dtype = b""
        shape = []
    rank = len(shape) if rank is None else rank
    name_len = len(name) if name_len is None else name_len
    head = struct.pack("<BBBBHHIIQ", kind, shift, lanes, len(dtype), rank, 0, name_len, repeats, length)
    return head + dtype + name + b"".join(struct.pack("<Q", d) for d in shape)


def file_record(length, spans=1, kind=0, path=b""):
    return struct.pack("<BBHIQ", kind, 0, len(path), spans, length) + path


def receipt(data=b"", tables=0, tables_of=0):
    return hashlib.md5(data).digest() + struct.pack("<II", tables, tables_of)


def block(data, coded_len, codec, version=1):
    return struct.pack("<QIBBH", xxh3(data), coded_len, codec, version, 0)


def image(files, spans, receipts, blocks, coded=(), *, original=None, kind=0, features=0, count=1, suffix=b".safetensors", version=1,
          extra=b"", sections=None, data_len=None, paged=False, **claims):
    """An image with right checksums.  `coded` are tables and blocks, in the order of their places, each at a multiple of 16."""
    index = sections if sections is not None else section(1, files) + section(2, spans) + section(3, receipts) + section(4, blocks) + extra
    at = align(128 + len(index), 16)
    # spans of 16 MiB and more begin at a page
    data = bytes(-at % 4096 if paged else 0) + b"".join(part + bytes(-len(part) % 16) for part in coded)
    tail = align(at + (len(data) if data_len is None else data_len) + 64, 16)
    header = {"required": features, "optional": 0, "image": tail + len(index) + 128, "original": original, "index": len(index), "tail": tail,
              "checksum": xxh3(index)} | claims
    head = struct.pack("<8sHHBB16sHQQQQQQQI28x", MAGIC, version, 0, kind, 0 if kind else len(suffix), b"" if kind else suffix, 0,
                       *(header[k] for k in ("required", "optional", "image", "original", "index", "tail", "checksum")), count)
    head += struct.pack("<Q", xxh3(head))
    out = head + index
    out += bytes(at - len(out)) + data
    out += bytes(tail - len(out)) + index + head
    return out


def one_span(data, coded, codec, *, tables=b"", dtype=b"U8", shape=None, version=1, features=0, shift=17, **rest):
    """An image of a file of other bytes: one span, one block."""
    length = len(data)
    return image(file_record(length, 1), span(1, b"w", dtype, shape, length, shift), bytes(32) + receipt(data, len(tables)),
                 block(data, len(coded), codec, version), [part for part in (tables, coded) if part], original=length, features=features, **rest)


# A process begins with the memory of the one that it was forked from, as far as the kernel's account of its peak goes: so a small one does it.
FORKER = """
import json, os, resource, sys, time
begun = time.monotonic()
pid = os.fork()
if pid == 0:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0), os.dup2(null, 1)
    # beyond this something is wrong in any case: do not take the machine with it
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - begun, usage.ru_maxrss << 10]))
"""


def measured(*words, cwd=None):
    """Runs the program; its exit status, standard error, seconds and memory."""
    done = subprocess.run([sys.executable, "-S", "-I", "-c", FORKER, PROGRAM, *map(str, words)], cwd=cwd, capture_output=True)
    status, seconds, memory = json.loads(done.stdout)
    return status, done.stderr.decode(errors="replace"), seconds, memory


EMPTY = None


class Hostile(unittest.TestCase):
    # of each test, beyond what the empty program takes
    memory = {}

    @classmethod
    def tearDownClass(cls):
        for test, memory in sorted(cls.memory.items(), key=lambda pair: -pair[1]):
            print(f"{test}: at most {memory / 2**20:.1f} MiB", file=sys.stderr)

    def setUp(self):
        global EMPTY
        if EMPTY is None:
            EMPTY = max(measured("--version")[3] for _ in range(3))

    def harmless(self, folder, words, refused=True):
        status, said, seconds, memory = measured(*words, cwd=folder)
        what = f"{' '.join(map(str, words))}: {status}, {seconds:.1f} s, {(memory - EMPTY) >> 20} MiB more: {said[-500:]}"
        self.memory[self._testMethodName] = max(self.memory.get(self._testMethodName, 0), memory - EMPTY)
        self.assertIn(status, REFUSALS if refused else REFUSALS | {0}, what)
        self.assertLess(memory - EMPTY, MEMORY_MAX, what)
        self.assertLess(seconds, SECONDS_MAX, what)
        self.assertNotIn("panicked", said)
        # one sentence, and no control characters of a stranger's on a terminal
        self.assertTrue(all(c.isprintable() or c == "\n" for c in said), ascii(said))
        if status:
            self.assertTrue("error:" in said or status == 1, what)
        return status, said

    def refused(self, name, data):
        """A file that no command takes, with a good neighbour that a mount shows all the same."""
        with self.subTest(name), scratch() as folder:
            bad = folder / "bad.bs"
            bad.write_bytes(data)
            for command in (["verify", bad], ["decompress", bad, "-o", "out"], ["transcode", bad, "new.bs"], ["reshard", bad, "cut", "--shards", "1"]):
                self.harmless(folder, command)
            for command in (["info", bad], ["stat", bad], ["scan", bad], ["verify", "--fast", bad], ["xray", bad]):
                self.harmless(folder, command, refused=False)
            self.assertEqual(os.listdir(folder), ["bad.bs"], "nothing is left")
            (folder / "good.bs").write_bytes(GOOD)
            with mounted(folder) as mount:
                self.assertEqual((mount / "good").read_bytes(), GOOD_DATA)
                names = set(os.listdir(mount)) - {"good"}
                self.assertEqual(len(names), 1)
                for shown in names:
                    if shown != "bad.bs":  # what does not even claim to be an image passes through
                        with self.assertRaises(OSError):
                            [path.read_bytes() for path in walk(mount / shown)]
                self.assertEqual((mount / "good").read_bytes(), GOOD_DATA)
                state = json.loads(bigsmall("mounts", "--json").stdout)
                account = next(m["account"] for m in state["mounts"] if m["mountpoint"] == str(mount))
                self.assertEqual(account["worker_deaths"], 0)
                self.assertLess(account["resident_bytes"], account["resident_bytes_max"])

    def test_claims_of_sizes_near_2_to_the_64(self):
        data = bytes(range(100))
        good = dict(files=file_record(100), spans=span(length=100), receipts=bytes(32) + receipt(data), blocks=block(data, 100, 0), coded=[data], original=100)
        for field in ("image", "original", "index", "tail"):
            for value in (U64, 1 << 63, 1 << 40, 0):
                self.refused(f"{field} {value:#x}", image(**good, **({field: value} if field != "original" else {})) if field != "original" else image(**good | {"original": value}))
        self.refused("files", image(**good, count=(1 << 32) - 1))
        self.refused("spans", image(**good | {"files": file_record(100, (1 << 32) - 1)}))
        self.refused("file", image(**good | {"files": file_record(U64), "spans": span(length=U64), "original": U64}))
        self.refused("span", image(**good | {"spans": span(length=U64, shape=[U64])}))
        self.refused("exabytes", image(**good | {"files": file_record(1 << 60), "spans": span(length=1 << 60), "original": 1 << 60}))
        self.refused("shape", image(**good | {"spans": span(length=100, shape=[1 << 32, 1 << 32])}))
        self.refused("shape and length", image(**good | {"spans": span(length=100, shape=[99])}))
        self.refused("rank", image(**good | {"spans": span(length=100, rank=65535)}))
        self.refused("name", image(**good | {"spans": span(length=100, name_len=(1 << 32) - 1)}))
        self.refused("tables", image(**good | {"receipts": bytes(32) + receipt(data, (1 << 32) - 1)}))
        self.refused("coded", image(**good | {"blocks": block(data, (1 << 32) - 1, 0)}))
        self.refused("shift", image(**good | {"spans": span(length=100, shift=63)}))
        self.refused("lanes", image(**good | {"spans": span(length=100, lanes=63)}))

    def test_bombs(self):
        # a zstd frame of 32 KiB that would give 1 GiB, as a section, as a block, and as both
        frame = zstd_of_zeros(1 << 30)
        self.assertLess(len(frame), 1 << 17)
        data = bytes(range(100))
        for plain in (1 << 30, 1 << 26, 100):
            sections = section(1, file_record(100)) + section(2, frame, 3, plain) + section(3, bytes(32) + receipt(data)) + section(4, block(data, 100, 0))
            self.refused(f"section of {plain}", image(b"", b"", b"", b"", [data], original=100, sections=sections))
        self.refused("block", one_span(data, frame[:1100], 2))
        large = bytes(1 << 20)
        self.refused("block of a mebibyte", one_span(large, frame, 2, shift=20))
        # constant blocks: a large file that is only claimed, in which nothing is right
        blocks = struct.pack("<QIBBH", 1, 1, 1, 1, 0) * (1 << 11)
        self.refused("two GiB of constants", image(file_record(1 << 31), span(length=1 << 31, shift=20), bytes(32) + receipt(), blocks, [b"\7"] * (1 << 11), original=1 << 31, paged=True))

    def test_a_large_file_of_constants_is_served_and_takes_no_memory(self):
        piece = bytes([7]) * (1 << 20)
        blocks = block(piece, 1, 1) * 1024
        md5, sha = hashlib.md5(), hashlib.sha256()
        for _ in range(1024):
            md5.update(piece), sha.update(piece)
        data = image(file_record(1 << 30), span(length=1 << 30, shift=20), sha.digest() + md5.digest() + bytes(8), blocks, [b"\7"] * 1024, original=1 << 30, paged=True)
        with scratch() as folder:
            (folder / "m.bs").write_bytes(data)
            for command in (["verify", "m.bs"], ["info", "m.bs"], ["decompress", "m.bs", "-o", "out"]):
                status, said, _, memory = measured(*command, cwd=folder)
                self.assertEqual(status, 0, f"{command} {said}")
                self.assertLess(memory - EMPTY, MEMORY_MAX, command)
            self.assertEqual(sha256(folder / "out"), sha.hexdigest())

    def test_order_holes_and_what_repeats_itself(self):
        data = bytes(range(100))
        two = dict(files=file_record(200, 2), receipts=bytes(32) + receipt(data) * 2, blocks=block(data, 100, 0), coded=[data], original=200, features=1)
        spans = lambda first, second: span(length=100, repeats=first) + span(name=b"v", length=100, repeats=second)
        self.refused("repeats itself", image(**two, spans=spans(0, 2)))
        self.refused("repeats a later one", image(**two, spans=spans(2, 0)))
        self.refused("repeats nothing", image(**two, spans=spans(0, 77)))
        self.refused("repeats another length", image(**two | {"files": file_record(150, 2), "original": 150}, spans=span(length=100) + span(name=b"v", length=50, repeats=1)))
        tables = dict(two, features=2, spans=span(length=100) + span(name=b"v", length=100), blocks=block(data, 100, 0) * 2, coded=[data, data])
        for of in (1, 2, 3, 99):
            self.refused(f"tables of {of}", image(**tables | {"receipts": bytes(32) + receipt(data) + receipt(data, 0, of)}))
        good = image(file_record(100), span(length=100), bytes(32) + receipt(data), block(data, 100, 0), [data], original=100)
        self.refused("cut off", good[:-1])
        self.refused("goes on", good + b"x")
        self.refused("half", good[:len(good) // 2])
        self.refused("a hole", image(file_record(100), span(length=100), bytes(32) + receipt(data), block(data, 100, 0), [data, b"hole"], original=100))
        self.refused("no data", image(file_record(100), span(length=100), bytes(32) + receipt(data), block(data, 100, 0), [], original=100, data_len=0))
        parts = [section(1, file_record(100)), section(2, span(length=100)), section(3, bytes(32) + receipt(data)), section(4, block(data, 100, 0))]
        for name, sections in (("disorder", parts[::-1]), ("a section twice", parts[:2] + parts[1:]), ("a section missing", parts[:3]), ("unknown and required", parts + [section(99, b"x")]),
                               ("left over", parts[:3] + [section(4, block(data, 100, 0) * 2)]), ("longer than the index", parts[:3] + [section(4, block(data, 100, 0), stored=1 << 62)])):
            self.refused(name, image(b"", b"", b"", b"", [data], original=100, sections=b"".join(sections)))

    def test_names_that_are_paths(self):
        data = b"text"
        for path in (b"../up", b"/etc/x", b"a/../../x", b"a//b", b"a/", b".", b"..", b"a\0b", b"a\\b", b"x" * 256, b"\xff\xfe"):
            self.refused(ascii(path), image(file_record(4, path=path), span(2, length=4), bytes(32) + receipt(data), block(data, 4, 0), [data], original=4, kind=1))
        for first, second in ((b"b", b"a"), (b"a", b"a"), (b"a", b"a/b")):
            self.refused(f"{first} {second}", image(file_record(4, path=first) + file_record(4, path=second), span(2, length=4) * 2, bytes(64) + receipt(data) * 2, block(data, 4, 0) * 2,
                                                    [data, data], original=8, kind=1, count=2))
        for suffix in (b"../x", b"/x", b".a/b", b".\0", b".\x1b[2J"):
            self.refused(ascii(suffix), one_span(data, data, 0, suffix=suffix))
        # names of tensors are data: shown without what a terminal would obey, and nothing is called by them
        with scratch() as folder:
            for name in (b"../../etc/passwd", b"line\nbreak", b"\x1b[2J", "\u202egnp.exe".encode(), b"con", b"a/b"):
                spans = span(name=name, length=4)
                (folder / "n.bs").write_bytes(image(file_record(4), spans, hashlib.sha256(data).digest() + receipt(data), block(data, 4, 0), [data], original=4))
                for command in (["info", "-t"], ["stat"], ["verify"], ["diff", "n.bs"]):
                    done = subprocess.run([PROGRAM, *command, "n.bs"], cwd=folder, capture_output=True, text=True)
                    self.assertIn(done.returncode, {0, 2})
                    self.assertTrue(all(c.isprintable() or c == "\n" for c in done.stdout + done.stderr), ascii(done.stdout))
            self.assertEqual(os.listdir(folder), ["n.bs"])

    def test_streams_of_any_bytes(self):
        source = random.Random(5)
        for codec in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17):
            for length, coded in ((1 << 16, 1 << 14), (1 << 16, 1 << 16), (4096, 100), (1000, 0)):
                stream = source.randbytes(coded)
                tables = source.randbytes(600)
                dtype, width = {3: (b"BF16", 2), 4: (b"BF16", 2), 5: (b"F16", 2), 6: (b"F32", 4)}.get(codec, (b"U8", 1))
                with self.subTest(codec=codec, length=length), scratch() as folder:
                    (folder / "bad.bs").write_bytes(one_span(source.randbytes(length), stream, codec, tables=tables, dtype=dtype, shape=[length // width]))
                    status, said = self.harmless(folder, ["decompress", "bad.bs", "-o", "out"])
                    self.assertIn("bad.bs", said)
                    self.assertFalse((folder / "out").exists())

    def test_codecs_and_versions_that_nobody_knows(self):
        data = bytes(range(100))
        for codec, version in ((11, 1), (18, 1), (200, 1), (255, 255), (0, 0), (0, 2), (4, 3), (4, 255)):
            self.refused(f"codec {codec} version {version}", one_span(data, data, codec, version=version))
        self.refused("version of the format", image(file_record(100), span(length=100), bytes(32) + receipt(data), block(data, 100, 0), [data], original=100, version=2))
        for bit in (2, 5, 63):
            self.refused(f"feature {bit}", one_span(data, data, 0, features=1 << bit))

    def test_blocks_of_another_length(self):
        data = bytes(range(100))
        self.refused("raw, shorter", one_span(data, data[:50], 0))
        self.refused("raw, longer", one_span(data, data + data, 0))
        self.refused("zstd, shorter", one_span(data, zstd_raw(data[:99]), 2))
        self.refused("zstd, longer", one_span(data, zstd_raw(data + b"x"), 2))
        self.refused("zstd, and then some", one_span(data, zstd_raw(data) + b"x", 2))
        # a right block in a file whose receipts are others' is told by verify, and never restored
        with scratch() as folder:
            (folder / "m.bs").write_bytes(one_span(data, zstd_raw(data), 2))
            self.assertEqual(measured("verify", "m.bs", cwd=folder)[0], 1)
            self.assertEqual(measured("decompress", "m.bs", "-o", "out", cwd=folder)[0], 4)
            self.assertFalse((folder / "out").exists())

    def test_bases_are_no_paths(self):
        data = bytes(range(100))
        with scratch() as folder:
            os.mkfifo(folder / "pipe")
            for place in (b"/dev/zero", b"/etc/passwd", b"../" * 30 + b"etc/passwd", b"pipe", b"\xff" * 100, b"x" * 5000, b"\x1b[2J"):
                extra = section(5, struct.pack("<I", 1) + bytes(range(32)) + struct.pack("<I", 0) + struct.pack("<I", 1)) + section(6, place, 0)
                (folder / "d.bs").write_bytes(image(file_record(100), span(length=100), bytes(32) + receipt(data), block(data, 0, 12), [], original=100, extra=extra))
                for words in (["decompress", "d.bs", "-o", "out"], ["verify", "d.bs"], ["decompress", "d.bs", "-o", "out", "--base", folder]):
                    status, _ = self.harmless(folder, words)
                    self.assertIn(status, {1, 5})
        for name, bases in (("more than there are", struct.pack("<I", (1 << 32) - 1)), ("of nothing", struct.pack("<II", 0, 9)),
                            ("a long name", struct.pack("<I", 1) + bytes(32) + struct.pack("<I", (1 << 32) - 1) + struct.pack("<I", 1))):
            self.refused(name, image(file_record(100), span(length=100), bytes(32) + receipt(data), block(data, 0, 12), [], original=100, extra=section(5, bases)))

    def test_a_file_that_shrinks_while_it_is_read(self):
        with scratch() as folder:
            blocks = [random.Random(n).randbytes(1 << 16) for n in range(64)]
            whole = b"".join(blocks)
            data = image(file_record(len(whole)), span(length=len(whole), shift=16), hashlib.sha256(whole).digest() + receipt(whole), b"".join(block(b, len(b), 0) for b in blocks),
                         blocks, original=len(whole))
            path = folder / "m.bs"
            path.write_bytes(data)
            (folder / "good.bs").write_bytes(GOOD)
            with mounted(folder, "--cache", "1m") as mount, open(mount / "m.safetensors", "rb", buffering=0) as file:
                self.assertEqual(file.read(1 << 16), blocks[0])
                os.truncate(path, 200_000)
                with self.assertRaises(OSError):
                    os.pread(file.fileno(), 1 << 16, 50 << 16)
                self.assertEqual((mount / "good").read_bytes(), GOOD_DATA)

    def test_headers_that_safetensors_refuses(self):
        deep = b"[" * 1_000_000 + b"]" * 1_000_000
        entry = b'"t%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
        cases = {
            "a length near 2^64": b"\xff" * 8 + b"{}",
            "longer than the file": struct.pack("<Q", 99_999_999) + b"{}",
            "deep": struct.pack("<Q", len(deep)) + deep,
            "deep in an entry": struct.pack("<Q", len(deep) + 6) + b'{"a":' + deep + b"}",
            "twenty megabytes of blanks": struct.pack("<Q", 20_000_000) + b" " * 20_000_000,
            "a name twice": safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"xy"),
            "overlaps": safetensors(b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}', b"xyz"),
            "a hole": safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}', b"xyz"),
            "a product that overflows": safetensors(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}', b"wxyz"),
            "no JSON": safetensors(b"\xff\xfe\x00", b""),
        }
        for name, data in cases.items():
            with self.subTest(name), scratch() as folder:
                (folder / "m.safetensors").write_bytes(data)
                self.harmless(folder, ["compress", "m.safetensors"])
                self.assertEqual(os.listdir(folder), ["m.safetensors"])
                for command in ("scan", "stat", "xray"):
                    self.harmless(folder, [command, "m.safetensors"], refused=False)
                # as plain bytes it comes back as it is, and verify says what it is
                bigsmall("compress", "--opaque", folder / "m.safetensors")
                said = bigsmall("verify", folder / "m.bs").stdout
                self.assertIn("plain bytes", said)
                bigsmall("decompress", folder / "m.bs", "-o", folder / "out")
                self.assertEqual((folder / "out").read_bytes(), data)
        many = b"{" + b",".join(entry % n for n in range(200_000)) + b"}"
        with scratch() as folder:
            (folder / "m.safetensors").write_bytes(safetensors(many, b""))
            status, said, seconds, _ = measured("compress", "m.safetensors", cwd=folder)
            self.assertIn(status, {0} | REFUSALS, said)
            self.assertLess(seconds, SECONDS_MAX)

    def test_files_of_the_python_package(self):
        def package(tensors, blob=b"", prefix=None):
            header = json.dumps({"tensors": tensors}).encode()
            return b"BGSM" + struct.pack("<HI", 1, len(header) if prefix is None else prefix) + header + blob

        def tensor(**changes):
            return {"name": "t", "shape": [1000], "dtype": "bfloat16", "codec": "raw", "special": None, "compressed_bytes": 0, "offset": 0, "md5": "0" * 32, "extra": None} | changes
        frame = zstd_of_zeros(1 << 30)
        ten = [tensor(name=f"t{n}", shape=[500_000_000], codec="zstd", compressed_bytes=len(frame)) for n in range(10)]
        coded = random.Random(3).randbytes(10_000)
        cases = {
            "a shape of 2^60": package([tensor(shape=[1 << 60])]),
            "a shape that overflows": package([tensor(shape=[1 << 40, 1 << 40])]),
            "a header of 4 GB": package([], prefix=(1 << 32) - 1),
            "bytes that are not there": package([tensor(compressed_bytes=1 << 50)]),
            "an offset near 2^64": package([tensor(offset=U64, compressed_bytes=10)]),
            "tied to itself": package([tensor(codec="tied_ref", special="tied", extra={"tied_to": "t"})]),
            "tied to nothing": package([tensor(codec="tied_ref", special="tied", extra={"tied_to": "no"})]),
            "a gigabyte of zeros": package([tensor(shape=[1 << 29], codec="zstd", compressed_bytes=len(frame))], frame),
            "ten gigabytes of them": package(ten, frame),
            "as many zeros as are read at once": package([tensor(name=f"t{n}", shape=[20 << 20], codec="zstd", compressed_bytes=10_240) for n in range(8)], zstd_of_zeros(40 << 20).ljust(10_240, b"x")),
            "a codec of its research": package([tensor(codec="a5_sparsity")]),
            "no md5": package([tensor(md5=None)]),
            "deep": b"BGSM" + struct.pack("<HI", 1, 200_000) + b"[" * 200_000,
        }
        for codec, dtype in (("bf16_se_ac", "bfloat16"), ("bf16_se_rans", "bfloat16"), ("fp16_se_ac", "float16"), ("fp32_se_ac", "float32"), ("fp8_cat_ac", "uint8"),
                             ("bf16_native_f32", "float32"), ("zstd", "uint8")):
            for shape in ([100], [8 << 20], [1 << 28]):
                cases[f"{codec} of noise for {shape}"] = package([tensor(name=f"t{n}", codec=codec, dtype=dtype, shape=shape, compressed_bytes=len(coded)) for n in range(4)], coded)
                # counts that make every symbol free
                free = struct.pack("<IH", 1 << 28, 1) + struct.pack("<H", 120) + struct.pack("<I", (1 << 32) - 1) + struct.pack("<I", 8) + bytes(8) + bytes(5000)
                cases[f"{codec} of nothing for {shape}"] = package([tensor(name=f"t{n}", codec=codec, dtype=dtype, shape=shape, compressed_bytes=len(free)) for n in range(4)], free)
        for name, data in cases.items():
            with self.subTest(name), scratch() as folder:
                (folder / "old.bs").write_bytes(data)
                self.harmless(folder, ["import", "old.bs"])
                self.harmless(folder, ["migrate", "old.bs"])
                self.harmless(folder, ["verify", "old.bs"])
                self.assertEqual(os.listdir(folder), ["old.bs"])

    def test_parity_of_something_else(self):
        with scratch() as folder:
            (folder / "good.bs").write_bytes(GOOD)
            bigsmall("protect", folder / "good.bs")
            whole = bytearray((folder / "good.bs.par").read_bytes())
            for at, kind, value in ((12, "<I", (1 << 32) - 1), (12, "<I", 1), (16, "<Q", U64), (16, "<Q", 1 << 60), (24, "<I", (1 << 32) - 1), (28, "<I", (1 << 32) - 1), (32, "<Q", U64), (8, "<H", 9), (10, "<B", 7)):
                with self.subTest(at=at, value=value):
                    bad = bytearray(whole)
                    struct.pack_into(kind, bad, at, value)
                    struct.pack_into("<Q", bad, 248, xxh3(bytes(bad[:248])))
                    bad[-256:] = bad[:256]
                    (folder / "good.bs.par").write_bytes(bad)
                    (folder / "good.bs").write_bytes(GOOD[:-1])
                    self.harmless(folder, ["repair", "good.bs"])
                    self.assertEqual((folder / "good.bs").read_bytes(), GOOD[:-1])
                    self.harmless(folder, ["verify", "good.bs"])


def walk(path):
    return [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]


def safetensors(header, data):
    return struct.pack("<Q", len(header)) + header + data


def zstd_raw(data):
    """A frame of one raw block, with its content size."""
    return struct.pack("<IB", 0xFD2FB528, 0x20) + bytes([len(data)]) + (len(data) << 3 | 1).to_bytes(3, "little") + data


def zstd_of_zeros(n):
    """A frame of zeros: blocks of 128 KiB that repeat one byte, four bytes each."""
    count = n >> 17
    # a single segment would need a window of its own size: one of 1 MiB is named instead
    head = struct.pack("<IBB", 0xFD2FB528, 0xC0, 10 << 3) + struct.pack("<Q", n)
    blocks = b"".join(((1 << 17) << 3 | 2 | (number == count - 1)).to_bytes(3, "little") + b"\0" for number in range(count))
    return head + blocks


GOOD_DATA = bytes(range(256)) * 300
GOOD = image(file_record(len(GOOD_DATA)), span(2, length=len(GOOD_DATA)), hashlib.sha256(GOOD_DATA).digest() + receipt(GOOD_DATA), block(GOOD_DATA, len(GOOD_DATA), 0), [GOOD_DATA],
             original=len(GOOD_DATA), suffix=b"")


if __name__ == "__main__":
    unittest.main()
