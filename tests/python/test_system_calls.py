"""What system calls say on a mount at another place than its source, call by call: the errors that POSIX and Linux's manual name for a
file system that can only be read, for names and for links."""
import ctypes
import errno
import fcntl
import mmap
import os
import stat
import unittest
from pathlib import Path

from common import MINI_LLAMA, bigsmall, mounted, run, scratch

ORIGINAL = MINI_LLAMA / "model.safetensors"
LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments):
    """A call of the C library that Python does not have; an error as OSError."""
    if getattr(LIBC, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


class SystemCalls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.enterClassContext(cls.source())

    @classmethod
    def source(cls):
        import contextlib

        @contextlib.contextmanager
        def made():
            with scratch() as folder:
                (folder / "deep/empty").mkdir(parents=True)
                bigsmall("compress", ORIGINAL, "-o", folder / "m.bs")
                bigsmall("compress", MINI_LLAMA, "-o", folder / "whole.bs")
                (folder / "plain.txt").write_text("plain")
                (folder / "link").symlink_to("m.safetensors")
                (folder / "loop").symlink_to("loop")
                (folder / "nowhere").symlink_to("missing")
                with mounted(folder) as mount:
                    cls.mount = mount
                    cls.model = mount / "m.safetensors"
                    yield
        return made()

    def refuses(self, number: int, function, *arguments, **options):
        with self.assertRaises(OSError) as raised:
            function(*arguments, **options)
        self.assertEqual(errno.errorcode[raised.exception.errno], errno.errorcode[number], f"{function}{arguments}")

    def test_nothing_can_be_changed(self):
        changes = [
            (os.chmod, 0o600), (os.chown, 1, 1), (os.truncate, 0), (os.utime,), (os.unlink,),
            (os.setxattr, "user.own", b"x"), (os.removexattr, "user.bigsmall.codec"),
            (lambda p: os.link(p, self.mount / "second"),), (lambda p: os.rename(p, self.mount / "other"),),
            (lambda p: os.rename(p, p.parent / "deep"),),
        ]
        whole = self.mount / "whole/model.safetensors"
        for path in (self.model, self.mount / "plain.txt", whole):
            for change, *rest in changes:
                with self.subTest(path=path.name, change=getattr(change, "__name__", change)):
                    self.refuses(errno.EROFS, change, path, *rest)
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
                self.refuses(errno.EROFS, os.open, path, flags)
        for folder in (self.mount, self.mount / "deep", self.mount / "whole"):
            new = folder / "new"
            for make, *rest in ((os.mkdir,), (os.mkfifo,), (os.symlink, new), (os.mknod, 0o644 | stat.S_IFREG), (os.open, os.O_CREAT | os.O_WRONLY)):
                arguments = ("target", *rest) if make is os.symlink else (new, *rest)
                self.refuses(errno.EROFS, make, *arguments)
            self.refuses(errno.EROFS, os.chmod, folder, 0o700)
            self.refuses(errno.EROFS, os.utime, folder)
        self.refuses(errno.EROFS, os.rmdir, self.mount / "deep/empty")
        self.refuses(errno.EROFS, os.unlink, self.mount / "link")
        self.refuses(errno.EROFS, os.open, self.mount / "deep", os.O_TMPFILE | os.O_RDWR)
        self.assertFalse(os.access(self.model, os.W_OK))
        self.assertTrue(os.statvfs(self.mount).f_flag & os.ST_RDONLY)

    def test_what_is_open_for_reading_is_not_written(self):
        for path in (self.model, self.mount / "plain.txt"):
            fd = os.open(path, os.O_RDONLY)
            try:
                self.refuses(errno.EBADF, os.write, fd, b"x")
                self.refuses(errno.EBADF, os.pwrite, fd, b"x", 0)
                self.refuses(errno.EINVAL, os.ftruncate, fd, 0)
                self.refuses(errno.EBADF, os.posix_fallocate, fd, 0, 10)
                self.refuses(errno.EROFS, os.fchmod, fd, 0o600)
                self.refuses(errno.EROFS, os.fchown, fd, 1, 1)
                self.refuses(errno.EACCES, mmap.mmap, fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
                os.fsync(fd)
                os.fdatasync(fd)
                # a private copy is the reader's own
                with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as copy:
                    copy[0] = copy[0] ^ 1
                self.assertEqual(os.pread(fd, 4, 0), (ORIGINAL if path is self.model else self.mount / "plain.txt").read_bytes()[:4])
            finally:
                os.close(fd)

    def test_names_that_lead_nowhere(self):
        mount, long = self.mount, "n" * 256
        for function in (os.stat, os.listdir, os.readlink, lambda p: os.open(p, os.O_RDONLY)):
            self.refuses(errno.ENOENT, function, mount / "missing")
            self.refuses(errno.ENOENT, function, mount / "whole/missing")
            self.refuses(errno.ENAMETOOLONG, function, mount / long)
            self.refuses(errno.ENOTDIR, function, mount / "m.safetensors/below")
            self.refuses(errno.ENOTDIR, function, mount / "whole/model.safetensors/below")
            self.refuses(errno.ENAMETOOLONG, function, str(mount) + "/deep/.." * 600)
        self.refuses(errno.ENOENT, os.stat, mount / ("n" * 255))
        self.refuses(errno.ENOENT, os.stat, mount / "nowhere")
        self.refuses(errno.ELOOP, os.stat, mount / "loop")
        self.refuses(errno.ELOOP, os.open, mount / "link", os.O_RDONLY | os.O_NOFOLLOW)
        # the hidden names of images, and names that only begin like one
        for name in ("m.bs", "whole.bs", "m", "m.safetensors.bs", "M.safetensors"):
            self.refuses(errno.ENOENT, os.stat, mount / name)

    def test_kinds_are_told_apart(self):
        mount = self.mount
        self.refuses(errno.ENOTDIR, os.listdir, self.model)
        self.refuses(errno.ENOTDIR, os.open, self.model, os.O_RDONLY | os.O_DIRECTORY)
        self.refuses(errno.EINVAL, os.readlink, self.model)
        self.assertEqual(os.readlink(mount / "link"), "m.safetensors")
        folder = os.open(mount / "deep", os.O_RDONLY)
        try:
            self.refuses(errno.EISDIR, os.read, folder, 10)
            self.assertEqual(os.listdir(folder), ["empty"])
        finally:
            os.close(folder)
        kinds = {entry.name: (entry.is_file(follow_symlinks=False), entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in os.scandir(mount)}
        self.assertEqual(kinds, {"m.safetensors": (True, False, False), "plain.txt": (True, False, False), "deep": (False, True, False),
                                 "whole": (False, True, False), "link": (False, False, True), "loop": (False, False, True), "nowhere": (False, False, True)})
        # what a listing says is what a lookup says
        for entry in os.scandir(mount):
            self.assertEqual(entry.inode(), os.lstat(entry.path).st_ino, entry.name)
        up = os.stat(mount / "deep/..")
        self.assertEqual((up.st_dev, up.st_ino), (os.stat(mount).st_dev, os.stat(mount).st_ino))

    def test_reads_round_the_end(self):
        size = ORIGINAL.stat().st_size
        with open(self.model, "rb") as f:
            fd = f.fileno()
            self.assertEqual(os.pread(fd, 100, size), b"")
            self.assertEqual(os.pread(fd, 100, size + (1 << 40)), b"")
            self.assertEqual(os.pread(fd, 100, (1 << 63) - 200), b"")
            self.assertEqual(os.pread(fd, 100, size - 3), ORIGINAL.read_bytes()[-3:])
            self.assertEqual(os.pread(fd, 0, 5), b"")
            self.refuses(errno.EINVAL, os.pread, fd, 1, -1)
            self.refuses(errno.EINVAL, os.lseek, fd, -1, os.SEEK_SET)
            self.assertEqual(os.lseek(fd, 0, os.SEEK_END), size)
            # one piece of data without holes
            self.assertEqual(os.lseek(fd, 5, os.SEEK_DATA), 5)
            self.assertEqual(os.lseek(fd, 5, os.SEEK_HOLE), size)
            self.refuses(errno.ENXIO, os.lseek, fd, size + 1, os.SEEK_DATA)

    def test_attributes(self):
        names = os.listxattr(self.model)
        self.assertEqual(sorted(names), ["user.bigsmall.codec", "user.bigsmall.ratio", "user.bigsmall.sha256"])
        self.assertEqual(len(os.getxattr(self.model, "user.bigsmall.sha256")), 64)
        for name in ("user.missing", "security.selinux", "system.posix_acl_access"):
            with self.assertRaises(OSError) as raised:
                os.getxattr(self.model, name)
            self.assertIn(raised.exception.errno, (errno.ENODATA, errno.EOPNOTSUPP))
        self.assertEqual(os.listxattr(self.mount / "plain.txt"), [])
        space = ctypes.create_string_buffer(3)
        path = os.fsencode(self.model)
        self.refuses(errno.ERANGE, call, "getxattr", path, b"user.bigsmall.sha256", space, 3)
        self.refuses(errno.ERANGE, call, "listxattr", path, space, 3)

    def test_attributes_of_the_original(self):
        mounted_, original = os.stat(self.model), os.stat(self.mount / "link")
        self.assertEqual(mounted_, original)
        self.assertEqual(mounted_.st_size, ORIGINAL.stat().st_size)
        self.assertGreaterEqual(mounted_.st_blocks * 512, mounted_.st_size)
        self.assertGreaterEqual(mounted_.st_nlink, 1)
        self.assertNotEqual(mounted_.st_ino, 0)

    def test_locks_are_local_and_unknown_controls_are_refused(self):
        with open(self.model, "rb") as one, open(self.model, "rb") as two:
            fcntl.flock(one, fcntl.LOCK_EX)
            self.refuses(errno.EWOULDBLOCK, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(one, fcntl.LOCK_UN)
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self.assertRaises(OSError) as raised:
                fcntl.ioctl(one, 0x5401, bytes(64))  # TCGETS: is it a terminal?
            self.assertEqual(raised.exception.errno, errno.ENOTTY)

    def test_copies_in_the_kernel(self):
        with scratch() as folder, open(self.model, "rb") as source, open(folder / "copy", "w+b") as copy:
            left = os.fstat(source.fileno()).st_size
            while left:
                try:
                    done = os.copy_file_range(source.fileno(), copy.fileno(), left)
                except OSError as error:
                    self.assertEqual(error.errno, errno.EXDEV)
                    done = os.sendfile(copy.fileno(), source.fileno(), None, left)
                self.assertGreater(done, 0)
                left -= done
            self.assertEqual(Path(copy.name).read_bytes(), ORIGINAL.read_bytes())

    def test_programs_are_not_run_from_it(self):
        self.assertIn("noexec", run("findmnt", "-no", "OPTIONS", self.mount).stdout.split(","))


if __name__ == "__main__":
    unittest.main()
