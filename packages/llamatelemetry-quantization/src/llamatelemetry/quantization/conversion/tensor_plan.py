"""Which tensors a GGUF file will have, of which types, and what each is made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.conversion.checkpoint import Checkpoint
from llamatelemetry.quantization.conversion.families import Family, Weight
from llamatelemetry.quantization.conversion.sizes import Sizes
from llamatelemetry.quantization.ggml import TensorType
from llamatelemetry.untrusted.safetensors_header import StoredTensor

__all__ = ["PlannedTensor", "plan_tensors"]

_NOT_WEIGHTS: Final = ".rotary_emb.inv_freq"
"""What old checkpoints carry, and what is computed from the configuration."""
_WIDTHS: Final = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a number of each type that is converted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTensor:
    """One tensor of the new file.

    Attributes:
        name: For example ``blk.0.attn_q.weight``.
        shape: Its sizes, the length of a row first.
        type: How its numbers are stored.
        source: The tensor it is made from.
        rotated_rows: Rows of a head where each is reordered from halves to pairs; 0 where none is.
        shift: What is added to each number.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    source: StoredTensor
    rotated_rows: int = 0
    shift: float = 0.0

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes."""
        return self.type.size_of(self.elements)

    @property
    def source_width(self) -> int:
        """Bytes of a number of its source."""
        return _WIDTHS[self.source.dtype]


def plan_tensors(
    checkpoint: Checkpoint,
    family: Family,
    sizes: Sizes,
    *,
    types: Mapping[str, TensorType],
    matrices: TensorType,
    tied: bool,
) -> tuple[PlannedTensor, ...]:
    """What becomes of each tensor of a checkpoint, in the order in which they are stored.

    Args:
        checkpoint: The checkpoint.
        family: Its family.
        sizes: Its sizes.
        types: The tensor types there are, by name.
        matrices: Type of the matrices. All else is F32, and F16 what has no rows of whole blocks.
        tied: Whether the output is the embedding: then a copy of it is left out.

    Raises:
        ModelFileError: A tensor is missing, of another size, of a type that is not converted, or none of the family's.
    """
    known = _known(family, sizes)
    planned = []
    for tensor in checkpoint.tensors:
        if tensor.name.endswith(_NOT_WEIGHTS) or (tied and tensor.name == "lm_head.weight"):
            continue
        found = known.get(tensor.name)
        if found is None:
            raise ModelFileError(
                tensor.path, f"has a tensor {tensor.name[:200]!r}, which models of {family.architecture} do not have"
            )
        planned.append(_planned(tensor, *found, family=family, sizes=sizes, types=types, matrices=matrices))
    there = {tensor.name for tensor in checkpoint.tensors}
    needed = [name for name in known if name.endswith(".weight") and not (tied and name == "lm_head.weight")]
    missing = [name for name in needed if name not in there]
    if missing:
        raise ModelFileError(
            checkpoint.folder, f"lacks {len(missing)} of {len(needed)} tensors of its model, the first {missing[0]!r}"
        )
    return tuple(planned)


def _known(family: Family, sizes: Sizes) -> dict[str, tuple[str, Weight]]:
    """Names of a checkpoint's tensors, to those in the new file without the suffix and to what they are."""
    stems = {stem: (weight.name, weight) for stem, weight in family.outer.items()}
    for number in range(sizes.blocks):
        for stem, weight in family.block.items():
            stems[f"model.layers.{number}.{stem}"] = (f"blk.{number}.{weight.name}", weight)
    known = {f"{stem}.weight": found for stem, found in stems.items()}
    return known | {f"{stem}.bias": found for stem, found in stems.items() if found[1].bias}


def _planned(
    tensor: StoredTensor,
    name: str,
    weight: Weight,
    *,
    family: Family,
    sizes: Sizes,
    types: Mapping[str, TensorType],
    matrices: TensorType,
) -> PlannedTensor:
    suffix = tensor.name.rpartition(".")[2]
    shape: Sequence[int] = [sizes.named[size] for size in weight.shape]
    if suffix == "bias":
        shape = shape[:1]
    if list(tensor.shape) != list(shape):
        raise ModelFileError(
            tensor.path,
            f"has {'x'.join(map(str, tensor.shape))} numbers in {tensor.name!r}, and config.json tells of "
            f"{'x'.join(map(str, shape))}: the two are of different models",
        )
    if tensor.dtype not in _WIDTHS:
        raise ModelFileError(
            tensor.path,
            f"has {tensor.dtype} in {tensor.name!r}; F32, F16 and BF16 are converted: save it as one of them",
        )
    kind = types["F32"] if len(shape) == 1 else matrices
    if shape[-1] % kind.block:
        kind = types["F16"]
    return PlannedTensor(
        name=f"{name}.{suffix}",
        shape=tuple(reversed(shape)),
        type=kind,
        source=tensor,
        rotated_rows=sizes.head if weight.rotated else 0,
        shift=family.norm_shift if name.endswith("_norm") else 0.0,
    )
