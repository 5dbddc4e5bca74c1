"""The simulation, small: policies do to a loaded queue what they are named for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    """What ``benchmarks/scheduler_sim.py --json`` prints: value by policy, figure and unit."""
    script = Path(__file__).parent.parent / "benchmarks" / "scheduler_sim.py"
    command = [sys.executable, str(script), "--json", "--requests", "4000", "--servers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    return {f"{row['name']} {row['unit']}": row["value"] for row in rows}


def test_urgent_requests_wait_less_where_priorities_count(figures) -> None:
    for world in ("Poisson", "bursts"):
        urgent = "1 x 8 slots, {}: {}, urgent queue time s p99"
        assert figures[urgent.format(world, "priority")] < 0.5 * figures[urgent.format(world, "fifo")]


def test_fair_tenants_come_close_to_their_fair_shares_and_first_in_first_out_does_not(figures) -> None:
    fairness = "1 x 8 slots, bursts: {}, fairness Jain"
    assert figures[fairness.format("fair")] > 0.95
    assert figures[fairness.format("fifo")] < 0.8


def test_running_by_deadline_misses_fewer_of_them(figures) -> None:
    missed = "1 x 8 slots, bursts: {}, deadlines missed share"
    assert figures[missed.format("deadline")] < 0.5 * figures[missed.format("fifo")]


def test_prefix_affinity_finds_more_in_the_cache_and_shortens_the_queue(figures) -> None:
    world = "1 x 8 slots, shared prompts: {}, {}"
    cached, waited = "prompt tokens cached share", "queue time s p50"
    assert figures[world.format("prefix", cached)] > 2 * figures[world.format("fifo", cached)]
    assert figures[world.format("prefix", waited)] < figures[world.format("fifo", waited)]


def test_every_policy_tells_what_the_scheduler_cost(figures) -> None:
    costs = [value for name, value in figures.items() if name.endswith("us/request")]
    assert len(costs) == 12
    assert min(costs) > 0
