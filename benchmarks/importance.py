"""What an importance matrix of a real llama.cpp run saves: divergence of coarse types with it and without.

Run: python benchmarks/importance.py [--json]

The model is SmolLM2 in F16. The matrix is of the text for calibration that ships, figures are of the other one.
Baseline: the same type without.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from report import Row, report

from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.quantization import measure_importance, measure_quality, quantize

TYPES = ("Q2_K", "Q3_K_M", "Q4_K_M")


def main() -> None:
    """Measures and prints."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parent, made = folder / "f16.gguf", folder / "made.gguf"
        quantize(demo_model(), parent, file_type="F16", allow_requantize=True)
        matrix = measure_importance(parent, folder / "imatrix.gguf", threads=1)
        for kind in TYPES:
            found = []
            for importance in (None, matrix):
                quantize(parent, made, file_type=kind, imatrix=importance)
                compared = measure_quality(made, parent, context=256, windows=4, threads=2).comparison
                assert compared is not None
                found.append(compared.divergence.value)
            rows.append(Row(name=kind, value=found[1], unit="nats", baseline=found[0], budget="below 1 times"))
    report("Divergence with an importance matrix (baseline: without)", rows)
    assert all(row.ratio is not None and row.ratio < 1 for row in rows)


if __name__ == "__main__":
    main()
