from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llamatelemetry.errors import ReplayError
from llamatelemetry.otel import replay as module
from llamatelemetry.otel.file_exporter import file_metrics, file_spans
from llamatelemetry.otel.replay import ReplaySummary, _parsed, replay
from llamatelemetry.testing.collector import OtlpSink, broken_endpoint, running_rotel


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.01)


def some_spans(count: int) -> tuple[ReadableSpan, ...]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for index in range(count):
        with provider.get_tracer("t").start_as_current_span(
            f"span {index}", attributes={"list": ("a", "ü"), "n": index}
        ):
            pass
    return exporter.get_finished_spans()


def written(folder: Path, spans: tuple[ReadableSpan, ...], *, max_bytes: int = 2000) -> Path:
    sender = file_spans(folder, max_bytes, 1000)
    for span in spans:
        sender.send([span])
    sender.close()
    return folder


def test_files_arrive_as_what_would_have_been_exported(tmp_path: Path) -> None:
    spans = some_spans(20)
    reader = InMemoryMetricReader()
    MeterProvider([reader], shutdown_on_exit=False).get_meter("t").create_counter("c").add(1)
    data = reader.get_metrics_data()
    assert data is not None
    written(tmp_path, spans)
    metrics = file_metrics(tmp_path, 10_000, 10)
    metrics.send([data])
    metrics.close()
    assert len(list(tmp_path.iterdir())) > 3, "several files, rotated"
    steps: list[ReplaySummary] = []
    with OtlpSink() as sink:
        summary = replay(tmp_path, sink.endpoint + "/", headers={"Authorization": "k"}, progress=steps.append)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert summary == ReplaySummary(lines=21, spans=20, metrics=1, log_records=0, bytes=size)
    assert steps[-1] == summary
    assert [step.lines for step in steps] == list(range(1, 22))
    expected = [encode_spans([span]) for span in spans]
    assert sorted(map(str, sink._of(type(expected[0])))) == sorted(map(str, expected))
    assert [metric.name for metric in sink.metrics] == ["c"]
    assert all(headers["authorization"] == "k" for headers in sink.headers)


def test_a_real_collector_gets_every_span_of_a_file(tmp_path: Path) -> None:
    written(tmp_path, some_spans(30), max_bytes=10**6)
    (file,) = tmp_path.iterdir()
    with running_rotel() as rotel:
        assert replay(file, rotel.endpoint).spans == 30
        received = rotel.wait_for(*(f"Name           : span {index}\n" for index in range(30)))
    assert received.count("Trace ID") == 30
    assert "-> list: Slice(Str(a), Str(ü))" in received


@pytest.mark.parametrize("status", sorted(module.RETRYABLE))
def test_a_busy_receiver_is_asked_again(tmp_path: Path, status: int) -> None:
    written(tmp_path, some_spans(2))
    with OtlpSink(status, status, status) as sink:
        assert replay(tmp_path, sink.endpoint).spans == 2
    assert len(sink.spans) == 2


def test_a_receiver_that_stays_busy_ends_the_replay_and_the_error_says_how_far_it_got(tmp_path: Path) -> None:
    written(tmp_path, some_spans(3), max_bytes=10**6)
    with (
        OtlpSink(200, *[503] * module.ATTEMPTS) as sink,
        pytest.raises(ReplayError, match=r"did not take .*\.jsonl:2: HTTP 503\. Before it: 1 lines with 1 spans"),
    ):
        replay(tmp_path, sink.endpoint)


@pytest.mark.parametrize("status", [301, 307, 400])
def test_a_refusal_is_not_repeated_and_no_delivery(tmp_path: Path, status: int) -> None:
    written(tmp_path, some_spans(1))
    with OtlpSink(status) as sink, pytest.raises(ReplayError, match=f"HTTP {status}"):
        replay(tmp_path, sink.endpoint)
    assert len(sink.headers) == 1


def test_a_receiver_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    written(tmp_path, some_spans(1))
    with broken_endpoint("refuses") as endpoint, pytest.raises(ReplayError) as caught:
        replay(tmp_path, endpoint)
    assert str(caught.value).startswith(f"{endpoint} did not take {tmp_path}")
    assert ".jsonl:1: Connection refused. Before it: 0 lines" in str(caught.value)


def test_a_password_in_the_receivers_address_is_not_said(tmp_path: Path) -> None:
    written(tmp_path, some_spans(1))
    with OtlpSink(400) as sink, pytest.raises(ReplayError) as caught:
        replay(tmp_path, sink.endpoint.replace("//", "//ada:hunter2@"))
    assert sink.headers[0]["authorization"].startswith("Basic ")
    assert "hunter2" not in str(caught.value)


