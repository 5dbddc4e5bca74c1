"""What a pipeline knows of a question and ``generate`` does not: its words, and who turned them into tokens.

A pipeline makes no span. It leaves a note for the ``generate`` that it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from llamatelemetry.otel.guard import quietly
from llamatelemetry.otel.patches import Patches
from llamatelemetry.transformers.generate_call import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a pipeline asks its model.

    Attributes:
        questions: One for each prompt of the batch.
        tokenizer: The pipeline's.
    """

    questions: Sequence[Question]
    tokenizer: Any


ASKED: Final[ContextVar[Asked | None]] = ContextVar("llamatelemetry_asked", default=None)
"""What is asked by the pipeline whose model runs in this context."""

PIPELINES: Final = {
    "transformers.pipelines.text_generation": "TextGenerationPipeline",
    "transformers.pipelines.image_text_to_text": "ImageTextToTextPipeline",
    "transformers.pipelines.any_to_any": "AnyToAnyPipeline",
}
"""By module, the pipelines that generate text."""


def pipeline_patch(patches: Patches) -> Callable[[ModuleType], None]:
    """What patches a module of :data:`PIPELINES` once it is imported."""

    @quietly
    def patch(module: ModuleType) -> None:
        patches.around(getattr(module, PIPELINES[module.__name__]), "_forward", _forward)

    return patch


def _forward(original: Callable[..., Any], pipeline: Any, model_inputs: Any, *args: Any, **kwargs: Any) -> Any:
    token = ASKED.set(_asked(pipeline, model_inputs))
    try:
        return original(pipeline, model_inputs, *args, **kwargs)
    finally:
        ASKED.reset(token)


@quietly
def _asked(pipeline: Any, model_inputs: Any) -> Asked:
    given = model_inputs.get("prompt_text", model_inputs.get("text"))
    items = given if isinstance(given, list | tuple) else [given]
    tokenizer = getattr(pipeline, "tokenizer", None)
    questions: list[Any] = [getattr(item, "messages", item) for item in items]
    return Asked(questions=questions, tokenizer=tokenizer)
