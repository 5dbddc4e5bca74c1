"""Types chosen by measured sensitivity beside the uniform mixes of the same size: divergence on text held out.

Run: python benchmarks/dynamic.py [--cache FILE] [--json]

The model is SmolLM2, in F16; its file in the package index is of Q4_1, so that its weights lie on that grid, which
no type here has. Trials are on the text for calibration that ships, figures on the other one, with nothing in
common. Baseline: the mix. The last row of each is how far the sum of what groups cost alone was off, on the text
for calibration: 1 is additive. With ``--cache`` trials are kept, and the next run takes a few minutes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from report import Row, report

from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.quantization import Budget, measure_quality, quantize, quantize_dynamic

MIXES = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")
BANDS = 2
# Of trials; figures are of twice as many tokens and more.
CONTEXT, WINDOWS = 128, 3


def divergence(model: Path, parent: Path) -> float:
    """Mean divergence of a model from its parent on the text held out, in nats a token."""
    compared = measure_quality(model, parent, context=256, windows=4, threads=2).comparison
    assert compared is not None
    return compared.divergence.value


def rows_of(name: str, parent: Path, folder: Path, cache: Path) -> list[Row]:
    """Figures at the size of one mix."""
    uniform = quantize(parent, folder / "uniform.gguf", file_type=name)
    chosen = quantize_dynamic(
        parent,
        folder / "dynamic.gguf",
        budget=Budget(like=name),
        bands=BANDS,
        context=CONTEXT,
        windows=WINDOWS,
        threads=1,
        cache=cache,
    )
    assert chosen.model.size_bytes <= uniform.size_bytes
    ours, theirs = (divergence(each.path, parent) for each in (chosen.model, uniform))
    return [
        Row(name=f"{name}, size", value=chosen.model.size_bytes / 1e6, unit="MB", baseline=uniform.size_bytes / 1e6),
        Row(name=f"{name}, divergence", value=ours, unit="nats", baseline=theirs, budget="below 1 times"),
        Row(name=f"{name}, measured to added up", value=chosen.measured, unit="nats", baseline=chosen.predicted),
    ]


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = sys.argv[1:]
        cache = Path(given[given.index("--cache") + 1]) if "--cache" in given else folder / "trials.json"
        parent = folder / "f16.gguf"
        quantize(demo_model(), parent, file_type="F16", allow_requantize=True)
        rows = [row for mix in MIXES for row in rows_of(mix, parent, folder, cache)]
    report("Types chosen by measurement (baseline: the mix of that size)", rows)
    assert all(row.ratio is not None and row.ratio < 1 for row in rows if row.name.endswith("divergence"))


if __name__ == "__main__":
    main()
