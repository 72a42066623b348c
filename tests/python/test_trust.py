"""A small part of `scripts/trust`: others at work on the same tree, and power cuts. The whole of it takes minutes."""
import os
import shutil
import unittest

import interleavings
import power_cuts
from common import PROGRAM, scratch


class Trust(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "kills and mounts as root")
    def test_some_interleavings_lose_nothing(self):
        with scratch() as folder:
            counts = interleavings.run(PROGRAM, folder, 15, seed=7)
        self.assertTrue(all(counts[what] for what in ("convert", "restore", "write", "kill")), counts)

    @unittest.skipUnless(shutil.which("strace"), "strace records what a command does")
    def test_a_power_cut_loses_nothing(self):
        with scratch() as folder:
            commands = power_cuts.Commands(PROGRAM, folder)
            for name in power_cuts.Commands.NAMES:
                with self.subTest(name):
                    count, different = commands.cut(name)
                    self.assertGreater(different, 10)
                    self.assertGreater(count, different)


if __name__ == "__main__":
    unittest.main()
