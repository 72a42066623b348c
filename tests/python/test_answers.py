"""Commands that ask before they change something: what is answered on a terminal is done, or nothing is."""
import os
import pty
import shutil
import subprocess
import unittest

from common import MINI_LLAMA, PROGRAM, bigsmall, listing, run, scratch


def on_a_terminal(answer: str, *words) -> tuple[int, str]:
    """Runs `bigsmall` with a terminal that types `answer`; its exit status and all that it showed."""
    ours, theirs = pty.openpty()
    command = [os.fspath(PROGRAM), *(os.fspath(w) for w in words)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, answer.encode())
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # how a terminal says that the other side is gone
            pass
        os.close(ours)
    return process.returncode, shown.decode(errors="replace")


class Answers(unittest.TestCase):
    def setUp(self):
        self.folder = self.enterContext(scratch()) / "models"
        self.folder.mkdir()
        shutil.copy(MINI_LLAMA / "model.safetensors", self.folder)

    def changes_nothing(self, answer, *words):
        before = listing(self.folder)
        status, shown = on_a_terminal(answer, *words)
        self.assertEqual(status, 0, shown)
        self.assertIn("[y/N]", shown)
        self.assertIn("nothing was changed", shown)
        self.assertNotIn("error", shown)
        self.assertEqual(listing(self.folder), before)

    def test_convert_and_restore_do_what_is_answered(self):
        convert = ("convert", self.folder, "--min-age", "0")
        for answer in ("n\n", "\n", "N\n", "what?\n", "\x04"):
            with self.subTest(answer=answer):
                self.changes_nothing(answer, *convert)
        before = listing(self.folder)
        self.assertEqual(on_a_terminal("y\n", *convert)[0], 0)
        self.assertEqual([p.name for p in self.folder.glob("*.*s")], ["model.bs"])
        self.changes_nothing("n\n", "restore", self.folder)
        self.assertEqual(on_a_terminal("yes\n", "restore", self.folder)[0], 0)
        self.assertEqual(listing(self.folder), before)

    def test_what_is_gone_is_deleted_only_after_a_yes(self):
        copy = self.folder.parent / "copy"
        (self.folder / "note").write_text("one")
        bigsmall("compress", self.folder, "-o", copy)
        (self.folder / "note").unlink()
        update = ("compress", self.folder, "-o", copy, "--delete")
        self.changes_nothing("n\n", *update)
        self.assertTrue((copy / "note").exists())
        status, shown = on_a_terminal("y\n", *update)
        self.assertEqual(status, 0, shown)
        self.assertFalse((copy / "note").exists())

    def test_where_nobody_can_be_asked_nothing_is_done(self):
        before = listing(self.folder)
        said = run(PROGRAM, "convert", self.folder, "--min-age", "0", expect=2).stderr
        self.assertIn("--yes", said)
        self.assertEqual(listing(self.folder), before)


if __name__ == "__main__":
    unittest.main()
