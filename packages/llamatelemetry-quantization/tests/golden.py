"""Writes golden.json: the SHA-256 of what llama.cpp's own quantizer makes of small random models and of SmolLM2.

Run: python packages/llamatelemetry-quantization/tests/golden.py

The hashes are llama.cpp's, never ours: a test quantizes the same models and has to arrive at them.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from llamatelemetry.quantization.file_types import FILE_TYPES
from llamatelemetry.quantization.testing import write_small_importance, write_small_model

HERE = Path(__file__).parent

PLAIN = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q5_K_S", "Q6_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q2_K", "Q8_0", "Q4_0", "BF16")
MEASURED = ("Q4_K_M", "Q5_K_M", "Q3_K_M", "Q4_0", "Q5_0", "IQ4_XS", "IQ4_NL", "IQ3_S")
"""Quantized with an importance matrix."""
EXPERTS = ("Q4_K_M", "Q3_K_M", "MXFP4_MOE")


def models(folder: Path) -> dict[str, Path]:
    """The models, written to a folder. Importance is noted with the path as given, so that is a bare name."""
    return {
        "small": write_small_model(folder / "small.gguf"),
        "experts": write_small_model(folder / "experts.gguf", blocks=2, experts=8, tied=True, kv_heads=1, dtype="BF16"),
    }


def cases() -> list[tuple[str, str, bool]]:
    """Model, file type, and whether an importance matrix is given."""
    return [
        *(("small", name, False) for name in PLAIN),
        *(("small", name, True) for name in MEASURED),
        *(("experts", name, False) for name in EXPERTS),
        ("smollm2", "Q4_K_M", False),
    ]


def sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Has llama.cpp quantize all of them."""
    from llamatelemetry.llama.model_files import demo_model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = models(folder) | {"smollm2": demo_model()}
        write_small_importance(folder / "imatrix.gguf", found["small"])
        jobs = [
            {
                "source": str(found[model]),
                "target": f"{model}-{file_type}-{measured}",
                "ftype": FILE_TYPES[file_type].number,
                "imatrix": "imatrix.gguf" if measured else None,
                "allow_requantize": model == "smollm2",
            }
            for model, file_type, measured in cases()
        ]
        script = [sys.executable, str(HERE / "upstream.py")]
        subprocess.run(script, input=json.dumps(jobs), text=True, check=True, cwd=folder, stderr=subprocess.DEVNULL)
        golden = {
            "sources": {model: sha256(path) for model, path in found.items()},
            "quantized": {str(job["target"]): sha256(folder / str(job["target"])) for job in jobs},
        }
    (HERE / "golden.json").write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    main()
