from __future__ import annotations

import json
import math

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llamatelemetry.testing.emitted import (
    EmittedEvent,
    EmittedLink,
    EmittedPoint,
    EmittedSpan,
    metrics_from_otlp_json,
    span_from_sdk,
    spans_from_otlp_json,
)

SPAN = {
    "traceId": "5b8efff798038103d269b633813fc60c",
    "spanId": "eee19b7ec3c1b174",
    "parentSpanId": "",
    "name": "chat m",
    "kind": 3,
    "startTimeUnixNano": "1700000000000000001",
    "endTimeUnixNano": "1700000000000000002",
    "status": {"code": 2},
    "events": [
        {"timeUnixNano": "1700000000000000001", "name": "e", "attributes": [{"key": "n", "value": {"intValue": "1"}}]},
        {"timeUnixNano": "1700000000000000002", "name": "f"},
    ],
    "links": [
        {
            "traceId": "0af7651916cd43dd8448eb211c80319c",
            "spanId": "b7ad6b7169203331",
            "attributes": [{"key": "n", "value": {"intValue": "1"}}],
        },
        {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "00f067aa0ba902b7"},
    ],
    "attributes": [
        {"key": "text", "value": {"stringValue": "a"}},
        {"key": "flag", "value": {"boolValue": False}},
        {"key": "int", "value": {"intValue": "9007199254740993"}},
        {"key": "double", "value": {"doubleValue": 1}},
        {"key": "nan", "value": {"doubleValue": "NaN"}},
        {"key": "list", "value": {"arrayValue": {"values": [{"stringValue": "stop"}]}}},
        {"key": "empty", "value": {"arrayValue": {}}},
        {"key": "map", "value": {"kvlistValue": {"values": [{"key": "k", "value": {"intValue": "1"}}]}}},
        {"key": "nothing", "value": {}},
    ],
}


def line(**signals):
    return json.dumps(signals)


def request(span):
    return line(resourceSpans=[{"scopeSpans": [{"spans": [span]}]}])


def test_a_span_of_a_file_reads_like_one_of_the_sdk():
    (span,) = spans_from_otlp_json([request(SPAN)])
    nan = span.attributes["nan"]
    assert math.isnan(nan)
    assert span == EmittedSpan(
        name="chat m",
        kind="CLIENT",
        trace_id="5b8efff798038103d269b633813fc60c",
        span_id="eee19b7ec3c1b174",
        parent_id=None,
        start_ns=1_700_000_000_000_000_001,
        end_ns=1_700_000_000_000_000_002,
        attributes={
            "text": "a",
            "flag": False,
            "int": 9007199254740993,
            "double": 1.0,
            "nan": nan,
            "list": ("stop",),
            "empty": (),
            "map": {"k": 1},
            "nothing": None,
        },
        failed=True,
        events=(
            EmittedEvent(name="e", time_ns=1_700_000_000_000_000_001, attributes={"n": 1}),
            EmittedEvent(name="f", time_ns=1_700_000_000_000_000_002, attributes={}),
        ),
        links=(
            EmittedLink(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331", attributes={"n": 1}),
            EmittedLink(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="00f067aa0ba902b7", attributes={}),
        ),
    )
    assert type(span.attributes["double"]) is float


def test_blank_lines_and_other_signals_are_passed_over():
    lines = ["", "\n", line(resourceMetrics=[]), line(resourceLogs=[]), line(resourceSpans=[{}]), request(SPAN)]
    assert len(spans_from_otlp_json(lines)) == 1


def test_a_line_that_is_not_json_is_an_error():
    with pytest.raises(ValueError, match="Expecting"):
        spans_from_otlp_json(["{"])


def test_sdk_spans_and_their_otlp_encoding_read_the_same():
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("parent", kind=trace.SpanKind.CLIENT):
        other = trace.SpanContext(7, 9, is_remote=True)
        child = tracer.start_span(
            "child",
            attributes={"i": 1, "d": 1.0, "s": "x", "b": True, "l": ("a", "b")},
            links=[trace.Link(other, {"n": 1})],
        )
        child.add_event("e", {"n": 1}, 1_700_000_000_000_000_001)
        child.end()
    spans = exporter.get_finished_spans()
    provider.shutdown()
    message = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for resource in message["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for encoded, span in zip(scope["spans"], spans, strict=True):
                # protobuf writes bytes as base64; OTLP/JSON asks for hex digits.
                encoded["traceId"] = f"{span.context.trace_id:032x}"
                encoded["spanId"] = f"{span.context.span_id:016x}"
                for link in encoded.get("links", ()):
                    link["traceId"], link["spanId"] = f"{7:032x}", f"{9:016x}"
                if "parentSpanId" in encoded:
                    encoded["parentSpanId"] = f"{span.parent.span_id:016x}"
    assert spans_from_otlp_json([json.dumps(message)]) == tuple(span_from_sdk(span) for span in spans)


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ({"histogram": {}}, "histogram"),
        ({"exponentialHistogram": {}}, "exponential_histogram"),
        ({"gauge": {}}, "gauge"),
        ({"summary": {}}, "summary"),
        ({"sum": {"isMonotonic": True}}, "monotonic_sum"),
        ({"sum": {}}, "sum"),
    ],
)
def test_a_metric_of_a_file_tells_its_shape(data, shape):
    lines = [line(resourceMetrics=[{"scopeMetrics": [{"metrics": [{"name": "m", "unit": "s", **data}]}]}])]
    (metric,) = metrics_from_otlp_json(lines)
    assert (metric.name, metric.unit, metric.description, metric.shape, metric.points) == ("m", "s", "", shape, ())


def test_a_histogram_of_a_file_tells_its_buckets_and_attributes():
    point = {"explicitBounds": [1, 2.5], "attributes": [{"key": "k", "value": {"intValue": "1"}}]}
    metric = {"name": "m", "description": "d", "histogram": {"dataPoints": [point]}}
    (read,) = metrics_from_otlp_json([line(resourceMetrics=[{"scopeMetrics": [{"metrics": [metric]}]}])])
    assert read.points == (EmittedPoint(attributes={"k": 1}, bounds=(1.0, 2.5)),)
