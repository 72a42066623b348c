"""The pages of scripts/bench and scripts/bench-deltas: made from fixed figures, and as they are committed."""
import copy
import json
import re
import sys
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/bench"))
import chart  # noqa: E402
import delta_page  # noqa: E402
import table  # noqa: E402


def row(name, model="real", dtype="BF16", cores="one", size=45_000_000, **more) -> dict:
    found = {"name": name, "model": model, "dtype": dtype, "cores": cores, "bytes": size, "rounds": 5}
    if "error" not in more:
        found |= {"exact": True, "ratio": 0.66,
                  "encode_gbps": [0.2, 0.3, 0.4], "decode_window_gbps": [4.0, 5.0, 6.0],
                  "decode_resident_gbps": [3.0, 4.0, 4.5], "decode_fresh_gbps": [2.0, 2.5, 3.0],
                  "encode_cpu_s_per_gb": [3.0, 3.3, 3.6], "decode_window_cpu_s_per_gb": [0.2, 0.2, 0.3],
                  "peak_mb": [120.0, 121.4, 122.0]}
    return {key: value for key, value in (found | more).items() if value is not None}


FOUND = {
    "date": "2026-01-02", "command": "scripts/bench", "rounds": 5, "runs": 3, "python": "3.11.2",
    "threads": {"one": 1, "all": 4},
    "contestants": {
        "quick": {"version": "1.0", "settings": "default", "threads_are": "its own", "into": False}},
    "machine": {"cpu": "A <fine> processor", "cores": 4, "caches": ", L2 2 MiB", "memory": "16 GiB",
                "system": "Linux 6.1"},
    "rows": [
        row("bigsmall balanced", cores="all"),
        row("bigsmall balanced", dtype="F32", model="wide", ratio=0.82),
        row("memcpy", ratio=None, encode_gbps=None, decode_window_gbps=[20.0, 22.0, 24.0]),
        row("bigsmall balanced"),
        row("quick", encode_gbps=[1.0, 1.5, 2.0], ratio=0.7, decode_resident_gbps=None),
        row("broken", exact=False),
        row("rewriter", exact=False, tensors_exact=True),
        row("absent", error="did not install: no wheel | for <this>"),
        row("bigsmall balanced", model="tiny", size=2_000_000),
    ],
}


class Table(unittest.TestCase):
    def setUp(self):
        self.page = table.page(FOUND)

    def line(self, start: str) -> str:
        return next(line for line in self.page.splitlines() if line.startswith(start))

    def test_one_core_comes_first_and_bf16_before_the_others(self):
        heads = [line for line in self.page.splitlines() if line.startswith("##")]
        self.assertEqual(heads, [
            "## One core, one thread", "### BF16: real, 45.0 MB", "### BF16: tiny, 2.0 MB",
            "### F32: wide, 45.0 MB", "## All cores, 4 threads", "### BF16: real, 45.0 MB", "## Who and how"])

    def test_medians_stand_in_the_columns(self):
        self.assertTrue(self.line("| **bigsmall balanced**").endswith(
            "| 66.00 % | 0.30 | 5.00 | 4.00 | 2.50 | 3.30 | 0.20 | 121 |"))
        self.assertEqual(self.line("| quick"),
                         "| quick | 70.00 % | 1.50 | 5.00 |  | 2.50 | 3.30 | 0.20 | 121 |")

    def test_nothing_is_dropped_and_what_is_not_exact_is_told(self):
        self.assertIn("(**NOT EXACT**)", self.line("| broken"))
        self.assertIn("(tensors exact, the file is not)", self.line("| rewriter"))
        absent = self.line("| absent")
        self.assertIn("did not install: no wheel / for &lt;this>", absent)
        self.assertEqual(absent.count("|"), self.line("| quick").count("|"))

    def test_settings_and_versions_are_named(self):
        self.assertIn("| quick | 1.0 | default | its own | objects of its own: fresh;", self.page)

    def test_where_a_peer_is_ahead_it_is_said(self):
        said = self.line("Ahead of all our profiles:")
        self.assertIn("encoding (quick 1.50; our best 0.30)", said)
        self.assertNotIn("memcpy", said)
        self.assertNotIn("decoding", said)


