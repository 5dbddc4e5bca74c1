"""Converting a checkpoint to GGUF: speed, and memory beside the model's size.

Run: python benchmarks/convert.py [--json]

The checkpoint is random, of a Llama's shapes, 122 million weights in BF16 and two shards. Each type is made in a
process of its own, in turns; time is the least of them, and memory what the process held at its peak. The
baseline of memory is the checkpoint's weights: a converter that loads the model holds them at least.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import Row, report

from llamatelemetry.quantization.converting import CONVERTED_TYPES
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint

SIZES: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "head_dim": 128}
BLOCKS = 8
THREADS = 2
TURNS = 2
BUDGET = 0.5

OURS = """
import json, sys, time
from llamatelemetry.quantization import convert
source, target, file_type, threads = sys.argv[1:]
begun = time.perf_counter()
convert(source, target, file_type=file_type, threads=int(threads))
seconds = time.perf_counter() - begun
(peak,) = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({"seconds": seconds, "peak": peak * 1024}))
"""


def measure(source: Path, target: Path, name: str) -> dict[str, float]:
    """Seconds and peak bytes of :func:`llamatelemetry.quantization.convert`."""
    command = [sys.executable, "-c", OURS, str(source), str(target), name, str(THREADS)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    """Measures and prints."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_small_checkpoint(folder / "model", shards=2, num_hidden_layers=BLOCKS, **SIZES)
        weights = sum(path.stat().st_size for path in source.glob("*.safetensors"))
        for kind in CONVERTED_TYPES:
            turns = [measure(source, folder / "out.gguf", kind) for _ in range(TURNS)]
            best = {key: min(turn[key] for turn in turns) for key in turns[0]}
            rows += [
                Row(name=f"BF16 to {kind}, of the checkpoint", value=weights / 1e6 / best["seconds"], unit="MB/s"),
                Row(
                    name=f"BF16 to {kind}, memory",
                    value=best["peak"] / 2**20,
                    unit="MiB",
                    baseline=weights / 2**20,
                    budget=f"at most {BUDGET} times",
                ),
            ]
    report(f"Converting a checkpoint of {weights / 1e6:.0f} MB with {THREADS} threads (baseline: its weights)", rows)
    assert all(row.ratio is None or row.ratio <= BUDGET for row in rows)


if __name__ == "__main__":
    main()
