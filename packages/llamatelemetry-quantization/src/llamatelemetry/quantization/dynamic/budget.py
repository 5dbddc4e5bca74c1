"""How large a model may be, or how far from its parent: what types are chosen under."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.file_types import FILE_TYPES, FileType, file_type
from llamatelemetry.quantization.ggml import TensorType
from llamatelemetry.quantization.gguf_layout import Layout
from llamatelemetry.quantization.mix import choose_types
from llamatelemetry.quantization.mix_rules import Model
from llamatelemetry.quantization.output_plan import plan_output

__all__ = ["Budget", "mix_size"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One of these, and no other.

    Attributes:
        size_bytes: Most bytes of the file.
        bits_per_weight: Most bits of the file for each number of the model.
        like: The file type whose size is the most, for example ``Q4_K_M``.
        max_divergence: Most mean divergence from the parent on the text that is measured on, in nats a token.

    Raises:
        InvalidValueError: None or several are given, or what is given is no budget.
    """

    size_bytes: int | None = None
    bits_per_weight: float | None = None
    like: str | None = None
    max_divergence: float | None = None

    def __post_init__(self) -> None:
        given = self.parameters()
        if len(given) != 1:
            fix = "give one of size_bytes, bits_per_weight, like and max_divergence"
            raise InvalidValueError("budget", sorted(given), fix)
        ((name, value),) = given.items()
        if isinstance(value, str):
            file_type(value)
        elif not 0 < value < math.inf:
            raise InvalidValueError(name, value, "give a number above 0")

    def parameters(self) -> dict[str, float | str]:
        """What is given, by name."""
        fields = {
            "size_bytes": self.size_bytes,
            "bits_per_weight": self.bits_per_weight,
            "like": self.like,
            "max_divergence": self.max_divergence,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def most_bytes(self, layout: Layout, model: Model, types: Mapping[str, TensorType]) -> int | None:
        """Bytes that a file of that model may have; None where the budget is of something else."""
        if self.like is not None:
            return mix_size(layout, model, types, file_type(self.like))
        if self.bits_per_weight is not None:
            return int(self.bits_per_weight * sum(tensor.elements for tensor in layout.tensors) / 8)
        return self.size_bytes


def mix_size(
    layout: Layout,
    model: Model,
    types: Mapping[str, TensorType],
    kind: FileType = FILE_TYPES["Q8_0"],
    *,
    overrides: Sequence[tuple[str, str]] = (),
    metadata: Mapping[str, str | int] | None = None,
) -> int:
    """Bytes of the file that :func:`~llamatelemetry.quantization.quantize` would write."""
    choices = choose_types(
        layout.tensors, file_type=kind, model=model, types=types, has_importance=True, overrides=overrides
    )
    return plan_output(layout, choices, file_type=kind, metadata=metadata or {}).size_bytes
