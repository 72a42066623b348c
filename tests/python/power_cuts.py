"""Power cuts in the middle of commands that write: which commands, on what, and what must hold after each."""
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import power_cut
from power_cut import Lost

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "golden/python-package"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def model(path, seed, count=20_000):
    """A safetensors file of bf16 weights, not written to for long."""
    chance = random.Random(seed)
    data = bytearray()
    for _ in range(count):
        exponent = 118 - min(int(chance.expovariate(0.7)), 20)
        data += (chance.getrandbits(1) << 15 | exponent << 7 | chance.getrandbits(7)).to_bytes(2, "little")
    header = json.dumps({"w": {"dtype": "BF16", "shape": [count], "data_offsets": [0, len(data)]}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    os.utime(path, (1_600_000_000, 1_600_000_000))


def below(files, folder):
    """What a state has at a path and below it, but for temporaries: the next run removes what was left of them."""
    inside = {path: content for path, content in files.items() if path == folder or path.startswith(f"{folder}/")}
    return {path: content for path, content in inside.items() if not re.search(r"(^|/)\.[^/]*\.part-\d+-[^/]*$", path)}


class Commands:
    """Each command in a folder of its own, and what must hold in every state that a power cut may leave."""

    NAMES = ("convert", "restore", "compress", "compress-again", "compress-folder", "compress-whole-folder", "decompress-folder", "repair", "migrate")

    def __init__(self, program, scratch):
        self.program, self.scratch, self.right = Path(program), Path(scratch), {}

    def run(self, *words):
        words = [str(word) for word in words]
        done = subprocess.run([self.program, *words, "--no-progress", "-j", "1"], env=self.environment, capture_output=True, text=True)
        return done.returncode, done.stderr

    def begin(self, name):
        self.at = self.scratch / name
        shutil.rmtree(self.at, ignore_errors=True)
        self.at.mkdir(parents=True)
        home = self.at / "home"
        home.mkdir()
        variables = {"HOME": home, "XDG_CACHE_HOME": self.scratch / f"{name}-cache", "XDG_STATE_HOME": home / "state", "XDG_DATA_HOME": home / "data"}
        self.environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
        self.sums = {}

    def models(self, *paths):
        for number, path in enumerate(paths):
            model(self.at / path, number)
            self.sums[path] = sha256((self.at / path).read_bytes())

    def record(self, *words):
        words = [str(word) for word in words]
        recording = power_cut.Recording(self.at, [self.program, *words, "--no-progress", "-j", "1"], self.environment)
        if recording.code:
            raise Lost(f"{words}: exit code {recording.code}: {recording.said[-2000:]}")
        # what was recorded is what is there: else the rules say something else than the disk
        files, _ = recording.state(float("inf"), ())
        there = {str(p.relative_to(self.at)): None if p.is_dir() else p.read_bytes() for p in self.at.rglob("*") if not p.is_symlink()}
        if {path: content for path, content in files.items() if path and not isinstance(content, list)} != there:
            raise ValueError(f"the record of {words} is not what is there")
        return recording, files

    def holds(self, image, digest):
        """Whether the bytes of an image give a model."""
        key = sha256(image), digest
        if key not in self.right:
            path, out = self.scratch / "held.bs", self.scratch / "held.out"
            path.write_bytes(image)
            out.unlink(missing_ok=True)
            code, _ = self.run("decompress", path, "-o", out)
            self.right[key] = code == 0 and sha256(out.read_bytes()) == digest
        return self.right[key]

    def need(self, holds, what):
        if not holds:
            raise Lost(what)

    def cut(self, name):
        """Cuts a command off everywhere; how many states that gave, and how many different ones."""
        self.begin(name)
        recording, check = getattr(self, "of_" + name.replace("-", "_"))()
        return power_cut.replay(recording, check)

    # ------------------------------------------------------------ commands
    def comes_back(self, state):
        """Every model is there, or a run of `restore` gives it back."""
        files, _ = state
        if all(path in files and sha256(files[path]) == digest for path, digest in self.sums.items()):
            return
        power_cut.put_down(state, self.at)
        code, said = self.run("restore", self.at / "models", "--yes")
        for path, digest in self.sums.items():
            full = self.at / path
            self.need(full.exists() and sha256(full.read_bytes()) == digest, f"{path} is lost; restore gave {code}: {said}")

    def of_convert(self):
        self.models("models/a.safetensors", "models/sub/b.safetensors", "models/sub/deep/c.safetensors")
        recording, final = self.record("convert", self.at / "models", "--yes")
        self.need(not any(path in final for path in self.sums), "not all was converted")
        return recording, lambda state, is_done: self.comes_back(state)

    def of_restore(self):
        self.models("models/a.safetensors", "models/sub/b.safetensors", "models/sub/deep/c.safetensors")
        self.run("convert", self.at / "models", "--yes")
        self.need(not any((self.at / path).exists() for path in self.sums), "not all was converted")
        recording, final = self.record("restore", self.at / "models", "--yes")
        self.need(all(path in final for path in self.sums), "not all was restored")
        return recording, lambda state, is_done: self.comes_back(state)

    def result(self, final, path):
        """What a command makes is there as a whole or not at all, and is there when the command has ended."""
        whole = below(final, path)
        self.need(whole, f"{path} was not made")

        def check(state, is_done):
            there = below(state[0], path)
            self.need(there == whole or not there and not is_done, f"{path} is not whole: {sorted(set(whole) - set(there))} missing")
        return check

    def of_compress(self):
        self.models("m.safetensors")
        recording, final = self.record("compress", self.at / "m.safetensors", "--ecc=20")
        self.need(self.holds(final["m.bs"], self.sums["m.safetensors"]), "a wrong image")
        return recording, self.result(final, "m.bs")

    def of_compress_again(self):
        """An image and its parity are replaced by those of another model of the same name."""
        self.models("m.safetensors")
        old = self.sums["m.safetensors"]
        self.run("compress", self.at / "m.safetensors", "--ecc=20")
        model(self.at / "m.safetensors", 9)
        new = self.sums["m.safetensors"] = sha256((self.at / "m.safetensors").read_bytes())
        recording, final = self.record("compress", self.at / "m.safetensors", "--ecc=20", "--force")

        def check(state, is_done):
            image = state[0].get("m.bs")
            self.need(image is not None and (self.holds(image, new) or not is_done and self.holds(image, old)), "the image is lost")
            power_cut.put_down(state, self.at)
            self.run("repair", self.at / "m.bs")
            self.need((self.at / "m.bs").read_bytes() == image, "repair put another image in its place")
        return recording, check

    def folder_of_models(self):
        self.models("models/a.safetensors", "models/sub/deep/b.safetensors", "models/sub/deep/er/c.safetensors")
        (self.at / "models/config.json").write_text("{}")
        (self.at / "models/sub/empty").mkdir()

    def of_compress_folder(self):
        self.folder_of_models()
        recording, final = self.record("compress", self.at / "models", "-o", self.at / "out")
        for path, digest in self.sums.items():
            image = final[path.replace("models/", "out/").replace(".safetensors", ".bs")]
            self.need(self.holds(image, digest), f"a wrong image of {path}")
        return recording, self.result(final, "out")

    def of_compress_whole_folder(self):
        self.folder_of_models()
        recording, final = self.record("compress", self.at / "models", "-o", self.at / "one.bs")
        return recording, self.result(final, "one.bs")

    def of_decompress_folder(self):
        self.folder_of_models()
        self.run("compress", self.at / "models", "-o", self.at / "one.bs")
        recording, final = self.record("decompress", self.at / "one.bs", "-o", self.at / "back")
        source, back = (below(final, folder) for folder in ("models", "back"))
        self.need({path[len("models"):]: content for path, content in source.items()} == {path[len("back"):]: content for path, content in back.items()}, "a wrong folder")
        return recording, self.result(final, "back")

    def of_repair(self):
        self.models("m.safetensors")
        self.run("compress", self.at / "m.safetensors", "--ecc=20")
        image = (self.at / "m.bs").read_bytes()
        damaged = image[:10_000] + bytes(300) + image[10_300:]
        (self.at / "m.bs").write_bytes(damaged)
        recording, _ = self.record("repair", self.at / "m.bs")
        tried = set()

        def check(state, is_done):
            there = state[0].get("m.bs")
            if there == image:
                return
            self.need(there == damaged and not is_done, "the image is neither what it was nor repaired")
            # what else lies there are temporaries
            parity = state[0].get("m.bs.par")
            if parity not in tried:
                tried.add(parity)
                power_cut.put_down(state, self.at)
                self.run("repair", self.at / "m.bs")
                self.need((self.at / "m.bs").read_bytes() == image, "it cannot be repaired any more")
        return recording, check

    def of_migrate(self):
        shutil.copy(PACKAGE / "bf16-4.0.0.bs", self.at / "p.bs")
        package = (self.at / "p.bs").read_bytes()
        sums = (PACKAGE / "SHA256SUMS").read_text().split()
        imported = sums[sums.index("bf16-4.0.0.bs") - 1]
        recording, final = self.record("migrate", self.at / "p.bs")
        self.need(self.holds(final["p.bs"], imported), "a wrong image")

        def check(state, is_done):
            there = state[0].get("p.bs")
            self.need(there == final["p.bs"] or there == package and not is_done, "the file is neither what it was nor an image")
        return recording, check
