"""Memory of the host, as the kernel tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatelemetry.distributed.host_memory import available_memory

MEMINFO = "MemTotal:       2000 kB\nMemAvailable:   1000 kB\n"


def group(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 1_024_000),
        ({"max": "max\n", "current": "5\n"}, 1_024_000),
        ({"max": "2000000\n", "current": "1500000\n"}, 500_000),
        ({"max": "2000000\n", "current": "1500000\n", "stat": "anon 5\ninactive_file 100000\n"}, 600_000),
        ({"max": "1000\n", "current": "1500\n"}, 0),
        ({"max": "9000000\n", "current": "0\n"}, 1_024_000),
    ],
)
def test_it_is_what_the_kernel_reckons_or_what_the_control_group_leaves(tmp_path: Path, files, expected):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    assert available_memory(meminfo, group(tmp_path, **files)) == expected


def test_where_the_kernel_does_not_say_it_is_not_known(tmp_path: Path):
    assert available_memory(tmp_path / "none", tmp_path) is None


def test_this_machine_has_some():
    found = available_memory()
    assert found is not None
    assert found > 2**24
