from __future__ import annotations

from typing import Any

import pytest
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Status, StatusCode

from llamatelemetry.otel.console import console_logs, console_metrics, console_spans


def span_of(name: str, attributes: dict[str, Any], error: str | None = None) -> ReadableSpan:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span(name, attributes=attributes, start_time=0)
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(1_500_000_000)
    assert isinstance(span, ReadableSpan)
    return span


REQUEST = {
    "llamatelemetry.request.id": "r",
    "gen_ai.usage.input_tokens": 12,
    "gen_ai.usage.output_tokens": 34,
    "gen_ai.response.finish_reasons": ("stop",),
    "llamatelemetry.time_to_first_token": 0.123,
    "llamatelemetry.tokens_per_second": 85.21,
}


def test_a_request_is_one_readable_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    span = span_of("chat SmolLM2", REQUEST)
    assert console_spans().send([span]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line[2] == ":", "it begins with the time of day"
    assert line[9:] == (
        "chat SmolLM2  stop  12 → 34 tokens  TTFT 123 ms  85.2 tok/s  1.50 s  "
        f"trace {span.get_span_context().trace_id:032x}"
    )


def test_a_name_cannot_write_a_line_of_its_own_nor_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console_spans().send([span_of("chat a\n\x1b]0;owned\x07b", REQUEST)])
    err = capsys.readouterr().err
    assert "chat a\ufffd\ufffd]0;owned\ufffdb" in err
    assert err.count("\n") == 1


def test_a_failure_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    span = span_of("chat m", {"llamatelemetry.request.id": "r", "error.type": "ServerLoadingError"}, "still loading")
    console_spans().send([span])
    assert "chat m  ERROR ServerLoadingError  1.50 s" in capsys.readouterr().err


def test_the_legacy_profile_alone_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    legacy = {"llamatelemetry.request.id": "r", "llm.input.tokens": 0, "llm.finish_reason": "length"}
    console_spans().send([span_of("chat m", legacy)])
    assert "chat m  length  0 → ? tokens" in capsys.readouterr().err


def test_other_spans_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert console_spans().send([span_of("prefill", {"llm.phase": "prefill"})]) == 1
    assert capsys.readouterr().err == ""


def test_a_log_record_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    provider.get_logger("t").emit(severity_number=SeverityNumber.WARN, body="two\nlines", event_name="it.happened")
    console_logs().send(exporter.get_finished_logs())
    (line,) = capsys.readouterr().err.splitlines()
    assert line[9:] == "WARN  it.happened two lines"


def test_a_data_point_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("t")
    meter.create_counter("count", "{x}").add(3, {"k": "v"})
    histogram = meter.create_histogram("wait", "s")
    histogram.record(1)
    histogram.record(2)
    data = reader.get_metrics_data()
    assert data is not None
    console_metrics().send([data])
    lines = [line[9:] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["count{k=v}  3 {x}", "wait{}  n=2 mean=1.5 s"]
