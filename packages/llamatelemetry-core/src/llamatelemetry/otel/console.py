"""Telemetry for a person at a terminal: one line per request, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

_T = TypeVar("_T")

_INFERENCE_MARK: Final = "llamatelemetry.request.id"
"""On every inference span, whatever the profile, and on no other."""


class ConsoleSender(Generic[_T]):
    """Prints lines.

    Args:
        lines: Makes lines of one item.
    """

    def __init__(self, lines: Callable[[_T], Iterable[str]]) -> None:
        self._lines = lines

    def send(self, batch: Sequence[_T]) -> int:
        """Prints the batch at once, so that lines of several threads do not mix."""
        text = "".join(f"{_printable(line)}\n" for item in batch for line in self._lines(item))
        if text:
            sys.stderr.write(text)
            sys.stderr.flush()
        return len(batch)

    def close(self) -> None:
        """Nothing is held."""

    def disown(self) -> None:
        """Nothing is held."""


def console_spans() -> ConsoleSender[ReadableSpan]:
    """A sender that prints one line per inference span and none for any other."""
    return ConsoleSender(_span_lines)


def console_logs() -> ConsoleSender[ReadableLogRecord]:
    """A sender that prints one line per log record."""
    return ConsoleSender(_log_lines)


def console_metrics() -> ConsoleSender[MetricsData]:
    """A sender that prints one line per data point."""
    return ConsoleSender(_metric_lines)


def _span_lines(span: ReadableSpan) -> Iterable[str]:
    attributes = span.attributes or {}
    context = span.get_span_context()
    if _INFERENCE_MARK not in attributes or context is None:
        return
    parts = [f"{_time(span.end_time)} {span.name}", *_outcome(span, attributes), *_figures(span, attributes)]
    yield "  ".join([*parts, f"trace {context.trace_id:032x}"])


def _outcome(span: ReadableSpan, attributes: Mapping[str, Any]) -> Iterable[str]:
    if span.status.status_code is StatusCode.ERROR:
        reason = attributes.get("error.type") or span.status.description or "unknown"
        yield f"ERROR {reason}"
    else:
        reasons = attributes.get("gen_ai.response.finish_reasons")
        yield ",".join(reasons) if reasons else str(attributes.get("llm.finish_reason", "ok"))


def _figures(span: ReadableSpan, attributes: Mapping[str, Any]) -> Iterable[str]:
    given = _first(attributes, "gen_ai.usage.input_tokens", "llm.input.tokens", "llm.token_count.prompt")
    made = _first(attributes, "gen_ai.usage.output_tokens", "llm.output.tokens", "llm.token_count.completion")
    if given is not None or made is not None:
        yield f"{_or_unknown(given)} → {_or_unknown(made)} tokens"
    wait = attributes.get("llamatelemetry.time_to_first_token")
    if wait is not None:
        yield f"TTFT {wait * 1000:.0f} ms"
    speed = attributes.get("llamatelemetry.tokens_per_second")
    if speed is not None:
        yield f"{speed:.1f} tok/s"
    if span.start_time is not None and span.end_time is not None:
        yield f"{(span.end_time - span.start_time) / 1e9:.2f} s"


def _log_lines(readable: ReadableLogRecord) -> Iterable[str]:
    record = readable.log_record
    level = record.severity_text or (record.severity_number.name if record.severity_number else "LOG")
    what = " ".join(str(part) for part in (record.event_name, record.body) if part)
    yield f"{_time(record.timestamp or record.observed_timestamp)} {level}  {what}".replace("\n", " ")


def _metric_lines(data: MetricsData) -> Iterable[str]:
    for group in data.resource_metrics:
        for scoped in group.scope_metrics:
            for metric in scoped.metrics:
                for point in metric.data.data_points:
                    labels = ", ".join(f"{key}={value!s}" for key, value in (point.attributes or {}).items())
                    name = f"{_time(point.time_unix_nano)} {metric.name}{{{labels}}}"
                    yield f"{name}  {_value(point)} {metric.unit or ''}"


def _value(point: Any) -> str:
    if hasattr(point, "count"):
        mean = point.sum / point.count if point.count else 0.0
        return f"n={point.count} mean={mean:.4g}"
    return f"{point.value:.6g}"


def _printable(line: str) -> str:
    # Names may be a caller's, and what a terminal obeys stands in characters that show nothing.
    return line if line.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def _time(nanoseconds: int | None) -> str:
    return datetime.fromtimestamp((nanoseconds or 0) / 1e9).astimezone().strftime("%H:%M:%S")


def _first(attributes: Mapping[str, Any], *keys: str) -> Any:
    return next((attributes[key] for key in keys if key in attributes), None)


def _or_unknown(value: Any) -> str:
    return "?" if value is None else str(value)
