"""How large a model's weights would be, worked out from ``config.json`` where there are none to measure.

A transformer that is built like Llama has, in each layer, four matrices of attention, three of the
feed-forward network, and norms. The families that :mod:`llamatelemetry.transformers.families` knows
differ from that by a few biases and norms, which are counted, so their figures are exact; for others
they are near. What reads images or sound is not in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.transformers.config import ModelConfig
from llamatelemetry.transformers.families import UNKNOWN
from llamatelemetry.transformers.weights import Weights

_BYTES: Final = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}
_DEFAULT_DTYPE: Final = "float32"
"""What PyTorch makes of weights whose type nobody names."""


def estimate_weights(path: Path, config: ModelConfig) -> Weights:
    """Works out the size of every part from the model's dimensions.

    Args:
        path: The ``config.json``, for errors.
        config: What it says.

    Raises:
        ModelFileError: It does not say enough: no width of the feed-forward layers, a type of weights
            that is not known, or weights that were quantized.
    """
    if config.quantization is not None:
        raise ModelFileError(
            path,
            f"tells of weights that are quantized ({config.quantization}), which no arithmetic sizes: "
            "put the model's .safetensors files beside it",
        )
    if config.feed_forward_length is None:
        raise ModelFileError(
            path, "has no intermediate_size, and there are no .safetensors files beside it that would show it"
        )
    dtype = config.dtype or _DEFAULT_DTYPE
    width = _BYTES.get(dtype)
    if width is None:
        raise ModelFileError(path, f"dtype={dtype!r} is not valid: it must be one of {', '.join(_BYTES)}")
    tied = config.family.tied if config.tied is None else config.tied
    embeddings = config.vocabulary_size * config.hidden_size
    attention = _attention(config)
    layers = [
        attention + _feed_forward(config, config.feed_forward_length, layer) for layer in range(config.layer_count)
    ]
    output = config.hidden_size + (0 if tied else embeddings)
    return Weights(
        input_bytes=embeddings * width,
        layer_bytes=tuple(layer * width for layer in layers),
        output_bytes=output * width,
        tied=tied,
        parameters=embeddings + sum(layers) + output,
        dtype=dtype,
        assumptions=tuple(_assumptions(config)),
    )


def _assumptions(config: ModelConfig) -> Iterator[str]:
    if config.dtype is None:
        yield f"Weights are taken to be {_DEFAULT_DTYPE}."
    if config.family is UNKNOWN:
        yield "Layers are taken to have the weights that Llama's have."
        if config.tied is None:
            yield "The output matrix is taken to be another than the embeddings."
    if config.reads_more:
        yield "Weights that read anything but text are not counted."


def _attention(config: ModelConfig) -> int:
    """Weights of one layer's attention, and of its norms."""
    hidden = config.hidden_size
    queries = config.head_count * config.head_width
    keys = config.kv_head_count * config.head_width
    weights = 2 * hidden * (queries + keys)
    if config.attention_bias:
        weights += queries + 2 * keys + hidden
    elif config.family.qkv_bias:
        weights += queries + 2 * keys
    if config.family.head_norms:
        weights += 2 * config.head_width
    return weights + config.family.norms * hidden


def _feed_forward(config: ModelConfig, length: int, layer: int) -> int:
    """Weights of one layer's feed-forward network, or of its experts and what chooses among them."""
    hidden = config.hidden_size
    experts = config.experts
    if experts is None or layer in experts.dense_layers:
        return 3 * hidden * length + (2 * length + hidden if config.feed_forward_bias else 0)
    # A shared expert has a gate of its own.
    shared = 3 * hidden * experts.shared_width + (hidden if experts.shared_width else 0)
    return experts.count * (3 * hidden * experts.width + hidden) + shared
