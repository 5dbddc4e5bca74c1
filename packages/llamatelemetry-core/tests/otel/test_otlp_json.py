from __future__ import annotations

import json
import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from llamatelemetry.otel.otlp_json import Json, any_value, dump_line, logs_request, metrics_request, traces_request
from llamatelemetry.otel.replay import ReplaySummary, _parsed

REMOTE = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("k", "v")]))


def reread(request: Json) -> Any:
    """What a strict reader makes of the encoded line."""
    return _parsed(dump_line(request), "line", ReplaySummary())[1]


def spans_of(attributes: Any = None) -> Sequence[ReadableSpan]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "s"}, "http://schema"), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("scope", "1.0", "http://scope", {"scope.attribute": True})
    remote = trace.set_span_in_context(trace.NonRecordingSpan(REMOTE))
    link = Link(REMOTE, {"link": 1})
    with tracer.start_as_current_span("root", remote, SpanKind.CLIENT, attributes, [link]) as root:
        root.add_event("event", {"at": 1.5})
        root.set_status(Status(StatusCode.ERROR, "it failed"))
        with tracer.start_as_current_span("child"):
            pass
    with provider.get_tracer("other").start_as_current_span("alone"):
        pass
    return exporter.get_finished_spans()


def test_spans_say_what_the_official_encoder_says() -> None:
    spans = spans_of({"text": "ünïcode \n", "n": 2**40, "x": 0.5, "b": False, "list": ("a", "b"), "none": ()})
    assert reread(traces_request(spans)) == encode_spans(spans)


def test_ids_are_lowercase_hex_enums_are_integers_and_long_integers_are_text() -> None:
    line = json.loads(dump_line(traces_request(spans_of({"n": 7}))))
    spans = {span["name"]: span for span in line["resourceSpans"][0]["scopeSpans"][0]["spans"]}
    root = spans["root"]
    assert root["traceId"] == f"{0xABC:032x}"
    assert root["parentSpanId"] == f"{0xDEF:016x}"
    assert root["kind"] == 3
    assert root["status"] == {"code": 2, "message": "it failed"}
    assert root["attributes"] == [{"key": "n", "value": {"intValue": "7"}}]
    assert root["startTimeUnixNano"].isdecimal()
    assert root["links"][0]["traceId"] == f"{0xABC:032x}"
    assert spans["child"]["parentSpanId"] == root["spanId"]


def test_each_request_is_one_line() -> None:
    line = dump_line(traces_request(spans_of({"text": "two\nlines\u2028and\x85more"})))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")


def test_a_name_that_is_no_text_is_told_as_one() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    span = provider.get_tracer("t").start_span(404)  # type: ignore[arg-type]
    span.end()
    assert isinstance(span, ReadableSpan)
    [group] = traces_request([span])["resourceSpans"]
    assert group["scopeSpans"][0]["spans"][0]["name"] == "404"


def test_a_lone_surrogate_does_not_cost_the_line() -> None:
    line = dump_line({"text": "before \ud800 after"})
    assert json.loads(line) == {"text": "before ? after"}


def metrics_of(*, exponential: bool) -> MetricsData:
    preferred: Any = {Histogram: ExponentialBucketHistogramAggregation()} if exponential else None
    reader = InMemoryMetricReader(preferred_aggregation=preferred)
    provider = MeterProvider([reader], Resource({"service.name": "s"}, "http://schema"), shutdown_on_exit=False)
    meter = provider.get_meter("scope", "1.0", "http://scope")
    histogram = meter.create_histogram("h", "s", "Seconds.", explicit_bucket_boundaries_advisory=[0.5, 1, 2])
    context = trace.set_span_in_context(trace.NonRecordingSpan(REMOTE))
    for value in (0.1, 0.7, 5, 0):
        histogram.record(value, {"k": "v"}, context)
    meter.create_counter("c", "{x}", "Counted.").add(3, {"k": 1}, context)
    meter.create_up_down_counter("u").add(-2.5)
    meter.create_gauge("g", "By").set(0)
    meter.create_observable_gauge("og", [lambda _: []])
    data = reader.get_metrics_data()
    assert data is not None
    return data


def test_metrics_say_what_the_official_encoder_says() -> None:
    data = metrics_of(exponential=False)
    assert reread(metrics_request(data)) == encode_metrics(data)


def test_exponential_histograms_say_what_the_official_encoder_says() -> None:
    data = metrics_of(exponential=True)
    assert reread(metrics_request(data)) == encode_metrics(data)


def logs_of(*records: LogRecord) -> Sequence[ReadableLogRecord]:
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(Resource({"service.name": "s"}, "http://schema"), shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    for record in records:
        provider.get_logger("scope", "1.0").emit(record)
    return exporter.get_finished_logs()


def test_log_records_say_what_the_official_encoder_says() -> None:
    context = trace.set_span_in_context(trace.NonRecordingSpan(REMOTE))
    records = logs_of(
        LogRecord(
            timestamp=5,
            context=context,
            severity_text="INFO",
            severity_number=SeverityNumber.INFO,
            body={"nested": ["a", 1, None, {"b": b"\x00\xff"}]},
            attributes={"k": "v"},
            event_name="gen_ai.client.inference.operation.details",
        ),
        LogRecord(body="plain"),
    )
    ours, theirs = reread(logs_request(records)), encode_logs(records)
    for log in theirs.resource_logs[0].scope_logs[0].log_records:
        if not log.trace_id and not log.HasField("body"):
            log.ClearField("body")
    assert ours == theirs


class Level(IntEnum):
    HIGH = 3


def test_figures_that_json_has_no_form_for_are_spelled_as_protobuf_spells_them() -> None:
    assert any_value(math.nan) == {"doubleValue": "NaN"}
    assert any_value(math.inf) == {"doubleValue": "Infinity"}
    assert any_value(-math.inf) == {"doubleValue": "-Infinity"}


def test_values_that_otlp_has_no_form_for_become_text() -> None:
    assert any_value(2**63) == {"stringValue": str(2**63)}
    assert any_value(Level.HIGH) == {"intValue": "3"}
    assert any_value(1j) == {"stringValue": "1j"}


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(st.dictionaries(st.text(), values))
def test_any_attributes_survive_the_way_into_a_line_and_out_of_it(attributes: dict[str, Any]) -> None:
    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return value.encode("utf-8", "replace").decode()
        if isinstance(value, list):
            return [clean(item) for item in value]
        return {clean(k): clean(v) for k, v in value.items()} if isinstance(value, dict) else value

    line = dump_line({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": any_value(attributes)}]}]}]})
    body = json_format.MessageToDict(_parsed(line, "line", ReplaySummary())[1])["resourceLogs"][0]["scopeLogs"][0][
        "logRecords"
    ][0]["body"]
    expected = json.loads(dump_line(any_value(clean(attributes))))
    assert normal(body) == normal(expected)


def normal(value: Any) -> Any:
    """Without what protobuf leaves out or spells in its own way."""
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items() if item not in ({}, [], "")}
    if isinstance(value, list):
        return [normal(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
