"""Files and folders through `compress`, `verify` and `decompress`, and through the second decoder."""
import shutil
import unittest
from pathlib import Path

from common import (COPY_LIMIT, PROFILES, PROGRAM, bigsmall, contents, decode, edge_files, invalid_files,
                    listing, minilm, models, run, scratch, sha256, shell)

SMALL = 1_100_000  # files up to this size go through every profile


class Checks(unittest.TestCase):
    def check(self, source: Path, *options, second_decoder=True) -> int:
        """Compresses, verifies and restores `source` twice; gives the size of the image."""
        with scratch() as folder:
            image, copy = folder / "image.bs", folder / "copy"
            expected, before = sha256(source), source.stat()
            bigsmall("compress", *options, source, "-o", image)
            after = source.stat()
            self.assertEqual((before.st_mtime_ns, before.st_size, before.st_ino),
                             (after.st_mtime_ns, after.st_size, after.st_ino), "the source was touched")
            bigsmall("verify", image)
            if source.stat().st_size <= COPY_LIMIT:
                bigsmall("decompress", image, "-o", copy)
                self.assertEqual(sha256(copy), expected, "decompress gives other bytes")
                copy.unlink()
            else:
                found = shell('"$P" decompress -q "$I" -o - | sha256sum', P=PROGRAM, I=image)
                self.assertEqual(found.split()[0], expected, "decompress gives other bytes")
            if second_decoder:
                decode(image, copy)
                self.assertEqual(sha256(copy), expected, "the second decoder gives other bytes")
            self.assertEqual(sha256(source), expected, "the source was changed")
            return image.stat().st_size


class EdgeFiles(Checks):
    def test_every_edge_file_round_trips(self):
        for path in edge_files():
            with self.subTest(path.name):
                self.check(path)

    def test_small_edge_files_round_trip_in_every_profile(self):
        for path in edge_files():
            for profile in PROFILES:
                if path.stat().st_size <= SMALL:
                    with self.subTest(path.name, profile=profile):
                        self.check(path, "--profile", profile, second_decoder=profile != "balanced")

    def test_default_names_lead_there_and_back(self):
        """Without -o the image lies beside the file, and gives back the file's name, suffix or none."""
        edge = models() / "edge"
        blob = next((edge / "links/blobs").iterdir())
        spaces = next(edge.glob("UPPER CASE*"))
        for source, image in ((spaces, spaces.stem + ".bs"), (edge / "thin.safetensors", "thin.bs"),
                              (blob, blob.name + ".bs")):
            with self.subTest(source.name), scratch() as folder:
                copy = folder / source.name
                shutil.copy2(source, copy)
                bigsmall("compress", copy)
                self.assertEqual({p.name for p in folder.iterdir()}, {source.name, image})
                bigsmall("decompress", folder / image, expect=2)  # the file is there: not replaced
                copy.unlink()
                bigsmall("decompress", folder / image)
                self.assertEqual(sha256(copy), sha256(source))

    def test_an_image_of_another_file_is_replaced_only_where_it_is_named(self):
        source, other = models() / "edge/thin.safetensors", models() / "edge/unaligned.safetensors"
        with scratch() as folder:
            image = folder / "x.bs"
            bigsmall("compress", other, "-o", image)
            before = listing(folder)
            self.assertIn("x.bs", bigsmall("compress", source, "-o", image, expect=2).stderr)
            self.assertEqual(listing(folder), before)
            refused = bigsmall("compress", source, "-o", image, "--force", expect=2).stderr
            self.assertIn("--discard-image", refused)
            self.assertEqual(listing(folder), before)
            bigsmall("compress", source, "-o", image, "--discard-image", image)
            bigsmall("compress", source, "-o", image, "--force")
            bigsmall("decompress", image)
            self.assertEqual(sha256(folder / "x.safetensors"), sha256(source))

    def test_links_to_nothing_are_not_found(self):
        for name in ("dangling.safetensors", "loop.safetensors"):
            with self.subTest(name), scratch() as folder:
                done = bigsmall("compress", models() / "edge/links" / name, "-o", folder / "x.bs", expect=3)
                self.assertIn(name, done.stderr)
                self.assertEqual(listing(folder), {})


