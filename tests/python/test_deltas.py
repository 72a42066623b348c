"""Fine-tunes stored as differences from their base: made, mounted, loaded, and with the base wrong or gone."""
import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import unittest
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}

import numpy as np
import safetensors.torch
import torch
import transformers

from common import MINI_LLAMA, bigsmall, contents, decode, mounted, reference, scratch, sha256

BASE = MINI_LLAMA / "model.safetensors"
EMBEDDINGS = "model.embed_tokens.weight"
WAIT = 10  # seconds after which something is held not to happen any more
# what each of the processes runs that load through a mount at once
LOADER = """
import sys, torch, transformers
torch.set_num_threads(1)
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()
length = {"max_new_tokens": 20, "min_new_tokens": 20}
tokens = model.generate(torch.arange(3, 11)[None], do_sample=False, pad_token_id=0, **length)
print(tokens[0].tolist())
"""


def setUpModule():
    transformers.utils.logging.disable_progress_bar()
    # digests of the files that are made here are nothing to keep
    os.environ["XDG_CACHE_HOME"] = str(unittest.enterModuleContext(scratch()))
    unittest.addModuleCleanup(os.environ.pop, "XDG_CACHE_HOME")


# ---------------------------------------------------------------- models
def load(folder=MINI_LLAMA):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


def merge_lora(model, seed: int, rank=8, share=0.01) -> list[str]:
    """Adds B @ A to the projections in float32 and rounds, as merging an adapter does; gives the names of the changed.

    Weights move by `share` of their deviation."""
    generator, changed = torch.Generator().manual_seed(seed), []
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith("_proj"):
            rows, columns = layer.weight.shape
            update = torch.randn(rows, rank, generator=generator) @ torch.randn(rank, columns, generator=generator)
            weight = layer.weight.data.float()
            update *= share * weight.std() / update.std()
            layer.weight.data = (weight + update).to(layer.weight.dtype)
            changed.append(f"{name}.weight")
    return changed


def save_lora(folder: Path, seed: int, share=0.01) -> list[str]:
    """A folder with a fine-tune of mini-llama."""
    model = load()
    changed = merge_lora(model, seed, share=share)
    model.save_pretrained(folder)
    return changed


def save_index(folder: Path, names, file: str):
    """Says that the tensors of these names are in the one file."""
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, file)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_values(path: Path, values: np.ndarray):
    """The base with other values, which are rounded to bf16."""
    data = BASE.read_bytes()
    header = data[:8 + int.from_bytes(data[:8], "little")]
    bits = (values.astype("<f4").view("<u4") + 0x7FFF + (values.astype("<f4").view("<u4") >> 16 & 1)) >> 16
    path.write_bytes(header + bits.astype("<u2").tobytes())


def base_values() -> np.ndarray:
    """All weights of mini-llama, one behind another, in float32."""
    data = BASE.read_bytes()
    bits = np.frombuffer(data, "<u2", offset=8 + int.from_bytes(data[:8], "little"))
    return (bits.astype("<u4") << 16).view("<f4")


