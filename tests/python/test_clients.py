"""What programs read from a mount is what they read from the original files."""
import errno
import gc
import hashlib
import mmap
import os
import random
import shutil
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}

import numpy as np
import safetensors.torch
import torch
import transformers
from safetensors import safe_open

from common import (COPY_LIMIT, MINI_LLAMA, SEED, bigsmall, listing, minilm, models, mounted, reference, run,
                    scratch, sha256, shell)

TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
         "I64": torch.int64}


def setUpModule():
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # so that the same sums are made in the same order
    torch.use_deterministic_algorithms(True)


def tearDownModule():
    torch.use_deterministic_algorithms(False)


def raw(tensor) -> np.ndarray:
    """The bytes of a tensor of torch or numpy."""
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.frombuffer(tensor.tobytes(), np.uint8)


def digest(tensor) -> str:
    return hashlib.sha256(raw(tensor)).hexdigest()


def parameters(model) -> dict:
    return {k: (str(p.dtype), list(p.shape), digest(p)) for k, p in model.state_dict().items()}


def drop_cache(path: Path):
    """Lets the kernel forget the pages of a file, so that the next reader asks the mount again."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


class FileChecks:
    """The checks of mounted model files.  Each test has a mount of its own, so no pages are cached before."""

    @staticmethod
    def source() -> Path:
        """The original: one file, or a folder."""
        raise NotImplementedError

    @classmethod
    def setUpClass(cls):
        cls.original = cls.source()
        cls.images = cls.enterClassContext(scratch()) / "images"
        if cls.original.is_dir():
            bigsmall("compress", cls.original, "-o", cls.images)
        else:
            cls.images.mkdir()
            bigsmall("compress", cls.original, "-o", cls.images / (cls.original.stem + ".bs"))

    def setUp(self):
        self.mount = self.enterContext(mounted(self.images))

    def pairs(self) -> list[tuple[Path, Path]]:
        """Each mounted file, with its original."""
        found = sorted(self.mount.glob("*.safetensors"))
        if not self.original.is_dir():
            self.assertEqual([p.name for p in found], [self.original.name])
            return [(found[0], self.original)]
        originals = sorted(self.original.glob("*.safetensors"))
        self.assertEqual([p.name for p in found], [p.name for p in originals])
        return list(zip(found, originals))

    def check_tensors(self, found, original: Path):
        """`found`, pairs of name and tensor, is all that the original holds."""
        expected, names = reference(original), []
        for name, tensor in found:
            dtype, shape, data = expected[name]
            self.assertEqual((tensor.dtype, list(tensor.shape)), (TORCH[dtype], shape), name)
            self.assertTrue(np.array_equal(raw(tensor), data), name)
            names.append(name)
        self.assertEqual(sorted(names), sorted(expected))

    def test_load_file_gives_every_tensor(self):
        for path, original in self.pairs():
            self.check_tensors(safetensors.torch.load_file(path).items(), original)

    def test_load_of_the_bytes_gives_every_tensor(self):
        for path, original in self.pairs():
            self.check_tensors(safetensors.torch.load(path.read_bytes()).items(), original)

    def test_safe_open_for_torch_gives_every_tensor_and_the_metadata(self):
        for path, original in self.pairs():
            with safe_open(path, "pt") as file, safe_open(original, "pt") as other:
                self.assertEqual(file.metadata(), other.metadata())
                self.assertEqual(file.offset_keys(), other.offset_keys())
                self.check_tensors(((k, file.get_tensor(k)) for k in file.keys()), original)

    def test_safe_open_for_numpy_gives_every_tensor_numpy_has_a_type_for(self):
        """And fails as on the original for the others (BF16 and fp8)."""
        def get(file, name):
            try:
                return file.get_tensor(name)
            except (AttributeError, TypeError) as error:
                return error

        for path, original in self.pairs():
            with safe_open(path, "np") as file, safe_open(original, "np") as other:
                for name, (dtype, shape, data) in reference(original).items():
                    found, expected = get(file, name), get(other, name)
                    if isinstance(expected, Exception):
                        self.assertEqual(repr(found), repr(expected), name)
                        self.assertNotIn(dtype, ("F32", "F16", "I64"))
                    else:
                        self.assertEqual((found.dtype, list(found.shape)), (expected.dtype, shape), name)
                        self.assertTrue(np.array_equal(raw(found), data), name)

    def test_slices_of_rows_make_up_every_tensor(self):
        """Last piece first, as several processes that each take a share of the rows would."""
        def in_pieces(file, name):
            part = file.get_slice(name)
            shape = part.get_shape()
            if not shape or shape[0] < 2:
                return file.get_tensor(name)
            step = max(1, shape[0] // 3)
            pieces = [part[i:i + step] for i in reversed(range(0, shape[0], step))]
            return torch.cat(pieces[::-1])

        for path, original in self.pairs():
            with safe_open(path, "pt") as file:
                self.check_tensors(((k, in_pieces(file, k)) for k in file.keys()), original)

    # docs/semantics.md: Private and shared mappings show the same bytes as reads.
    def test_mappings_private_and_shared_are_the_file(self):
        for path, original in self.pairs():
            expected = np.memmap(original, np.uint8, "r")
            for kind in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
                drop_cache(path)
                with open(path, "rb") as file:
                    with mmap.mmap(file.fileno(), 0, flags=kind, prot=mmap.PROT_READ) as found:
                        view = np.frombuffer(found, np.uint8)
                        pages = np.arange(0, view.size, mmap.PAGESIZE)
                        np.random.default_rng(SEED).shuffle(pages)
                        self.assertTrue(np.array_equal(view[pages], expected[pages]))  # in any order
                        self.assertTrue(np.array_equal(view, expected))
                        del view

    def test_writing_to_a_private_mapping_leaves_the_file_alone(self):
        for path, original in self.pairs():
            with open(path, "rb") as file:
                with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE,
                               prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
                    mapping[:100] = bytes(100)
                    self.assertEqual(mapping[:100], bytes(100))
                self.assertEqual(os.pread(file.fileno(), 100, 0), original.read_bytes()[:100])

    def places(self, size: int, count: int):
        """Offsets and lengths: about the usual limits, then at random."""
        limits = (0, 1, 4096, 128 << 10, 1 << 20, size // 2, size)
        edges = sorted({x + d for x in limits for d in (-1, 0, 1) if 0 <= x + d <= size + 1})
        places = [(at, length) for at in edges for length in (1, 2, 4095, 4096, 4097, 131071, 131073)]
        places += [(at, end - at) for at in edges for end in edges if at < end and end - at < 3 << 20]
        g = random.Random(SEED)
        places += [(g.randrange(size), int(2 ** g.uniform(0, 20))) for _ in range(count)]
        g.shuffle(places)
        return places

    def check_reads(self, path: Path, original: Path, count: int, threads=1):
        expected = np.memmap(original, np.uint8, "r")
        places = self.places(expected.size, count)
        fd = os.open(path, os.O_RDONLY)
        try:
            with ThreadPoolExecutor(threads) as pool:
                found = pool.map(lambda place: os.pread(fd, place[1], place[0]), places)
                wrong = [(at, length) for (at, length), data in zip(places, found, strict=True)
                         if data != expected[at:at + length].tobytes()]
            self.assertEqual(wrong, [], "reads (offset, length) with other bytes")
            self.assertEqual(os.pread(fd, 10, expected.size), b"")
            self.assertEqual(os.pread(fd, 10, 1 << 60), b"")
        finally:
            os.close(fd)

    def test_pread_anywhere_gives_the_bytes_there(self):
        for path, original in self.pairs():
            self.check_reads(path, original, 300)

    def test_pread_from_eight_threads_gives_the_bytes_there(self):
        for path, original in self.pairs():
            self.check_reads(path, original, 300, threads=8)

    def pipes(self, *lines):
        """Each line of bash writes the file $F to its output; that is compared with the original."""
        for path, original in self.pairs():
            for line in lines:
                with self.subTest(line, file=path.name):
                    drop_cache(path)
                    shell(f"{{ {line}; }} | cmp - \"$R\"", F=path, D=path.parent, N=path.name, R=original)

    def test_cat_dd_head_and_tail_give_the_file(self):
        self.pipes('cat "$F"', 'cat < "$F"', 'dd if="$F" bs=4k status=none', 'dd if="$F" bs=1M status=none',
                   'dd if="$F" bs=777777 status=none', 'dd if="$F" bs=16M status=none', 'tail -c +1 "$F"',
                   'head -c 1000003 "$F"; tail -c +1000004 "$F"')

    # docs/semantics.md: `O_DIRECT` reads the same bytes.
    def test_direct_reads_give_the_file(self):
        """O_DIRECT, which passes by the page cache; also sizes that no block or page is a multiple of."""
        self.pipes('dd if="$F" bs=1M iflag=direct status=none', 'dd if="$F" bs=64k iflag=direct status=none',
                   'dd if="$F" bs=56320 iflag=direct status=none')

    # docs/semantics.md: The room that a file says to take is that of its logical length, so that no archiver takes it
    # for sparse.
    def test_tar_packs_the_file(self):
        """With -S tar asks for holes, of which it must find none."""
        self.pipes('tar -cf - -C "$D" "$N" | tar -xOf -', 'tar -cSf - -C "$D" "$N" | tar -xOf -')

    def test_cmp_sha256sum_and_stat_agree(self):
        for path, original in self.pairs():
            run("cmp", path, original)
            drop_cache(path)
            expected = run("sha256sum", original).stdout.split()[0]
            self.assertEqual(run("sha256sum", path).stdout.split()[0], expected)
            self.assertEqual(path.stat().st_size, original.stat().st_size)
            with open(path, "rb") as file:
                size = original.stat().st_size
                self.assertEqual((os.lseek(file.fileno(), 0, os.SEEK_DATA),
                                  os.lseek(file.fileno(), 0, os.SEEK_HOLE)), (0, size))

    def test_copies_are_the_file(self):
        for path, original in self.pairs():
            if original.stat().st_size > COPY_LIMIT:
                continue
            for line in ('cp "$F" "$T"', 'cp --sparse=always "$F" "$T"', 'cp --reflink=auto "$F" "$T"'):
                with self.subTest(line, file=path.name), scratch() as folder:
                    drop_cache(path)
                    shell(line, F=path, T=folder / "x")
                    run("cmp", folder / "x", original)
            with scratch() as folder:
                drop_cache(path)
                shutil.copyfile(path, folder / "x")
                run("cmp", folder / "x", original)


class MiniLlama(FileChecks, unittest.TestCase):
    source = staticmethod(lambda: MINI_LLAMA)

    def test_the_whole_folder_is_the_same_tree(self):
        run("diff", "-r", "--no-dereference", self.mount, self.original)

    # docs/semantics.md: A cache of no size serves the same bytes, only slower.
    def test_a_cache_of_no_size_still_gives_the_bytes(self):
        with mounted(self.images, "--cache", "0") as mount:
            self.check_reads(mount / "model.safetensors", MINI_LLAMA / "model.safetensors", 100, threads=4)

    def test_every_way_to_write_is_refused_as_on_a_read_only_file_system(self):
        path, new = self.mount / "model.safetensors", self.mount / "new"
        before = listing(self.mount)
        with open(path, "rb") as file:
            for name, write in {
                "write": lambda: os.open(path, os.O_WRONLY), "update": lambda: os.open(path, os.O_RDWR),
                "append": lambda: os.open(path, os.O_WRONLY | os.O_APPEND),
                "truncate by open": lambda: os.open(path, os.O_RDONLY | os.O_TRUNC),
                "truncate": lambda: os.truncate(path, 0), "unlink": lambda: os.unlink(path),
                "create": lambda: os.open(new, os.O_CREAT | os.O_WRONLY), "mkdir": lambda: os.mkdir(new),
                "rename": lambda: os.rename(path, new), "link": lambda: os.link(path, new),
                "symlink": lambda: os.symlink("x", new), "chmod": lambda: os.chmod(path, 0o777),
                "fchmod": lambda: os.fchmod(file.fileno(), 0o777), "utime": lambda: os.utime(path),
                "setxattr": lambda: os.setxattr(path, "user.a", b"b"), "copied file": lambda: os.chmod(
                    self.mount / "config.json", 0o777), "write copied": lambda: os.open(
                    self.mount / "config.json", os.O_WRONLY)}.items():
                with self.subTest(name), self.assertRaises(OSError) as caught:
                    write()
                self.assertEqual(errno.errorcode[caught.exception.errno], "EROFS", name)
            with self.assertRaises(PermissionError):  # a file opened for reading: EACCES on any file system
                mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self.assertEqual(listing(self.mount), before)


class LlamaShards(FileChecks, unittest.TestCase):
    source = staticmethod(lambda: models() / "llama-bf16")

    def test_the_whole_folder_is_the_same_tree(self):
        """Both shards, the index and the configuration."""
        run("diff", "-r", "--no-dereference", self.mount, self.original)


class MiniLmF32(FileChecks, unittest.TestCase):
    source = staticmethod(lambda: minilm("f32"))


class MiniLmBf16(FileChecks, unittest.TestCase):
    source = staticmethod(lambda: minilm("bf16"))


class MiniLmF16(FileChecks, unittest.TestCase):
    source = staticmethod(lambda: minilm("f16"))


class MiniLmFp8(FileChecks, unittest.TestCase):
    source = staticmethod(lambda: minilm("fp8e4m3"))


class EdgeFolder(unittest.TestCase):
    def test_mounted_mirror_is_the_same_tree(self):
        """All edge files, links as links."""
        edge = models() / "edge"
        with scratch() as folder:
            bigsmall("compress", edge, "-o", folder / "mirror")
            with mounted(folder / "mirror") as mount:
                run("diff", "-r", "--no-dereference", edge, mount)

    def test_mounted_image_of_the_folder_is_what_it_decompresses_to(self):
        with scratch() as folder:
            bigsmall("compress", models() / "edge", "-o", folder / "edge.bs")
            bigsmall("decompress", folder / "edge.bs", "-o", folder / "copy")
            with mounted(folder / "edge.bs") as mount:
                run("diff", "-r", "--no-dereference", folder / "copy", mount)


class Transformers(unittest.TestCase):
    """Models load from a mount with the same parameters, and compute and write the same."""

    @classmethod
    def setUpClass(cls):
        cls.expected = {}
        cls.folder = cls.enterClassContext(scratch())
        (cls.folder / "mirrors").mkdir()
        (cls.folder / "images").mkdir()
        for source in (MINI_LLAMA, models() / "llama-bf16"):
            cls.expected[source.name] = cls.outcome(source)
            bigsmall("compress", source, "-o", cls.folder / "mirrors" / source.name)
            bigsmall("compress", source, "-o", cls.folder / "images" / f"{source.name}.bs")

    @staticmethod
    def outcome(folder: Path) -> dict:
        """Parameters, logits and, with a tokenizer, the text that a model in `folder` goes on with."""
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        found = {"parameters": parameters(model)}
        ids = torch.arange(3, 11)[None]
        with torch.no_grad():
            if (folder / "tokenizer.json").exists():
                tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
                ids = tokenizer("def main(", return_tensors="pt").input_ids
                tokens = model.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=0)[0]
                found |= {"tokens": tokens.tolist(), "text": tokenizer.decode(tokens)}
            found["logits"] = digest(model(ids).logits)
        return found

    def check(self, name: str, folder: Path):
        found = self.outcome(folder)
        gc.collect()
        self.assertEqual(found, self.expected[name])

    def test_the_originals_are_what_they_should_be(self):
        """The comparisons below have something to compare."""
        mini, shards = self.expected["mini-llama"], self.expected["llama-bf16"]
        self.assertIn("def main(", mini["text"])
        self.assertGreater(len(mini["tokens"]), 16)
        self.assertEqual(len(shards["parameters"]), 39)
        self.assertEqual({p[0] for p in shards["parameters"].values()}, {"torch.bfloat16"})

    def test_mini_llama_from_a_mirror(self):
        with mounted(self.folder / "mirrors/mini-llama") as mount:
            self.check("mini-llama", mount)

    def test_mini_llama_from_one_image_of_its_folder(self):
        with mounted(self.folder / "images/mini-llama.bs") as mount:
            self.check("mini-llama", mount)

    def test_shards_from_a_mirror(self):
        with mounted(self.folder / "mirrors/llama-bf16") as mount:
            self.check("llama-bf16", mount)

    def test_shards_from_one_image_of_their_folder(self):
        with mounted(self.folder / "images/llama-bf16.bs") as mount:
            self.check("llama-bf16", mount)

    def test_both_from_a_folder_of_images_of_folders(self):
        with mounted(self.folder / "images") as mount:
            for name in self.expected:
                with self.subTest(name):
                    self.check(name, mount / name)

    def test_both_from_a_folder_of_mirrors(self):
        with mounted(self.folder / "mirrors") as mount:
            for name in self.expected:
                with self.subTest(name):
                    self.check(name, mount / name)


class Training(unittest.TestCase):
    @staticmethod
    def train(folder: Path) -> list:
        """Ten steps on fixed tokens: the loss and every gradient of every step, then the parameters."""
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        generator, steps = torch.Generator().manual_seed(SEED), []
        for ids in torch.randint(0, model.config.vocab_size, (10, 2, 48), generator=generator):
            optimizer.zero_grad()
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            steps.append((loss.item().hex(), {k: digest(p.grad) for k, p in model.named_parameters()}))
            optimizer.step()
        return [*steps, {k: digest(p) for k, p in model.named_parameters()}]

    def test_ten_steps_of_training_have_the_same_losses_and_gradients(self):
        expected = self.train(MINI_LLAMA)
        self.assertEqual(len({loss for loss, _ in expected[:-1]}), 10)
        with scratch() as folder:
            bigsmall("compress", MINI_LLAMA, "-o", folder / "mirror")
            with mounted(folder / "mirror") as mount:
                found = self.train(mount)
        for i, (step, other) in enumerate(zip(found, expected, strict=True)):
            self.assertEqual(step, other, f"step {i}")


class HubCache(unittest.TestCase):
    """The layout of a cache of the Hugging Face hub: blobs named by hash, snapshots of links to them."""
    REVISION, MODEL = "0123456789abcdef0123456789abcdef01234567", "models--test--mini"

    def setUp(self):
        folder = self.enterContext(scratch())
        self.cache, self.mirror, self.copy = folder / "hub", folder / "mirror", folder / "copy"
        for part in ("blobs", "refs", f"snapshots/{self.REVISION}"):
            (self.cache / self.MODEL / part).mkdir(parents=True)
        (self.cache / self.MODEL / "refs/main").write_text(self.REVISION)
        self.snapshot = Path(self.MODEL, "snapshots", self.REVISION)
        for path in MINI_LLAMA.iterdir():
            blob = sha256(path)
            shutil.copy(path, self.cache / self.MODEL / "blobs" / blob)
            (self.cache / self.snapshot / path.name).symlink_to(f"../../blobs/{blob}")
        bigsmall("compress", self.cache, "-o", self.mirror)

    def test_only_the_model_became_an_image_and_links_stayed_links(self):
        image, = self.mirror.rglob("*.bs")
        self.assertEqual(image.relative_to(self.mirror),
                         Path(self.MODEL, "blobs", sha256(MINI_LLAMA / "model.safetensors") + ".bs"))
        for path in (self.cache / self.snapshot).iterdir():
            self.assertEqual((self.mirror / self.snapshot / path.name).readlink(), path.readlink())

    def test_mounted_cache_is_the_same_tree_and_reads_through_its_links(self):
        with mounted(self.mirror) as mount:
            run("diff", "-r", "--no-dereference", self.cache, mount)
            for path in MINI_LLAMA.iterdir():
                link = mount / self.snapshot / path.name
                self.assertTrue(link.is_symlink())
                self.assertEqual(sha256(link), sha256(path))

    def test_restored_cache_is_the_same_tree(self):
        bigsmall("decompress", self.mirror, "-o", self.copy)
        run("diff", "-r", "--no-dereference", self.cache, self.copy)

    def test_transformers_load_by_name_from_the_mounted_cache(self):
        expected = Transformers.outcome(MINI_LLAMA)["parameters"]
        with mounted(self.mirror) as mount:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                "test/mini", cache_dir=mount, local_files_only=True, dtype="auto")
            found = parameters(model)
            del model
        self.assertEqual(found, expected)


if __name__ == "__main__":
    unittest.main()
