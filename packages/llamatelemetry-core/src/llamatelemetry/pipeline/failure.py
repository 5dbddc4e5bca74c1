"""What a span says of an error, and whether the span is there to be pointed at."""

from __future__ import annotations

import traceback

from opentelemetry.trace import Span, Status, StatusCode

from llamatelemetry.errors import LlamatelemetryError
from llamatelemetry.otel.redaction import current_redactor


def error_type_of(error: BaseException) -> str:
    """The low-cardinality name that ``error.type`` has for an error."""
    return error.error_type if isinstance(error, LlamatelemetryError) else type(error).__name__


def ids_of(span: Span | None) -> tuple[str, str]:
    """Ids of a span and its trace, 32 and 16 hexadecimal digits; empty if it is not sampled: then it is nowhere."""
    known = None if span is None else span.get_span_context()
    if known is None or not known.is_valid or not known.trace_flags.sampled:
        return "", ""
    return f"{known.trace_id:032x}", f"{known.span_id:016x}"


def record_failure(span: Span, error: BaseException, time_ns: int | None = None) -> None:
    """Makes a span that of a failure, with the error as its event; messages come without their secrets.

    Args:
        span: The span.
        error: What was raised.
        time_ns: When, in Unix nanoseconds; None leaves the event out, where a span inside has it.
    """
    clean = current_redactor().text
    kind, words = type(error).__qualname__, clean(_words(error))
    span.set_status(Status(StatusCode.ERROR, words or kind))
    if time_ns is not None:
        trace = clean("".join(traceback.format_exception(error)))
        texts = {"exception.type": kind, "exception.message": words, "exception.stacktrace": trace}
        span.add_event("exception", texts, time_ns)


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - somebody else's error, and what matters is that there was one
        return ""