class Folders(Checks):
    def test_edge_folder_mirrored_and_restored_is_the_same_tree(self):
        """Blanks in names, links, blobs: the tree comes back as diff sees it, and links stay links."""
        edge = models() / "edge"
        with scratch() as folder:
            before = listing(edge)
            bigsmall("compress", edge, "-o", folder / "mirror")
            self.assertEqual(listing(edge), before, "the source was touched")
            link = "links/snapshots/rev1/model.safetensors"
            self.assertEqual((folder / "mirror" / link).readlink(), (edge / link).readlink())
            self.assertEqual(len(list(folder.rglob("*.bs"))), len({p.resolve() for p in edge_files()}))
            bigsmall("verify", folder / "mirror")
            bigsmall("decompress", folder / "mirror", "-o", folder / "copy")
            run("diff", "-r", "--no-dereference", edge, folder / "copy")

    def test_edge_folder_as_one_image_restores_every_file(self):
        """An image has no links: a link comes back as the file it leads to, a link to nothing not at all."""
        edge = models() / "edge"
        with scratch() as folder:
            image = folder / "edge.bs"
            bigsmall("compress", edge, "-o", image)
            bigsmall("verify", image)
            bigsmall("decompress", image, "-o", folder / "first")
            self.assertEqual(contents(folder / "first"), contents(edge))
            shutil.rmtree(folder / "first")
            decode(image, folder / "second")
            self.assertEqual(contents(folder / "second"), contents(edge))

    def test_folder_without_links_as_one_image_is_the_same_tree(self):
        with scratch() as folder:
            tree = folder / "tree"
            (tree / "a b/c").mkdir(parents=True)
            shutil.copytree(models() / "llama-bf16", tree / "llama")
            for name in ("thin", "no-tensors-bare", "names"):
                shutil.copy(models() / f"edge/{name}.safetensors", tree / "a b/c")
            (tree / "empty file.txt").touch()
            bigsmall("compress", tree, "-o", folder / "x.bs")
            bigsmall("decompress", folder / "x.bs", "-o", folder / "first")
            run("diff", "-r", "--no-dereference", tree, folder / "first")
            decode(folder / "x.bs", folder / "second")
            run("diff", "-r", "--no-dereference", tree, folder / "second")

    def test_two_files_that_want_one_image_name_both_come_back(self):
        """`model` and `model.safetensors`, both models, in one folder."""
        with scratch() as folder:
            tree = folder / "tree"
            tree.mkdir()
            shutil.copy(models() / "edge/thin.safetensors", tree / "model.safetensors")
            shutil.copy(models() / "edge/unaligned.safetensors", tree / "model")
            bigsmall("compress", tree, "-o", folder / "mirror")
            bigsmall("decompress", folder / "mirror", "-o", folder / "copy")
            run("diff", "-r", "--no-dereference", tree, folder / "copy")

    def test_mirror_with_a_bs_file_that_is_no_image_is_restored(self):
        """A file that only happens to be named .bs is copied, and does not keep the rest from coming back."""
        with scratch() as folder:
            tree = folder / "tree"
            tree.mkdir()
            shutil.copy(models() / "edge/thin.safetensors", tree / "model.safetensors")
            (tree / "notes.bs").write_text("no image\n")
            bigsmall("compress", tree, "-o", folder / "mirror")
            bigsmall("decompress", folder / "mirror", "-o", folder / "copy")
            run("diff", "-r", "--no-dereference", tree, folder / "copy")


