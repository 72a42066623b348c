"""Files that the Python package of the same name writes here and now, in its first and its last release, imported.

BIGSMALL_PACKAGE_VENV  a venv with what the package needs, and in it `1.0.1` and `4.0.0`, the releases; scripts/test makes it.
"""
import os
import random
import subprocess
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from common import MINI_LLAMA, bigsmall, minilm, mounted, reference, scratch, sha256

VENV = os.environ.get("BIGSMALL_PACKAGE_VENV")
RELEASES = ("1.0.1", "4.0.0")


def package(release, *words):
    """Runs the command line of a release."""
    venv = Path(VENV)
    code = "import sys; from bigsmall.cli import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": str(venv / release), "BIGSMALL_DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([venv / "bin/python", "-c", code, *map(str, words)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{release}: {done.stderr[-2000:]}")


@unittest.skipUnless(VENV, "BIGSMALL_PACKAGE_VENV is not set: scripts/test sets it")
class Releases(unittest.TestCase):
    def imported(self, folder, original, release, *words, base=()):
        old, new, restored = folder / "old.bs", folder / "new.bs", folder / "restored.safetensors"
        package(release, "compress", original, "-o", old, *words)
        bigsmall("import", old, "-o", new, "--force", *base)
        bigsmall("verify", new)
        bigsmall("decompress", new, "-o", restored, "--force")
        return restored

    def check(self, restored, original):
        ours, theirs = reference(restored), reference(original)
        self.assertEqual(ours.keys(), theirs.keys())
        for name, (dtype, shape, data) in theirs.items():
            self.assertEqual(ours[name][:2], (dtype, shape), name)
            self.assertEqual(ours[name][2].tobytes(), data.tobytes(), name)
        # and what the safetensors library wrote is the same file again
        self.assertEqual(sha256(restored), sha256(original))

    def test_models_of_every_kind(self):
        with scratch() as folder:
            tensors = load_file(MINI_LLAMA / "model.safetensors")
            made = {"bf16": MINI_LLAMA / "model.safetensors", "minilm-f32": minilm("f32")}
            for name, dtype in (("f16", torch.float16), ("f32", torch.float32), ("fp8", torch.float8_e4m3fn)):
                made[name] = folder / f"{name}.safetensors"
                save_file({k: v.to(dtype) for k, v in tensors.items()}, made[name], metadata={"of": name})
            made["odd"] = folder / "odd.safetensors"
            save_file({"flags": torch.arange(900) % 3 == 0, "numbers": torch.arange(700), "tied a": tensors["model.embed_tokens.weight"].clone(),
                       "tied b": tensors["model.embed_tokens.weight"].clone(), "small": torch.ones(5).bfloat16(), "few": (torch.arange(4000) % 5).bfloat16()}, made["odd"])
            for release in RELEASES:
                for name, original in made.items():
                    if name == "minilm-f32" and release == RELEASES[0]:
                        continue  # the same codecs as f32, and slow
                    with self.subTest(release=release, model=name):
                        self.check(self.imported(folder, original, release), original)

    # docs/semantics.md: A file of the Python package is shown as the safetensors file that it stands for, and decoded a
    # tensor at a time.
    def test_a_mount_shows_them_a_tensor_at_a_time(self):
        with scratch() as folder:
            library = folder / "library"
            library.mkdir()
            original = folder / "large.safetensors"
            torch.manual_seed(3)
            # larger than the cache of the mount, each tensor and all of them
            save_file({f"t{n}": (torch.randn(3_000_000) * 0.02).bfloat16() for n in range(6)}, original)
            names = {}
            for release in RELEASES:
                for name, path in (("mini", MINI_LLAMA / "model.safetensors"), ("large", original)):
                    package(release, "compress", path, "-o", library / f"{name}-{release}.bs")
                    names[f"{name}-{release}.safetensors"] = path
            bigsmall("compress", original, "-o", library / "ours.bs")
            with mounted(library, "--cache", "4m") as mount:
                self.assertEqual(sorted(os.listdir(mount)), sorted([*names, "ours.safetensors"]))
                for name, path in names.items():
                    self.assertEqual((mount / name).stat().st_size, path.stat().st_size)
                    # forwards as a whole, then here and there by several at once
                    self.assertEqual(sha256(mount / name), sha256(path), name)
                    with ThreadPoolExecutor(4) as pool, open(mount / name, "rb") as ours, open(path, "rb") as theirs:
                        places = random.Random(1).sample(range(path.stat().st_size), 40)
                        same = pool.map(lambda at: os.pread(ours.fileno(), 5000, at) == os.pread(theirs.fileno(), 5000, at), places)
                        self.assertTrue(all(same))
                loaded, wanted = load_file(mount / "large-4.0.0.safetensors"), load_file(original)
                self.assertTrue(all(torch.equal(loaded[name], tensor) for name, tensor in wanted.items()))
                del loaded  # it maps the file
            # what is wrong with one is told of that one
            damaged = bytearray((library / "large-4.0.0.bs").read_bytes())
            damaged[len(damaged) // 2] ^= 4
            (library / "large-4.0.0.bs").write_bytes(damaged)
            with mounted(library) as mount:
                with self.assertRaises(OSError):
                    sha256(mount / "large-4.0.0.safetensors")
                self.assertEqual(sha256(mount / "large-1.0.1.safetensors"), sha256(original))

    def test_differences_with_their_base_and_no_other(self):
        with scratch() as folder:
            base, tuned = MINI_LLAMA / "model.safetensors", folder / "tuned.safetensors"
            tensors = load_file(base)
            save_file({k: (v.float() * (1 + 1e-3 * torch.randn_like(v.float()))).to(v.dtype) for k, v in tensors.items()}, tuned)
            other = folder / "other.safetensors"
            save_file({k: v + 1 for k, v in tensors.items()}, other)
            for release in RELEASES:
                with self.subTest(release=release):
                    restored = self.imported(folder, tuned, release, "--base", base, base=("--base", base))
                    self.check(restored, tuned)
                    bigsmall("import", folder / "old.bs", "-o", folder / "not.bs", expect=5)
                    bigsmall("import", folder / "old.bs", "-o", folder / "not.bs", "--base", other, expect=4)
                    self.assertFalse((folder / "not.bs").exists())


if __name__ == "__main__":
    unittest.main()
