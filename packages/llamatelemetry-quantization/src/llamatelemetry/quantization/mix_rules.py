"""llama.cpp's mixes, as rules on a tensor's role and place.

A mix such as Q4_K_M spends more bits where a model is hurt most: on values and the second half of
the feed-forward network in some blocks, on the output. The rules are those of llama.cpp's
``src/llama-quant.cpp``, and every one of them is held against it by tests. They depend on what came
before, so tensors are asked for in llama.cpp's order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.file_types import FileType
from llamatelemetry.quantization.ggml import TensorType
from llamatelemetry.quantization.gguf_layout import Tensor
from llamatelemetry.quantization.roles import Role, block_of, role_of

__all__ = ["Mix", "Model"]

_SMALLEST: Final = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What of a model the rules ask for.

    Attributes:
        architecture: For example ``llama``.
        blocks: Transformer blocks.
        heads_per_kv: Attention heads that share one head of keys and values; 0 if that is not known.
        experts: Experts in each block; 0 for none.
        large: Whether llama.cpp counts it among the 70B models, by architecture and number of blocks.
    """

    architecture: str
    blocks: int
    heads_per_kv: int
    experts: int
    large: bool


@dataclass(slots=True)
class _Place:
    """Where a tensor is among those of its role, and what else its rule may ask for."""

    index: int
    count: int
    model: Model
    has_importance: bool

    @property
    def shared(self) -> bool:
        """Whether at least four heads share keys and values: those are then small, and matter more."""
        return self.model.heads_per_kv >= 4

    @property
    def falcon(self) -> bool:
        return self.model.architecture == "falcon"

    @property
    def of_eight(self) -> bool:
        return self.model.experts == 8

    def before(self, part: int) -> bool:
        """Whether it is in the first eighth, or whatever part."""
        return self.index < self.count // part

    @property
    def more_bits(self) -> bool:
        """Whether it is in the first or last eighth, or every third in between."""
        first = self.count // 8
        return self.index < first or self.index >= 7 * self.count // 8 or (self.index - first) % 3 == 2

    @property
    def between(self) -> bool:
        """Whether it is in neither the first nor the last eighth."""
        return self.count // 8 <= self.index < 7 * self.count // 8


_Rule = Callable[[_Place], str | None]
"""The type for a place; None for the file type's base."""


def _always(name: str) -> _Rule:
    return lambda _: name


def _where(test: Callable[[_Place], bool], name: str, other: str | None = None) -> _Rule:
    return lambda place: name if test(place) else other


def _down_of_q3_k_m(place: _Place) -> str:
    if place.before(16):
        return "Q5_K"
    return "Q4_K" if not place.falcon or place.more_bits else "Q3_K"


def _down_of_q4_k_m(place: _Place) -> str | None:
    if not place.falcon:
        return "Q6_K" if place.more_bits else None
    if place.before(16):
        return "Q6_K"
    return "Q5_K" if place.more_bits else None


def _down_of_iq3_xxs(place: _Place) -> str | None:
    if place.has_importance:
        return None
    return "Q4_K" if place.before(8) else "Q3_K"


def _value_of_iq3_xxs(place: _Place) -> str:
    if place.shared:
        return "Q4_K"
    return "IQ3_XXS" if place.has_importance else "IQ3_S"


_VALUE: Final[Mapping[str, _Rule]] = {
    "Q2_K": _where(lambda place: place.shared, "Q4_K", "Q3_K"),
    "Q2_K_S": _where(lambda place: place.shared, "Q4_K"),
    "Q3_K_M": _where(lambda place: place.index < 2, "Q5_K", "Q4_K"),
    "Q3_K_L": _always("Q5_K"),
    "Q4_K_S": _where(lambda place: place.index < 4, "Q5_K"),
    "Q4_K_M": _where(lambda place: place.more_bits, "Q6_K"),
    "Q5_K_M": _where(lambda place: place.more_bits, "Q6_K"),
    "IQ3_XXS": _value_of_iq3_xxs,
    "IQ3_XS": _where(lambda place: place.shared, "Q4_K"),
    "IQ3_S": _where(lambda place: place.shared, "Q4_K"),
    "IQ3_M": _always("Q4_K"),
    "IQ4_NL": _where(lambda place: place.shared, "Q5_K"),
    "IQ4_XS": _where(lambda place: place.shared, "Q5_K"),
}

_KEY_AND_QUERY: Final = {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}

_DOWN: Final[Mapping[str, _Rule]] = {
    "Q2_K": _always("Q3_K"),
    "Q2_K_S": _where(lambda place: place.before(8), "Q4_K"),
    "Q3_K_M": _down_of_q3_k_m,
    "Q3_K_L": _where(lambda place: place.falcon, "Q4_K", "Q5_K"),
    "Q4_K_S": _where(lambda place: place.before(8) and not place.falcon, "Q5_K"),
    "Q4_K_M": _down_of_q4_k_m,
    "Q5_K_M": _where(lambda place: place.more_bits, "Q6_K"),
    "Q4_0": _where(lambda place: place.before(8) and place.has_importance, "Q4_1"),
    "Q5_0": _where(lambda place: place.before(8) and place.has_importance, "Q5_1"),
    "IQ3_XXS": _down_of_iq3_xxs,
    "IQ3_M": _where(lambda place: place.before(8) or (place.of_eight and place.more_bits), "Q4_K"),
    "IQ4_NL": _where(lambda place: place.before(8) and not place.has_importance, "Q5_K"),
    "IQ4_XS": _where(lambda place: place.before(8) and not place.has_importance, "Q5_K"),
}

