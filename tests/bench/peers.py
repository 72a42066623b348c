#!/usr/bin/env python3
"""Other programs and ours side by side, taking turns round by round on the same data.

usage: peers.py --bigsmall PROGRAM --out FOLDER [--rounds N] [--runs N] [--failed FILE]
                [--python-bigsmall PYTHON] [--command TEXT] MODEL...

Every turn is a process of its own: pinned to one core with one thread, or on all cores with as many threads.
Writes peers.json, peers.md and peers.svg into FOLDER and prints the page; progress goes to standard error.
"""
import argparse
import datetime
import json
import os
import platform
import re
import resource
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import chart
import table

HERE = Path(__file__).resolve().parent
TURN_SECONDS = 1200
# the Python package is slower than the others by two orders of magnitude
PYTHON_BIGSMALL_BYTES = 100 << 20
OURS = ("bigsmall balanced", "bigsmall inference", "bigsmall storage")
PEERS = ("zipnn", "lmz", "openzl-float", "openzl-bytes", "blosc2", "zstd-1", "zstd-3", "lz4")
PACKAGES = {"zipnn": "zipnn", "lmz": "lmzip", "openzl-float": "openzl", "openzl-bytes": "openzl", "blosc2": "blosc2",
            "zstd-1": "zstandard", "zstd-3": "zstandard", "lz4": "lz4", "python-bigsmall": "bigsmall"}
RATES = ("encode_gbps", "decode_window_gbps", "decode_resident_gbps", "decode_fresh_gbps",
         "encode_cpu_s_per_gb", "decode_window_cpu_s_per_gb", "peak_mb")


def dtype_of(path: Path) -> str:
    """The dtype that most bytes of a model have."""
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    header.pop("__metadata__", None)
    sizes = {}
    for t in header.values():
        begin, end = t["data_offsets"]
        sizes[t["dtype"]] = sizes.get(t["dtype"], 0) + end - begin
    return max(sizes, key=sizes.get)


