"""The sizes of a Hugging Face checkpoint, for ``llamatelemetry plan``: no weight is read, and no torch needed."""

from __future__ import annotations

from pathlib import Path

from llamatelemetry.distributed.shape import LayerShape, ModelShape
from llamatelemetry.transformers.checkpoint import read_checkpoint
from llamatelemetry.transformers.config import ModelConfig, interpret_config
from llamatelemetry.transformers.estimate import estimate_weights
from llamatelemetry.transformers.weights import sum_weights


def read_shape(path: Path) -> ModelShape | None:
    """The sizes of the model in a checkpoint folder.

    Bytes are those that its safetensors files hold, quantized ones included. Where there are none,
    as with ``config.json`` alone or weights in PyTorch's pickles, which are never opened, they are
    worked out from the model's dimensions and ``weights_estimated`` is true.

    Layers whose kind of attention is not known are taken to keep keys and values of every token.

    Args:
        path: The folder, or the ``config.json`` in it.

    Returns:
        The sizes, or None for what is not a checkpoint.

    Raises:
        ModelFileError: It is a checkpoint, and damaged, incomplete, or not one of a language model.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint is None:
        return None
    config = interpret_config(checkpoint.config_path, checkpoint.config)
    if checkpoint.tensors is None or checkpoint.weights_path is None:
        weights = estimate_weights(checkpoint.config_path, config)
    else:
        weights = sum_weights(checkpoint.weights_path, checkpoint.tensors, config)
    layers = tuple(
        LayerShape(
            weights_bytes=weights_bytes,
            key_elements=config.key_elements,
            value_elements=config.value_elements,
            window=window,
        )
        for weights_bytes, window in zip(weights.layer_bytes, config.windows, strict=True)
    )
    return ModelShape(
        name=checkpoint.name,
        path=path,
        format="huggingface",
        architecture=config.architecture,
        layers=layers,
        input_bytes=weights.input_bytes,
        output_bytes=weights.output_bytes,
        tied_output=weights.tied,
        embedding_length=config.hidden_size,
        vocabulary_size=config.vocabulary_size,
        head_count=config.head_count,
        context_length=config.context_length,
        parameters=weights.parameters,
        quantization=config.quantization or weights.dtype,
        feed_forward_length=_used_at_once(config),
        attention_length=config.head_count * config.head_width,
        experts_used=config.experts.used if config.experts else 1,
        weights_estimated=checkpoint.tensors is None,
        assumptions=config.assumptions + weights.assumptions,
    )


def _used_at_once(config: ModelConfig) -> int | None:
    """Width of what one token goes through between two layers of attention, the largest."""
    experts = config.experts
    if experts is None:
        return config.feed_forward_length
    plain = config.feed_forward_length or 0 if experts.dense_layers else 0
    return max(plain, experts.used * experts.width + experts.shared_width)
