#!/usr/bin/env python3
"""Runs the modules of tests here, two at a time, and prints what each said and took.

    side_by_side.py [MODULE...]     all of them if none is named

Each makes its own folders and mounts, so that none meets another. Two, because programs on a mount keep two processes
busy: theirs and the daemon.
"""
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common

HERE = Path(__file__).resolve().parent
AT_ONCE = 2
# those that take longest come first, so that none is left over at the end
LONGEST = ("test_trust", "test_run_families", "test_clients", "test_deltas", "test_hub_client", "test_system_calls")
# what has to be done within a time, or is limited by the machine, is done after all others
ALONE = ("test_disks", "test_hostile", "test_where_mounts_run")


def run(module: str) -> bool:
    begun = time.perf_counter()
    words = [sys.executable, "-m", "unittest", "-v", module]
    done = subprocess.run(words, cwd=HERE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace")
    took = f"{time.perf_counter() - begun:.0f} s"
    verdict = "passed" if done.returncode == 0 else "FAILED"
    print(f"{done.stdout}== {module}: {verdict}, took {took}", flush=True)
    return done.returncode == 0


def main() -> int:
    there = sorted(path.stem for path in HERE.glob("test_*.py"))
    modules = sys.argv[1:] or sorted(there, key=lambda name: name not in LONGEST)
    common.models()  # once, before several want them
    together = [module for module in modules if module not in ALONE]
    alone = [module for module in modules if module in ALONE]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        passed = list(pool.map(run, together))
    passed += map(run, alone)
    failed = [module for module, is_fine in zip(together + alone, passed) if not is_fine]
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