class Chart(unittest.TestCase):
    def test_it_is_well_formed_for_both_grounds_and_shows_whoever_compresses(self):
        picture = chart.chart(FOUND)
        texts = [e.text for e in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
        self.assertIn("prefers-color-scheme: dark", picture)
        for shown in ("BF16: real, 45 MB", "F32: wide, 45 MB", "bigsmall balanced", "quick", "70.0 %"):
            self.assertIn(shown, texts)
        for hidden in ("memcpy", "absent", "BF16: tiny, 2 MB"):
            self.assertNotIn(hidden, texts)


def delta_row(name, size, fine_tune="tune-1e-3", **more) -> dict:
    found = {"base": "base", "fine_tune": fine_tune, "name": name, "rounds": 3}
    if "error" not in more:
        found |= {"exact": True, "tensors_exact": True, "bytes": size, "encode_s": [0.2, 0.3, 0.5],
                  "encode_cpu_s": [0.2, 0.25, 0.3], "decode_s": [0.1, 0.12, 0.2], "decode_cpu_s": [0.1, 0.11, 0.2]}
    return found | more


DELTAS = {
    "date": "2026-01-02", "command": "scripts/bench-deltas", "rounds": 3, "python": "3.11.2",
    "machine": FOUND["machine"],
    "contestants": {"bigsmall": {"version": "1.0", "settings": "as it is"}},
    "pairs": [{"base": "base", "fine_tune": "tune-1e-3", "noise": "1e-3", "bytes": 40_000_000, "dtype": "BF16"},
              {"base": "base", "fine_tune": "chat", "noise": None, "bytes": 40_000_000, "dtype": "BF16"}],
    "rows": [
        delta_row("bigsmall", 4_000_000),
        delta_row("bitx", 5_000_000, decode_s=[0.01, 0.02, 0.03]),
        delta_row("python-bigsmall", 8_000_000, exact=False),
        delta_row("xdelta3", 0, error="no such package | here"),
        delta_row("bigsmall", 9_000_000, "chat"),
        delta_row("bitx", 8_000_000, "chat", exact=False, tensors_exact=False),
    ],
    "mount": {"base": "base", "fine_tune": "tune-1e-3", "cache_bytes": 4 << 20, "page_bytes": 4096,
              "model_bytes": 40_000_000, "rows": [
                  {"name": "standalone image", "exact": True, "samples": 300, "p50_us": 50.0, "p90_us": 70.0},
                  {"name": "delta, base a plain file", "exact": True, "samples": 300, "p50_us": 105.0, "p90_us": 140.0},
                  {"name": "delta, base an image", "exact": True, "samples": 300, "p50_us": 120.0, "p90_us": 150.0}]},
    "memory": {"base": "big", "fine_tune": "big-1e-3", "model_bytes": 988_000_000, "bytes": 98_800_000, "exact": True,
               "compress": {"s": 9.0, "cpu_s": 16.0, "peak_bytes": 300 << 20},
               "decompress": {"s": 2.0, "cpu_s": 3.0, "peak_bytes": 100 << 20}},
}


class Deltas(unittest.TestCase):
    def setUp(self):
        self.lines = delta_page.page(DELTAS).splitlines()

    def starting(self, start: str) -> list:
        return [line for line in self.lines if line.startswith(start)]

    def test_bytes_ratios_and_medians_stand_in_the_columns(self):
        self.assertEqual(self.starting("| BitX |")[0],
                         "| BitX | 5,000,000 | 12.50 % | 0.800 | 0.30 | 0.25 | 0.02 | 0.11 | same |")

    def test_what_failed_or_came_back_otherwise_is_told(self):
        self.assertTrue(self.starting("| python-bigsmall |")[0].endswith("| tensors same, file not |"))
        self.assertTrue(self.starting("| BitX |")[1].endswith("| **NOT THE SAME** |"))
        self.assertIn("| xdelta3: no such package / here |", self.starting("| xdelta3")[0])

    def test_targets_are_reached_or_missed(self):
        self.assertEqual([line.split("|")[2:-1] for line in self.starting("| bytes at noise")],
                         [[" 0.60 ", " 0.500 ", " reached "], [" 0.70 ", " 0.800 ", " **missed** "]])
        self.assertEqual([line.split("|")[2:-1] for line in self.starting("| p50 of a read")],
                         [[" 2.20 ", " 2.10 ", " reached "], [" 2.20 ", " 2.40 ", " **missed** "]])
        self.assertIn("| 512 MiB | 300 MiB | reached |", self.starting("| peak memory")[0])

    def test_a_target_without_a_figure_is_not_reached(self):
        found = copy.deepcopy(DELTAS)
        found["rows"] = [row for row in found["rows"] if row["name"] != "bitx"]
        self.assertIn("| bytes at noise 1e-3, by those of BitX | 0.70 | not measured | |", delta_page.page(found))

    def test_who_is_ahead_of_us_is_said(self):
        self.assertEqual(self.starting("Ahead of us:"), ["Ahead of us: decoding (BitX).", "Ahead of us: size (BitX)."])

    def test_without_mounts_the_reason_stands_there(self):
        page = delta_page.page(DELTAS | {"mount": {"error": "this machine cannot mount"}})
        self.assertIn("Not measured: this machine cannot mount.", page)


class Committed(unittest.TestCase):
    """A page has the figures of the json beside it, and says nothing of where it was made."""

    def check(self, name: str, page) -> None:
        folder = ROOT / "docs/benchmarks"
        text = (folder / f"{name}.json").read_text()
        self.assertEqual((folder / f"{name}.md").read_text(), page(json.loads(text)))
        self.assertEqual(re.findall(r"(?<![\w./])/[a-z][\w.-]*/", text), [])

    def test_the_page_of_the_deltas(self):
        self.check("deltas", delta_page.page)

    def test_the_page_of_the_peers(self):
        self.check("peers", table.page)


if __name__ == "__main__":
    unittest.main()
