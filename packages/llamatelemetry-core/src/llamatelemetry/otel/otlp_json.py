"""OTLP/JSON, the encoding of https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.

It differs from protobuf's own JSON mapping: trace and span ids are lowercase hex and enums are
integers. It is written straight from the SDK's objects, because going through protobuf messages
takes several times as long and files are the default exporter. Fields at their default are left
out where protobuf would leave them out; the tests hold each request against the official encoder.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import (
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind

Json = dict[str, Any]
_T = TypeVar("_T")

_SPAN_KINDS: Final = {
    SpanKind.INTERNAL: 1,
    SpanKind.SERVER: 2,
    SpanKind.CLIENT: 3,
    SpanKind.PRODUCER: 4,
    SpanKind.CONSUMER: 5,
}
"""SpanKind in opentelemetry/proto/trace/v1/trace.proto."""
_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200
"""SpanFlags in opentelemetry/proto/trace/v1/trace.proto."""


def dump_line(request: Json) -> bytes:
    """One export request as one line of UTF-8, newline included."""
    text = json.dumps(request, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate has no UTF-8 form; what else the line says is worth more than that character.
    return text.encode("utf-8", "replace") + b"\n"


def traces_request(spans: Iterable[ReadableSpan]) -> Json:
    """An ExportTraceServiceRequest."""
    return {"resourceSpans": _grouped(spans, "scopeSpans", "spans", _span)}


def logs_request(records: Iterable[ReadableLogRecord]) -> Json:
    """An ExportLogsServiceRequest."""
    return {"resourceLogs": _grouped(records, "scopeLogs", "logRecords", _log_record)}


def metrics_request(data: MetricsData) -> Json:
    """An ExportMetricsServiceRequest."""
    return {
        "resourceMetrics": [
            _resource(group.resource)
            | {
                "scopeMetrics": [
                    _scope(scoped.scope) | {"metrics": [_metric(metric) for metric in scoped.metrics]}
                    for scoped in group.scope_metrics
                ]
            }
            for group in data.resource_metrics
        ]
    }


def _grouped(items: Iterable[Any], scopes: str, leaves: str, encode: Callable[[Any], Json]) -> list[Json]:
    # By identity: hashing a resource serializes it, and one batch has one resource object per provider.
    by_resource: dict[int, tuple[Resource, dict[InstrumentationScope | None, list[Json]]]] = {}
    for item in items:
        _, by_scope = by_resource.setdefault(id(item.resource), (item.resource, {}))
        by_scope.setdefault(item.instrumentation_scope, []).append(encode(item))
    return [
        _resource(resource) | {scopes: [_scope(scope) | {leaves: encoded} for scope, encoded in by_scope.items()]}
        for resource, by_scope in by_resource.values()
    ]


def _resource(resource: Resource) -> Json:
    return _present(resource={"attributes": _attributes(resource.attributes)}, schemaUrl=resource.schema_url)


def _scope(scope: InstrumentationScope | None) -> Json:
    if scope is None:
        return {"scope": {}}
    encoded = _present(name=scope.name, version=scope.version, attributes=_attributes(scope.attributes))
    return {"scope": encoded} | _present(schemaUrl=scope.schema_url)


def _span(span: ReadableSpan) -> Json:
    context = span.get_span_context()
    if context is None:
        raise ValueError(f"span {span.name!r} has no context")
    return {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "name": str(span.name),
        "kind": _SPAN_KINDS[span.kind],
        "startTimeUnixNano": str(span.start_time or 0),
        "endTimeUnixNano": str(span.end_time or 0),
        "flags": _flags(span.parent),
        "status": _present(code=span.status.status_code.value, message=span.status.description),
    } | _present(
        traceState=context.trace_state.to_header(),
        parentSpanId=f"{span.parent.span_id:016x}" if span.parent else None,
        attributes=_attributes(span.attributes),
        events=[
            {"timeUnixNano": str(event.timestamp), "name": str(event.name)}
            | _present(attributes=_attributes(event.attributes), droppedAttributesCount=event.dropped_attributes)
            for event in span.events
        ],
        links=[
            {
                "traceId": f"{link.context.trace_id:032x}",
                "spanId": f"{link.context.span_id:016x}",
                "flags": _flags(link.context),
            }
            | _present(attributes=_attributes(link.attributes), droppedAttributesCount=link.dropped_attributes)
            for link in span.links
        ],
        droppedAttributesCount=span.dropped_attributes,
        droppedEventsCount=span.dropped_events,
        droppedLinksCount=span.dropped_links,
    )


def _flags(context: SpanContext | None) -> int:
    return _HAS_IS_REMOTE | _IS_REMOTE if context is not None and context.is_remote else _HAS_IS_REMOTE


def _log_record(readable: ReadableLogRecord) -> Json:
    record = readable.log_record
    return _present(
        timeUnixNano=_whole(record.timestamp),
        observedTimeUnixNano=_whole(record.observed_timestamp),
        traceId=f"{record.trace_id:032x}" if record.trace_id else None,
        spanId=f"{record.span_id:016x}" if record.span_id else None,
        flags=int(record.trace_flags or 0),
        severityNumber=record.severity_number.value if record.severity_number else None,
        severityText=record.severity_text,
        body=None if record.body is None else any_value(record.body),
        attributes=_attributes(record.attributes),
        droppedAttributesCount=readable.dropped_attributes,
        eventName=record.event_name,
    )


def _metric(metric: Metric) -> Json:
    encoded = {"name": metric.name} | _present(description=metric.description, unit=metric.unit)
    data = metric.data
    if isinstance(data, Gauge):
        return encoded | {"gauge": _points(data.data_points, _gauge_point)}
    temporality = {"aggregationTemporality": int(data.aggregation_temporality)}
    if isinstance(data, Sum):
        monotonic = _present(isMonotonic=data.is_monotonic)
        return encoded | {"sum": _points(data.data_points, _sum_point) | temporality | monotonic}
    if isinstance(data, Histogram):
        return encoded | {"histogram": _points(data.data_points, _histogram_point) | temporality}
    if isinstance(data, ExponentialHistogram):
        return encoded | {"exponentialHistogram": _points(data.data_points, _exponential_point) | temporality}
    raise TypeError(f"metric {metric.name!r} has data of unknown type {type(data).__name__}")


def _points(points: Iterable[_T], encode: Callable[[_T], Json]) -> Json:
    return {"dataPoints": [encode(point) for point in points]}


def _point(point: NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint) -> Json:
    exemplars = [
        {"timeUnixNano": str(exemplar.time_unix_nano)}
        | _number(exemplar.value)
        | _present(
            filteredAttributes=_attributes(exemplar.filtered_attributes),
            traceId=None if exemplar.trace_id is None else f"{exemplar.trace_id:032x}",
            spanId=None if exemplar.span_id is None else f"{exemplar.span_id:016x}",
        )
        for exemplar in point.exemplars
    ]
    return {"timeUnixNano": str(point.time_unix_nano)} | _present(
        attributes=_attributes(point.attributes), exemplars=exemplars
    )


def _gauge_point(point: NumberDataPoint) -> Json:
    return _point(point) | _number(point.value)


def _sum_point(point: NumberDataPoint) -> Json:
    return _point(point) | _started(point) | _number(point.value)


def _histogram_point(point: HistogramDataPoint) -> Json:
    return (
        _point(point)
        | _started(point)
        | _totals(point)
        | {
            "bucketCounts": [str(count) for count in point.bucket_counts],
            "explicitBounds": [_double(bound) for bound in point.explicit_bounds],
        }
    )


def _exponential_point(point: ExponentialHistogramDataPoint) -> Json:
    return (
        _point(point)
        | _started(point)
        | _totals(point)
        | _present(
            scale=point.scale,
            zeroCount=_whole(point.zero_count),
            flags=point.flags,
            positive=_buckets(point.positive.offset, point.positive.bucket_counts),
            negative=_buckets(point.negative.offset, point.negative.bucket_counts),
        )
    )


def _buckets(offset: int, counts: Sequence[int]) -> Json | None:
    return {"bucketCounts": [str(count) for count in counts]} | _present(offset=offset) if counts else None


def _started(point: NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint) -> Json:
    return _present(startTimeUnixNano=_whole(point.start_time_unix_nano))


def _totals(point: HistogramDataPoint | ExponentialHistogramDataPoint) -> Json:
    figures = {"sum": point.sum, "min": point.min, "max": point.max}
    return {"count": str(point.count)} | {name: _double(x) for name, x in figures.items() if x is not None}


def _number(value: float) -> Json:
    return {"asInt": str(value)} if isinstance(value, int) else {"asDouble": _double(value)}


def _double(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _whole(value: int | None) -> str | None:
    return str(value) if value else None


def _attributes(attributes: Mapping[str, Any] | None) -> list[Json]:
    return [{"key": key, "value": any_value(value)} for key, value in attributes.items()] if attributes else []


def any_value(value: Any) -> Json:
    """An AnyValue; what OTLP has no form for becomes text."""
    encode = _SCALARS.get(type(value))
    if encode is not None:
        return encode(value)
    if isinstance(value, Mapping):
        return {"kvlistValue": _present(values=_attributes(value))}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return {"arrayValue": _present(values=[any_value(item) for item in value])}
    # A subclass of a scalar, such as a member of an IntEnum, is that scalar.
    return next((encode(value) for kind, encode in _SCALARS.items() if isinstance(value, kind)), _text(str(value)))


def _text(value: str) -> Json:
    return {"stringValue": value}


def _integer(value: int) -> Json:
    return {"intValue": str(int(value))} if -(2**63) <= value < 2**63 else _text(str(int(value)))


_SCALARS: Final[dict[type, Callable[[Any], Json]]] = {
    str: _text,
    bool: lambda value: {"boolValue": value},
    int: _integer,
    float: lambda value: {"doubleValue": _double(value)},
    bytes: lambda value: {"bytesValue": base64.b64encode(value).decode("ascii")},
    type(None): lambda _: {},
}
"""Bool stands before int, which it is a subclass of."""


def _present(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value}
