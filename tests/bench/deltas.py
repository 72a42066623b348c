#!/usr/bin/env python3
"""Fine-tunes stored as differences from their bases, by us and by others, taking turns round by round.

usage: deltas.py --bigsmall PROGRAM --out FOLDER [--rounds N] [--failed FILE] [--python-bigsmall PYTHON]
                 [--command TEXT] [--made BASE FINE_TUNE NOISE]... [--pair BASE FINE_TUNE]...
                 [--mount BASE FINE_TUNE] [--no-mount WHY] [--large BASE FINE_TUNE]

Every turn is a process of its own on one core. Then the latency of mounts, and the memory for large models.
Writes deltas.json and deltas.md into FOLDER and prints the page; progress goes to standard error.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import delta_page
import mount_latency
from contestants import tensors
from peers import HERE, PACKAGES, dtype_of, machine, turn

NAMES = ("bigsmall", "bigsmall alone", "bitx", "xor + zstd-3", "zstd --patch-from", "xdelta3", "python-bigsmall")
NEEDS = {"bitx": "zstandard", "xor + zstd-3": "zstandard", "zstd --patch-from": "zstd", "xdelta3": "xdelta3",
         "python-bigsmall": PACKAGES["python-bigsmall"]}
# slower than the others by one or two orders of magnitude: once is enough
ONCE = ("xdelta3", "python-bigsmall")
SECONDS = ("encode_s", "encode_cpu_s", "decode_s", "decode_cpu_s")


def say(begun: float, what: str) -> None:
    print(f"{time.monotonic() - begun:6.0f} s  {what}", file=sys.stderr, flush=True)


def model_file(given: str) -> Path:
    """The model in a folder, or the file that was named."""
    path = Path(given)
    return path / "model.safetensors" if path.is_dir() else path


def name_of(path: Path) -> str:
    """How a page calls a model: never by where it lies."""
    return path.stem if path.stem != "model" else path.resolve().parent.name


class Contest:
    def __init__(self, arguments):
        self.arguments, self.begun = arguments, time.monotonic()
        self.core = {max(os.sched_getaffinity(0))}  # the first ones serve most interrupts
        self.contestants = {}  # name -> version and settings, the same in every row
        self.failed = {}
        if arguments.failed and arguments.failed.exists():
            self.failed = dict(line.split(": ", 1) for line in arguments.failed.read_text().splitlines())
        self.pairs = [self.pair(*made) for made in arguments.made] + [self.pair(*pair) for pair in arguments.pair]

    def pair(self, base: str, fine_tune: str, noise: str | None = None) -> dict:
        files = model_file(base), model_file(fine_tune)
        return {"files": files, "base": name_of(files[0]), "fine_tune": name_of(files[1]), "noise": noise,
                "bytes": files[1].stat().st_size, "dtype": dtype_of(files[1]),
                "sha256": mount_latency.sha256(files[1])}

    def half(self, name: str, verb: str, *files) -> dict:
        python = self.arguments.python_bigsmall if name == "python-bigsmall" else sys.executable
        found = json.loads(turn([python, "-W", "ignore", HERE / "delta_peers.py", name, verb, *files,
                                 self.arguments.bigsmall], self.core).splitlines()[-1])
        if "error" in found:
            raise RuntimeError(f"{verb}: {found['error']}")
        return found

    def one_turn(self, name: str, pair: dict) -> dict:
        if NEEDS.get(name) in self.failed:
            return {"error": f"not installed: {self.failed[NEEDS[name]]}"}
        base, fine_tune = pair["files"]
        # on the same disk as the models
        with tempfile.TemporaryDirectory(prefix="turn-", dir=self.arguments.work) as folder:
            image, back = Path(folder) / "image.bs", Path(folder) / "back.safetensors"
            try:
                encode = self.half(name, "encode", base, fine_tune, image)
                decode = self.half(name, "decode", base, image, back)
                self.contestants[name] = {key: encode[key] for key in ("version", "settings")}
                exact = mount_latency.sha256(back) == pair["sha256"]
                return {"bytes": image.stat().st_size, "exact": exact,
                        "tensors_exact": exact or tensors(back) == tensors(fine_tune),
                        "encode_s": encode["s"], "encode_cpu_s": encode["cpu_s"],
                        "decode_s": decode["s"], "decode_cpu_s": decode["cpu_s"]}
            except (RuntimeError, OSError, ValueError) as error:
                return {"error": " ".join(str(error).replace(str(HERE), "").split())[:200]}

    def run(self) -> list:
        found = {}  # (pair's place, name) -> what each round gave
        for number in range(self.arguments.rounds):
            for place, pair in enumerate(self.pairs):
                for name in NAMES:
                    rounds = found.setdefault((place, name), [])
                    if not rounds or name not in ONCE and "error" not in rounds[-1]:
                        rounds.append(self.one_turn(name, pair))
                say(self.begun, f"{pair['fine_tune']}: round {number + 1} of {self.arguments.rounds}")
        return [self.row(self.pairs[place], name, rounds) for (place, name), rounds in found.items()]

    def row(self, pair: dict, name: str, rounds: list) -> dict:
        row = {"base": pair["base"], "fine_tune": pair["fine_tune"], "name": name, "rounds": len(rounds)}
        errors = [r["error"] for r in rounds if "error" in r]
        if errors:
            return row | {"error": errors[0]}
        for key in ("exact", "tensors_exact"):
            row[key] = all(r[key] for r in rounds)
        row["bytes"] = max(r["bytes"] for r in rounds)
        for key in SECONDS:
            # least, median, most
            values = sorted(r[key] for r in rounds)
            row[key] = [float(f"{v:.4g}") for v in (values[0], statistics.median(values), values[-1])]
        return row

    def mount(self) -> dict:
        if self.arguments.no_mount:
            return {"error": self.arguments.no_mount}
        base, fine_tune = map(model_file, self.arguments.mount)
        with tempfile.TemporaryDirectory(prefix="mount-", dir=self.arguments.work) as folder:
            try:
                found = mount_latency.measured(self.arguments.bigsmall, Path(folder), base, fine_tune,
                                               self.arguments.rounds)
                return {"base": name_of(base), "fine_tune": name_of(fine_tune)} | found
            except (RuntimeError, OSError) as error:
                return {"error": str(error)[:200]}

    def ran(self, *words) -> dict:
        command = [sys.executable, HERE / "delta_peers.py", "--measured", self.arguments.bigsmall, *words]
        return json.loads(turn(command, os.sched_getaffinity(0)))

    def memory(self) -> dict:
        """Of the commands as anybody gives them, with all threads."""
        base, fine_tune = map(model_file, self.arguments.large)
        with tempfile.TemporaryDirectory(prefix="large-", dir=self.arguments.work) as folder:
            image, back = Path(folder) / "image.bs", Path(folder) / "back.safetensors"
            common = ["--base", base, "--no-progress", "--quiet"]
            encode = self.ran("compress", fine_tune, "-o", image, *common)
            say(self.begun, f"{name_of(fine_tune)}: compressed")
            decode = self.ran("decompress", image, "-o", back, *common)
            say(self.begun, f"{name_of(fine_tune)}: decompressed")
            exact = mount_latency.sha256(back) == mount_latency.sha256(fine_tune)
            return {"base": name_of(base), "fine_tune": name_of(fine_tune), "model_bytes": fine_tune.stat().st_size,
                    "bytes": image.stat().st_size, "exact": exact, "compress": encode, "decompress": decode}

    def found(self) -> dict:
        arguments = self.arguments
        rows = self.run()
        found = {"date": datetime.date.today().isoformat(), "machine": machine(), "command": arguments.command,
                 "rounds": arguments.rounds, "python": platform.python_version(), "contestants": self.contestants,
                 "pairs": [{key: pair[key] for key in ("base", "fine_tune", "noise", "bytes", "dtype")}
                           for pair in self.pairs], "rows": rows}
        if arguments.mount or arguments.no_mount:
            found["mount"] = self.mount()
            say(self.begun, "mounts")
        if arguments.large:
            found["memory"] = self.memory()
        return found


def written(found: dict) -> str:
    """JSON with a line for each row, so that a change of one figure is a change of one line."""
    lines = ",\n ".join(json.dumps(row) for row in found["rows"])
    head = json.dumps({key: value for key, value in found.items() if key != "rows"})
    return f'{head[:-1]}, "rows": [\n {lines}\n]}}\n'


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--bigsmall", type=Path, required=True)
    cli.add_argument("--out", type=Path, required=True)
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--failed", type=Path)
    cli.add_argument("--python-bigsmall", default=sys.executable)
    cli.add_argument("--command", default="scripts/bench-deltas")
    cli.add_argument("--made", nargs=3, action="append", default=[])
    cli.add_argument("--pair", nargs=2, action="append", default=[])
    cli.add_argument("--mount", nargs=2)
    cli.add_argument("--no-mount")
    cli.add_argument("--large", nargs=2)
    arguments = cli.parse_args()
    if arguments.rounds < 1:
        cli.error("at least one round")
    found = Contest(arguments).found()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "deltas.json").write_text(written(found))
    page = delta_page.page(found)
    (arguments.out / "deltas.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