def flip_a_bit(path: Path, tensor: str):
    """Changes the lowest bit in the middle of a tensor."""
    data = bytearray(path.read_bytes())
    at = place_of(path, tensor)
    data[(at.start + at.stop) // 4 * 2] ^= 1
    path.write_bytes(data)


def place_of(path: Path, tensor: str) -> range:
    """Where the bytes of a tensor are in a file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    start, end = json.loads(data[8:8 + size])[tensor]["data_offsets"]
    return range(8 + size + start, 8 + size + end)


# ---------------------------------------------------------------- images and mounts
def compress(source: Path, output: Path, *options) -> dict:
    return json.loads(bigsmall("compress", source, "-o", output, *options, "--json").stdout)


def spans_of(image: Path) -> dict:
    """Name -> what `info` says of each span of an image of one file."""
    images = json.loads(bigsmall("info", image, "--tensors", "--json").stdout)["images"]
    return {span["name"]: span for span in images[0]["files"][0]["spans"]}


def pieces(path: Path, size=65536):
    """Offset and bytes of every piece of a file, None for bytes that cannot be read; without the page cache."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        assert error.errno == errno.EIO, error
        yield from ((at, None) for at in range(0, path.stat().st_size, size))
        return
    try:
        yield from pieces_of(fd, 0, size)
    finally:
        os.close(fd)


def pieces_of(fd: int, start: int, size=65536):
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    for at in range(start, os.fstat(fd).st_size, size):
        try:
            yield at, os.pread(fd, size, at)
        except OSError as error:
            assert error.errno == errno.EIO, error
            yield at, None


def until(condition, what: str):
    """Waits for a condition; gives what it gave."""
    end = time.monotonic() + WAIT
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {WAIT} s")
        time.sleep(0.05)
    return found


class LoraMerge(unittest.TestCase):
    """A merged adapter, with rank 8 in all projections."""

    @classmethod
    def setUpClass(cls):
        folder = cls.enterClassContext(scratch())
        cls.changed = save_lora(folder / "lora", seed=1)
        cls.original = folder / "lora/model.safetensors"
        cls.alone, cls.image, cls.copy = folder / "alone.bs", folder / "lora.bs", folder / "copy"
        compress(cls.original, cls.alone)
        compress(cls.original, cls.image, "--base", MINI_LLAMA)

    def test_weights_moved_by_about_a_hundredth_of_their_deviation(self):
        tensors, base = safetensors.torch.load_file(self.original), safetensors.torch.load_file(BASE)
        self.assertEqual(len(self.changed), 4 * 7)
        for name in self.changed:
            moved = (tensors[name].float() - base[name].float()).std() / base[name].float().std()
            self.assertGreater(moved, 0.008, name)
            self.assertLess(moved, 0.013, name)

    def test_image_is_well_smaller_than_that_of_the_fine_tune_alone(self):
        small, alone = self.image.stat().st_size, self.alone.stat().st_size
        self.assertLess(small, 0.5 * alone)

    def test_tensors_that_were_not_merged_cost_no_bytes(self):
        spans = spans_of(self.image)
        self.assertEqual({name for name in spans if spans[name]["base"] is None}, {"(header)"})
        for name in spans.keys() - {*self.changed, "(header)"}:
            self.assertEqual((list(spans[name]["codecs"]), spans[name]["coded_bytes"]), (["same"], 0), name)
        self.assertIn(EMBEDDINGS, spans)
        for name in self.changed:
            self.assertEqual(list(spans[name]["codecs"]), ["delta"], name)

    def test_apply_and_decompress_give_the_same_bytes(self):
        bigsmall("apply", MINI_LLAMA, self.image, "-o", self.copy)
        self.assertEqual(sha256(self.copy), sha256(self.original))
        bigsmall("decompress", self.image, "--base", BASE, "-o", self.copy, "--force")
        self.assertEqual(sha256(self.copy), sha256(self.original))

    def test_second_decoder_gives_the_same_bytes(self):
        with scratch() as folder:
            decode(self.image, folder / "copy", BASE)
            self.assertEqual(sha256(folder / "copy"), sha256(self.original))

    def test_base_may_be_an_image_of_any_profile(self):
        with scratch() as folder:
            for profile in ("balanced", "inference", "storage"):
                base = folder / f"{profile}.bs"
                compress(BASE, base, "--profile", profile)
                bigsmall("apply", base, self.image, "-o", folder / "first", "--force")
                decode(self.image, folder / f"second-{profile}", base)
                for copy in ("first", f"second-{profile}"):
                    self.assertEqual(sha256(folder / copy), sha256(self.original), (profile, copy))

    def test_without_its_base_nothing_comes_out(self):
        with scratch() as folder:
            alone = folder / "lora.bs"
            shutil.copy(self.image, alone)
            bigsmall("decompress", alone, "-o", folder / "copy", expect=5)
            decode(alone, folder / "copy", expect=5)
            shutil.copy(BASE, folder / "other.safetensors")
            flip_a_bit(folder / "other.safetensors", EMBEDDINGS)
            bigsmall("apply", folder / "other.safetensors", alone, "-o", folder / "copy", expect=5)
            decode(alone, folder / "copy", folder / "other.safetensors", expect=5)
            self.assertFalse((folder / "copy").exists())


class OtherFloats(unittest.TestCase):
    DTYPES = {"F32": torch.float32, "F16": torch.float16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}

    def test_both_decoders_restore_every_dtype_and_any_bits(self):
        folder, generator = self.enterContext(scratch()), torch.Generator().manual_seed(4)
        base, tuned = {}, {}
        for name, dtype in self.DTYPES.items():
            values = torch.randn(300, 1001, generator=generator)
            base[name] = values.to(dtype)
            tuned[name] = (values * (1 + 1e-3 * torch.randn(values.shape, generator=generator))).to(dtype)
            bits = tuned[name].view(torch.uint8)
            some = torch.rand(bits.shape, generator=generator) < 1e-3  # also NaN, infinities and far away
            bits[some] = torch.randint(256, bits.shape, generator=generator, dtype=torch.uint8)[some]
        safetensors.torch.save_file(base, folder / "base.safetensors")
        safetensors.torch.save_file(tuned, folder / "ft.safetensors")
        compress(folder / "ft.safetensors", folder / "ft.bs", "--base", folder / "base.safetensors")
        for name in self.DTYPES:
            self.assertIn("delta", spans_of(folder / "ft.bs")[name]["codecs"], name)
        bigsmall("apply", folder / "base.safetensors", folder / "ft.bs", "-o", folder / "first")
        decode(folder / "ft.bs", folder / "second", folder / "base.safetensors")
        for copy in ("first", "second"):
            self.assertEqual(sha256(folder / copy), sha256(folder / "ft.safetensors"), copy)


class Chain(unittest.TestCase):
    def test_both_decoders_restore_the_end_of_a_chain_of_four(self):
        """Each image has the one before as its base, which is a delta itself."""
        folder, values = self.enterContext(scratch()), base_values()
        generator, before = np.random.default_rng(9), None
        for i in range(5):
            write_values(folder / f"{i}.safetensors", values)
            options = ("--base", before) if before else ()
            before = folder / f"images/{i}.bs"
            before.parent.mkdir(exist_ok=True)
            compress(folder / f"{i}.safetensors", before, *options)
            values = values + generator.standard_normal(values.shape) * (0.01 * np.abs(values) + 3e-4)
        for i in (1, 4):
            image, original = folder / f"images/{i}.bs", folder / f"{i}.safetensors"
            self.assertEqual(spans_of(image)[EMBEDDINGS]["codecs"].keys(), {"delta"})
            bigsmall("decompress", image, "-o", folder / "first", "--base", folder / "images", "--force")
            decode(image, folder / f"second-{i}", folder / "images")
            for copy in ("first", f"second-{i}"):
                self.assertEqual(sha256(folder / copy), sha256(original), (i, copy))


class FineTunes(unittest.TestCase):
    """Five fine-tunes of one base, spread over files in five ways, in one tree with it."""
    NAMES = ("plain", "shards", "renamed", "untied", "extra")

    @classmethod
    def setUpClass(cls):
        folder = cls.enterClassContext(scratch())
        cls.originals, cls.tree = folder / "originals", folder / "tree"
        shutil.copytree(MINI_LLAMA, cls.originals / "base")
        for seed, name in enumerate(cls.NAMES, 10):
            cls.save(cls.originals / name, seed)
        cls.tree.mkdir()
        compress(cls.originals / "base", cls.tree / "base")
        for name in cls.NAMES:
            compress(cls.originals / name, cls.tree / name, "--base", cls.originals / "base")

    @staticmethod
    def save(folder: Path, seed: int):
        """A fine-tune, whose files are as the name of its folder says."""
        model, kind = load(), folder.name
        merge_lora(model, seed, share=0.1)
        if kind == "untied":  # a head of its own, with the bytes of the embeddings
            model.config.tie_word_embeddings = False
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.save_pretrained(folder, max_shard_size="1100KB" if kind == "shards" else "5GB")
        if kind == "renamed":
            (folder / "model.safetensors").rename(folder / "weights-of-today.safetensors")
            save_index(folder, reference(folder / "weights-of-today.safetensors"), "weights-of-today.safetensors")
        if kind == "extra":
            added = {"value_head.weight": torch.randn(4, 128, generator=torch.Generator().manual_seed(seed))}
            safetensors.torch.save_file(added, folder / "value_head.safetensors")

    def test_they_are_what_their_names_say(self):
        names = {name: sorted(p.name for p in (self.originals / name).glob("*.safetensors")) for name in self.NAMES}
        self.assertEqual(names, {
            "plain": ["model.safetensors"], "renamed": ["weights-of-today.safetensors"],
            "shards": ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "untied": ["model.safetensors"], "extra": ["model.safetensors", "value_head.safetensors"]})
        untied = reference(self.originals / "untied/model.safetensors")
        self.assertTrue(np.array_equal(untied["lm_head.weight"][2], untied[EMBEDDINGS][2]))
        self.assertNotIn("lm_head.weight", reference(self.originals / "plain/model.safetensors"))

    def test_each_is_small(self):
        for name in self.NAMES:
            images = sum(p.stat().st_size for p in (self.tree / name).glob("*.bs"))
            originals = sum(p.stat().st_size for p in (self.originals / name).glob("*.safetensors"))
            self.assertLess(images, 0.5 * originals, name)

    def test_head_and_embeddings_are_stored_once(self):
        """The base has no head; whichever of the two comes first in the file serves both."""
        spans = spans_of(self.tree / "untied/model.bs")
        self.assertEqual([spans[name]["repeats"] for name in (EMBEDDINGS, "lm_head.weight")].count(None), 1)

    def test_every_mounted_file_is_the_original(self):
        with mounted(self.tree) as mount:
            self.assertEqual(contents(mount), contents(self.originals))

    def test_second_decoder_restores_shards_and_the_untied(self):
        with scratch() as folder:
            for name in ("shards", "untied"):
                for image in sorted((self.tree / name).glob("*.bs")):
                    copy = folder / f"{name}-{image.stem}"
                    decode(image, copy, self.tree / "base")
                    expected = self.originals / name / f"{image.stem}.safetensors"
                    self.assertEqual(sha256(copy), sha256(expected), copy.name)

    def test_five_processes_at_once_load_and_generate_the_same_tokens(self):
        with mounted(self.tree) as mount:
            loaders = [subprocess.Popen([sys.executable, "-c", LOADER, mount / name], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                       for name in self.NAMES]
            outputs = [loader.communicate() for loader in loaders]
        for name, loader, (output, errors) in zip(self.NAMES, loaders, outputs):
            self.assertEqual(loader.returncode, 0, f"{name}: {errors[-2000:]}")
        found = {name: json.loads(output) for name, (output, _) in zip(self.NAMES, outputs)}
        self.assertEqual(found, {name: self.tokens(self.originals / name) for name in self.NAMES})
        self.assertGreater(len({*map(tuple, found.values())}), 1)  # fine-tunes say different things

    @staticmethod
    def tokens(folder: Path) -> list[int]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the other processes, so that the same sums are made in the same order
        try:
            found = load(folder).generate(torch.arange(3, 11)[None], max_new_tokens=20, min_new_tokens=20,
                                          do_sample=False, pad_token_id=0)
        finally:
            torch.set_num_threads(threads)
        return found[0].tolist()


class ChangedBases(unittest.TestCase):
    """What a mount shows of a fine-tune while its base is another, or not there."""

    @classmethod
    def setUpClass(cls):
        cls.models = cls.enterClassContext(scratch())
        # every tensor changes, so that nothing can be read without the base
        values = base_values()
        noise = np.random.default_rng(5).standard_normal(values.shape) * (0.01 * np.abs(values) + 1e-3)
        write_values(cls.models / "ft.safetensors", values + noise)
        write_values(cls.models / "wrong.safetensors", values + 3 * noise[::-1])
        compress(cls.models / "ft.safetensors", cls.models / "ft.bs", "--base", BASE)
        compress(cls.models / "wrong.safetensors", cls.models / "other.bs")
        cls.expected = (cls.models / "ft.safetensors").read_bytes()

    def setUp(self):
        self.tree = self.enterContext(scratch())
        self.log = self.enterContext(scratch()) / "log"
        for name in ("ft.bs", "other.bs"):
            shutil.copy(self.models / name, self.tree / name)
        self.base = self.tree / "base.safetensors"
        self.place(BASE)

    def place(self, model: Path):
        """Puts a model where the base is, all at once."""
        shutil.copy(model, self.tree / "new")
        (self.tree / "new").rename(self.base)

    def mount(self) -> Path:
        return self.enterContext(mounted(self.tree, "--log", self.log))

    def check(self, found) -> int:
        """Every piece is right or none at all; gives how many could not be read."""
        unread = 0
        for at, data in found:
            unread += data is None
            if data is not None:
                self.assertEqual(data, self.expected[at:at + len(data)], f"wrong bytes at {at}")
                self.assertTrue(data)
        return unread

    def check_other(self, mount: Path):
        """The daemon lives, and another file is whole."""
        self.assertEqual(sha256(mount / "other.safetensors"), sha256(self.models / "wrong.safetensors"))

    def logged(self, *words: str):
        until(lambda: any(all(word in line for word in words) for line in self.log.read_text().splitlines()),
              f"a line with {words} in the log")

    def check_whole_again(self, mount: Path):
        """With the right base back the file is readable without a new mount."""
        self.place(BASE)
        until(lambda: self.check(pieces(mount / "ft.safetensors")) == 0, "the file is whole again")

    def check_replaced(self, replace):
        """A base that changes between two reads."""
        mount = self.mount()
        half = len(self.expected) // 2 // 65536 * 65536
        with open(mount / "ft.safetensors", "rb", buffering=0) as file:
            first = list(itertools.takewhile(lambda piece: piece[0] < half, pieces_of(file.fileno(), 0)))
            self.assertEqual(self.check(first), 0)
            replace()
            self.check(pieces_of(file.fileno(), half))
            self.check(pieces_of(file.fileno(), 0))
        self.check(pieces(mount / "ft.safetensors"))
        self.check_other(mount)
        self.assertEqual((mount / "ft.safetensors").stat().st_size, len(self.expected))
        fresh = self.enterContext(mounted(self.tree))
        self.assertEqual(sha256(fresh / "base.safetensors"), sha256(self.models / "wrong.safetensors"))
        found = list(pieces(fresh / "ft.safetensors"))
        self.assertGreaterEqual(self.check(found), len(found) - 1)  # the header needs no base
        self.check_other(fresh)
        self.check_whole_again(fresh)
        self.check_whole_again(mount)

    # docs/semantics.md: A base that is replaced by another file while it is mounted gives right bytes or an error.
    def test_base_replaced_by_another_file(self):
        self.check_replaced(lambda: self.place(self.models / "wrong.safetensors"))

    # docs/semantics.md: A base that is overwritten where it lies gives right bytes or an error.
    def test_base_overwritten_where_it_is(self):
        def overwrite():
            with open(self.base, "r+b") as file:
                file.write((self.models / "wrong.safetensors").read_bytes())

        self.check_replaced(overwrite)

    def test_base_cut_off_where_it_is(self):
        mount = self.mount()
        with open(mount / "ft.safetensors", "rb", buffering=0) as file:
            self.assertEqual(self.check(pieces_of(file.fileno(), 0)), 0)
            os.truncate(self.base, 100_000)
            self.check(pieces_of(file.fileno(), 0))
        self.check(pieces(mount / "ft.safetensors"))
        self.check_other(mount)

    def test_base_that_differs_in_one_bit(self):
        flip_a_bit(self.base, EMBEDDINGS)
        mount = self.mount()
        path = mount / "ft.safetensors"
        self.assertEqual(path.stat().st_size, len(self.expected))
        place = place_of(self.models / "ft.safetensors", EMBEDDINGS)
        found = list(pieces(path))
        self.check(found)
        for at, data in found:
            if place.start < at + 65536 and at < place.stop:
                self.assertIsNone(data, f"bytes at {at}, which stand on another base")
        self.logged(EMBEDDINGS, str(self.tree))
        self.check_other(mount)
        self.check_whole_again(mount)

    # docs/semantics.md: A base that is missing is told of in the log by tensor and place, and found without a new
    # mount when it comes.
    def test_base_that_is_missing(self):
        self.base.unlink()
        mount = self.mount()
        path = mount / "ft.safetensors"
        self.assertEqual(path.stat().st_size, len(self.expected))
        found = list(pieces(path))
        self.assertGreaterEqual(self.check(found), len(found) - 1)
        self.logged("ft.bs", "base tensor `model.", str(self.tree))
        self.check_other(mount)
        self.check_whole_again(mount)


class Series(unittest.TestCase):
    """Six checkpoints, each a step from the one before."""
    COUNT = 6

    @classmethod
    def setUpClass(cls):
        folder = cls.enterClassContext(scratch())
        cls.steps, cls.series = folder / "steps", folder / "series"
        cls.save(cls.steps, lambda values: 0.01 * np.abs(values) + 3e-4)
        bigsmall("compress", cls.steps, "--series", cls.series)

    @classmethod
    def save(cls, folder: Path, step_of):
        """Checkpoints of a walk whose steps are as wide as `step_of` says."""
        generator, values = np.random.default_rng(6), base_values()
        for i in range(cls.COUNT):
            checkpoint = folder / f"checkpoint-{i}00"
            checkpoint.mkdir(parents=True)
            shutil.copy(MINI_LLAMA / "config.json", checkpoint)
            (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": 100 * i}))
            write_values(checkpoint / "model.safetensors", values)
            values = values + generator.standard_normal(values.shape) * step_of(values)

    def images(self, series: Path) -> list[Path]:
        found = sorted(series.rglob("*.bs"))
        self.assertEqual(len(found), self.COUNT)
        return found

    def own_copy(self) -> Path:
        copy = self.enterContext(scratch()) / "series"
        shutil.copytree(self.series, copy)
        return copy

    def test_later_steps_are_small(self):
        sizes = [image.stat().st_size for image in self.images(self.series)]
        self.assertLess(max(sizes[1:]), 0.6 * sizes[0])

    def test_every_mounted_file_is_the_original(self):
        with mounted(self.series) as mount:
            self.assertEqual(contents(mount), contents(self.steps))

    def test_steps_that_leave_some_tensors_alone(self):
        """Norms near 1 stay as they are when the step is smaller than their last bit."""
        with scratch() as folder:
            width = 0.003 * base_values().std()
            self.save(folder / "steps", lambda values: width)
            norms = [reference(folder / f"steps/checkpoint-{i}00/model.safetensors")["model.norm.weight"][2].tobytes()
                     for i in range(self.COUNT)]
            self.assertEqual(len({*norms}), 1)
            bigsmall("compress", folder / "steps", "--series", folder / "series")
            with mounted(folder / "series") as mount:
                self.assertEqual(contents(mount), contents(folder / "steps"))

    def test_removal_of_what_others_stand_on_is_refused(self):
        series = self.own_copy()
        first = self.images(series)[0]
        bigsmall("rm", first, expect=2)
        self.assertTrue(first.exists())

    def test_removal_is_refused_if_the_series_is_named(self):
        series = self.own_copy()
        first = self.images(series)[0]
        bigsmall("rm", first, "--among", series, expect=2)
        self.assertTrue(first.exists())

    def test_removal_of_the_last_step_leaves_the_others(self):
        series = self.own_copy()
        last = self.images(series)[-1]
        bigsmall("rm", last, "--among", series)
        self.assertFalse(last.exists())
        bigsmall("verify", series)

    def test_verify_tells_of_steps_whose_base_is_gone(self):
        series = self.own_copy()
        bigsmall("verify", series)
        first, *others = self.images(series)
        os.remove(first)
        report = json.loads(bigsmall("verify", series, "--json", expect=1).stdout)
        faults = {image["path"] for image in report["images"] if not image["ok"]}
        self.assertEqual(faults, {str(other) for other in others})


class AutoDelta(unittest.TestCase):
    def test_right_base_is_found_among_decoys_and_restores(self):
        folder = self.enterContext(scratch())
        models, values = folder / "models", base_values()
        for name in ("a-stranger", "the-base", "another-base"):
            (models / name).mkdir(parents=True)
        noise = np.random.default_rng(7).standard_normal(values.shape)
        write_values(models / "a-stranger/model.safetensors", np.float32(values.std()) * noise)
        shutil.copy(BASE, models / "the-base/model.safetensors")
        write_values(models / "another-base/model.safetensors", values * (1 + 0.3 * noise))
        shorter = {"model.embed_tokens.weight": torch.randn(100, 128).bfloat16()}
        safetensors.torch.save_file(shorter, models / "another-shape.safetensors")
        save_lora(folder / "lora", seed=3)
        original, image = folder / "lora/model.safetensors", folder / "lora.bs"
        report = compress(original, image, "--auto-delta", "--base-dir", models)
        self.assertEqual(Path(report["auto_base"]["base"]), models / "the-base/model.safetensors")
        self.assertLess(image.stat().st_size, 0.3 * original.stat().st_size)
        bigsmall("decompress", image, "--base", models, "-o", folder / "copy")
        self.assertEqual(sha256(folder / "copy"), sha256(original))
        decode(image, folder / "second", models)
        self.assertEqual(sha256(folder / "second"), sha256(original))

    def test_without_a_base_the_model_stands_alone(self):
        folder = self.enterContext(scratch())
        (folder / "models").mkdir()
        noise = np.random.default_rng(8).standard_normal(base_values().shape)
        write_values(folder / "models/stranger.safetensors", noise)
        report = compress(BASE, folder / "alone.bs", "--auto-delta", "--base-dir", folder / "models")
        self.assertIsNone(report["auto_base"]["base"])
        bigsmall("decompress", folder / "alone.bs", "-o", folder / "copy")
        self.assertEqual(sha256(folder / "copy"), sha256(BASE))


if __name__ == "__main__":
    unittest.main()
