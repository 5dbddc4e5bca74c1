from __future__ import annotations

import logging
import time
from typing import Any, Literal

import pytest
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, get_value
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality
from opentelemetry.sdk.trace import TracerProvider

from llamatelemetry.config import Protocol, Settings
from llamatelemetry.otel.batch import close_all, flush_all
from llamatelemetry.otel.delivery import Delivery
from llamatelemetry.otel.exporters import Exporters
from llamatelemetry.otel.otlp import signal_url
from llamatelemetry.testing.collector import OtlpSink, broken_endpoint, plain, running_rotel


class Pipeline:
    """All three signals over OTLP, without ``init()``."""

    def __init__(self, endpoint: str, protocol: Protocol = "http/protobuf", **more: Any) -> None:
        settings = Settings(
            otlp_endpoint=endpoint,
            otlp_protocol=protocol,
            traces_exporters=("otlp",),
            metrics_exporters=("otlp",),
            logs_exporters=("otlp",),
            **more,
        )
        self.exporters = Exporters(settings)
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(self.exporters.span_processors[0])
        self.meters = MeterProvider(self.exporters.metric_readers, shutdown_on_exit=False)
        self.loggers = LoggerProvider(shutdown_on_exit=False)
        self.loggers.add_log_record_processor(self.exporters.log_processors[0])
        self.exporters.start()

    def emit(self, name: str) -> None:
        with self.tracers.get_tracer("t").start_as_current_span(name, attributes={"list": ("a", "b"), "n": 7}):
            self.loggers.get_logger("t").emit(body=f"log of {name}", event_name="happened")
        self.meters.get_meter("t").create_counter(f"count of {name}"[:60].replace(" ", "_"), "{x}").add(3, {"k": "v"})

    def flush(self, seconds: float = 20) -> bool:
        return flush_all(self.exporters.couriers, time.monotonic() + seconds)

    def close(self, seconds: float = 20) -> tuple[Delivery, ...]:
        return close_all(self.exporters.couriers, time.monotonic() + seconds)


def test_every_signal_arrives_over_http_as_it_was_emitted() -> None:
    with OtlpSink() as sink:
        pipeline = Pipeline(sink.endpoint, otlp_headers={"X-Key": "secret"})
        pipeline.emit("work")
        assert pipeline.flush()
        assert all(account.lost == 0 for account in pipeline.close())
    (span,) = sink.spans
    assert span.name == "work"
    assert plain(span.attributes) == {"list": ("a", "b"), "n": 7}
    metric = sink.metrics[0]
    assert (metric.name, metric.unit) == ("count_of_work", "{x}")
    assert metric.sum.data_points[0].as_int == 3
    (record,) = sink.log_records
    assert record.body.string_value == "log of work"
    assert (record.trace_id, record.span_id) == (span.trace_id, span.span_id)
    assert all(headers["x-key"] == "secret" for headers in sink.headers)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_real_collector_takes_every_signal(protocol: Protocol) -> None:
    with running_rotel(protocol) as rotel:
        pipeline = Pipeline(rotel.endpoint, protocol, otlp_headers={"X-Key": "secret"})
        pipeline.emit("real work")
        assert pipeline.flush()
        assert all(account.lost == 0 for account in pipeline.close())
        received = rotel.wait_for(
            "Name           : real work",
            "-> list: Slice(Str(a), Str(b))",
            "-> Name: count_of_real_work",
            "log of real work",
        )
    assert "-> n: Int(7)" in received


def test_what_went_in_by_grpc_comes_out_of_the_collector_unchanged() -> None:
    with OtlpSink() as sink, running_rotel("grpc", pass_on_to=sink.endpoint) as rotel:
        pipeline = Pipeline(rotel.endpoint, "grpc")
        pipeline.emit("passed on")
        assert pipeline.flush()
        pipeline.close()
        assert sink.wait_for(lambda it: it.spans and it.metrics and it.log_records, 20)
        (span,) = sink.spans
        assert plain(span.attributes) == {"list": ("a", "b"), "n": 7}
        assert sink.log_records[0].trace_id == span.trace_id


Fault = Literal["refuses", "accepts nothing", "answers nothing"]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("fault", ["refuses", "accepts nothing", "answers nothing"])
def test_closing_is_bounded_whatever_the_receiver_does_and_counts_what_was_lost(
    fault: Fault, protocol: Protocol
) -> None:
    with broken_endpoint(fault) as endpoint:
        pipeline = Pipeline(endpoint, protocol)
        for index in range(10):
            pipeline.emit(f"work {index}")
        started = time.monotonic()
        accounts = {account.signal: account for account in pipeline.close(1.0)}
        assert time.monotonic() - started < 1.0 + 1.0
    assert accounts["traces"].lost == 10
    assert accounts["logs"].lost == 10
    assert accounts["metrics"].lost == 1