def test_a_receiver_that_hangs_up_is_an_error_in_plain_words(tmp_path: Path) -> None:
    written(tmp_path, some_spans(1))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            for _ in range(module.ATTEMPTS):
                connection, _address = listener.accept()
                connection.recv(1 << 16)
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        # Which of them depends on how much it had been sent by then.
        words = "Remote end closed connection without response|Connection reset by peer|Broken pipe"
        with pytest.raises(ReplayError, match=rf"jsonl:1: ({words})\. Before"):
            replay(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(10)


def test_an_endpoint_that_is_no_url_is_an_error_in_plain_words(tmp_path: Path) -> None:
    written(tmp_path, some_spans(1))
    with pytest.raises(ReplayError, match="No connection adapters were found"):
        replay(tmp_path, "gopher://127.0.0.1")


@pytest.mark.parametrize(
    ("endpoint", "headers", "why"),
    [
        ("http://", {}, "No host supplied"),
        ("http://exa..mple", {}, "label empty or too long"),
        ("http://127.0.0.1:1", {"x-team": "\u2192"}, "can't encode character"),
        ("http://127.0.0.1:1", {"x-team": "a\nb"}, "return character"),
    ],
)
def test_what_can_never_be_sent_is_not_tried_again(
    tmp_path: Path, endpoint: str, headers: dict[str, str], why: str
) -> None:
    written(tmp_path, some_spans(1))
    started = time.monotonic()
    with pytest.raises(ReplayError, match=why):
        replay(tmp_path, endpoint, headers=headers)
    assert time.monotonic() - started < 3


def test_a_line_without_an_end_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamatelemetry.otel.replay.LINE_MAX_BYTES", 1000)
    (tmp_path / "a.jsonl").write_text(GOOD + "\n" + "[" * 2000)
    with (
        OtlpSink() as sink,
        pytest.raises(ReplayError, match=r"a\.jsonl:2 is longer than 1000 bytes.*Before it: 1 line"),
    ):
        replay(tmp_path, sink.endpoint)


def test_a_receiver_that_never_answers_takes_no_longer_than_its_timeouts(tmp_path: Path) -> None:
    written(tmp_path, some_spans(1))
    started = time.monotonic()
    with broken_endpoint("answers nothing") as endpoint, pytest.raises(ReplayError, match="timed out"):
        replay(tmp_path, endpoint, timeout_s=0.1)
    assert time.monotonic() - started < 10


SPAN = f'{{"traceId":"{1:032x}","spanId":"{2:016x}","name":"n"}}'
GOOD = '{"resourceSpans":[{"scopeSpans":[{"spans":[' + SPAN + "]}]}]}"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("{", "not an OTLP/JSON export request"),
        ("[]", "it has none of resourceSpans, resourceMetrics, resourceLogs"),
        ('{"spans":[]}', "it has none of"),
        ('{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"xyz"}]}]}]}', "traceId must be 32 hexadecimal digits"),
        ('{"resourceSpans":[{"scopeSpans":[{"spans":[{"spanId":7}]}]}]}', "spanId must be 16 hexadecimal digits"),
        ('{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":"soon"}]}]}]}', "startTimeUnixNano"),
        ('{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":1e400}]}]}]}', "infinity"),
        ('{"resourceSpans":["\\ud800"]}', "not an OTLP/JSON export request"),
        ("[" * 100_000, "recursion"),
        ("\udcff", "utf-8"),
    ],
)
def test_a_malformed_line_is_named_by_its_number_and_what_came_before_is_delivered(
    tmp_path: Path, bad: str, why: str
) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_bytes(f"{GOOD}\n\n{bad}\n{GOOD}\n".encode("utf-8", "surrogateescape"))
    with OtlpSink() as sink, pytest.raises(ReplayError, match=rf"traces\.jsonl:3 .*(?i:{why}).*Before it: 1 lines"):
        replay(file, sink.endpoint)
    assert len(sink.spans) == 1


def test_a_line_cut_short_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(GOOD[:40])
    with OtlpSink() as sink, pytest.raises(ReplayError, match="cut short"):
        replay(file, sink.endpoint)


def test_a_folder_without_telemetry_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"holds no \.jsonl files"):
        replay(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(ReplayError, match="cannot be read"):
        replay(tmp_path / "missing.jsonl", "http://127.0.0.1:1")


def test_fields_of_a_newer_protocol_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD.replace('"name"', '"newField":{"x":1},"name"') + "\n")
    with OtlpSink() as sink:
        assert replay(tmp_path, sink.endpoint).spans == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["traceId", "spans", "resourceSpans", "x"]), inner),
)


@given(json_values | st.binary())
def test_any_other_line_is_a_replay_error_and_nothing_else(value: Any) -> None:
    line = value if isinstance(value, bytes) else json.dumps(value).encode()
    with contextlib.suppress(ReplayError):
        _parsed(line, "file:1", ReplaySummary())
