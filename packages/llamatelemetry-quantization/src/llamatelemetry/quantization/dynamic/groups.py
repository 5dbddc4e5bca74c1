"""Groups of tensors that get one type together, and what each type would take.

A run of the model for every tensor would take days for a large one. Tensors of the same role in neighbouring
blocks matter about alike, so they are measured together: for each role as many groups as there are bands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.file_types import FILE_TYPES
from llamatelemetry.quantization.ggml import TensorType
from llamatelemetry.quantization.gguf_layout import Layout, Tensor
from llamatelemetry.quantization.mix import Choice, choose_types
from llamatelemetry.quantization.mix_rules import Model
from llamatelemetry.quantization.roles import block_of, role_of

__all__ = ["DEFAULT_BANDS", "DEFAULT_TYPES", "Group", "Option", "groups_of", "overrides_for"]

DEFAULT_BANDS: Final = 3
DEFAULT_TYPES: Final = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
"""What may be chosen. Where rows do not fit one, it is what takes its place, as with llama-quantize."""

_MOST_BANDS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A type that a group may get.

    Attributes:
        type: The type's name, as it is asked for.
        given: What its tensors get; another type where their rows do not fit.
        size_bytes: Bytes that the group then takes.
    """

    type: str
    given: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tensors that get one type.

    Attributes:
        name: For people, for example ``down, band 1``.
        tensors: Names of the tensors.
        options: What they may get, the smallest first. None takes as much as another.
    """

    name: str
    tensors: tuple[str, ...]
    options: tuple[Option, ...]


def groups_of(
    layout: Layout, model: Model, types: Mapping[str, TensorType], *, wanted: Sequence[str], bands: int
) -> tuple[Group, ...]:
    """The groups of a model.

    Args:
        layout: The model's file.
        model: What the rules ask of it.
        types: The types there are.
        wanted: Names of those that may be chosen.
        bands: Into how many groups the blocks are cut.

    Raises:
        InvalidValueError: There is no such type, or one that is no quantization; or ``bands`` is below one.
    """
    if not 1 <= bands <= _MOST_BANDS:
        raise InvalidValueError("bands", bands, f"give 1 to {_MOST_BANDS}")
    names = [_checked(name, types) for name in wanted]
    if not names:
        raise InvalidValueError("types", [], f"give some, for example {', '.join(DEFAULT_TYPES)}")
    choices = {name: _chosen(layout, model, types, name) for name in names}
    members: dict[str, list[Tensor]] = {}
    for one, *others in zip(*choices.values(), strict=True):
        # A tensor that stays as it is whatever is asked for, as norms do, has no say in this.
        if any(choice.type != one.tensor.type for choice in (one, *others)):
            members.setdefault(_band(one.tensor.name, model.blocks, bands), []).append(one.tensor)
    return tuple(_group(name, tensors, choices) for name, tensors in members.items())


def overrides_for(types: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names of tensors to their types, as :func:`~llamatelemetry.quantization.quantize` takes them."""
    by_type: dict[str, list[str]] = {}
    for name, kind in types.items():
        by_type.setdefault(kind, []).append(re.escape(name))
    return [(rf"\A(?:{'|'.join(names)})\Z", kind) for kind, names in by_type.items()]


def _checked(name: str, types: Mapping[str, TensorType]) -> str:
    known = types.get(name.upper())
    bases = {file_type.base for file_type in FILE_TYPES.values()}
    if known is None or not known.quantized or known.name not in bases:
        quantized = sorted(base for base in bases if types[base].quantized)
        raise InvalidValueError("types", name, f"give some of {', '.join(quantized)}")
    return known.name


def _chosen(layout: Layout, model: Model, types: Mapping[str, TensorType], name: str) -> list[Choice]:
    return choose_types(
        layout.tensors,
        file_type=FILE_TYPES["Q8_0"],
        model=model,
        types=types,
        has_importance=True,
        overrides=[("", name)],
    )


def _band(name: str, blocks: int, bands: int) -> str:
    role, block = role_of(name).value, block_of(name)
    # Experts and what all tokens share are of one role and not alike.
    kind = re.sub(r"\Ablk\.\d+\.|\.weight\Z", "", name) if role == "other" or "exps" in name else role
    if block < 0:
        return kind
    band = block * min(bands, max(blocks, 1)) // max(blocks, 1)
    return f"{kind}, band {band + 1}"


def _group(name: str, tensors: Iterable[Tensor], choices: Mapping[str, Sequence[Choice]]) -> Group:
    names = {tensor.name for tensor in tensors}
    options: dict[int, Option] = {}
    for wanted, chosen in choices.items():
        ours = [choice for choice in chosen if choice.tensor.name in names]
        size = sum(choice.type.size_of(choice.tensor.elements) for choice in ours)
        # Of two names for the same type, or two types of one size, the first is taken.
        given = tuple(choice.type.name for choice in ours)
        options.setdefault(size, Option(type=wanted, given=given, size_bytes=size))
    ordered = tuple(options[size] for size in sorted(options))
    return Group(name=name, tensors=tuple(sorted(names)), options=ordered)
