"""Two variants and their parent measured in a pipeline's way: the parent's logits kept, beside the parent run for each.

Run: python benchmarks/shared_logits.py [--json]

The model is SmolLM2 in F16, its variants are Q8_0 and Q4_K_M, windows are four of the text that ships. Baseline:
the same three measurements without anything kept. CPU time is that of this process and of llama.cpp together.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

from report import Row, report

from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.quantization import Quality, SharedLogits, measure_quality, quantize

TYPES = ("Q8_0", "Q4_K_M")
WINDOWS = 4


def cpu_s() -> float:
    """CPU time of this process and of the children that ended, in seconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measured(parent: Path, variants: list[Path], shared: SharedLogits | None) -> tuple[list[Quality], float, float]:
    """What is found of each model, and the CPU time and the time that it took, in seconds."""
    begun, used = time.perf_counter(), cpu_s()
    found = [measure_quality(parent, windows=WINDOWS, threads=2, shared=shared)]
    found += [measure_quality(each, parent, windows=WINDOWS, threads=2, shared=shared) for each in variants]
    return found, cpu_s() - used, time.perf_counter() - begun


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parent = folder / "f16.gguf"
        quantize(demo_model(), parent, file_type="F16", allow_requantize=True)
        variants = [quantize(parent, folder / f"{each}.gguf", file_type=each).path for each in TYPES]
        apart, apart_cpu, apart_s = measured(parent, variants, None)
        together, together_cpu, together_s = measured(parent, variants, SharedLogits(folder / "logits"))
        kept = sum(path.stat().st_size for path in (folder / "logits").iterdir())
    rows = [
        Row(name="CPU time", value=together_cpu, unit="s", baseline=apart_cpu, budget="below 1 times"),
        Row(name="time", value=together_s, unit="s", baseline=apart_s),
        Row(name="kept on the disk", value=kept / 1e6, unit="MB"),
    ]
    report("A parent and two variants, measured (baseline: the parent run for each)", rows)
    assert together == apart
    assert together_cpu < apart_cpu


if __name__ == "__main__":
    main()
