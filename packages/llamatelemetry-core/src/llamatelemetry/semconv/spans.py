"""Names of the spans and events we emit, and the tables of the server's start and of events on spans."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from opentelemetry.semconv._incubating.attributes import process_attributes
from opentelemetry.semconv.attributes import error_attributes

from llamatelemetry.semconv import gen_ai
from llamatelemetry.semconv.attributes import Attribute
from llamatelemetry.semconv.facts import PhaseName

PHASES: Final[tuple[PhaseName, ...]] = ("queue", "prefill", "decode")
"""Names of the phase spans, in the order in which they tile an inference span."""

EMBEDDINGS_PHASES: Final = PHASES[:2]
"""Those of a request for embeddings, which has no tokens to decode."""

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

ATTEMPT_FAILED_EVENT: Final = "llamatelemetry.attempt.failed"
"""Name of the span event of a try that failed before its first token and was followed by another."""

ATTEMPT_FAILED: Final = (
    Attribute("llamatelemetry.attempt.number", "int", "number", "Which try it was, from 1.", requirement="required"),
    Attribute(
        error_attributes.ERROR_TYPE,
        "string",
        "error_type",
        "Why it failed: exception class or HTTP status code.",
        requirement="required",
    ),
)
"""On :data:`ATTEMPT_FAILED_EVENT`, with any profile."""

EVENTS: Final[Mapping[str, tuple[Attribute, ...]]] = MappingProxyType({ATTEMPT_FAILED_EVENT: ATTEMPT_FAILED})
"""Each event of an inference span, and its attributes."""


def span_name(operation: str, model: str) -> str:
    """Name of an inference span: ``{gen_ai.operation.name} {gen_ai.request.model}``.

    Args:
        operation: For example ``chat``.
        model: The model asked for; without one the name is the operation alone.
    """
    return f"{operation} {model}" if model else operation