_ATTENTION_OUTPUT: Final = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
_ATTENTION_OUTPUT_OF_EIGHT: Final = frozenset(
    {"Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS"}
)


@dataclass(slots=True)
class Mix:
    """The rules of one file type, and how many tensors of each role have passed."""

    file_type: FileType
    model: Model
    types: Mapping[str, TensorType]
    has_importance: bool = field(kw_only=True)
    names: Sequence[str] = field(kw_only=True)
    _passed: dict[Role, int] = field(default_factory=dict)
    _tied: bool = field(init=False)
    _values: int = field(init=False)

    def __post_init__(self) -> None:
        roles = [role_of(name) for name in self.names]
        self._tied = Role.OUTPUT not in roles
        self._values = roles.count(Role.VALUE)

    def type_of(self, tensor: Tensor) -> str:
        """The type that the mix has for the next tensor."""
        role = role_of(tensor.name)
        if role is Role.OUTPUT or (role is Role.EMBEDDING and self._tied):
            return self._of_output(tensor)
        if self.file_type.name == "MXFP4_MOE":
            return self._of_mxfp4(tensor, role)
        if role is Role.EMBEDDING:
            return self._of_embedding()
        place = self._place(tensor, role)
        found = self._of_smallest(role, place) if self.file_type.name in _SMALLEST else self._of_block(role, place)
        return found or self.file_type.base

    def _place(self, tensor: Tensor, role: Role) -> _Place:
        index = self._passed.get(role, 0)
        self._passed[role] = index + 1
        count = self._values if role is Role.VALUE else self.model.blocks
        # Experts are tensors of their own in old files, so there the name counts, not the order.
        by_name = self.model.experts > 1 and self.file_type.name not in _SMALLEST
        if by_name and role in {Role.DOWN, Role.GATE, Role.UP}:
            index = block_of(tensor.name)
            if not 0 <= index < count:
                raise InvalidValueError("model", tensor.name, f"its tensors have to be of one of its {count} blocks")
        return _Place(index=index, count=count, model=self.model, has_importance=self.has_importance)

    def _of_output(self, tensor: Tensor) -> str:
        name, base = self.file_type.name, self.file_type.base
        if name == "MXFP4_MOE" or self.model.architecture == "falcon" or tensor.row % self.types[base].block:
            return "Q8_0"
        if name in _SMALLEST or name == "IQ3_XXS":
            return "Q5_K"
        return base if base == "Q8_0" else "Q6_K"

    def _of_mxfp4(self, tensor: Tensor, role: Role) -> str:
        # In this architecture the matrices of its compressed attention have three dimensions too.
        experts = self.model.architecture != "bailingmoe3" or role in {Role.UP, Role.GATE, Role.DOWN}
        return "MXFP4" if len(tensor.shape) > 2 and tensor.shape[2] > 1 and experts else "Q8_0"

    def _of_embedding(self) -> str:
        match self.file_type.name:
            case "IQ1_S" | "IQ1_M" | "IQ2_XXS" | "IQ2_XS":
                return "Q2_K"
            case "IQ2_S" | "IQ2_M" | "IQ3_XXS":
                return "IQ3_S"
            case "TQ1_0" | "TQ2_0" | "Q2_0":
                return "Q4_K"
            case _:
                return self.file_type.base

    def _of_smallest(self, role: Role, place: _Place) -> str | None:
        """One to two bits for most weights."""
        larger = "IQ3_S" if self.file_type.name in {"IQ2_S", "IQ2_M"} else "Q2_K"
        match role:
            case Role.VALUE:
                return "Q4_K" if place.shared or self.model.experts >= 4 else larger
            case Role.KEY:
                return "Q4_K" if place.of_eight else None
            case Role.DOWN:
                return larger if place.before(8) else None
            case Role.ATTENTION_OUTPUT:
                return self._of_smallest_output(place, larger)
            case _:
                return None

    def _of_smallest_output(self, place: _Place, larger: str) -> str | None:
        if place.of_eight:
            return "Q5_K"
        if self.file_type.name in {"IQ1_S", "IQ1_M"}:
            return "IQ2_XXS"
        return larger if larger == "IQ3_S" else None

    def _of_block(self, role: Role, place: _Place) -> str | None:
        name = self.file_type.name
        match role:
            case Role.VALUE:
                return self._of_value(place)
            case Role.KEY | Role.QUERY:
                return "Q8_0" if role is Role.KEY and place.of_eight else _KEY_AND_QUERY.get(name)
            case Role.DOWN if name in _DOWN:
                return _DOWN[name](place)
            case Role.ATTENTION_OUTPUT:
                return self._of_attention_output(place)
            case Role.GATE | Role.UP:
                return "IQ3_XXS" if name == "IQ3_XS" and place.between else None
            case _:
                return None

    def _of_value(self, place: _Place) -> str | None:
        rule = _VALUE.get(self.file_type.name)
        found = rule(place) if rule else None
        if self.model.large and (found or self.file_type.base) in {"Q3_K", "Q4_K"}:
            # Eight heads share keys and values there, so that more bits for them cost next to nothing.
            found = "Q5_K"
        return "Q8_0" if self.model.experts == 8 else found

    def _of_attention_output(self, place: _Place) -> str | None:
        name = self.file_type.name
        if place.falcon:
            return "Q4_K" if name == "Q3_K_L" else None
        if place.of_eight:
            return "Q5_K" if name in _ATTENTION_OUTPUT_OF_EIGHT else None
        return _ATTENTION_OUTPUT.get(name)
