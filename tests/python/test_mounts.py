"""Mounts that do not end as they should."""
import ctypes
import errno
import json
import os
import signal
import unittest

from common import MINI_LLAMA, bigsmall, mounted, run, scratch, sha256

ORIGINAL = MINI_LLAMA / "model.safetensors"
PR_SET_CHILD_SUBREAPER = 36


class Endings(unittest.TestCase):
    def setUp(self):
        self.images = self.enterContext(scratch())
        bigsmall("compress", ORIGINAL, "-o", self.images / "model.bs")

    @staticmethod
    def listed(mount) -> dict:
        """What `mounts` says of a mount."""
        mounts = json.loads(bigsmall("mounts", "--json").stdout)["mounts"]
        return next(m for m in mounts if m["mountpoint"] == str(mount))

    def test_killed_daemon_is_listed_as_dead_even_before_it_is_reaped(self):
        """As in a container whose first process waits for no orphans: the dead process keeps its number."""
        libc = ctypes.CDLL(None)
        self.assertEqual(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0)  # orphans become children of ours
        self.addCleanup(libc.prctl, PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        with mounted(self.images) as mount:
            self.assertTrue(self.listed(mount)["alive"])
            pid = self.listed(mount)["pid"]
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            try:
                self.assertFalse(self.listed(mount)["alive"])
            finally:
                os.waitpid(pid, 0)

    def test_mount_in_use_is_unmounted_only_lazily_and_stays_readable_for_its_user(self):
        with mounted(self.images) as mount:
            with open(mount / "model.safetensors", "rb") as file:
                bigsmall("unmount", mount, expect=3)
                self.assertEqual(sha256(mount / "model.safetensors"), sha256(ORIGINAL))
                bigsmall("unmount", "--lazy", mount)
                self.assertEqual(list(mount.iterdir()), [])
                self.assertEqual(file.read(), ORIGINAL.read_bytes())
            bigsmall("mount", self.images, mount)  # the place is free again

    def test_folder_that_is_not_empty_or_in_use_is_refused(self):
        with mounted(self.images) as mount:
            bigsmall("mount", self.images, mount, expect=2)
        with scratch() as folder:
            (folder / "file").touch()
            bigsmall("mount", self.images, folder, expect=2)
            self.assertEqual(run("ls", folder).stdout, "file\n")


class FileHandle(ctypes.Structure):
    """`struct file_handle`, with as much room as any takes."""
    _fields_ = [("handle_bytes", ctypes.c_uint), ("handle_type", ctypes.c_int), ("handle", ctypes.c_ubyte * 128)]


@unittest.skipUnless(os.geteuid() == 0, "takes root to open files by handles")
class FileHandles(unittest.TestCase):
    LIBC = ctypes.CDLL(None, use_errno=True)

    def handle_of(self, path) -> FileHandle:
        handle, mount = FileHandle(handle_bytes=128), ctypes.c_int()
        done = self.LIBC.name_to_handle_at(-1, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0)
        self.assertEqual(done, 0, os.strerror(ctypes.get_errno()))
        return handle

    def opened(self, mount, handle) -> int:
        """0, or the error of opening a file of a mount by its handle."""
        folder = os.open(mount, os.O_RDONLY)
        try:
            file = self.LIBC.open_by_handle_at(folder, ctypes.byref(handle), os.O_RDONLY)
            if file < 0:
                return ctypes.get_errno()
            os.close(file)
            return 0
        finally:
            os.close(folder)

    # docs/semantics.md: A file handle (`name_to_handle_at`) opens its file while the kernel knows that, as while it is
    # open, and is `ESTALE` when the kernel has forgotten it, as after a new mount.
    def test_a_file_handle_lasts_as_long_as_the_kernel_knows_the_file(self):
        with scratch() as images:
            bigsmall("compress", ORIGINAL, "-o", images / "model.bs")
            (images / "notes.txt").write_text("no model")
            with mounted(images) as mount:
                for name in ("model.safetensors", "notes.txt"):
                    with self.subTest(name), open(mount / name, "rb"):
                        handle = self.handle_of(mount / name)
                        self.assertEqual(self.opened(mount, handle), 0)
                    bigsmall("unmount", mount)
                    bigsmall("mount", images, mount)
                    self.assertEqual(self.opened(mount, handle), errno.ESTALE)
                    # looked up, it is known again
                    (mount / name).stat()
                    self.assertEqual(self.opened(mount, handle), 0)


if __name__ == "__main__":
    unittest.main()
