"""A folder converted and mounted over itself: unmodified programs find every path as it was, and write as before."""
import contextlib
import gc
import os
import shutil
import subprocess
import sys
import unittest
import unittest.mock
from pathlib import Path

from safetensors.numpy import load_file, save_file
import numpy as np
import transformers

from common import MINI_LLAMA, bigsmall, listing, run, scratch, sha256
from test_clients import parameters

REVISION, MODEL = "0123456789abcdef0123456789abcdef01234567", "models--test--mini"


@contextlib.contextmanager
def in_place(folder: Path, is_mounted=False):
    """Mounts `folder` over itself, unless it is so already."""
    if not is_mounted:
        bigsmall("mount", folder)
    try:
        yield folder
        gc.collect()
        bigsmall("unmount", folder)
    finally:
        subprocess.run(["umount", "-l", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class HubCache(unittest.TestCase):
    """A cache of the Hugging Face hub: its blobs have no extension."""

    def setUp(self):
        self.home = self.enterContext(scratch())
        self.hub = self.home / "hub"
        for part in ("blobs", "refs", f"snapshots/{REVISION}"):
            (self.hub / MODEL / part).mkdir(parents=True)
        (self.hub / MODEL / "refs/main").write_text(REVISION)
        for path in MINI_LLAMA.iterdir():
            blob = sha256(path)
            shutil.copy(path, self.hub / MODEL / "blobs" / blob)
            (self.hub / MODEL / "snapshots" / REVISION / path.name).symlink_to(f"../../blobs/{blob}")
        self.before = listing(self.hub)
        self.enterContext(unittest.mock.patch.dict(os.environ, HF_HUB_CACHE=str(self.hub)))

    def test_cache_is_converted_used_and_restored(self):
        bigsmall("convert", "--hf-cache", "--yes", "--min-age", "0")
        image, = self.hub.rglob("*.bs")
        self.assertEqual(image.stem, sha256(MINI_LLAMA / "model.safetensors"))
        with in_place(self.hub):
            model = transformers.AutoModelForCausalLM.from_pretrained(
                "test/mini", cache_dir=self.hub, local_files_only=True, dtype="auto")
            expected = transformers.AutoModelForCausalLM.from_pretrained(MINI_LLAMA, dtype="auto")
            self.assertEqual(parameters(model), parameters(expected))
            del model
            # a download goes on as before: a lock, a file that grows, a name at its end
            lock = self.hub / ".locks/other.lock"
            lock.parent.mkdir()
            self.locked(lock)
            part = self.hub / MODEL / "blobs/abc.incomplete"
            part.write_bytes(b"a" * 1000)
            with open(part, "ab") as f:
                f.write(b"b" * 1000)
            part.rename(part.with_suffix(""))
            self.assertEqual(part.with_suffix("").read_bytes(), b"a" * 1000 + b"b" * 1000)
        part.with_suffix("").unlink()
        shutil.rmtree(lock.parent)
        bigsmall("restore", "--hf-cache", "--yes")
        after = listing(self.hub)
        # folders have other times: something was made in them and removed again
        files = lambda found: {path: what for path, what in found.items() if what[2] != "folder"}
        self.assertEqual(files(after), files(self.before))

    def locked(self, lock: Path):
        """Two processes that want one lock get it one after the other."""
        line = ("import fcntl,sys,time; f=open(sys.argv[1],'w'); fcntl.flock(f,fcntl.LOCK_EX|fcntl.LOCK_NB); "
                "print('held',flush=True); sys.stdin.read()")
        with subprocess.Popen([sys.executable, "-c", line, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True) as first:
            self.assertEqual(first.stdout.readline(), "held\n")
            run(sys.executable, "-c", line, lock, expect=1)
            first.stdin.close()
        run(sys.executable, "-c", line, lock)


class OwnFolder(unittest.TestCase):
    def test_programs_save_beside_and_load_from_converted_models(self):
        with scratch() as folder:
            models = folder / "models"
            shutil.copytree(MINI_LLAMA, models / "llama")
            original = sha256(models / "llama/model.safetensors")
            bigsmall("convert", models, "--yes", "--min-age", "0")
            self.assertFalse((models / "llama/model.safetensors").exists())
            with in_place(models):
                self.assertEqual(sha256(models / "llama/model.safetensors"), original)
                tensors = {"w": np.arange(5000, dtype=np.float32)}
                save_file(tensors, models / "llama/new.safetensors")
                np.testing.assert_array_equal(load_file(models / "llama/new.safetensors")["w"], tensors["w"])
                run("cp", "-r", models / "llama", models / "copy")
                self.assertEqual(sha256(models / "copy/model.safetensors"), original)
                run("rsync" if shutil.which("rsync") else "cp", "-a", models / "llama", models / "again")
                run("rm", "-r", models / "copy", models / "again")
                with open(models / "notes.txt", "w") as f:
                    f.write("kept")
            self.assertEqual((models / "notes.txt").read_text(), "kept")
            self.assertTrue((models / "llama/new.safetensors").exists())
            bigsmall("restore", models, "--yes")
            self.assertEqual(sha256(models / "llama/model.safetensors"), original)


if __name__ == "__main__":
    unittest.main()
