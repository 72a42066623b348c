"""What a read of 4 KiB at a random place costs, of the same fine-tune in several mounts and as a plain file."""
import contextlib
import hashlib
import os
import random
import shutil
import statistics
import subprocess
import time
from pathlib import Path

PAGE, SPAN = 4096, 128 << 10  # what is read; about what a block holds
CACHE = 4 << 20  # of decoded blocks and tables, a tenth of the file
SEED = 1


def quietly(*command) -> None:
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])


def unmount(program: Path, at: Path) -> None:
    try:
        quietly(program, "unmount", at, "--quiet")
    except RuntimeError:
        # a mount left behind would stand in the way of removing its folder
        quietly(program, "unmount", at, "--lazy", "--quiet")
        raise


@contextlib.contextmanager
def mounted(program: Path, folder: Path, base: Path | None):
    at = folder.with_name(folder.name + "-mounted")
    at.mkdir()
    quietly(program, "mount", folder, at, "--cache", CACHE, *(["--base", base] if base else []), "--quiet")
    try:
        yield at
    finally:
        unmount(program, at)


def places(size: int) -> list:
    """A page of each span of the file, in an order that is the same in each round: a block comes back only after
    all others, when a cache that holds a tenth of them has long dropped it."""
    dice = random.Random(SEED)
    found = [at + PAGE * dice.randrange(SPAN // PAGE) for at in range(0, size - SPAN + 1, SPAN)]
    dice.shuffle(found)
    return found


def read_time(path: Path, at: int, forget: bool) -> float:
    """Seconds of one pread by a descriptor that is new, of what the kernel does not have."""
    file = os.open(path, os.O_RDONLY)
    try:
        if forget:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        begun = time.perf_counter()
        got = os.pread(file, PAGE, at)
        seconds = time.perf_counter() - begun
    finally:
        os.close(file)
    if len(got) != PAGE:
        raise RuntimeError(f"{len(got)} bytes read of {PAGE}")
    return seconds


def sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def figures(seconds: list) -> dict:
    tenths = statistics.quantiles(seconds, n=10, method="inclusive")
    return {"p50_us": round(1e6 * statistics.median(seconds), 1), "p90_us": round(1e6 * tenths[-1], 1)}


def laid_out(program: Path, work: Path, base: Path, fine_tune: Path) -> dict:
    """Name -> folder to mount and where its base is."""
    alone, delta, images = (work / name for name in ("alone", "delta", "base-image"))
    for folder in (alone, delta, images):
        folder.mkdir()
    common = ["--no-progress", "--quiet"]
    quietly(program, "compress", fine_tune, "-o", alone / "model.bs", *common)
    quietly(program, "compress", fine_tune, "--base", base, "-o", delta / "model.bs", *common)
    quietly(program, "compress", base, "-o", images / "base.bs", *common)
    second = work / "delta-2"
    shutil.copytree(delta, second)
    # a plain file in a mounted folder is handed through: what a read costs without any decoding
    plain = work / "plain"
    plain.mkdir()
    shutil.copyfile(fine_tune, plain / "model.safetensors")
    return {"plain file through a mount": (plain, None), "standalone image": (alone, None),
            "delta, base a plain file": (delta, base), "delta, base an image": (second, images / "base.bs")}


def measured(program: Path, work: Path, base: Path, fine_tune: Path, rounds: int) -> dict:
    folders = laid_out(program, work, base, fine_tune)
    wanted, spots = sha256(fine_tune), places(fine_tune.stat().st_size)
    with contextlib.ExitStack() as stack:
        files = {"plain file on the disk": fine_tune}
        for name, (folder, its_base) in folders.items():
            files[name] = stack.enter_context(mounted(program, folder, its_base)) / "model.safetensors"
        # reads every tensor once, so a delta knows its base's tensors, and warms the images and the base
        exact = {name: sha256(path) == wanted for name, path in files.items()}
        found = {name: [] for name in files}
        dice, turns = random.Random(SEED), list(files)
        for spot in spots * rounds:
            dice.shuffle(turns)  # each comes after each other: what the one before leaves in the CPU is shared out
            for name in turns:
                found[name].append(read_time(files[name], spot, name != "plain file on the disk"))
    rows = [{"name": name, "exact": exact[name], "samples": len(seconds), **figures(seconds)}
            for name, seconds in found.items()]
    return {"cache_bytes": CACHE, "page_bytes": PAGE, "model_bytes": fine_tune.stat().st_size, "rows": rows}
