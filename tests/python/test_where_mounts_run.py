"""Mounts where rights or memory are short: other users, namespaces of users, control groups."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from common import MINI_LLAMA, PROGRAM, bigsmall, minilm, mounted, scratch, sha256

NOBODY = 65534


@contextlib.contextmanager
def open_folder():
    """A folder that everybody may enter, with binaries that everybody may run."""
    folder = Path(tempfile.mkdtemp(prefix="bigsmall-open-"))
    folder.chmod(0o777)
    for name in ("bigsmall", "bigsmall-mountd"):
        shutil.copy(PROGRAM.parent / name, folder / name)
    (folder / "small").mkdir()
    original = MINI_LLAMA / "model.safetensors"
    bigsmall("compress", original, "-o", folder / "small/m.bs")
    (folder / "small/m.bs").chmod(0o644)
    (folder / "mnt").mkdir()
    os.chown(folder / "mnt", NOBODY, NOBODY)
    try:
        yield folder, sha256(original)
    finally:
        subprocess.run(["umount", "-l", folder / "mnt"], stderr=subprocess.DEVNULL)
        shutil.rmtree(folder)


def in_own_mounts(folder, script):
    """Runs a script in mounts of its own, where everybody may open /dev/fuse, as on most machines; what it said."""
    script = f"""
        set -e
        mknod -m 666 {folder}/fuse c 10 229
        mount --bind {folder}/fuse /dev/fuse
        {script}"""
    return subprocess.run(["unshare", "-m", "bash", "-c", script], capture_output=True, text=True)


@unittest.skipUnless(os.geteuid() == 0, "takes root to become others")
class OtherUsers(unittest.TestCase):
    def test_without_root_by_the_helper_and_private(self):
        with open_folder() as (folder, digest):
            # root, who is another user to this mount, is not let in; the worker is killed in between
            done = in_own_mounts(folder, f"""
                as_nobody() {{ setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups env HOME={folder} TMPDIR={folder} XDG_RUNTIME_DIR= "$@"; }}
                as_nobody {folder}/bigsmall mount {folder}/small {folder}/mnt
                as_nobody sha256sum {folder}/mnt/m.safetensors
                ! ls {folder}/mnt 2>/dev/null
                kill -9 $(pgrep -u {NOBODY} -f 'bigsmall-mountd worker')
                as_nobody sha256sum {folder}/mnt/m.safetensors
                as_nobody {folder}/bigsmall mounts --json > {folder}/mounts.json
                as_nobody {folder}/bigsmall unmount {folder}/mnt""")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual([line.split()[0] for line in done.stdout.splitlines()], [digest, digest])
            mount = json.loads((folder / "mounts.json").read_text())["mounts"][-1]
            self.assertEqual(mount["account"]["worker_deaths"], 1)

    def test_in_a_namespace_of_users(self):
        with open_folder() as (folder, digest):
            inner = f"{folder}/bigsmall mount {folder}/small {folder}/mnt && sha256sum {folder}/mnt/m.safetensors && {folder}/bigsmall unmount {folder}/mnt"
            done = in_own_mounts(folder, f"""
                setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups env HOME={folder} TMPDIR={folder} XDG_RUNTIME_DIR={folder} \\
                    PATH=/usr/bin:/bin unshare -Urm bash -c '{inner}'""")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stdout.split()[0], digest)

    def test_others_are_let_in_only_as_far_as_permissions_say(self):
        with open_folder() as (folder, digest):
            os.chmod(folder / "small/m.bs", 0o600)
            shutil.copy(folder / "small/m.bs", folder / "small/open.bs")
            os.chmod(folder / "small/open.bs", 0o644)
            with mounted(folder / "small", "--allow-other") as mount:
                script = "import hashlib,sys\nfor p in sys.argv[1:]:\n try: print(hashlib.sha256(open(p,'rb').read()).hexdigest())\n except PermissionError: print('refused')"
                done = subprocess.run(["python3", "-c", script, mount / "open.safetensors", mount / "m.safetensors"], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True)
                self.assertEqual(done.stdout.split(), [digest, "refused"], done.stderr)


def memory_group():
    """A new control group for memory, and its file for the limit; none where there is no such controller."""
    for root, limit in ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max")):
        group = root / f"bigsmall-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / limit).exists():
                return group, group / limit
            group.rmdir()
    return None, None


@unittest.skipUnless(os.geteuid() == 0, "takes root to limit memory")
class ShortMemory(unittest.TestCase):
    def test_a_mount_lives_within_its_bound(self):
        """Both processes in a group of cache + 32 MiB: they read on, and the kernel ends none of them."""
        group, limit = memory_group()
        if group is None:
            self.skipTest("no controller for memory")
        try:
            with scratch() as folder:
                (folder / "small").mkdir()
                large = minilm("bf16")
                bigsmall("compress", large, "-o", folder / "small/m.bs")
                with mounted(folder / "small", "--cache", "16m") as mount:
                    state = lambda: next(m for m in json.loads(bigsmall("mounts", "--json").stdout)["mounts"] if m["mountpoint"] == str(mount))
                    limit.write_text(str(48 << 20))
                    for process in state()["processes"]:
                        (group / "cgroup.procs").write_text(str(process["pid"]))
                    expected = sha256(large)
                    readers = [subprocess.Popen(["sha256sum", mount / "m.safetensors"], stdout=subprocess.PIPE, text=True) for _ in range(8)]
                    direct = [subprocess.Popen(f"dd if={mount}/m.safetensors iflag=direct bs=1M status=none | sha256sum", shell=True, stdout=subprocess.PIPE, text=True) for _ in range(8)]
                    for reader in readers + direct:
                        self.assertEqual(reader.communicate()[0].split()[0], expected)
                    self.assertEqual(state()["account"]["worker_deaths"], 0)
        finally:
            with contextlib.suppress(OSError):
                group.rmdir()


if __name__ == "__main__":
    unittest.main()
