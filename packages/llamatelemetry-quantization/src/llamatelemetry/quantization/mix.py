"""Which tensor gets which type: llama.cpp's mixes, as rules on a tensor's role and place.

A mix such as Q4_K_M spends more bits where a model is hurt most: on values and the second half of
the feed-forward network in some blocks, on the output. The rules are those of llama.cpp's
``src/llama-quant.cpp``, and every one of them is held against it by tests. They depend on what came
before, so tensors are asked for in llama.cpp's order: :func:`in_order`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.file_types import FileType
from llamatelemetry.quantization.ggml import TensorType
from llamatelemetry.quantization.gguf_layout import Tensor

__all__ = ["Choice", "Model", "choose_types", "in_order"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What becomes of one tensor.

    Attributes:
        tensor: The tensor.
        type: The type it gets; its own if it stays as it is.
        wanted: The type the mix has for it; another than ``type`` where its rows do not fit that one.
        needs_importance: Whether that type makes no sense without an importance matrix.
    """

    tensor: Tensor
    type: TensorType
    wanted: str
    needs_importance: bool


class Role(Enum):
    """What a tensor is for, as far as the rules tell tensors apart."""

    OUTPUT = "output"
    EMBEDDING = "embedding"
    VALUE = "value"
    KEY = "key"
    QUERY = "query"
    ATTENTION_OUTPUT = "attention output"
    UP = "up"
    GATE = "gate"
    DOWN = "down"
    OTHER = "other"


_EMBEDDINGS: Final = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})
# In the order in which they are looked for. A matrix of queries, keys and values together counts as values.
_PARTS: Final = (
    ("attn_qkv.weight", Role.VALUE),
    ("attn_kv_b.weight", Role.VALUE),
    ("attn_v.weight", Role.VALUE),
    ("attn_k.weight", Role.KEY),
    ("attn_q.weight", Role.QUERY),
    ("attn_output.weight", Role.ATTENTION_OUTPUT),
    ("ffn_up", Role.UP),
    ("ffn_gate", Role.GATE),
    ("ffn_down", Role.DOWN),
)

_KEPT: Final = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|altup|laurel|per_layer_model_proj"
    r"|ssm_conv1d|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight"
    r"|time_mix_(?:first|w[012]|v[012]|a[012]|g[12]|decay_w[12]|lerp_fused)\.weight"
    r"|attn_rel_b\.weight|\.position_embd|sam\.pos_embd|sam\.neck\.|sam\.net_|\.rel_pos|\.patch_embd|\.patch_merger"
    r"|a\.rvq\.codebook|mm\.a\.code_embd"
    r"|\A(?:position_embd|token_types)\.weight\Z"
)
"""Matrices that stay as they are: small, or hurt too much."""

_FALLBACKS: Final = {
    **dict.fromkeys(
        ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"),
        "IQ4_NL",
    ),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
"""What a type is replaced with where rows do not fit it."""

_SMALLEST: Final = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})
_NEED_IMPORTANCE: Final = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
_BLOCK: Final = re.compile(r"blk\.(\d+)")


