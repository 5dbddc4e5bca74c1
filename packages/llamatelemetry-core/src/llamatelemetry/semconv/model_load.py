"""Names of what is told of a model that is loaded to be trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llamatelemetry.semconv.attributes import Attribute
from llamatelemetry.semconv.gen_ai import ERROR_TYPE
from llamatelemetry.semconv.profiles import mapping_of

MODEL_LOAD_SPAN: Final = "load_model"
"""Name of the span that lasts as long as a model is loaded to be trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoadFacts:
    """What is known of a model that is loaded to be trained. None is not known.

    Attributes:
        engine: Who loads it, and trains it: ``unsloth`` or ``peft``.
        source: Name of its folder, or its name on a hub.
        architecture: For example ``llama``.
        dtype: How its weights are computed with, for example ``bfloat16``.
        quantization: How its weights are held, where that is otherwise, for example ``bitsandbytes 4-bit``.
        parameters: Number of weights.
        sequence_length: Tokens that an example may have.
        error_type: Why it was not loaded.
    """

    engine: str
    source: str
    architecture: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    parameters: int | None = None
    sequence_length: int | None = None
    error_type: str | None = None


MODEL_LOAD: Final = (
    Attribute(
        "llamatelemetry.load.engine",
        "string",
        "engine",
        "Who loads it, and trains it: unsloth or peft.",
        requirement="required",
        at_start=True,
    ),
    Attribute(
        "llamatelemetry.load.source",
        "string",
        "source",
        "Name of the model's folder, or its name on a hub.",
        requirement="required",
        at_start=True,
    ),
    Attribute(
        "llamatelemetry.load.sequence_length",
        "int",
        "sequence_length",
        "Tokens that an example may have.",
        unit="{token}",
        at_start=True,
    ),
    Attribute("llamatelemetry.load.dtype", "string", "dtype", "What is computed with, for example bfloat16."),
    Attribute("llamatelemetry.model.architecture", "string", "architecture", "For example llama."),
    Attribute(
        "llamatelemetry.model.quantization",
        "string",
        "quantization",
        "How the weights are held, if quantized.",
    ),
    Attribute("llamatelemetry.model.parameters", "int", "parameters", "Number of weights."),
    ERROR_TYPE,
)
"""On :data:`MODEL_LOAD_SPAN`, beside what GPUs did in it."""

model_load_attributes: Final = mapping_of(MODEL_LOAD)
"""From :class:`ModelLoadFacts` to attributes."""