class InvalidFiles(Checks):
    def test_refused_by_name_and_nothing_written(self):
        """Beside the file and elsewhere: exit status 2, the file is named, no folder changes."""
        with scratch() as folder:
            shutil.copytree(models() / "invalid", folder / "in")
            (folder / "out").mkdir()
            # its tensors are whole: those are coded as such
            (folder / "in/trailing-byte.safetensors").unlink()
            before = listing(folder)
            for path in sorted((folder / "in").iterdir()):
                with self.subTest(path.name):
                    self.assertIn(path.name, bigsmall("compress", path, expect=2).stderr)
                    done = bigsmall("compress", path, "-o", folder / "out/x.bs", expect=2)
                    self.assertIn(path.name, done.stderr)
                    self.assertEqual(listing(folder), before)

    def test_bytes_after_the_last_tensor_are_kept(self):
        """The tensors are coded as tensors, with a warning, and the file comes back byte for byte."""
        path = models() / "invalid/trailing-byte.safetensors"
        with scratch() as folder:
            said = bigsmall("compress", path, "-o", folder / "x.bs").stderr
            self.assertIn("after the last tensor", said)
            bigsmall("decompress", folder / "x.bs")
            self.assertEqual(sha256(folder / "x.safetensors"), sha256(path))

    def test_folder_with_them_goes_on_and_names_them(self):
        """As a mirror and as one image: all bad files are named and kept as they are."""
        with scratch() as folder:
            shutil.copytree(models() / "invalid", folder / "in")
            shutil.copy(models() / "edge/thin.safetensors", folder / "in/a-good-file.safetensors")
            before = {path.name: sha256(path) for path in (folder / "in").iterdir()}
            for output in ("mirror", "image.bs"):
                with self.subTest(output):
                    done = bigsmall("compress", folder / "in", "-o", folder / output, expect=1)
                    for path in invalid_files():
                        self.assertIn(path.name, done.stderr)
                    self.assertNotIn("a-good-file", done.stderr)
                    back = folder / f"{output}-back"
                    bigsmall("decompress", folder / output, "-o", back)
                    self.assertEqual({p.name: sha256(p) for p in back.iterdir()}, before)

    def test_folder_with_them_is_refused_whole_if_asked(self):
        """With --strict, as a mirror and as one image: not even the good file is written."""
        with scratch() as folder:
            shutil.copytree(models() / "invalid", folder / "in")
            shutil.copy(models() / "edge/thin.safetensors", folder / "in/a-good-file.safetensors")
            before = listing(folder)
            for output in ("mirror", "image.bs"):
                with self.subTest(output):
                    done = bigsmall("compress", folder / "in", "-o", folder / output, "--strict", expect=2)
                    for path in invalid_files():
                        if path.name != "trailing-byte.safetensors":
                            self.assertIn(path.name, done.stderr)
                    self.assertNotIn("a-good-file", done.stderr)
                    self.assertEqual(listing(folder), before)

    def test_opaque_round_trips(self):
        for path in invalid_files():
            with self.subTest(path.name):
                self.check(path, "--opaque")

    def test_opaque_folder_round_trips(self):
        invalid = models() / "invalid"
        with scratch() as folder:
            for output, copy in (("mirror", "copy1"), ("image.bs", "copy2")):
                with self.subTest(output):
                    bigsmall("compress", "--opaque", invalid, "-o", folder / output)
                    bigsmall("verify", folder / output)
                    bigsmall("decompress", folder / output, "-o", folder / copy)
                    run("diff", "-r", "--no-dereference", invalid, folder / copy)


class Models(Checks):
    def test_models_round_trip_in_every_profile(self):
        for name in ("unet-f16", "moe-bf16", "gpt2-f32", "llama-bf16"):
            for path in sorted((models() / name).glob("*.safetensors")):
                for profile in PROFILES:
                    with self.subTest(path=f"{name}/{path.name}", profile=profile):
                        self.check(path, "--profile", profile, second_decoder=profile == "balanced")

    def check_minilm(self, kind: str, percent: float):
        source = minilm(kind)
        size = source.stat().st_size
        found = 100 * self.check(source, second_decoder=size <= COPY_LIMIT) / size
        self.assertLessEqual(found, percent)

    def test_minilm_f32_round_trips_at_81_6_percent(self):
        self.check_minilm("f32", 81.6)

    def test_minilm_bf16_round_trips_at_66_0_percent(self):
        self.check_minilm("bf16", 66.0)

    def test_minilm_f16_round_trips_at_84_6_percent(self):
        self.check_minilm("f16", 84.6)

    def test_minilm_fp8_round_trips_at_82_0_percent(self):
        self.check_minilm("fp8e4m3", 82.0)


class Determinism(Checks):
    def check_threads(self, source: Path, *options):
        """Any number of threads, and a second run, give the same image."""
        with scratch() as folder:
            found = set()
            for threads in ("1", "2", "5", "5"):
                bigsmall("compress", source, "-o", folder / "x.bs", "--force", "-j", threads, *options)
                found.add(sha256(folder / "x.bs"))
            self.assertEqual(len(found), 1)

    def test_threads_make_no_difference_to_an_image(self):
        for source in (minilm("bf16"), minilm("fp8e4m3"), models() / "edge/distributions.safetensors",
                       models() / "edge/many-tensors.safetensors"):
            for profile in PROFILES:
                with self.subTest(source.name, profile=profile):
                    self.check_threads(source, "--profile", profile)

    def test_threads_make_no_difference_to_an_image_of_a_folder(self):
        for name in ("edge", "moe-bf16"):
            with self.subTest(name):
                self.check_threads(models() / name)

    def test_name_place_and_time_of_the_source_make_no_difference(self):
        """What is in the image depends on the contents (and the suffix) only."""
        with scratch() as folder:
            source = models() / "edge/thin.safetensors"
            bigsmall("compress", source, "-o", folder / "x.bs")
            (folder / "other").mkdir()
            shutil.copyfile(source, folder / "other/name.safetensors")
            bigsmall("compress", folder / "other/name.safetensors", "-o", folder / "y.bs")
            self.assertEqual(sha256(folder / "x.bs"), sha256(folder / "y.bs"))


if __name__ == "__main__":
    unittest.main()
