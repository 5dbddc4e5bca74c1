"""What one row of a semantic-convention table says.

Tables are data: the mapping, the checker in ``llamatelemetry.testing`` and the reference page all
read the same rows, so a name, type or unit is written once.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Final, Literal

AttributeValue = str | bool | int | float | tuple[str, ...]
"""What a row's attribute can hold."""

AttributeType = Literal["string", "boolean", "int", "double", "string[]"]
"""Types, as the conventions spell them. A double is never sent as an int."""

Requirement = Literal["required", "conditionally_required", "recommended", "opt_in"]
"""OpenTelemetry's requirement levels."""

Task = Literal["generation", "embeddings"]
"""What a model is asked for: text, as chat and text_completion are, or vectors."""

IF_FAILED: Final = "if it failed"
"""The condition that the checker can tell from a span's status."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: its name, its type, where its value comes from and what it means.

    Attributes:
        name: The attribute's key.
        type: Type of its value.
        field: The field of the facts that is its value; empty where the emitter gives it itself.
        brief: One line of meaning.
        unit: UCUM unit; empty where there is none.
        requirement: When it must be there. Nothing is emitted for a fact that is None.
        condition: When a conditionally required one must be there.
        at_start: Given when the span starts, so that samplers see it.
        only_true: False is not emitted: the absence says it.
        task: The only task that it is emitted for; None is either.
        signed: Its amount may be below zero.
    """

    name: str
    type: AttributeType
    field: str
    brief: str
    _: KW_ONLY
    unit: str = ""
    requirement: Requirement = "recommended"
    condition: str = ""
    at_start: bool = False
    only_true: bool = False
    task: Task | None = None
    signed: bool = False


def task_of(operation: str) -> Task:
    """The task that an operation is: its value of ``gen_ai.operation.name``."""
    return "embeddings" if operation == "embeddings" else "generation"
