"""How a model tells positions apart: the base of its rotations, and how they are stretched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from llamatelemetry.quantization.conversion.config_values import ConfigValues
from llamatelemetry.quantization.conversion.families import Family
from llamatelemetry.quantization.conversion.gguf_head import Value
from llamatelemetry.quantization.conversion.sizes import Sizes

__all__ = ["Rope", "read_rope"]

_BASE: Final = {"gemma3": 1e6}
_USUAL_BASE: Final = 1e4
_NOTHING: Final = frozenset({"", "default", "dynamic"})
"""``dynamic`` stretches nothing within the context that the model was made for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """What a file says of rotations.

    Attributes:
        keys: Metadata, without the architecture.
        factors: Names of tensors to their numbers: what each rotation is divided by.
    """

    keys: Mapping[str, Value]
    factors: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=lambda: MappingProxyType({}))


def read_rope(values: ConfigValues, family: Family, sizes: Sizes) -> Rope:
    """What a configuration says of rotations, in the words of transformers 4 or 5.

    Raises:
        ModelFileError: It stretches them in a way that llama.cpp does not know for the family, or names no numbers.
    """
    new = values.nested("rope_parameters")
    full = new.nested("full_attention") if new.has("full_attention") else new
    scaling = full if values.has("rope_parameters") else values.nested("rope_scaling")
    usual = _BASE.get(family.architecture, _USUAL_BASE)
    base = full.number("rope_theta") if full.has("rope_theta") else values.number("rope_theta", usual)
    keys: dict[str, Value] = {"rope.freq_base": base}
    if family.architecture == "gemma3":
        local = new.nested("sliding_attention")
        old = values.number("rope_local_base_freq", _USUAL_BASE)
        keys["rope.freq_base_swa"] = local.number("rope_theta", old)
    share = full if full.has("partial_rotary_factor") else values
    rotated = int(share.number("partial_rotary_factor", 1.0) * sizes.head)
    if not 0 < rotated <= sizes.head or rotated % 2:
        raise share.refused("partial_rotary_factor", f"a share of the {sizes.head} numbers of a head is needed")
    if rotated != sizes.head and family.architecture != "phi3":
        raise share.refused("partial_rotary_factor", f"llama.cpp rotates whole heads in {family.architecture}")
    keys["rope.dimension_count"] = rotated
    kind = scaling.text("rope_type") or scaling.text("type")
    if family.architecture == "phi3":
        return _phi3(values, scaling, keys, sizes, rotated)
    match kind:
        case kind if kind in _NOTHING:
            return Rope(keys=keys)
        case "linear":
            keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": scaling.number("factor")}
            return Rope(keys=keys)
        case "yarn":
            return Rope(keys=keys | _yarn(scaling, sizes))
        case "llama3" if family.architecture == "llama":
            return Rope(keys=keys, factors={"rope_freqs.weight": _llama3(scaling, base, rotated)})
        case _:
            raise scaling.refused("rope_type" if scaling.has("rope_type") else "type", "this cannot be converted")


def _yarn(scaling: ConfigValues, sizes: Sizes) -> dict[str, Value]:
    keys: dict[str, Value] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": scaling.number("factor"),
        "rope.scaling.original_context_length": scaling.whole("original_max_position_embeddings", sizes.context),
    }
    named = {
        "extrapolation_factor": "yarn_ext_factor",
        "attention_factor": "yarn_attn_factor",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
    }
    return keys | {f"rope.scaling.{ours}": scaling.number(key) for key, ours in named.items() if scaling.has(key)}


def _llama3(scaling: ConfigValues, base: float, rotated: int) -> npt.NDArray[np.float32]:
    """Short waves stay, long ones are stretched, and those between a little of both."""
    factor = scaling.number("factor", 8.0)
    low, high = scaling.number("low_freq_factor", 1.0), scaling.number("high_freq_factor", 4.0)
    context = scaling.whole("original_max_position_embeddings", 8192)
    for key, value in (("factor", factor), ("low_freq_factor", low), ("high_freq_factor", high)):
        if value <= 0:
            raise scaling.refused(key, "a number above 0 is needed")
    if low >= high:
        raise scaling.refused("high_freq_factor", f"a number above low_freq_factor, {low:g}, is needed")
    factors = []
    for pair in range(rotated // 2):
        wave = 2 * math.pi * base ** (2 * pair / rotated)
        if wave < context / high:
            factors.append(1.0)
        elif wave > context / low:
            factors.append(factor)
        else:
            smooth = (context / wave - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def _phi3(values: ConfigValues, scaling: ConfigValues, keys: dict[str, Value], sizes: Sizes, rotated: int) -> Rope:
    kind = scaling.text("rope_type") or scaling.text("type")
    place = scaling if scaling.has("original_max_position_embeddings") else values
    original = place.whole("original_max_position_embeddings", sizes.context, least=2)
    keys["rope.scaling.original_context_length"] = original
    if kind in _NOTHING:
        return Rope(keys=keys)
    if kind not in {"longrope", "su"}:
        raise scaling.refused("rope_type" if scaling.has("rope_type") else "type", "this cannot be converted")
    stretched = sizes.context / original
    keys["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(stretched) / math.log(original)) if stretched > 1 else 1.0
    factors = {
        f"rope_factors_{which}.weight": np.array(scaling.numbers(f"{which}_factor", rotated // 2), np.float32)
        for which in ("long", "short")
    }
    return Rope(keys=keys, factors=factors)
