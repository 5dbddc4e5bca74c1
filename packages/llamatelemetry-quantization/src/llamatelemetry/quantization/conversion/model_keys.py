"""What llama.cpp reads of a model beside its weights, from the configuration."""

from __future__ import annotations

from typing import Final

from llamatelemetry.quantization.conversion.config_values import ConfigValues
from llamatelemetry.quantization.conversion.families import Family
from llamatelemetry.quantization.conversion.gguf_head import Value
from llamatelemetry.quantization.conversion.sizes import Sizes

__all__ = ["model_keys"]

_EPSILON: Final = {"phi3": 1e-5}
_USUAL_EPSILON: Final = 1e-6
_WINDOW_PERIOD: Final = {"gemma2": 2, "gemma3": 6}
"""Of so many blocks one looks back at all tokens, as llama.cpp has it."""
_SCALED_BY_WIDTH: Final = {"gemma2": 46, "gemma3": 62}
"""Numbers of blocks at which llama.cpp takes the width over the heads to scale queries, not the length of a head."""


def model_keys(values: ConfigValues, family: Family, sizes: Sizes) -> dict[str, Value]:
    """Keys and what they hold, without the architecture before them.

    Raises:
        ModelFileError: The configuration asks for something that llama.cpp does not compute for the family.
    """
    keys: dict[str, Value] = {
        "block_count": sizes.blocks,
        "context_length": sizes.context,
        "embedding_length": sizes.hidden,
        "feed_forward_length": sizes.wide,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "attention.key_length": sizes.head,
        "attention.value_length": sizes.head,
        "attention.layer_norm_rms_epsilon": values.number(
            "rms_norm_eps", _EPSILON.get(family.architecture, _USUAL_EPSILON)
        ),
        "vocab_size": sizes.vocabulary,
    }
    if family.architecture == "phi3":
        # Zero tells Phi-4, which has no window, from models that came before the key.
        keys["attention.sliding_window"] = values.whole("sliding_window", 0, least=0)
    if family.architecture in _WINDOW_PERIOD:
        keys |= _gemma(values, family, sizes)
    return keys


def _gemma(values: ConfigValues, family: Family, sizes: Sizes) -> dict[str, Value]:
    period = _WINDOW_PERIOD[family.architecture]
    kinds = values.texts("layer_types")
    usual = [
        "full_attention" if number % period == period - 1 else "sliding_attention" for number in range(sizes.blocks)
    ]
    if kinds and kinds != usual:
        raise values.refused("layer_types", f"llama.cpp has full attention in every block of {period}")
    if values.whole("sliding_window_pattern", period) != period:
        raise values.refused("sliding_window_pattern", f"llama.cpp has full attention in every block of {period}")
    by_width = sizes.blocks == _SCALED_BY_WIDTH[family.architecture]
    scale = sizes.hidden // sizes.heads if by_width else sizes.head
    if values.number("query_pre_attn_scalar", 256) != scale:
        raise values.refused("query_pre_attn_scalar", f"llama.cpp takes {scale} for a model of these sizes")
    if values.flag("use_bidirectional_attention", default=False):
        raise values.refused("use_bidirectional_attention", "only models that look back are converted")
    keys: dict[str, Value] = {"attention.sliding_window": values.whole("sliding_window", 4096)}
    if family.architecture == "gemma2":
        keys["attn_logit_softcapping"] = values.number("attn_logit_softcapping", 50.0)
        keys["final_logit_softcapping"] = values.number("final_logit_softcapping", 30.0)
    else:
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            if values.has(key):
                raise values.refused(key, f"llama.cpp caps no logits in {family.architecture}")
    return keys
