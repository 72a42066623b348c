"""Disks that fail or are slow under a mount. The disk is itself a mount: one with a damaged block answers EIO there, as a failing
device does, and one whose worker is stopped does not answer at all."""
import contextlib
import errno
import json
import os
import signal
import subprocess
import threading
import time
import unittest
from pathlib import Path

from common import MINI_LLAMA, bigsmall, minilm, mounted, scratch, sha256

SLOW_S = 2.0
# what a read of another file may take meanwhile: far more than it does, far less than the disk takes
PROMPT_S = 0.5


def worker_of(mount) -> int:
    mounts = json.loads(bigsmall("mounts", "--json").stdout)["mounts"]
    return next(m for m in mounts if m["mountpoint"] == str(mount))["worker_pid"]


@contextlib.contextmanager
def disk(folder: Path, point: Path, spoil=lambda image: None):
    """Mounts an image of `folder` at `point`: a disk whose blocks are that image's, after `spoil` was at it."""
    image = folder.parent / f"{folder.name}.bs"
    bigsmall("compress", folder, "-o", image)
    spoil(image)
    point.mkdir()
    bigsmall("mount", image, point)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", point], check=True)


class FailingDisk(unittest.TestCase):
    def test_what_the_disk_cannot_read_is_an_error_and_nothing_else_is(self):
        with scratch() as folder:
            (folder / "files").mkdir()
            original = minilm("bf16")
            bigsmall("compress", original, "-o", folder / "files/m.bs")
            bigsmall("compress", MINI_LLAMA / "model.safetensors", "-o", folder / "files/other.bs")
            inner = (folder / "files/m.bs").read_bytes()

            def spoil(image):
                outer = image.read_bytes()
                # random payload is stored as it is, so it is found in the image of the image
                piece = inner[len(inner) // 2:len(inner) // 2 + 64]
                self.assertEqual(outer.count(piece), 1)
                with open(image, "r+b") as f:
                    f.seek(outer.index(piece))
                    f.write(bytes(64))

            with disk(folder / "files", folder / "disk", spoil):
                with self.assertRaises(OSError) as failed:
                    (folder / "disk/m.bs").read_bytes()
                self.assertEqual(failed.exception.errno, errno.EIO)
                with mounted(folder / "disk") as mount:
                    expected = original.read_bytes()
                    wrong = 0
                    with open(mount / "m.safetensors", "rb") as f:
                        for offset in range(0, len(expected), 65536):
                            try:
                                read = os.pread(f.fileno(), 65536, offset)
                                whole = expected[offset:offset + 65536]
                                # what lies before the bad place may come alone
                                self.assertEqual(read, whole[:len(read)])
                                wrong += len(read) < len(whole)
                            except OSError as error:
                                self.assertEqual(error.errno, errno.EIO)
                                wrong += 1
                    # one block of the disk, and the blocks that lie in it
                    self.assertGreater(wrong, 0)
                    self.assertLess(wrong, 24)
                    self.assertEqual(sha256(mount / "other.safetensors"), sha256(MINI_LLAMA / "model.safetensors"))
                    account = next(m for m in json.loads(bigsmall("mounts", "--json").stdout)["mounts"] if m["mountpoint"] == str(mount))["account"]
                    self.assertGreater(account["done"]["failed_reads"], 0)
                    self.assertEqual(account["worker_deaths"], 0)


class SlowDisk(unittest.TestCase):
    def test_a_slow_block_delays_nothing_but_who_wants_it(self):
        with scratch() as folder:
            (folder / "files").mkdir()
            original = minilm("bf16")
            bigsmall("compress", original, "-o", folder / "files/slow.bs")
            (folder / "source/near").mkdir(parents=True)
            bigsmall("compress", MINI_LLAMA / "model.safetensors", "-o", folder / "source/near/fast.bs")
            # a disk within the source
            with disk(folder / "files", folder / "source/disk"):
                with mounted(folder / "source", "--cache", "4m") as mount:
                    fast, whole = MINI_LLAMA / "model.safetensors", original.read_bytes()
                    slow = open(mount / "disk/slow.safetensors", "rb")
                    worker = worker_of(folder / "source/disk")
                    os.kill(worker, signal.SIGSTOP)
                    result, slowest = [], 0.0
                    try:
                        # more readers than the file may have of the daemon's threads
                        readers = [threading.Thread(target=lambda at=at: result.append(os.pread(slow.fileno(), 4096, at) == whole[at:at + 4096]))
                                   for at in range(1 << 20, 40 << 20, 1 << 20)]
                        begun = time.monotonic()
                        for reader in readers:
                            reader.start()
                        time.sleep(0.1)
                        while time.monotonic() - begun < SLOW_S:
                            step = time.monotonic()
                            with open(mount / "near/fast.safetensors", "rb") as f:
                                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                                self.assertEqual(f.read(), fast.read_bytes())
                            self.assertEqual(os.listdir(mount / "near"), ["fast.safetensors"])
                            slowest = max(slowest, time.monotonic() - step)
                        self.assertEqual(result, [])
                    finally:
                        os.kill(worker, signal.SIGCONT)
                    for reader in readers:
                        reader.join()
                    slow.close()
                    self.assertEqual(result, [True] * len(readers))
                    self.assertLess(slowest, PROMPT_S)


if __name__ == "__main__":
    unittest.main()
