"""Which tensor gets which type: what the mix has for it, or what fits in its place.

The rules and their order are those of llama.cpp's ``src/llama-quant.cpp``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.file_types import FileType
from llamatelemetry.quantization.ggml import TensorType
from llamatelemetry.quantization.gguf_layout import Tensor
from llamatelemetry.quantization.mix_rules import Mix, Model
from llamatelemetry.quantization.roles import Role, block_of, role_of

__all__ = ["Choice", "choose_types", "in_order"]


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
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"), "F16"),
}
"""What a type is replaced with where rows do not fit it."""

_SHOWN_NAMES: Final = 4
"""Names in an error: enough to see how the model's are built."""

_NEED_IMPORTANCE: Final = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})


def in_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors in the order in which llama.cpp writes them: those of no block, then by block and name."""
    return sorted(tensors, key=lambda tensor: (block_of(tensor.name), tensor.name.encode()))


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
        InvalidValueError: An override has no type that exists or is found in no name, or a tensor's rows fit
            neither the type that it should get nor one that llama.cpp would take in its place.
    """
    patterns = [(_pattern(text), _known_type(name, types)) for text, name in overrides]
    ordered = in_order(tensors)
    # A file without tensors has no names to hold a pattern to, and what is wrong with it is told elsewhere.
    for pattern, _ in patterns if ordered else ():
        _check_found(pattern, ordered)
    mix = Mix(file_type, model, types, has_importance=has_importance, names=[tensor.name for tensor in ordered])
    choices = []
    for tensor in ordered:
        wanted = target = tensor.type.name
        if _is_quantized(tensor):
            wanted = target = file_type.base
            if types[target].quantized:
                given = next((kind for pattern, kind in patterns if pattern.search(tensor.name)), None)
                wanted = given or mix.type_of(tensor)
                target = _fitting(tensor, wanted, types)
        role = role_of(tensor.name)
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


def _check_found(pattern: re.Pattern[str], tensors: Sequence[Tensor]) -> None:
    if not any(pattern.search(tensor.name) for tensor in tensors):
        some = [tensor for tensor in tensors if _is_quantized(tensor)] or tensors
        names = ", ".join(tensor.name for tensor in some[:_SHOWN_NAMES])
        fix = f"no tensor has it in its name: give a part of one, such as {names}"
        raise InvalidValueError("overrides", pattern.pattern, fix)


def _known_type(name: str, types: Mapping[str, TensorType]) -> str:
    if name.upper() not in types:
        raise InvalidValueError("overrides", name, f"give one of {', '.join(types)}")
    return name.upper()


def _is_quantized(tensor: Tensor) -> bool:
    """Whether the mix is for this tensor at all."""
    return len(tensor.shape) > 1 and tensor.name.endswith("weight") and not _KEPT.search(tensor.name)


def _fitting(tensor: Tensor, wanted: str, types: Mapping[str, TensorType]) -> str:
    """The type, or what takes its place where rows are no multiple of its block."""
    if tensor.row % types[wanted].block == 0:
        return wanted
    smaller = _FALLBACKS.get(wanted)
    if smaller is None:
        raise InvalidValueError(
            "type",
            wanted,
            f"rows of {tensor.name!r} have {tensor.row} numbers, no multiple of {types[wanted].block}: "
            "give F16 or BF16",
        )
    return smaller if tensor.row % types[smaller].block == 0 else "F16"
