"""Which distribution brings a name that nothing installed registers.

Core knows these names only to tell a user what to install; it imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A distribution and how to get it.

    Attributes:
        distribution: Its name.
        command: One command that installs it.
    """

    distribution: str
    command: str


_LLAMACPP: Final = Offer(
    distribution="llamatelemetry-llamacpp", command="pip install 'llamatelemetry-llamacpp[embedded]'"
)
_QUANTIZATION: Final = Offer(
    distribution="llamatelemetry-quantization", command="pip install llamatelemetry-quantization"
)
_UNSLOTH: Final = Offer(distribution="llamatelemetry-unsloth", command="pip install 'llamatelemetry-unsloth[peft]'")
_TRANSFORMERS: Final = Offer(
    distribution="llamatelemetry-transformers", command="pip install llamatelemetry-transformers"
)

OFFERS: Final[Mapping[tuple[str, str], Offer]] = {
    ("backend", "llamacpp"): _LLAMACPP,
    ("command", "run"): _LLAMACPP,
    ("command", "demo"): _LLAMACPP,
    ("command", "adapter"): _UNSLOTH,
    **{
        ("command", name): _QUANTIZATION for name in ("dynamic", "export-gguf", "imatrix", "nf4", "quality", "quantize")
    },
    ("stage", "deploy"): _LLAMACPP,
    **{
        ("stage", name): _QUANTIZATION
        for name in ("compare", "dynamic", "export_gguf", "imatrix", "quantize", "validate")
    },
    **{("stage", name): _UNSLOTH for name in ("finetune", "merge_lora")},
    ("model reader", "gguf"): _LLAMACPP,
    ("model reader", "huggingface"): _TRANSFORMERS,
}
"""Kind and name to the distribution that registers it."""


def model_format(path: Path) -> str | None:
    """The format that a model's name suggests, so that its reader can be offered; nothing is read of it.

    Args:
        path: A file, or a folder that holds one model.
    """
    if path.suffix == ".gguf":
        return "gguf"
    described = path / "config.json" if path.is_dir() else path
    known = described.name == "config.json" or described.suffix == ".safetensors"
    return "huggingface" if known and described.exists() else None
