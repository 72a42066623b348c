"""Conversions, restorations, mounts, writers, renames and kills at the same time on one tree, in orders chosen by chance. Whatever they do to
one another: the last content that a writer was done with is there, as a file or as an image that gives it."""
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

from power_cuts import model

ON_ONE_TREE = 20
SECONDS_MAX = 60  # for one command, on a machine that has other work


class Lost(Exception):
    """A content that is nowhere."""


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Tree:
    """A folder of models, and what its files must hold."""

    def __init__(self, program, scratch, seed):
        self.program, self.chance, self.seed = Path(program), random.Random(seed), seed
        self.folder = Path(scratch).resolve()
        self.models, self.home, self.point = (self.folder / name for name in ("models", "home", "point"))
        for path in (self.home, self.point):
            path.mkdir(parents=True)
        variables = {"HOME": self.home, "XDG_CACHE_HOME": self.home / "cache", "XDG_STATE_HOME": self.home / "state", "XDG_DATA_HOME": self.home / "data"}
        self.environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
        # what is at each path as the writers know it; writers and movers take turns
        self.contents, self.turn, self.number = {}, threading.Lock(), 0
        self.known = {}  # of images that were looked at: the digest of what they give
        self.counts = dict.fromkeys(("convert", "restore", "mount", "write", "replace", "download", "rename", "move a folder", "kill"), 0)
        self.begin()

    def begin(self):
        """A new tree in the place of the old one."""
        for path in (self.models, self.home / "state", self.home / "data"):
            shutil.rmtree(path, ignore_errors=True)
        self.contents.clear()
        for path in ("a.safetensors", "b.safetensors", "sub/c.safetensors", "sub/deep/d.safetensors", "other/e.safetensors"):
            self.put(self.models / path)

    def new_model(self, path):
        """A model as no other is; its digest."""
        self.number += 1
        model(path, f"{self.seed} {self.number}", 3_000)
        return sha256(path)

    def put(self, path):
        self.contents[path] = self.new_model(path)

    # ------------------------------------------------------------ commands
    def start(self, *words):
        words = [str(word) for word in words]
        return subprocess.Popen([self.program, *words], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def has_option(self, verb, option):
        """Whether a command has an option: those of earlier releases have fewer."""
        if (verb, option) not in self.known:
            said = subprocess.run([self.program, verb, "--help"], capture_output=True, text=True).stdout
            self.known[verb, option] = option in said
        return self.known[verb, option]

    def words(self, verb):
        words = [verb, self.models, "--yes", "--no-progress", "-j", "1"]
        return words + (["--min-age", "0"] if self.has_option(verb, "--min-age") else [])

    def command(self, verb, chance):
        """Converts or restores all, now and then killed on the way."""
        child = self.start(*self.words(verb))
        self.counts[verb] += 1
        if chance.random() < 0.4:
            time.sleep(chance.uniform(0.0, 0.05))
            child.kill()
            self.counts["kill"] += 1
        child.communicate(timeout=SECONDS_MAX)

    def mounts(self):
        done = subprocess.run([self.program, "mounts", "--json"], env=self.environment, capture_output=True)
        return [m for m in json.loads(done.stdout or b"{}").get("mounts", []) if m["mountpoint"].startswith(str(self.folder))]

    def mount(self, chance):
        """Mounts the tree over itself or elsewhere for a moment, and ends that as it comes."""
        point = self.models if chance.random() < 0.5 else self.point
        child = self.start("mount", self.models, point)
        self.counts["mount"] += 1
        child.communicate(timeout=SECONDS_MAX)
        time.sleep(chance.uniform(0.0, 0.05))
        if chance.random() < 0.3:
            for mount in self.mounts():
                with contextlib.suppress(OSError):
                    os.kill(mount["supervisor_pid"], signal.SIGKILL)
                self.counts["kill"] += 1
        self.start("unmount", "--lazy", point).communicate(timeout=SECONDS_MAX)

    # ------------------------------------------------------------ writers and movers, one at a time
    def any_path(self, chance):
        return chance.choice(sorted(self.contents))

    def write(self, chance):
        """Opens a model and writes another one into it, in two pieces."""
        path = self.any_path(chance)
        new = self.home / "new"
        digest = self.new_model(new)
        data = new.read_bytes()
        try:
            file = open(path, "r+b")
        except OSError:
            return  # it is an image now, or the mount is in the way
        with file:
            # from here on nobody has the old content for good
            self.contents.pop(path)
            try:
                file.write(data[:2_000])
                file.flush()
                time.sleep(chance.uniform(0.0, 0.02))
                file.write(data[2_000:])
                file.truncate()
                file.flush()
            except OSError:
                return  # the mount under it was killed: it is nothing whole
        self.contents[path] = digest
        self.counts["write"] += 1

    def put_in_place(self, path, chance):
        """Writes beside a name and renames, as downloads do."""
        part = path.with_name(f"{path.name}.{self.number}.incomplete")
        try:
            digest = self.new_model(part)
        except OSError:
            return False
        time.sleep(chance.uniform(0.0, 0.02))
        old = self.contents.pop(path, None)
        try:
            os.rename(part, path)
        except OSError:
            if old is not None:
                self.contents[path] = old
            with contextlib.suppress(OSError):
                part.unlink()
            return False
        self.contents[path] = digest
        return True

    def replace(self, chance):
        self.counts["replace"] += self.put_in_place(self.any_path(chance), chance)

    def download(self, chance):
        folder = self.any_path(chance).parent
        self.counts["download"] += self.put_in_place(folder / f"new-{self.number}.safetensors", chance)

    def rename(self, chance):
        """A model, or its image, gets another name."""
        path = self.any_path(chance)
        new = path.with_name(f"moved-{self.number}.safetensors")
        self.number += 1
        for old, to in ((path, new), (path.with_suffix(".bs"), new.with_suffix(".bs"))):
            try:
                os.rename(old, to)
            except OSError:
                continue
            self.contents[new] = self.contents.pop(path)
            self.counts["rename"] += 1
            return

    def move_folder(self, chance):
        """A folder below gets another name, with all that is in it."""
        folder = self.any_path(chance).parent
        if folder == self.models:
            return
        new = folder.with_name(f"folder-{self.number}")
        self.number += 1
        try:
            os.rename(folder, new)
        except OSError:
            return
        for path in [path for path in self.contents if path.is_relative_to(folder)]:
            self.contents[new / path.relative_to(folder)] = self.contents.pop(path)
        self.counts["move a folder"] += 1

    def take_turn(self, what, chance):
        with self.turn:
            what(chance)

    # ------------------------------------------------------------ what must hold
    def clear_mounts(self):
        for point in (self.models, self.point):
            for _ in range(10):
                if not os.path.ismount(point) and self.is_alive(point):
                    break
                subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL)

    @staticmethod
    def is_alive(point):
        try:
            os.stat(point)
            return True
        except OSError:
            return False

    def given_by(self, image):
        """The digest of what an image gives; none if it gives nothing."""
        key = sha256(image)
        if key not in self.known:
            out = self.home / "out"
            out.unlink(missing_ok=True)
            done = subprocess.run([self.program, "decompress", image, "-o", out, "--no-progress", "-j", "1"], env=self.environment, capture_output=True)
            self.known[key] = sha256(out) if done.returncode == 0 else None
        return self.known[key]

    def found(self):
        """The digests of all plain files, and of all that images give."""
        plain, images = {}, {}
        for at, _, names in os.walk(self.models):
            for name in names:
                path = Path(at) / name
                if name.endswith(".bs") and not name.startswith("."):
                    images[self.given_by(path)] = path
                else:
                    plain[sha256(path)] = path
        return plain, images

    def check(self, what):
        self.clear_mounts()
        plain, images = self.found()
        for path, digest in self.contents.items():
            if digest not in plain and digest not in images:
                raise Lost(f"{what}: what was written to {path} is nowhere in {self.folder}")

    def restore_all(self, what):
        """All that convert has made comes back, unless another file has the name meanwhile."""
        child = self.start(*self.words("restore"))
        said = child.communicate(timeout=SECONDS_MAX)[1].decode(errors="replace")
        plain, images = self.found()
        for path, digest in self.contents.items():
            if digest in plain:
                continue
            image = images.get(digest)
            if image is None or not image.with_suffix(".safetensors").exists():
                raise Lost(f"{what}: restore does not give back {path}: {said[-1000:]} in {self.folder}")

    def interleave(self, number):
        """Some of all that at the same time."""
        chance = random.Random(f"{self.seed} {number}")
        kinds = [lambda c: self.command("convert", c), lambda c: self.command("restore", c), self.mount] + [
            lambda c, what=what: self.take_turn(what, c) for what in (self.write, self.replace, self.download, self.rename, self.move_folder)]
        weights = [4, 3, 1, 3, 2, 1, 2, 1]
        chosen = [kinds[0], *chance.choices(kinds, weights, k=chance.randint(2, 5))]
        faults = []

        def act(what, wait, own):
            try:
                time.sleep(wait)
                what(own)
            except Exception as fault:  # told by whoever waits for all of them
                faults.append(fault)

        threads = [threading.Thread(target=act, args=(what, chance.uniform(0.0, 0.04), random.Random(chance.random()))) for what in chosen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if faults:
            raise faults[0]
        self.check(f"interleaving {number}")
        # what was replaced stays about, and would be converted and restored every time
        if number % ON_ONE_TREE == ON_ONE_TREE - 1:
            self.restore_all(f"interleaving {number}")
            self.begin()


def run(program, scratch, count, seed=1):
    """So many interleavings, some on each tree; how often each thing was done."""
    tree = Tree(program, scratch, seed)
    try:
        for number in range(count):
            tree.interleave(number)
        tree.restore_all("the end")
    finally:
        tree.clear_mounts()
    return tree.counts
