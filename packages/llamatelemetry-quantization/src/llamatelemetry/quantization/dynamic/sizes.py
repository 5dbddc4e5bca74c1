"""How large files will be, before a weight is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llamatelemetry.quantization.dynamic.budget import Budget
from llamatelemetry.quantization.file_types import FILE_TYPES, FileType, file_type
from llamatelemetry.quantization.ggml import TensorType
from llamatelemetry.quantization.gguf_layout import Layout
from llamatelemetry.quantization.mix import choose_types
from llamatelemetry.quantization.mix_rules import Model
from llamatelemetry.quantization.output_plan import plan_output

__all__ = ["mix_size", "most_bytes"]


def most_bytes(budget: Budget, layout: Layout, model: Model, types: Mapping[str, TensorType]) -> int | None:
    """Bytes that a file of that model may have; None where the budget is of something else."""
    if budget.like is not None:
        return mix_size(layout, model, types, file_type(budget.like))
    if budget.bits_per_weight is not None:
        return int(budget.bits_per_weight * sum(tensor.elements for tensor in layout.tensors) / 8)
    return budget.size_bytes


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
