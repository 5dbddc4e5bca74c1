"""Spans and metrics as they were emitted, in one shape wherever they come from.

The SDK's objects and OTLP/JSON files say the same things differently; checkers read these.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

MetricShape = Literal["histogram", "exponential_histogram", "monotonic_sum", "sum", "gauge", "summary"]
"""What a metric's points are; an up-down counter is a ``sum``."""

_KINDS: Final = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
_STATUS_ERROR: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EmittedEvent:
    """An event on a span; ``time_ns`` is Unix time in nanoseconds."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmittedLink:
    """A link from a span to another; ids as :class:`EmittedSpan` has them."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmittedSpan:
    """A finished span.

    Attributes:
        name: Its name.
        kind: ``INTERNAL``, ``CLIENT``, ...
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        parent_id: 16 hex digits, or None for a root.
        start_ns: Unix time in nanoseconds.
        end_ns: Unix time in nanoseconds.
        attributes: Arrays are tuples.
        failed: Its status is ERROR.
        events: Its events, in order.
        links: Its links, in order.
    """

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    failed: bool = False
    events: tuple[EmittedEvent, ...] = ()
    links: tuple[EmittedLink, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EmittedPoint:
    """One point of a metric; ``bounds`` are a histogram's."""

    attributes: Mapping[str, Any]
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EmittedMetric:
    """One metric of one export."""

    name: str
    unit: str
    description: str
    shape: MetricShape
    points: tuple[EmittedPoint, ...]


def span_from_sdk(span: Any) -> EmittedSpan:
    """Reads a finished ``opentelemetry.sdk.trace.ReadableSpan``."""
    context = span.get_span_context()
    return EmittedSpan(
        name=span.name,
        kind=span.kind.name,
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id=None if span.parent is None else f"{span.parent.span_id:016x}",
        start_ns=span.start_time,
        end_ns=span.end_time,
        attributes=dict(span.attributes or {}),
        failed=span.status.status_code.value == _STATUS_ERROR,
        events=tuple(
            EmittedEvent(name=event.name, time_ns=event.timestamp, attributes=dict(event.attributes or {}))
            for event in span.events
        ),
        links=tuple(
            EmittedLink(
                trace_id=f"{link.context.trace_id:032x}",
                span_id=f"{link.context.span_id:016x}",
                attributes=dict(link.attributes or {}),
            )
            for link in span.links
        ),
    )


def spans_from_otlp_json(lines: Iterable[str]) -> tuple[EmittedSpan, ...]:
    """Reads every span of an OTLP/JSON-lines file, one export request a line.

    Args:
        lines: The file's lines; blank ones, and requests of other signals, are passed over.

    Raises:
        ValueError: A line is not JSON.
        KeyError: A span lacks what OTLP requires.
    """
    return tuple(_json_span(span) for span in _items(lines, "resourceSpans", "scopeSpans", "spans"))


def metrics_from_sdk(metrics_data: Any) -> tuple[EmittedMetric, ...]:
    """Reads an ``opentelemetry.sdk.metrics.export.MetricsData``; None, as readers say nothing, is empty."""
    if metrics_data is None:
        return ()
    return tuple(
        _sdk_metric(metric)
        for resource in metrics_data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


def metrics_from_otlp_json(lines: Iterable[str]) -> tuple[EmittedMetric, ...]:
    """Reads every metric of an OTLP/JSON-lines file, as :func:`spans_from_otlp_json` reads spans."""
    return tuple(_json_metric(metric) for metric in _items(lines, "resourceMetrics", "scopeMetrics", "metrics"))


def _items(lines: Iterable[str], resources: str, scopes: str, items: str) -> Iterator[Mapping[str, Any]]:
    for line in lines:
        if not line.strip():
            continue
        for resource in json.loads(line).get(resources, ()):
            for scope in resource.get(scopes, ()):
                yield from scope.get(items, ())


def _json_span(span: Mapping[str, Any]) -> EmittedSpan:
    return EmittedSpan(
        name=span["name"],
        kind=_KINDS.get(span.get("kind", 0), "UNSPECIFIED"),
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId") or None,
        start_ns=int(span["startTimeUnixNano"]),
        end_ns=int(span["endTimeUnixNano"]),
        attributes=_json_attributes(span),
        failed=span.get("status", {}).get("code") == _STATUS_ERROR,
        events=tuple(
            EmittedEvent(name=event["name"], time_ns=int(event["timeUnixNano"]), attributes=_json_attributes(event))
            for event in span.get("events", ())
        ),
        links=tuple(
            EmittedLink(trace_id=link["traceId"], span_id=link["spanId"], attributes=_json_attributes(link))
            for link in span.get("links", ())
        ),
    )


def _json_attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _json_value(pair["value"]) for pair in holder.get("attributes", ())}


def _json_value(value: Mapping[str, Any]) -> Any:
    """Decodes an ``AnyValue``: 64-bit integers arrive as strings, and so may NaN and infinities."""
    match value:
        case {"stringValue": text} | {"boolValue": text} | {"bytesValue": text}:
            return text
        case {"intValue": number}:
            return int(number)
        case {"doubleValue": number}:
            return float(number)
        case {"arrayValue": array}:
            return tuple(_json_value(item) for item in array.get("values", ()))
        case {"kvlistValue": pairs}:
            return {pair["key"]: _json_value(pair["value"]) for pair in pairs.get("values", ())}
        case _:
            return None


def _sdk_metric(metric: Any) -> EmittedMetric:
    data = metric.data
    shapes: Mapping[str, MetricShape] = {
        "Histogram": "histogram",
        "ExponentialHistogram": "exponential_histogram",
        "Gauge": "gauge",
        "Sum": "monotonic_sum" if getattr(data, "is_monotonic", False) else "sum",
    }
    return EmittedMetric(
        name=metric.name,
        unit=metric.unit or "",
        description=metric.description or "",
        shape=shapes[type(data).__name__],
        points=tuple(
            EmittedPoint(attributes=dict(point.attributes or {}), bounds=tuple(getattr(point, "explicit_bounds", ())))
            for point in data.data_points
        ),
    )


def _json_metric(metric: Mapping[str, Any]) -> EmittedMetric:
    shapes: Mapping[str, MetricShape] = {
        "histogram": "histogram",
        "exponentialHistogram": "exponential_histogram",
        "gauge": "gauge",
        "summary": "summary",
        "sum": "monotonic_sum" if metric.get("sum", {}).get("isMonotonic") else "sum",
    }
    key = next(key for key in shapes if key in metric)
    return EmittedMetric(
        name=metric["name"],
        unit=metric.get("unit", ""),
        description=metric.get("description", ""),
        shape=shapes[key],
        points=tuple(
            EmittedPoint(
                attributes=_json_attributes(point),
                bounds=tuple(float(bound) for bound in point.get("explicitBounds", ())),
            )
            for point in metric[key].get("dataPoints", ())
        ),
    )
