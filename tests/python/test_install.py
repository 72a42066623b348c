"""What `scripts/install` puts in place, and the unit that keeps the Hugging Face cache of a user mounted."""
import os
import shlex
import shutil
import signal
import socket
import subprocess
import unittest
from pathlib import Path

from common import MINI_LLAMA, PROGRAM, ROOT, bigsmall, scratch, sha256

UNITS = {"bigsmall@.service", "bigsmall-scrub@.service", "bigsmall-scrub@.timer"}
OWN = "bigsmall-hf-cache.service"


class Units(unittest.TestCase):
    def setUp(self):
        self.root = self.enterContext(scratch())
        subprocess.run([ROOT / "scripts/install", "/usr"], env=os.environ | {"DESTDIR": str(self.root)}, check=True,
                       stdout=subprocess.DEVNULL)
        self.units = self.root / "usr/lib/systemd"

    def test_units_are_put_where_systemd_looks_and_it_finds_no_fault(self):
        self.assertEqual({path.name for path in (self.units / "system").iterdir()}, UNITS)
        self.assertEqual({path.name for path in (self.units / "user").iterdir()}, UNITS | {OWN})
        for unit in self.units.rglob("*.service"):
            self.assertNotIn("@BINDIR@", unit.read_text())
        if shutil.which("systemd-analyze") is None:
            self.skipTest("no systemd")
        # it looks whether the program is there, which here is elsewhere
        unit = self.root / OWN
        unit.write_text((self.units / "user" / OWN).read_text().replace("/usr/bin", str(self.root / "usr/bin")))
        runtime = self.root / "run"
        runtime.mkdir(mode=0o700)
        done = subprocess.run(["systemd-analyze", "--user", "--man=no", "verify", unit], capture_output=True, text=True,
                              env=os.environ | {"XDG_RUNTIME_DIR": str(runtime)})
        said = [line for line in done.stderr.splitlines() if OWN in line]
        self.assertEqual((done.returncode, said), (0, []), done.stderr)

    def test_the_unit_mounts_the_cache_tells_so_and_unmounts_it(self):
        lines = [line.split("=", 1) for line in (self.units / "user" / OWN).read_text().splitlines() if "=" in line]
        unit = {name: value for name, value in lines if not name.startswith("#")}
        self.assertEqual(unit["Type"], "notify")
        self.assertEqual(unit["EnvironmentFile"], "-%E/bigsmall/hf-cache.conf")

        def words(name: str, options: str) -> list[str]:
            line = unit[name].removeprefix("-").replace("$OPTIONS", options)
            program, *rest = shlex.split(line)
            self.assertEqual(program, "/usr/bin/bigsmall-mountd")
            return [PROGRAM.with_name("bigsmall-mountd"), *rest]

        cache = self.root / "home/hub"
        shutil.copytree(MINI_LLAMA, cache / "models--test--mini/blobs")
        (cache / "models--test--mini/snapshots").mkdir()
        bigsmall("convert", cache, "--yes", "--min-age", "0")
        model = cache / "models--test--mini/blobs/model.safetensors"
        self.assertFalse(model.exists())
        told = self.enterContext(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        told.bind(str(self.root / "notify"))
        told.settimeout(20)
        env = os.environ | {"NOTIFY_SOCKET": str(self.root / "notify"), "HF_HOME": str(self.root / "home")}
        env.pop("HF_HUB_CACHE", None)
        self.addCleanup(subprocess.run, ["umount", "-l", cache], stderr=subprocess.DEVNULL)
        for end in (signal.SIGTERM, signal.SIGKILL):
            with subprocess.Popen(words("ExecStart", "--cache 16m"), env=env, stderr=subprocess.DEVNULL) as service:
                while told.recv(100) != b"READY=1":
                    pass
                self.assertEqual(sha256(model), sha256(MINI_LLAMA / "model.safetensors"))
                service.send_signal(end)
                self.assertEqual(service.wait(), 0 if end == signal.SIGTERM else -signal.SIGKILL)
            subprocess.run(words("ExecStopPost", ""), env=env, capture_output=True)
            self.assertFalse(os.path.ismount(cache))
            self.assertFalse(model.exists())


if __name__ == "__main__":
    unittest.main()
