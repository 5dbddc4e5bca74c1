"""Small random adapters, for tests: the same bytes everywhere, and no torch to make them."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llamatelemetry.unsloth.adapter import CONFIG, WEIGHTS

__all__ = ["SMALL_LAYERS", "write_small_adapter"]

SMALL_LAYERS: Final[Mapping[str, tuple[int, int]]] = {
    f"model.layers.{number}.self_attn.{name}": shape
    for number in range(2)
    for name, shape in (("q_proj", (64, 64)), ("v_proj", (32, 64)))
}
"""Layers of a model of two blocks that is 64 wide: what comes out, and what goes in."""


def write_small_adapter(
    folder: str | os.PathLike[str],
    *,
    layers: Mapping[str, tuple[int, int]] = SMALL_LAYERS,
    rank: int = 4,
    seed: int = 3,
    **config: Any,
) -> Path:
    """Writes a LoRA adapter as PEFT does.

    Args:
        folder: Where to; it is made.
        layers: Names of the layers that it has weights for: what comes out, and what goes in.
        rank: Its rank.
        seed: Another one, other weights.
        config: What ``adapter_config.json`` says instead or beside; None leaves it out.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "base_model_name_or_path": "small",
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "task_type": "CAUSAL_LM",
        **config,
    }
    known = {name: value for name, value in values.items() if value is not None}
    (folder / CONFIG).write_text(json.dumps(known, indent=1))
    drawn = random.Random(seed)  # noqa: S311  Weights are no secrets.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, (out, into) in layers.items():
        for letter, shape in (("A", (rank, into)), ("B", (out, rank))):
            numbers = [drawn.gauss(0, 0.1) for _ in range(shape[0] * shape[1])]
            packed = struct.pack(f"<{len(numbers)}f", *numbers)
            place = [len(data), len(data) + len(packed)]
            header[f"base_model.model.{name}.lora_{letter}.weight"] = {
                "dtype": "F32",
                "shape": list(shape),
                "data_offsets": place,
            }
            data += packed
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder
