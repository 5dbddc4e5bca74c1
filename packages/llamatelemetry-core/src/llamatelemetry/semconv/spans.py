"""Names of the spans and events we emit, and the table of the server's start."""

from __future__ import annotations

from typing import Final

from opentelemetry.semconv._incubating.attributes import process_attributes

from llamatelemetry.semconv import gen_ai
from llamatelemetry.semconv.attributes import Attribute
from llamatelemetry.semconv.facts import PhaseName

PHASES: Final[tuple[PhaseName, ...]] = ("queue", "prefill", "decode")
"""Names of the phase spans, in the order in which they tile an inference span."""

SERVER_START_SPAN: Final = "llama-server start"
"""Name of the span that lasts from a model server's launch until it is ready or given up."""

INFERENCE_DETAILS_EVENT: Final = "gen_ai.client.inference.operation.details"
"""Name of the event that carries content; its attributes are those of the inference span."""

SERVER_START: Final = (
    Attribute(
        "llamatelemetry.server.runtime",
        "string",
        "runtime",
        "What was started: llama-server or xllamacpp.",
        requirement="required",
        at_start=True,
    ),
    Attribute("llamatelemetry.server.version", "string", "runtime_version", "Version of what was started."),
    Attribute("llamatelemetry.server.model", "string", "model", "Model that it loads."),
    Attribute("llamatelemetry.server.slots", "int", "slots", "Requests it runs at once."),
    Attribute(
        "llamatelemetry.server.context_length", "int", "context_length", "Tokens one slot holds.", unit="{token}"
    ),
    Attribute("llamatelemetry.server.threads", "int", "threads", "CPU threads it computes with."),
    Attribute(process_attributes.PROCESS_PID, "int", "pid", "Its process."),
    *gen_ai.GENERAL,
)
"""On :data:`SERVER_START_SPAN`, with any profile."""


def span_name(operation: str, model: str) -> str:
    """Name of an inference span: ``{gen_ai.operation.name} {gen_ai.request.model}``.

    Args:
        operation: For example ``chat``.
        model: The model asked for; without one the name is the operation alone.
    """
    return f"{operation} {model}" if model else operation
