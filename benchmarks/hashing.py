"""GB/s of hashing artifacts, against ``hashlib.file_digest`` over the same files one after the other.

Run: python benchmarks/hashing.py [--json]

Files are in memory (the page cache), so that the disk is not what is measured. Both are timed in turns
and the fastest turn of each counts: on a shared machine the others tell of neighbours. CPU time a
gigabyte stands beside, because threads make hashing faster and not cheaper. ``workers=1`` is what one
file gets.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from report import Row, report

from llamatelemetry.artifacts.files import create_manifest
from llamatelemetry.artifacts.hashing import hash_files

LARGE_BYTES = 128 * 2**20
LARGE_FILES = 4
SMALL_BYTES = 16 * 2**10
SMALL_FILES = 4000
TURNS = 5


def made(folder: Path, count: int, size_bytes: int) -> list[Path]:
    """Files of noise."""
    folder.mkdir()
    block = os.urandom(2**20)
    paths = []
    for number in range(count):
        path = folder / f"part-{number:05}.bin"
        with path.open("wb") as file:
            for start in range(0, size_bytes, len(block)):
                file.write(block[: min(len(block), size_bytes - start)])
        paths.append(path)
    return paths


def one_by_one(paths: list[Path]) -> list[str]:
    """What a program without this one would do."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests


def measured(paths: list[Path], ways: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """GB/s and CPU seconds a GB of each way, of its fastest turn."""
    size_gb = sum(path.stat().st_size for path in paths) / 1e9
    best = dict.fromkeys(ways, (0.0, 0.0))
    for _ in range(TURNS):
        for name, way in ways.items():
            begun, cpu = time.perf_counter(), time.process_time()
            way()
            took, cost = time.perf_counter() - begun, time.process_time() - cpu
            best[name] = max(best[name], (size_gb / took, cost / size_gb))
    return best


def main() -> None:
    """Measures and prints."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for title, count, size_bytes in (
            (f"{LARGE_FILES} files of 134 MB", LARGE_FILES, LARGE_BYTES),
            (f"{SMALL_FILES} files of 16 kB", SMALL_FILES, SMALL_BYTES),
        ):
            place = Path(folder, str(count))
            paths = made(place, count, size_bytes)
            assert [each.sha256 for each in hash_files(paths)] == one_by_one(paths)
            ways: dict[str, Callable[[], object]] = {
                "hashlib.file_digest": partial(one_by_one, paths),
                "hash_files, one thread": partial(hash_files, paths, workers=1),
                "hash_files": partial(hash_files, paths),
                "hash_files, progress told": partial(hash_files, paths, progress=lambda _told: None),
                "create_manifest": partial(create_manifest, place, kind="dataset"),
            }
            found = measured(paths, ways)
            base_speed, base_cost = found.pop("hashlib.file_digest")
            for name, (speed, cost) in found.items():
                rows.append(
                    Row(
                        name=f"{title}: {name}", value=speed, unit="GB/s", baseline=base_speed, budget="disk or hashlib"
                    )
                )
                rows.append(Row(name=f"{title}: {name}, CPU", value=cost, unit="s/GB", baseline=base_cost))
    report(f"Hashing artifacts on {len(os.sched_getaffinity(0))} CPUs (baseline: hashlib.file_digest)", rows)


if __name__ == "__main__":
    main()
