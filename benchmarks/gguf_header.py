"""Time and memory to open a GGUF file of 4 GB, against ``gguf.GGUFReader`` on one of 98 MB.

Run: python benchmarks/gguf_header.py [--json]

The large file is sparse and has the header of a real model, vocabulary included. The reference
reader is given the real file itself, because it would be slower still on a larger one. Each opens
its file in a process of its own; memory is what the process's peak grew by.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from report import Row, report

from llamatelemetry.llama import read_gguf
from llamatelemetry.llama.model_files import demo_model

SIZE_BYTES = 4 * 2**30
REPEATS = 5

OPEN = """
import json, sys, time
{imports}
def peak_kb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before, begun = peak_kb(), time.perf_counter()
opened = {open}
print(json.dumps([(time.perf_counter() - begun) * 1e3, (peak_kb() - before) / 1024, len(opened.tensors)]))
"""
OURS = OPEN.format(imports="from llamatelemetry.llama.gguf import read_gguf", open="read_gguf(sys.argv[1])")
REFERENCE = OPEN.format(imports="from gguf import GGUFReader", open="GGUFReader(sys.argv[1])")


def opening(script: str, path: Path) -> tuple[float, float]:
    """Least milliseconds, and megabytes, that opening the file takes."""
    runs = []
    for _ in range(REPEATS):
        done = subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True)
        milliseconds, megabytes, tensors = json.loads(done.stdout)
        assert tensors == 272
        runs.append((milliseconds, megabytes))
    times, peaks = zip(*runs, strict=True)
    return min(times), min(peaks)


def main() -> None:
    """Measures and prints."""
    model = demo_model()
    header_bytes = min(tensor.offset for tensor in read_gguf(model).tensors)
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.gguf"
        with model.open("rb") as source, large.open("wb") as copy:
            copy.write(source.read(header_bytes))
            copy.truncate(SIZE_BYTES)
        time_ms, memory_mb = opening(OURS, large)
    reference_ms, reference_mb = opening(REFERENCE, model)
    report(
        "Opening a GGUF file (baseline: gguf.GGUFReader on a file of 98 MB)",
        [
            Row(name="4 GB sparse file, time", value=time_ms, unit="ms", baseline=reference_ms, budget="milliseconds"),
            Row(name="4 GB sparse file, memory", value=memory_mb, unit="MB", baseline=reference_mb, budget="a few MB"),
        ],
    )


if __name__ == "__main__":
    main()
