"""What four bits of bitsandbytes cost SmolLM2, measured on its checkpoint, and what measuring takes.

Run: python benchmarks/nf4.py [--json]

Needs torch. Errors are those of ``measure_checkpoint`` over all matrices, and of FP4 and double quantization against
NF4 without it. The time is compared with bare calls of bitsandbytes on the same tensors, there and back, once they
are in memory: what is more is reading, and comparing numbers. Memory is what the process took at its peak above what
it had before, against the weights.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Row, report

from llamatelemetry.quantization.nf4 import FourBit, measure_checkpoint
from llamatelemetry.quantization.nf4.runtime import load_bitsandbytes, load_torch

FORMATS = {
    "NF4": FourBit(double_quantization=False),
    "NF4, double quantization": FourBit(),
    "FP4": FourBit(name="fp4", double_quantization=False),
    "FP4, double quantization": FourBit(name="fp4"),
}
EXPORT = """
import sys
import torch
from transformers import AutoModelForCausalLM
from llamatelemetry.llama.model_files import demo_model

path = demo_model()
model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
model.hf_quantizer, model.is_quantized = None, False
for owner, name in ((model, "quantization_method"), (model.config, "quantization_config")):
    if hasattr(owner, name):
        delattr(owner, name)
model.to(torch.bfloat16).save_pretrained(sys.argv[1])
"""


def memory_bytes(line: str) -> int:
    """A line of what the kernel says of this process's memory: ``VmRSS`` now, ``VmHWM`` at its peak."""
    (found,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(line)]
    return int(found.split()[1]) * 1024


def bare_seconds(folder: Path, names: list[str]) -> float:
    """Seconds that bitsandbytes takes for these tensors, there and back."""
    from safetensors.torch import load_file

    functional, tensors = load_bitsandbytes().functional, load_file(folder / "model.safetensors")
    begun = time.perf_counter()
    for name in names:
        functional.dequantize_4bit(*functional.quantize_4bit(tensors[name], quant_type="nf4"))
    return time.perf_counter() - begun


def main() -> None:
    """Measures all formats and prints what came of it."""
    load_torch().set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        subprocess.run([sys.executable, "-c", EXPORT, place], check=True, capture_output=True)
        measure_checkpoint(folder, FORMATS["NF4"])  # What is loaded and allocated once.
        Path("/proc/self/clear_refs").write_text("5")
        before = memory_bytes("VmRSS")
        begun = time.perf_counter()
        found = {name: measure_checkpoint(folder, four_bit) for name, four_bit in FORMATS.items()}
        seconds = (time.perf_counter() - begun) / len(FORMATS)
        peak = memory_bytes("VmHWM") - before
        plain = found["NF4"]
        bare = bare_seconds(folder, [each.name for each in plain.tensors])
    rows = []
    for name, each in found.items():
        rows.append(Row(name=f"{name}: relative error", value=each.loss.relative_error or 0, unit=""))
        rows.append(Row(name=f"{name}: bits a weight", value=each.loss.bits_per_weight or 0, unit="bits"))
        rows.append(
            Row(name=f"{name}: whole model", value=each.size_bytes / 1e6, unit="MB", baseline=each.source_bytes / 1e6)
        )
    rows += [
        Row(name="a checkpoint measured", value=seconds, unit="s", baseline=bare),
        Row(
            name="memory at most, of all weights",
            value=peak / 1e6,
            unit="MB",
            baseline=plain.source_bytes / 1e6,
            budget="<= 0.5",
        ),
    ]
    report("Four bits of SmolLM2, 135 million weights in BF16, one thread", rows)
    error = {name: each.loss.relative_error or 0 for name, each in found.items()}
    assert error["NF4"] < 0.8 * error["FP4"], "NF4 is there because it loses less"
    assert error["NF4, double quantization"] < 1.01 * error["NF4"], "double quantization loses next to nothing"
    assert peak < 0.5 * plain.source_bytes, "one tensor is in memory at a time"


if __name__ == "__main__":
    main()
