"""What ``config.json`` says of the sizes of a language model."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamatelemetry.transformers.families import FAMILIES, UNKNOWN, Family, Windows
from llamatelemetry.transformers.values import ConfigValues

_MOST_LAYERS: Final = 4096
_MOST_HEADS: Final = 2**16
_MOST_EXPERTS: Final = 2**16
_SHOWN_KINDS: Final = 4
# Spellings differ between families and releases; the last is the one that families have a default of.
_EXPERT_COUNTS: Final = ("n_routed_experts", "num_local_experts", "num_experts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The feed-forward layers of a mixture of experts.

    Attributes:
        count: Experts in each layer that has some.
        used: Experts that one token uses.
        width: Width of one expert.
        shared_width: Width of the expert that every token goes through; 0 for none.
        dense_layers: Layers, from 0, that have one plain feed-forward network instead.
    """

    count: int
    used: int
    width: int
    shared_width: int
    dense_layers: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The sizes of a language model.

    Attributes:
        architecture: Its ``model_type``, or the class that ``architectures`` names.
        family: What its family has in common.
        hidden_size: Width of the hidden state.
        layer_count: Number of layers.
        head_count: Heads for queries.
        kv_head_count: Heads with keys and values of their own.
        head_width: Numbers in one query, key or value of one head.
        key_elements: Numbers that one token adds to a layer's cache of keys.
        value_elements: Numbers that one token adds to a layer's cache of values.
        windows: Tokens that each layer looks back at; None for all.
        feed_forward_length: Width of plain feed-forward layers, the largest; None if it does not say.
        vocabulary_size: Tokens there are.
        context_length: Tokens it was trained for; None if it does not say.
        tied: Whether the token embeddings are the output matrix too; None if it does not say.
        attention_bias: True where all four projections of attention have biases.
        feed_forward_bias: True where the projections of the feed-forward layers have biases.
        experts: Its experts; None without.
        reads_more: True where it reads more than text.
        predicted_ahead: Layers after the last that only guess further tokens.
        dtype: Type of its weights, for example ``bfloat16``; None if it does not say.
        quantization: How its weights were made smaller, for example ``bitsandbytes nf4``; None if they were not.
        assumptions: What was assumed of its attention because it does not say it, one sentence each.
    """

    architecture: str
    family: Family
    hidden_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_width: int
    key_elements: int
    value_elements: int
    windows: tuple[int | None, ...]
    feed_forward_length: int | None
    vocabulary_size: int
    context_length: int | None
    tied: bool | None
    attention_bias: bool
    feed_forward_bias: bool
    experts: Experts | None
    reads_more: bool
    predicted_ahead: int
    dtype: str | None
    quantization: str | None
    assumptions: tuple[str, ...]


def interpret_config(path: Path, config: Mapping[str, Any]) -> ModelConfig:
    """The sizes that a parsed ``config.json`` tells of.

    A model that reads more than text keeps the sizes of its language model under ``text_config``;
    those count then.

    Args:
        path: The file, for errors.
        config: What it holds.

    Raises:
        ModelFileError: A size is missing, of the wrong type or out of range.
    """
    top = ConfigValues(path, config)
    nested = top.nested("text_config")
    values = nested or top
    own_type = top.text("model_type")
    family = FAMILIES.get(values.text("model_type") or own_type or "", UNKNOWN)
    values = values.with_defaults(family.defaults)

    layer_count = values.needed("num_hidden_layers", _MOST_LAYERS)
    hidden_size = values.needed("hidden_size")
    head_count = values.needed("num_attention_heads", _MOST_HEADS)
    kv_head_count = values.size("num_key_value_heads", _MOST_HEADS) or head_count
    head_width = values.size("head_dim") or max(1, hidden_size // head_count)
    key_elements = value_elements = kv_head_count * head_width
    latent = values.size("kv_lora_rank")
    if latent is not None:
        # Multi-head latent attention keeps one vector for all heads, and one that is rotated.
        key_elements, value_elements = latent, values.needed("qk_rope_head_dim")
    windows, assumptions = _windows(values, family, layer_count)
    tied = top.flag("tie_word_embeddings")
    return ModelConfig(
        architecture=own_type or (top.texts("architectures") or ["unknown"])[0],
        family=family,
        hidden_size=hidden_size,
        layer_count=layer_count,
        head_count=head_count,
        kv_head_count=kv_head_count,
        head_width=head_width,
        key_elements=key_elements,
        value_elements=value_elements,
        windows=windows,
        feed_forward_length=values.largest("intermediate_size"),
        vocabulary_size=values.needed("vocab_size"),
        context_length=values.size("max_position_embeddings"),
        tied=values.flag("tie_word_embeddings") if tied is None else tied,
        attention_bias=values.flag("attention_bias") or False,
        feed_forward_bias=values.flag("mlp_bias") or False,
        experts=_experts(values, layer_count),
        reads_more=nested is not None or top.nested("vision_config") is not None,
        predicted_ahead=values.size("num_nextn_predict_layers", _MOST_LAYERS, least=0) or 0,
        dtype=_dtype(values) or _dtype(top),
        quantization=_quantization(top) or _quantization(values),
        assumptions=assumptions,
    )


def _windows(values: ConfigValues, family: Family, layer_count: int) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """Tokens that each layer looks back at, and what that assumes: a layer of which nothing is known keeps all."""
    window = values.size("sliding_window", least=0) or None
    kinds = values.texts("layer_types")
    if kinds:
        if len(kinds) != layer_count:
            raise values.refused("layer_types", f"it must have an item for each of {layer_count} layers")
        known = {"sliding_attention": window, "chunked_attention": values.size("attention_chunk_size")}
        others = sorted({*kinds} - {*known, "full_attention"})
        shown = ", ".join(others[:_SHOWN_KINDS])
        assumption = f"Layers of the kind {shown} are taken to keep keys and values of every token."
        return tuple(map(known.get, kinds)), (assumption,) if others else ()
    windowed = _layers_with_window(values, family, range(layer_count))
    windows = tuple(window if layer in windowed else None for layer in range(layer_count))
    unknown = family.windows is Windows.UNKNOWN and window and values.flag("use_sliding_window") is not False
    return windows, (f"No layer is taken to have the sliding window of {window} tokens.",) if unknown else ()


def _layers_with_window(values: ConfigValues, family: Family, layers: range) -> Container[int]:
    if family.windows_asked_for and not values.flag("use_sliding_window"):
        return ()
    match family.windows:
        case Windows.NONE | Windows.UNKNOWN:
            return ()
        case Windows.ALL:
            return layers
        case Windows.LATE:
            return layers[values.size("max_window_layers", least=0) or 0 :]
        case Windows.PERIODIC:
            period = values.size("sliding_window_pattern") or 1
            return {layer for layer in layers if (layer + 1) % period}


def _experts(values: ConfigValues, layer_count: int) -> Experts | None:
    counts = [values.size(key, _MOST_EXPERTS, least=0) for key in _EXPERT_COUNTS]
    width = values.size("moe_intermediate_size") or values.largest("intermediate_size")
    count = next(filter(None, counts), None)
    if count is None or width is None:
        return None
    shared = values.size("shared_expert_intermediate_size", least=0)
    if shared is None:
        shared = width * (values.size("n_shared_experts", _MOST_EXPERTS, least=0) or 0)
    step = values.size("decoder_sparse_step") or 1
    first = values.size("first_k_dense_replace", least=0) or 0
    dense = {layer for layer in range(layer_count) if layer < first or (layer + 1) % step}
    dense.update(values.whole_numbers("mlp_only_layers"))
    return Experts(
        count=count,
        used=min(count, values.size("num_experts_per_tok") or 1),
        width=width,
        shared_width=shared,
        dense_layers=frozenset(dense),
    )


def _dtype(values: ConfigValues) -> str | None:
    """The type of the weights: ``dtype`` since transformers 4.56, ``torch_dtype`` before."""
    name = values.text("dtype") or values.text("torch_dtype")
    return None if name in {None, "auto"} else name.removeprefix("torch.")


def _quantization(values: ConfigValues) -> str | None:
    """Method and number format, for example ``gptq int4``."""
    details = values.nested("quantization_config")
    if details is None:
        return None
    method = details.text("quant_method")
    if details.flag("load_in_4bit"):
        return f"bitsandbytes {details.text('bnb_4bit_quant_type') or 'fp4'}"
    if details.flag("load_in_8bit"):
        return "bitsandbytes int8"
    bits = details.size("bits", 64)
    return f"{method or 'quantized'} int{bits}" if bits else method or "quantized"