def test_a_receiver_that_answers_500_loses_the_batch_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with OtlpSink(500, 500, 500) as sink:
        pipeline = Pipeline(sink.endpoint)
        pipeline.emit("first")
        assert not pipeline.flush()
        pipeline.emit("second")
        assert pipeline.flush()
        accounts = {account.signal: (account.exported, account.lost) for account in pipeline.close()}
    assert [span.name for span in sink.spans] == ["second"]
    assert accounts["traces"] == (1, 1)
    assert accounts["logs"] == (1, 1)


def test_a_receiver_that_is_briefly_unavailable_loses_nothing() -> None:
    with OtlpSink(503, 503, 503) as sink:
        pipeline = Pipeline(sink.endpoint)
        pipeline.emit("work")
        assert pipeline.flush()
        assert all(account.lost == 0 for account in pipeline.close())
    assert [span.name for span in sink.spans] == ["work"]


def test_exporting_is_not_itself_traced() -> None:
    with OtlpSink() as sink:
        pipeline = Pipeline(sink.endpoint)
        seen: list[bool] = []
        courier = pipeline.exporters.couriers[0]
        send = courier._send

        def spying(batch: list[Any]) -> int:
            seen.append(bool(get_value(_SUPPRESS_INSTRUMENTATION_KEY)))
            return send(batch)

        courier._send = spying  # type: ignore[method-assign]  # The thread's context shows nowhere else.
        pipeline.emit("work")
        pipeline.flush()
        pipeline.close()
    assert seen == [True]


def test_temporality_follows_the_standard_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "DELTA")
    with OtlpSink() as sink:
        pipeline = Pipeline(sink.endpoint)
        pipeline.emit("work")
        pipeline.flush()
        pipeline.close()
    assert sink.metrics[0].sum.aggregation_temporality == AggregationTemporality.DELTA


def test_a_signal_with_an_endpoint_of_its_own_goes_there() -> None:
    with OtlpSink() as all_others, OtlpSink() as traces:
        pipeline = Pipeline(all_others.endpoint, otlp_traces_endpoint=f"{traces.endpoint}/v1/traces")
        pipeline.emit("work")
        pipeline.close()
        assert traces.spans
        assert not traces.metrics
        assert not traces.log_records
        assert not all_others.spans
        assert all_others.metrics
        assert all_others.log_records


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://localhost:4318/v1/traces"),
        ({"otlp_protocol": "grpc"}, "http://localhost:4317"),
        ({"otlp_traces_protocol": "grpc"}, "http://localhost:4317"),
        ({"otlp_protocol": "grpc", "otlp_traces_protocol": "http/protobuf"}, "http://localhost:4318/v1/traces"),
        ({"otlp_endpoint": "http://there:1", "otlp_traces_protocol": "grpc"}, "http://there:1"),
    ],
)
def test_where_no_endpoint_is_said_it_is_the_one_of_the_standard(settings: dict[str, Any], url: str) -> None:
    assert signal_url(Settings(**settings), "traces") == url


def test_a_signal_may_speak_a_protocol_of_its_own() -> None:
    with OtlpSink() as sink, running_rotel("grpc", pass_on_to=sink.endpoint) as rotel, OtlpSink() as others:
        pipeline = Pipeline(others.endpoint, otlp_traces_protocol="grpc", otlp_traces_endpoint=rotel.endpoint)
        pipeline.emit("work")
        assert all(account.lost == 0 for account in pipeline.close())
        assert sink.wait_for(lambda it: it.spans, 20)
        assert others.metrics
        assert others.log_records


@pytest.mark.parametrize("from_environment", [True, False])
def test_a_signal_may_have_headers_of_its_own(monkeypatch: pytest.MonkeyPatch, *, from_environment: bool) -> None:
    if from_environment:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "key=general,more=x")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "key=own")
    with OtlpSink() as sink:
        pipeline = Pipeline(
            sink.endpoint, otlp_headers={"key": "general", "more": "x"}, otlp_traces_headers={"key": "own"}
        )
        pipeline.emit("work")
        pipeline.flush()
        pipeline.close()
    sent = [(headers["key"], headers.get("more")) for headers in sink.headers]
    assert set(sent) == {("general", "x"), ("own", None)}
    assert sent.count(("own", None)) == 1, "spans went in one export"


def test_what_the_exporters_read_of_the_environment_themselves_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    with OtlpSink() as sink:
        pipeline = Pipeline(sink.endpoint)
        pipeline.emit("work")
        assert pipeline.flush()
        pipeline.close()
    assert {headers.get("content-encoding") for headers in sink.headers} == {"gzip"}
    with broken_endpoint("answers nothing") as endpoint:
        pipeline = Pipeline(endpoint)
        pipeline.emit("work")
        assert not pipeline.flush(60)
        assert all(account.lost and not account.exported for account in pipeline.close())
