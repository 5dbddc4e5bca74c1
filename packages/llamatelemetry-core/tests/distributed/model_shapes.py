"""Shapes of models that the tests of placement share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamatelemetry.distributed.placement import GPURoom
from llamatelemetry.distributed.shape import LayerShape, ModelShape

MIB = 2**20
GIB = 2**30


def a_shape(layers: int = 4, *, layer: LayerShape | None = None, **changes: Any) -> ModelShape:
    """A small model whose layers are all alike."""
    each = layer or LayerShape(weights_bytes=10 * MIB, key_elements=128, value_elements=128)
    sizes: dict[str, Any] = {
        "name": "toy",
        "path": Path("/models/toy.gguf"),
        "format": "gguf",
        "architecture": "llama",
        "layers": (each,) * layers,
        "input_bytes": 30 * MIB,
        "output_bytes": 20 * MIB,
        "tied_output": False,
        "embedding_length": 256,
        "vocabulary_size": 1000,
        "head_count": 4,
        "attention_length": 256,
        "feed_forward_length": 768,
    }
    return ModelShape(**{**sizes, **changes})


def llama_8b() -> ModelShape:
    """Llama 3.1 8B in Q4_K_M, by its published sizes: 4.85 bits a weight, 4096 wide, 8 KV heads of 128."""
    return a_shape(
        32,
        layer=LayerShape(weights_bytes=132_000_000, key_elements=1024, value_elements=1024),
        name="Llama 3.1 8B",
        input_bytes=295_000_000,
        output_bytes=431_000_000,
        embedding_length=4096,
        vocabulary_size=128_256,
        head_count=32,
        attention_length=4096,
        feed_forward_length=14_336,
    )


def rooms(*gibibytes: float) -> tuple[GPURoom, ...]:
    """GPUs with so much free."""
    return tuple(
        GPURoom(index=index, name="Tesla T4", uuid=f"GPU-{index}", free_bytes=int(amount * GIB))
        for index, amount in enumerate(gibibytes)
    )
