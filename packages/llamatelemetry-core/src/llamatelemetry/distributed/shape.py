"""The sizes of a model that decide whether it fits: what every model format can be read into.

Core reads no model format. The plugin that does registers a reader with the hook
``register_model_readers``: a function from a path to a :class:`ModelShape`, or to None for what is
not its format.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """One repeating layer of a model.

    Attributes:
        weights_bytes: Bytes of its weights as they are stored.
        key_elements: Numbers that one token adds to the cache of keys, over all its KV heads.
        value_elements: Numbers that one token adds to the cache of values.
        window: Tokens that it looks back at; None for all.
        state_bytes: Memory per sequence that does not grow with tokens, of a recurrent layer.
    """

    weights_bytes: int
    key_elements: int = 0
    value_elements: int = 0
    window: int | None = None
    state_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A model's sizes.

    Attributes:
        name: What it calls itself.
        path: Where it was read.
        format: ``gguf`` or ``huggingface``.
        architecture: For example ``llama``.
        layers: Its repeating layers, in order.
        input_bytes: Weights before the first layer: the token embeddings.
        output_bytes: Weights after the last layer: norm and output matrix, where it has one of its own.
        tied_output: True where the token embeddings are the output matrix too.
        embedding_length: Width of the hidden state.
        vocabulary_size: Tokens there are.
        head_count: Attention heads; the most that any layer has; 0 where none has any.
        context_length: Tokens it was trained for.
        parameters: Number of weights.
        quantization: For example ``Q4_K_M`` or ``bfloat16``.
        feed_forward_length: Width of the feed-forward layers, the largest; of a mixture of experts, of all
            those together that one token uses.
        attention_length: Width of the queries, the largest: heads times the numbers in each.
        experts_used: Experts that one token uses; 1 where there are none to choose from.
        weights_estimated: True where no weights were there to measure, and their bytes and number are
            worked out from the other sizes.
        assumptions: What was assumed because the file does not say it, one sentence each.
    """

    name: str
    path: Path
    format: str
    architecture: str
    layers: tuple[LayerShape, ...]
    input_bytes: int
    output_bytes: int
    tied_output: bool
    embedding_length: int
    vocabulary_size: int
    head_count: int
    context_length: int | None = None
    parameters: int | None = None
    quantization: str | None = None
    feed_forward_length: int | None = None
    attention_length: int | None = None
    experts_used: int = 1
    weights_estimated: bool = False
    assumptions: tuple[str, ...] = ()

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights as they are stored."""
        return self.input_bytes + sum(layer.weights_bytes for layer in self.layers) + self.output_bytes
