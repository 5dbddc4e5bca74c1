"""Thirty-two requests at once on real SmolLM2: one batch gives what ``generate`` gives, and sooner."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[4] / "benchmarks" / "transformers_batching.py"


def test_thirty_two_requests_at_once_are_answered_as_one_by_one_in_less_time(smollm_folder):
    command = [sys.executable, SCRIPT, "--json", "--requests", "32", "--tokens", "4", "--model", smollm_folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["tokens that are the same"]["value"] == 32 * 4
    assert rows["throughput"]["ratio"] > 1
    assert rows["prompt tokens found in the cache"]["value"] > 0
    held = rows["pages that requests held"]["value"]
    assert 0 < rows["most pages in use at once, shared ones once"]["value"] <= held
    assert rows["pages of four answers when they were cancelled"]["value"] > 0
