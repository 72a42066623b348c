"""The table and the picture of scripts/bench, made from fixed figures."""
import sys
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import chart  # noqa: E402
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


if __name__ == "__main__":
    unittest.main()