def in_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors in the order in which llama.cpp writes them: those of no block, then by block and name."""

    def place(tensor: Tensor) -> tuple[int, bytes]:
        found = _BLOCK.match(tensor.name)
        return int(found[1]) if found else -1, tensor.name.encode()

    return sorted(tensors, key=place)


def choose_types(
    tensors: Sequence[Tensor],
    *,
    file_type: FileType,
    model: Model,
    types: Mapping[str, TensorType],
    has_importance: bool,
    overrides: Sequence[tuple[str, str]] = (),
) -> list[Choice]:
    """What becomes of each tensor, in the order of :func:`in_order`.

    Args:
        tensors: All tensors of the model.
        file_type: The mix.
        model: What the rules depend on.
        types: The types there are.
        has_importance: Whether there is an importance matrix, which some rules trust.
        overrides: Patterns of tensor names, and types that take the place of the mix's; the first that
            is found in a name counts. As in llama.cpp, only what would be quantized is touched.

    Raises:
        InvalidValueError: An override has no type that exists, or a tensor's rows fit neither the type
            that it should get nor one that llama.cpp would take in its place.
    """
    patterns = [(_pattern(text), _known_type(name, types)) for text, name in overrides]
    ordered = in_order(tensors)
    mix = _Mix(file_type, model, types, has_importance=has_importance, names=[tensor.name for tensor in ordered])
    choices = []
    for tensor in ordered:
        wanted = target = tensor.type.name
        if _is_quantized(tensor):
            wanted = target = file_type.base
            if types[target].quantized:
                given = next((kind for pattern, kind in patterns if pattern.search(tensor.name)), None)
                wanted = given or mix.type_of(tensor)
                target = _fitting(tensor, wanted, types)
        role = _role(tensor.name)
        needs = role not in {Role.OUTPUT, Role.EMBEDDING} and (
            target in _NEED_IMPORTANCE or (target == "Q2_K" and file_type.name == "Q2_K_S")
        )
        choices.append(Choice(tensor=tensor, type=types[target], wanted=wanted, needs_importance=needs))
    return choices


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InvalidValueError("overrides", text, f"give a regular expression ({error})") from error


def _known_type(name: str, types: Mapping[str, TensorType]) -> str:
    if name.upper() not in types:
        raise InvalidValueError("overrides", name, f"give one of {', '.join(types)}")
    return name.upper()


def _is_quantized(tensor: Tensor) -> bool:
    """Whether the mix is for this tensor at all."""
    return len(tensor.shape) > 1 and tensor.name.endswith("weight") and not _KEPT.search(tensor.name)


def _role(name: str) -> Role:
    if name == "output.weight":
        return Role.OUTPUT
    if name in _EMBEDDINGS:
        return Role.EMBEDDING
    return next((role for part, role in _PARTS if part in name), Role.OTHER)


def _fitting(tensor: Tensor, wanted: str, types: Mapping[str, TensorType]) -> str:
    """The type, or what takes its place where rows are no multiple of its block."""
    if tensor.row % types[wanted].block == 0:
        return wanted
    smaller = _FALLBACKS.get(wanted)
    if smaller is None:
        raise InvalidValueError(
            "type",
            wanted,
            f"rows of {tensor.name!r} have {tensor.row} numbers, no multiple of {types[wanted].block}; give F16 or BF16",
        )
    return smaller if tensor.row % types[smaller].block == 0 else "F16"


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
class _Mix:
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
        roles = [_role(name) for name in self.names]
        self._tied = Role.OUTPUT not in roles
        self._values = roles.count(Role.VALUE)

    def type_of(self, tensor: Tensor) -> str:
        """The type that the mix has for the next tensor."""
        role = _role(tensor.name)
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
            found = _BLOCK.match(tensor.name)
            index = int(found[1]) if found else -1
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
            case Role.ATTENTION_OUTPUT if place.of_eight:
                return "Q5_K"
            case Role.ATTENTION_OUTPUT if self.file_type.name in {"IQ1_S", "IQ1_M"}:
                return "IQ2_XXS"
            case Role.ATTENTION_OUTPUT:
                return "IQ3_S" if larger == "IQ3_S" else None
            case _:
                return None

    def _of_block(self, role: Role, place: _Place) -> str | None:
        name = self.file_type.name
        match role:
            case Role.VALUE:
                return self._of_value(place)
            case Role.KEY if place.of_eight:
                return "Q8_0"
            case Role.KEY | Role.QUERY:
                return _KEY_AND_QUERY.get(name)
            case Role.DOWN:
                rule = _DOWN.get(name)
                return rule(place) if rule else None
            case Role.ATTENTION_OUTPUT if place.falcon:
                return "Q4_K" if name == "Q3_K_L" else None
            case Role.ATTENTION_OUTPUT if place.of_eight:
                return "Q5_K" if name in _ATTENTION_OUTPUT_OF_EIGHT else None
            case Role.ATTENTION_OUTPUT:
                return _ATTENTION_OUTPUT.get(name)
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