def machine() -> dict:
    found = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "caches": ""}
    listing = subprocess.run(["lscpu"], capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    for line in listing.stdout.splitlines():
        key, _, value = line.partition(":")
        if key == "Model name":
            found["cpu"] = value.strip()
        elif re.fullmatch(r"(L2|L3) cache", key.strip()):
            found["caches"] += f", {key.strip()[:2]} {value.strip()}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    release = ".".join(platform.release().split(".")[:2])
    return found | {"memory": f"{memory:.0f} GiB", "system": f"{platform.system()} {release}"}


def turn(command: list, cores: set) -> str:
    """Runs one process on these cores; gives its standard output."""
    child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             start_new_session=True,
                             preexec_fn=lambda: os.sched_setaffinity(0, cores))
    try:
        out, err = child.communicate(timeout=TURN_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, 9)
        child.communicate()
        raise RuntimeError(f"not done after {TURN_SECONDS} s") from None
    if child.returncode:
        last = (err.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise RuntimeError(last[:200])
    return out


class Contest:
    def __init__(self, arguments):
        self.arguments = arguments
        allowed = sorted(os.sched_getaffinity(0))
        # the last core: the first ones serve most interrupts
        self.places = {"one": ({allowed[-1]}, 1)}
        if len(allowed) > 1:
            self.places["all"] = (set(allowed), len(allowed))
        self.failed = dict(line.split(": ", 1) for line in arguments.failed.read_text().splitlines()) \
            if arguments.failed and arguments.failed.exists() else {}

    def ours(self, profile: str, model: Path, place: str) -> dict:
        cores, threads = self.places[place]
        out = turn([sys.executable, __file__, "--measured", self.arguments.bigsmall, "bench", model, "--json",
                    "--quiet", "--no-progress", "--profile", profile, "--simd", "auto", "--runs",
                    self.arguments.runs, "-j", threads], cores)
        report, peak = json.loads(out)
        row = next(row for row in report["results"] if row["threads"] == threads)
        return row | {"peak_mb": peak, "exact": True, "into": True, "version": self.version,
                      "settings": f"--profile {profile}, kernels {row['simd']}; checksum of every block",
                      "threads_are": "its own"}

    def peer(self, name: str, model: Path, place: str) -> dict:
        package = PACKAGES.get(name)
        if package in self.failed:
            return {"error": f"did not install: {self.failed[package]}"}
        cores, threads = self.places[place]
        python = self.arguments.python_bigsmall if name == "python-bigsmall" else sys.executable
        return json.loads(turn([python, "-W", "ignore", HERE / "contestants.py", name, model, dtype_of(model),
                                threads, self.arguments.runs], cores))

    def one_turn(self, name: str, model: Path, place: str) -> dict:
        try:
            if name in OURS:
                return self.ours(name.split()[1], model, place)
            return self.peer(name, model, place)
        except (RuntimeError, OSError, ValueError) as error:
            return {"error": str(error)[:200]}

    def run(self) -> dict:
        arguments = self.arguments
        self.version = turn([arguments.bigsmall, "--version"], self.places["one"][0]).split()[-1]
        self.contestants = {}  # name -> version and settings, the same in every row
        rows, begun = [], time.monotonic()
        for model in arguments.models:
            found = {}  # (place, name) -> what each round gave
            for number in range(arguments.rounds):
                for place in self.places:
                    for name in ("memcpy", *OURS, *PEERS, "python-bigsmall"):
                        rounds = found.setdefault((place, name), [])
                        if self.is_skipped(name, model, rounds):
                            continue
                        rounds.append(self.one_turn(name, model, place))
                spent = time.monotonic() - begun
                print(f"{spent:6.0f} s  {model.name}: round {number + 1} of {arguments.rounds}",
                      file=sys.stderr, flush=True)
            rows += [self.row(model, place, name, rounds) for (place, name), rounds in found.items()]
        return {"date": datetime.date.today().isoformat(), "machine": machine(), "command": arguments.command,
                "rounds": arguments.rounds, "runs": arguments.runs, "python": platform.python_version(),
                "threads": {place: threads for place, (_, threads) in self.places.items()},
                "contestants": self.contestants, "rows": rows}

    def is_skipped(self, name: str, model: Path, rounds: list) -> bool:
        """What failed once fails again; the slow one runs once, and not on large models."""
        if rounds and "error" in rounds[-1]:
            return True
        if name != "python-bigsmall" or not rounds and model.stat().st_size <= PYTHON_BIGSMALL_BYTES:
            return False
        if not rounds:
            rounds.append({"error": "not run: too slow for a model of this size"})
        return True

    def row(self, model: Path, place: str, name: str, rounds: list) -> dict:
        row = {"model": model.stem if model.stem != "model" else model.parent.name, "dtype": dtype_of(model),
               "bytes": model.stat().st_size, "cores": place, "name": name, "rounds": len(rounds)}
        errors = [r["error"] for r in rounds if "error" in r]
        if errors:
            return row | {"error": " ".join(errors[0].split())}
        last = rounds[-1]
        self.contestants[name] = {key: last[key] for key in ("version", "settings", "threads_are", "into")}
        row["exact"] = all(r["exact"] for r in rounds)
        if "tensors_exact" in last:
            row["tensors_exact"] = all(r["tensors_exact"] for r in rounds)
        if "ratio" in last:
            row["ratio"] = round(last["ratio"], 5)
        for key in RATES:
            # least, median, most
            values = sorted(r[key] for r in rounds if key in r)
            if values:
                row[key] = [float(f"{v:.4g}") for v in (values[0], statistics.median(values), values[-1])]
        return row


def measured(command: list) -> None:
    """Prints what a command prints, and the peak memory of the process that it was."""
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    print(json.dumps([json.loads(out), peak]))


def main() -> None:
    if sys.argv[1:2] == ["--measured"]:
        return measured(sys.argv[2:])
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--bigsmall", type=Path, required=True)
    cli.add_argument("--out", type=Path, required=True)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--runs", type=int, default=3)
    cli.add_argument("--failed", type=Path)
    cli.add_argument("--python-bigsmall", default=sys.executable)
    cli.add_argument("--command", default="scripts/bench")
    cli.add_argument("models", nargs="+", type=Path)
    arguments = cli.parse_args()
    if min(arguments.rounds, arguments.runs) < 1:
        cli.error("at least one round and one run")
    found = Contest(arguments).run()
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = ",\n ".join(json.dumps(row) for row in found["rows"])
    head = json.dumps({k: v for k, v in found.items() if k != "rows"})
    (arguments.out / "peers.json").write_text(f'{head[:-1]}, "rows": [\n {lines}\n]}}\n')
    page = table.page(found)
    (arguments.out / "peers.md").write_text(page)
    (arguments.out / "peers.svg").write_text(chart.chart(found))
    print(page)


if __name__ == "__main__":
    main()
