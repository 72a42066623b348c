"""The Hugging Face client on a cache that was converted: mounted over itself it finds, verifies, downloads and removes
models as before, and what it does while the cache is not mounted is what docs/mount.md says."""
import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import unittest
import unittest.mock
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError
import transformers

from common import MINI_LLAMA, bigsmall, run, scratch
from hub import blob_name, serving
from test_in_place import in_place

try:
    from huggingface_hub.utils import _shared_blobs
except ImportError:  # an older client
    _shared_blobs = None

MODEL = "model.safetensors"
MINI = {path.name: path.read_bytes() for path in MINI_LLAMA.iterdir()}
HF = Path(sys.executable).with_name("hf")


def other_model(step: int) -> dict[str, bytes]:
    """The files of the model, with every so many bytes of its tensors another."""
    data = bytearray(MINI[MODEL])
    start = 8 + int.from_bytes(data[:8], "little")
    for at in range(start, len(data), step):
        data[at] ^= 1
    return MINI | {MODEL: bytes(data)}


class Cached(unittest.TestCase):
    """A cache with a model in it, downloaded and converted."""

    def setUp(self):
        self.home = self.enterContext(scratch())
        self.cache = self.home / "hub"
        self.hub = self.enterContext(serving())
        variables = {"HF_HOME": self.home, "HF_ENDPOINT": self.hub.endpoint, "HF_HUB_DISABLE_TELEMETRY": 1,
                     "HF_HUB_DISABLE_UPDATE_CHECK": 1, "HF_HUB_OFFLINE": 0}
        # other tests forbid the client the network, which it was told when it was imported
        self.enterContext(unittest.mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", False))
        huggingface_hub.utils.disable_progress_bars()
        self.enterContext(unittest.mock.patch.dict(os.environ, {k: str(v) for k, v in variables.items()}))
        os.environ.pop("HF_HUB_CACHE", None)
        self.commit = self.hub.push("test/mini", MINI)
        self.download("test/mini")

    def convert(self):
        bigsmall("convert", "--hf-cache", "--yes", "--min-age", "0")
        self.hub.downloads.clear()

    def download(self, repository: str, **how) -> Path:
        return Path(huggingface_hub.snapshot_download(
            repository, cache_dir=self.cache, endpoint=self.hub.endpoint, **how))

    def download_model(self, repository: str, **how) -> Path:
        return Path(huggingface_hub.hf_hub_download(
            repository, MODEL, cache_dir=self.cache, endpoint=self.hub.endpoint, **how))

    def scan(self):
        return huggingface_hub.scan_cache_dir(self.cache)

    def blob(self, repository: str, files: dict[str, bytes]) -> Path:
        return self.cache / f"models--{repository.replace('/', '--')}/blobs" / blob_name(MODEL, files[MODEL])

    def images(self) -> list[str]:
        """Names of the images in the cache, which is not mounted."""
        return sorted(path.stem for path in self.cache.rglob("*.bs"))


class Mounted(Cached):
    def test_the_commands_of_the_client_tell_the_same_as_before(self):
        commands = [("ls", "--format", "json"), ("ls", "--revisions", "--format", "json")]

        def told():
            rows = [row for words in commands for row in json.loads(run(HF, "cache", *words).stdout)]
            return [{name: value for name, value in row.items() if not name.startswith("last_")} for row in rows]

        def exactly():
            found = self.scan()
            files = [(file.file_name, file.size_on_disk, file.blob_path, file.blob_last_modified)
                     for repository in found.repos for revision in repository.revisions for file in revision.files]
            return sorted(files), found.size_on_disk, found.warnings, found.incomplete_files

        before = told(), exactly()
        self.assertEqual(len(before[0]), 2)
        self.convert()
        bigsmall("mount", "--hf-cache")
        with in_place(self.cache, is_mounted=True):
            self.assertEqual((told(), exactly()), before)
            run(HF, "cache", "verify", "test/mini", "--fail-on-missing-files", "--fail-on-extra-files")
            self.assertEqual(run(HF, "cache", "prune", "--yes").stdout.splitlines()[0].split(".")[0],
                             "No unreferenced revisions, incomplete downloads or shared blobs found")
            run(HF, "cache", "rm", "model/test/mini", "--yes")
            self.assertEqual(json.loads(run(HF, "cache", "ls", "--format", "json").stdout), [])
        self.assertEqual(self.images(), [])
        self.assertEqual([path.name for path in self.cache.glob("models--*")], [])

    def test_what_is_there_is_not_downloaded_and_what_is_new_is(self):
        self.convert()
        with in_place(self.cache):
            for how in ({"local_files_only": True}, {}):
                found = self.download("test/mini", **how)
                self.assertEqual((found / MODEL).read_bytes(), MINI[MODEL])
                self.assertEqual(self.download_model("test/mini", **how), found / MODEL)
            self.assertEqual(self.hub.downloads, [])
            # the next revision comes beside it, and can go alone
            newer = other_model(1001)
            commit = self.hub.push("test/mini", newer)
            self.assertEqual((self.download("test/mini") / MODEL).read_bytes(), newer[MODEL])
            self.assertEqual(self.hub.downloads, ["test/mini/" + MODEL])
            self.assertEqual((found / MODEL).read_bytes(), MINI[MODEL])
            repository, = self.scan().repos
            self.assertEqual({revision.commit_hash for revision in repository.revisions}, {self.commit, commit})
            self.scan().delete_revisions(self.commit).execute()
            self.assertEqual((self.download("test/mini", local_files_only=True) / MODEL).read_bytes(), newer[MODEL])
            self.assertEqual(self.scan().warnings, [])
        self.assertEqual(self.images(), [])
        self.assertEqual(self.blob("test/mini", newer).read_bytes(), newer[MODEL])

    def test_a_download_that_is_forced_replaces_the_image(self):
        self.convert()
        with in_place(self.cache):
            before = os.stat(self.blob("test/mini", MINI)).st_ino
            with open(self.blob("test/mini", MINI), "rb") as reader:
                path = self.download_model("test/mini", force_download=True)
                self.assertEqual(self.hub.downloads, ["test/mini/" + MODEL])
                self.assertEqual(path.read_bytes(), MINI[MODEL])
                self.assertEqual(reader.read(), MINI[MODEL])
            self.assertNotEqual(os.stat(path).st_ino, before)
            self.assertEqual(self.scan().warnings, [])
        self.assertEqual(self.images(), [])
        # nothing of the download is left over
        blobs = {path.name for path in self.blob("test/mini", MINI).parent.iterdir()}
        self.assertEqual(blobs, {blob_name(path, data) for path, data in MINI.items()})

    @unittest.skipUnless(_shared_blobs, "this client shares no files")
    def test_the_store_that_repositories_share_works_with_images(self):
        """Newer clients keep one copy of what several repositories have, named by its Xet hash."""
        xet_hash = "ab" * 32
        blob = self.blob("test/mini", MINI)
        self.convert()
        with in_place(self.cache):
            shared = _shared_blobs.publish_blob_to_shared_store(
                blob_path=str(blob), xet_hash=xet_hash, cache_dir=self.cache, expected_size=len(MINI[MODEL]))
            self.assertTrue(shared and blob.is_symlink())
            self.assertEqual(blob.read_bytes(), MINI[MODEL])
        self.assertEqual(self.images(), [xet_hash])
        with in_place(self.cache):
            again = blob.with_name("again")
            self.assertTrue(_shared_blobs.try_link_from_shared_store(
                blob_path=str(again), xet_hash=xet_hash, cache_dir=self.cache, expected_size=len(MINI[MODEL])))
            self.assertEqual(again.read_bytes(), MINI[MODEL])
            again.unlink()
            self.assertEqual(self.scan().warnings, [])
            self.scan().delete_revisions(self.commit).execute()
            self.assertEqual(self.scan().repos, frozenset())
        self.assertEqual(self.images(), [])


class FineTune(Cached):
    """A model whose fine-tune is stored as differences from it."""

    def setUp(self):
        super().setUp()
        self.tuned = other_model(74)
        self.hub.push("test/tuned", self.tuned)
        self.download("test/tuned")
        blob = self.blob("test/tuned", self.tuned)
        bigsmall("compress", blob, "--base", self.blob("test/mini", MINI))
        blob.unlink()
        self.convert()

    def tuned_is_whole(self):
        """As a mount finds it that has not read it yet."""
        bigsmall("unmount", self.cache)
        bigsmall("mount", self.cache)
        self.assertEqual(self.blob("test/tuned", self.tuned).read_bytes(), self.tuned[MODEL])

    def test_the_base_is_not_removed_before_the_fine_tune(self):
        base = self.blob("test/mini", MINI)
        with in_place(self.cache):
            with self.assertRaises(OSError) as raised:
                self.scan().delete_revisions(self.commit).execute()
            self.assertEqual(raised.exception.errno, errno.EBUSY)
            self.assertEqual(base.read_bytes(), MINI[MODEL])
            self.tuned_is_whole()
            # what the client had removed before comes back with a download, of which the model is none
            self.hub.downloads.clear()
            self.download("test/mini")
            self.assertNotIn("test/mini/" + MODEL, self.hub.downloads)
            # the fine-tune goes, and then its base does
            for repository in ("test/tuned", "test/mini"):
                run(HF, "cache", "rm", f"model/{repository}", "--yes")
        self.assertEqual(self.images(), [])

    def test_a_base_that_is_downloaded_again_is_still_found(self):
        base = self.blob("test/mini", MINI)
        with in_place(self.cache):
            self.download_model("test/mini", force_download=True)
            self.tuned_is_whole()
            with self.assertRaises(OSError) as raised:
                base.unlink()
            self.assertEqual(raised.exception.errno, errno.EBUSY)
        self.assertEqual(self.images(), [blob_name(MODEL, self.tuned[MODEL])])


class NotMounted(Cached):
    def test_models_are_missing_and_nothing_is_lost(self):
        self.convert()
        self.assertEqual(self.scan().repos, frozenset())
        warning, = self.scan().warnings
        self.assertIn("Blob missing (broken symlink)", str(warning))
        for download in (self.download, self.download_model):
            with self.assertRaises(LocalEntryNotFoundError):
                download("test/mini", local_files_only=True)
        with self.assertRaisesRegex(OSError, "does not appear to have a file named .*model.safetensors"):
            transformers.AutoModelForCausalLM.from_pretrained("test/mini", cache_dir=self.cache, local_files_only=True)
        verified = run(HF, "cache", "verify", "test/mini")
        self.assertIn("1 remote file(s) are missing locally", verified.stdout + verified.stderr)
        # neither command takes anything away
        self.assertIn("Nothing to delete", run(HF, "cache", "rm", "model/test/mini", "--yes").stdout)
        self.assertIn("Nothing to prune", run(HF, "cache", "prune", "--yes").stdout)
        self.assertEqual(self.images(), [blob_name(MODEL, MINI[MODEL])])
        self.assertEqual(self.hub.downloads, [])

    def test_online_a_model_is_downloaded_again_and_made_one_with_its_image(self):
        for undo in (False, True):
            with self.subTest(undo=undo):
                self.convert()
                self.assertEqual((self.download("test/mini") / MODEL).read_bytes(), MINI[MODEL])
                self.assertEqual(self.hub.downloads, ["test/mini/" + MODEL])
                self.assertEqual(self.images(), [blob_name(MODEL, MINI[MODEL])])
                self.assertEqual(self.scan().warnings, [])
                if undo:
                    bigsmall("restore", "--hf-cache", "--yes")
                    self.assertEqual(self.images(), [])
                    self.assertEqual([path.name for path in self.home.iterdir()], ["hub"])
                else:
                    self.convert()
                self.assertEqual(self.blob("test/mini", MINI).exists(), undo)
                self.assertEqual(len(self.images()), not undo)

    def test_a_file_that_is_removed_in_a_mount_uncovers_its_image(self):
        self.convert()
        self.download("test/mini")
        with in_place(self.cache):
            with self.assertRaises(OSError) as raised:
                self.scan().delete_revisions(self.commit).execute()
            self.assertEqual(raised.exception.errno, errno.ENOTEMPTY)
            self.assertEqual(self.blob("test/mini", MINI).read_bytes(), MINI[MODEL])
            shutil.rmtree(self.cache / "models--test--mini")
        self.assertEqual(self.images(), [])


class WhereTheCacheIs(unittest.TestCase):
    def test_it_is_found_where_the_client_finds_it(self):
        with scratch() as folder:
            given = [{}, {"HF_HUB_CACHE": "a"}, {"HUGGINGFACE_HUB_CACHE": "b", "HF_HOME": "c"}, {"HF_HOME": "c"},
                     {"XDG_CACHE_HOME": "d"}, {"HF_HUB_CACHE": "~/e"}, {"HF_HOME": "$PLACE/f/${PLACE}"}]
            names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
            clean = {name: value for name, value in os.environ.items() if name not in names}
            for variables in given:
                with self.subTest(**variables):
                    env = clean | {"HOME": str(folder), "PLACE": "place"} | variables
                    ask = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
                    path = subprocess.run([sys.executable, "-c", ask], env=env, cwd=folder, text=True,
                                          capture_output=True, check=True).stdout.strip()
                    (folder / path).mkdir(parents=True)
                    with unittest.mock.patch.dict(os.environ, env, clear=True), contextlib.chdir(folder):
                        plan = json.loads(bigsmall("convert", "--hf-cache", "--dry-run", "--json").stdout)
                    self.assertEqual(plan["folder"], os.path.realpath(folder / path))
                    (folder / path).rmdir()


if __name__ == "__main__":
    unittest.main()
