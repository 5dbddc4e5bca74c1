from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

import llamatelemetry as lt
from llamatelemetry.config import Protocol
from llamatelemetry.errors import ConfigurationError, LlamatelemetryError
from llamatelemetry.inference.record import FinishedRecord, Opening
from llamatelemetry.otel.batch import QUEUE_SIZE
from llamatelemetry.otel.delivery import ShutdownReport
from llamatelemetry.otel.replay import replay
from llamatelemetry.testing.collector import OtlpSink, broken_endpoint, plain, running_rotel

PROMPT = lt.InferenceRequest(prompt="one two three", max_tokens=3)
CHILDREN = {"queue", "prefill", "decode"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in os.environ:
        if name.startswith(("OTEL_", "LLAMATELEMETRY_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    before = threading.active_count()
    yield
    lt.shutdown()
    wait_until(lambda: threading.active_count() <= before)


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, [thread.name for thread in threading.enumerate()]
        time.sleep(0.01)


def infer(request: lt.InferenceRequest = PROMPT) -> lt.InferenceResult:
    with lt.InferenceEngine("echo") as engine:
        return engine.generate(request)


def lines(folder: Path, signal: str) -> list[Any]:
    return [
        json.loads(line) for path in sorted(folder.glob(f"{signal}-*.jsonl")) for line in path.read_bytes().splitlines()
    ]


def spans_in(folder: Path) -> list[dict[str, Any]]:
    return [
        s
        for line in lines(folder, "traces")
        for r in line["resourceSpans"]
        for c in r["scopeSpans"]
        for s in c["spans"]
    ]


def services(sink: OtlpSink, attribute: str = "service.name") -> set[str]:
    """What the resources of spans, metrics and log records received say."""
    groups = [group for request in sink.requests for _, groups in request.ListFields() for group in groups]
    return {plain(group.resource.attributes)[attribute] for group in groups}


def test_with_nothing_said_telemetry_goes_to_files(tmp_path: Path) -> None:
    settings = lt.init()
    assert settings.telemetry_dir == tmp_path / "llamatelemetry-data"
    result = infer()
    report = lt.shutdown()
    assert report.complete
    spans = spans_in(settings.telemetry_dir)
    (root,) = [span for span in spans if "parentSpanId" not in span]
    assert root["traceId"] == result.trace_id
    assert {span["name"] for span in spans if span.get("parentSpanId") == root["spanId"]} == CHILDREN
    (line,) = lines(settings.telemetry_dir, "metrics")
    names = {m["name"] for r in line["resourceMetrics"] for c in r["scopeMetrics"] for m in c["metrics"]}
    assert "gen_ai.client.operation.duration" in names


def test_what_the_files_hold_is_replayed_without_loss(tmp_path: Path) -> None:
    folder = lt.init(telemetry_dir=tmp_path / "data", capture_content="EVENT_ONLY").telemetry_dir
    infer()
    lt.shutdown()
    with OtlpSink() as sink:
        summary = replay(folder, sink.endpoint)
    assert (summary.spans, summary.log_records) == (4, 1)
    assert sorted(span.span_id.hex() for span in sink.spans) == sorted(span["spanId"] for span in spans_in(folder))


def test_with_an_endpoint_every_signal_arrives_there_with_its_resource() -> None:
    with OtlpSink() as sink:
        lt.init("chat", sink.endpoint, resource_attributes={"team": "a"}, capture_content="EVENT_ONLY")
        infer()
        assert lt.flush()
        assert {span.name for span in sink.spans} == {"text_completion echo"} | CHILDREN
        assert sink.log_records
        assert lt.shutdown().complete
        assert sink.metrics
    assert services(sink) == {"chat"}
    assert services(sink, "team") == {"a"}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_real_collector_receives_a_request(protocol: Protocol) -> None:
    with running_rotel(protocol) as rotel:
        lt.init("real", rotel.endpoint, otlp_protocol=protocol, capture_content="EVENT_ONLY")
        result = infer()
        assert lt.shutdown(20).complete
        received = rotel.wait_for(
            "Name           : text_completion echo",
            f"Trace ID       : {result.trace_id}",
            "-> Name: gen_ai.client.token.usage",
            "-> service.name: Str(real)",
        )
    assert "gen_ai.client.inference.operation.details" in received


def test_prometheus_can_scrape_the_port_that_init_names() -> None:
    settings = lt.init(exporters="prometheus", prometheus_port=0)
    assert settings.prometheus_port > 0
    infer()
    lt.flush()
    with urllib.request.urlopen(f"http://127.0.0.1:{settings.prometheus_port}/metrics") as answer:
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    counts = {s.name: s.value for s in families["gen_ai_client_operation_duration_seconds"].samples}
    assert counts["gen_ai_client_operation_duration_seconds_count"] == 1
    lt.shutdown()
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", settings.prometheus_port)) != 0


def test_the_console_shows_one_line_per_request(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lt.init(exporters="console")
    results = [infer() for _ in range(2)]
    lt.shutdown()
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2
    assert all(result.trace_id in err for result in results if result.trace_id)
    assert list(tmp_path.iterdir()) == []


def test_calling_init_twice_warns_and_changes_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    first = lt.init("first")
    threads = threading.active_count()
    with caplog.at_level(logging.WARNING):
        assert lt.init("second", telemetry_dir=tmp_path / "other") == first
    assert "init() was called before" in caplog.text
    assert threading.active_count() == threads
    assert not (tmp_path / "other").exists()


def test_after_shutdown_init_works_again_for_our_spans_and_the_applications() -> None:
    tracer = trace.get_tracer("application")
    meter = metrics.get_meter("application")
    counter = meter.create_counter("app.count")
    logger = _logs.get_logger("application")
    for service in ("first", "second"):
        with OtlpSink() as sink:
            lt.init(service, sink.endpoint)
            with tracer.start_as_current_span("application span") as outer:
                infer()
            counter.add(1)
            logger.emit(body="application log")
            trace.get_tracer("new").start_span("another").end()
            assert lt.shutdown().complete
            assert {span.name for span in sink.spans} == {
                "application span",
                "text_completion echo",
                "another",
            } | CHILDREN
            inference = next(span for span in sink.spans if span.name == "text_completion echo")
            assert inference.parent_span_id == outer.get_span_context().span_id.to_bytes(8, "big")
            (count,) = [metric for metric in sink.metrics if metric.name == "app.count"]
            assert count.sum.data_points[0].as_int == 1
            assert [record.body.string_value for record in sink.log_records] == ["application log"]
            assert services(sink) == {service}


def test_between_shutdown_and_init_nothing_is_recorded_and_nothing_fails() -> None:
    lt.init()
    lt.shutdown()
    with trace.get_tracer("application").start_as_current_span("nowhere") as span:
        assert not span.is_recording()
    metrics.get_meter("application").create_counter("c").add(1)
    assert infer().text
    assert lt.flush()
    assert lt.shutdown() == ShutdownReport()


def test_whoever_waits_for_ever_waits_until_it_is_done(tmp_path: Path) -> None:
    lt.init(telemetry_dir=tmp_path / "data", metric_interval_s=float("inf"))
    infer()
    assert lt.flush(float("inf"))
    assert lines(tmp_path / "data", "metrics")
    assert lt.shutdown(float("inf")).complete


def test_disabled_does_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    threads = threading.active_count()
    assert lt.init(exporters=("file", "prometheus"), prometheus_port=0).disabled
    assert infer().trace_id is None
    assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sampler": "sometimes"}, "sampler='sometimes'"),
    ({"exporters": ("file", "nowhere")}, "nowhere"),
    ({"redact_patterns": ["("]}, "redact_patterns"),
    ({"telemetry_dir": "/dev/null/data"}, "telemetry_dir"),
    ({"telemetry_dir": "a\0b"}, "telemetry_dir"),
    ({"otlp_endpoint": "http://[::1", "otlp_protocol": "grpc"}, "otlp_endpoint"),
    ({"exporters": "prometheus", "prometheus_host": "exa..mple"}, "prometheus_port"),
    ({"exporters": ("file", "console", "prometheus"), "prometheus_host": "203.0.113.1"}, "prometheus_port"),
]


@pytest.mark.parametrize(("arguments", "named"), WRONG)
def test_a_wrong_setting_is_one_clear_error_and_leaves_nothing_behind(arguments: dict[str, Any], named: str) -> None:
    threads = threading.active_count()
    with pytest.raises(ConfigurationError, match=named):
        lt.init(**arguments)
    assert threading.active_count() == threads
    assert infer().trace_id is None, "no sink was installed"
    lt.init()
    assert infer().trace_id is not None


class Marker:
    def on_start(self, opening: Opening) -> None:
        pass

    def on_finish(self, record: FinishedRecord) -> Mapping[str, str]:
        return {"marked": "yes"}


def test_the_applications_own_processors_and_enrichers_take_part(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    lt.init(exporters="none", span_processors=[SimpleSpanProcessor(exporter)], enrichers=[Marker()])
    infer()
    assert lt.flush()
    (root,) = [span for span in exporter.get_finished_spans() if span.parent is None]
    assert (root.attributes or {})["marked"] == "yes"


class SlowEnricher(Marker):
    def on_finish(self, record: FinishedRecord) -> Mapping[str, str]:
        time.sleep(0.2)
        return {}


@pytest.mark.parametrize("end", ["force_flush", "shutdown"])
def test_who_flushes_or_ends_the_global_provider_loses_no_request_that_has_its_answer(end: str) -> None:
    with OtlpSink() as sink:
        lt.init(otlp_endpoint=sink.endpoint, enrichers=[SlowEnricher()])
        infer()
        getattr(trace.get_tracer_provider(), end)()
        assert len(sink.spans) == 4
        assert lt.shutdown().spans_lost == 0


def test_a_processor_of_the_application_that_hangs_does_not_hold_shutdown_up() -> None:
    never = threading.Event()

    class Hanging(SpanProcessor):
        def shutdown(self) -> None:
            never.wait()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return never.wait()

    with OtlpSink() as sink:
        lt.init(otlp_endpoint=sink.endpoint, span_processors=[Hanging()])
        infer()
        started = time.monotonic()
        assert not lt.flush(0.2)
        assert lt.shutdown(0.5).spans_lost == 0
        assert time.monotonic() - started < 5
        assert len(sink.spans) == 4
    never.set()


def test_slow_and_failed_requests_are_kept_and_the_others_dropped() -> None:
    exporter_calls: list[str] = []

    class Seen(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            exporter_calls.append(span.name)

    with OtlpSink() as sink:
        lt.init(otlp_endpoint=sink.endpoint, sampler="keep_slow_and_errors", sampler_arg=60, span_processors=[Seen()])
        infer()
        with contextlib.suppress(LlamatelemetryError), lt.InferenceEngine("echo") as engine:
            stream = engine.stream(PROMPT)
            next(iter(stream))
            stream.close()
        with trace.get_tracer("app").start_as_current_span("failed") as span:
            span.set_status(trace.Status(trace.StatusCode.ERROR))
            infer()
        report = lt.shutdown()
    assert report.traces_evicted == 0
    failed = next(span for span in sink.spans if span.name == "failed")
    assert {span.name for span in sink.spans if span.trace_id == failed.trace_id} == {
        "failed",
        "text_completion echo",
    } | CHILDREN
    assert exporter_calls.count("text_completion echo") == 3, "the application's processors see everything"
    quick = [span for span in sink.spans if span.name == "text_completion echo" and span.trace_id != failed.trace_id]
    assert all(span.status.code == 2 for span in quick)


Fault = Literal["refuses", "accepts nothing", "answers nothing"]


@pytest.mark.parametrize("fault", ["refuses", "accepts nothing", "answers nothing"])
def test_shutdown_is_bounded_and_says_how_many_spans_were_lost(fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    with broken_endpoint(fault) as endpoint:
        lt.init(otlp_endpoint=endpoint, shutdown_timeout_s=0.5)
        for _ in range(QUEUE_SIZE // 4):
            trace.get_tracer("app").start_span("s").end()
        infer()
        started = time.monotonic()
        report = lt.shutdown()
        assert time.monotonic() - started < 0.5 + 1.5
    assert report.spans_lost == QUEUE_SIZE // 4 + 4
    assert not report.complete
    assert f"{report.spans_lost} of {report.spans_lost} spans to OTLP {endpoint}/v1/traces" in caplog.text


def test_a_password_in_an_endpoint_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    lt.init(otlp_endpoint="http://ada:hunter2@127.0.0.1:1", shutdown_timeout_s=0.3)
    infer()
    assert lt.shutdown().spans_lost
    assert "to OTLP http://127.0.0.1:1/v1/traces" in caplog.text
    assert "hunter2" not in caplog.text


def test_flush_is_bounded_and_says_that_it_failed() -> None:
    with broken_endpoint("answers nothing") as endpoint:
        lt.init(otlp_endpoint=endpoint, shutdown_timeout_s=0.3)
        infer()
        started = time.monotonic()
        assert not lt.flush(0.3)
        assert time.monotonic() - started < 5
        lt.shutdown()


def run_until_end(code: str, *, env: Mapping[str, str] | None = None) -> tuple[float, int, str, str]:
    """Runs code and returns the seconds between its last line and its exit, then status, stdout and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}\nprint('END', flush=True)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    assert process.stdout is not None
    out = []
    for line in process.stdout:
        if line == "END\n":
            break
        out.append(line)
    ended = time.monotonic()
    _, err = process.communicate(timeout=60)
    return time.monotonic() - ended, process.returncode, "".join(out), err


INFER = """
import llamatelemetry as lt
lt.init({arguments})
with lt.InferenceEngine("echo") as engine:
    engine.generate(lt.InferenceRequest(prompt="one two", max_tokens=2))
"""


@pytest.mark.parametrize("fault", ["refuses", "accepts nothing", "answers nothing"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_interpreter_exits_within_two_seconds_and_says_what_was_lost(fault: Fault, protocol: Protocol) -> None:
    with broken_endpoint(fault) as endpoint:
        code = INFER.format(arguments=f"otlp_endpoint={endpoint!r}, otlp_protocol={protocol!r}")
        seconds, status, _, err = run_until_end(code)
    assert seconds < 2.0 + 3.0, "two seconds, and what ending an interpreter takes on a busy machine"
    assert status == 0
    assert "telemetry was lost: 4 of 4 spans to OTLP" in err
    assert "Traceback" not in err


def test_a_receiver_that_answers_500_does_not_hold_up_the_exit() -> None:
    with OtlpSink(*[500] * 50) as sink:
        seconds, status, _, err = run_until_end(INFER.format(arguments=f"otlp_endpoint={sink.endpoint!r}"))
    assert seconds < 5
    assert status == 0
    assert "4 of 4 spans" in err
    assert "Traceback" not in err


def test_leaving_without_shutdown_delivers_everything(tmp_path: Path) -> None:
    _, status, _, err = run_until_end(INFER.format(arguments="telemetry_dir='data'"))
    assert (status, err) == (0, "")
    assert len(spans_in(tmp_path / "data")) == 4


def test_a_full_disk_costs_the_application_nothing(tmp_path: Path) -> None:
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
{INFER.format(arguments="telemetry_dir='data'")}
lt.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
with lt.InferenceEngine("echo") as engine:
    for _ in range(20):
        assert engine.generate(lt.InferenceRequest(prompt="one two", max_tokens=2)).text
print(lt.shutdown().spans_lost)
"""
    _, status, out, err = run_until_end(code)
    assert status == 0
    lost = int(out)
    kept = len(spans_in(tmp_path / "data"))
    assert lost > 0
    assert kept + lost == 21 * 4
    assert err.count("telemetry cannot be written") <= 3, "once for each signal"
    assert f"{lost} of 84 spans" in err


ADOPT = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
from opentelemetry import trace, metrics, _logs
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
tracers, meters = TracerProvider(), MeterProvider([reader])
tracers.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(meters)
import llamatelemetry as lt
for _ in range(2):
    lt.init(telemetry_dir="data")
    with lt.InferenceEngine("echo") as engine:
        engine.generate(lt.InferenceRequest(prompt="one two", max_tokens=2))
    assert lt.flush()
    assert lt.shutdown().complete
assert trace.get_tracer_provider() is tracers and metrics.get_meter_provider() is meters
assert len(exporter.get_finished_spans()) == 8, exporter.get_finished_spans()
tracers.get_tracer("app").start_span("after").end()
assert len(exporter.get_finished_spans()) == 9, "what is not ours was not shut down"
names = [m.name for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics for m in s.metrics]
assert "gen_ai.client.operation.duration" in names
_logs.get_logger("app").emit(body="still ours")
"""


def test_providers_that_are_set_already_are_adopted_and_left_running(tmp_path: Path) -> None:
    _, status, out, err = run_until_end(ADOPT)
    assert (status, err) == (0, "")
    said = [line for line in out.splitlines() if "already set" in line]
    assert len(said) == 4
    assert said[0].startswith("INFO using the opentelemetry.sdk.trace.TracerProvider that is already set")
    assert spans_in(tmp_path / "data") == []


FORK = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # From Python 3.12 on, forking beside threads warns.
import llamatelemetry as lt
lt.init({arguments})
from opentelemetry import trace
tracer = trace.get_tracer("app")
tracer.start_span("parent before").end()
child = os.fork()
if child == 0:
    tracer.start_span("child").end()
    raise SystemExit(0 if lt.shutdown().complete else 1)
assert os.waitpid(child, 0)[1] == 0
tracer.start_span("parent after").end()
assert lt.shutdown().complete
"""


@pytest.mark.parametrize("sampler", ["parentbased_always_on", "keep_slow_and_errors"])
def test_a_forked_child_exports_its_own_spans_and_each_span_arrives_once(tmp_path: Path, sampler: str) -> None:
    arguments = f"telemetry_dir='data', sampler={sampler!r}, sampler_arg=0"
    _, status, _, err = run_until_end(FORK.format(arguments=arguments))
    assert (status, err) == (0, "")
    assert sorted(span["name"] for span in spans_in(tmp_path / "data")) == ["child", "parent after", "parent before"]
    pids = {path.name.split("-")[1] for path in (tmp_path / "data").glob("traces-*")}
    assert len(pids) == 2, "each process has files of its own"


def test_a_forked_child_has_a_connection_of_its_own() -> None:
    with OtlpSink() as sink:
        _, status, _, err = run_until_end(FORK.format(arguments=f"otlp_endpoint={sink.endpoint!r}"))
        assert (status, err) == (0, "")
        assert sorted(span.name for span in sink.spans) == ["child", "parent after", "parent before"]


def test_a_forked_child_exports_over_grpc_after_its_parent_did() -> None:
    with OtlpSink() as sink, running_rotel("grpc", pass_on_to=sink.endpoint) as rotel:
        code = FORK.format(arguments=f"otlp_endpoint={rotel.endpoint!r}, otlp_protocol='grpc'")
        _, status, _, err = run_until_end(code.replace("child = os.fork()", "lt.flush(); child = os.fork()"))
        assert (status, err) == (0, "")
        assert sink.wait_for(lambda it: len(it.spans) == 3, 20)
        assert sorted(span.name for span in sink.spans) == ["child", "parent after", "parent before"]


FORK_WHILE_MEASURING = """
import os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import llamatelemetry as lt
lt.init(telemetry_dir="data")
from opentelemetry import metrics
meter = metrics.get_meter("app")
counter = meter.create_counter("app.requests")
counter.add(100)
observing, go_on = threading.Event(), threading.Event()

def observe(options):
    observing.set()
    go_on.wait(10)
    return []

meter.create_observable_gauge("app.slow", [observe])
flushing = threading.Thread(target=lt.flush)
flushing.start()
assert observing.wait(10)
child = os.fork()
go_on.set()
if child == 0:
    counter.add(1)
    raise SystemExit(0 if lt.shutdown().complete else 1)
assert os.waitpid(child, 0)[1] == 0
flushing.join()
assert lt.shutdown().complete
"""


def test_a_forked_child_counts_from_nothing_whatever_its_parent_is_measuring(tmp_path: Path) -> None:
    _, status, _, err = run_until_end(FORK_WHILE_MEASURING)
    assert (status, err) == (0, "")
    counted = {
        (path.name.split("-")[1], point["asInt"])
        for path in (tmp_path / "data").glob("metrics-*")
        for line in path.read_bytes().splitlines()
        for group in json.loads(line)["resourceMetrics"]
        for scope in group["scopeMetrics"]
        for metric in scope["metrics"]
        if metric["name"] == "app.requests"
        for point in metric["sum"]["dataPoints"]
    }
    assert sorted(count for _, count in counted) == ["1", "100"]
    assert len({pid for pid, _ in counted}) == 2


WORKERS = """
import multiprocessing, warnings
from concurrent.futures import ProcessPoolExecutor
warnings.simplefilter("ignore", DeprecationWarning)
import llamatelemetry as lt
from opentelemetry import trace

def work(name):
    trace.get_tracer("app").start_span(name).end()

if __name__ == "__main__":
    lt.init({arguments})
    work("parent")
    context = multiprocessing.get_context("fork")
    process = context.Process(target=work, args=("process",))
    process.start()
    process.join()
    assert process.exitcode == 0
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(work, "pool").result()
    assert lt.shutdown().complete
"""


def test_what_a_forked_worker_traced_is_not_lost_when_it_ends_without_the_interpreters_exit(tmp_path: Path) -> None:
    _, status, _, err = run_until_end(WORKERS.format(arguments="telemetry_dir='data'"))
    assert (status, err) == (0, "")
    assert sorted(span["name"] for span in spans_in(tmp_path / "data")) == ["parent", "pool", "process"]


WORKERS_OF_THEIR_OWN = """
import multiprocessing, warnings
from concurrent.futures import ProcessPoolExecutor
warnings.simplefilter("ignore", DeprecationWarning)
import llamatelemetry as lt
from opentelemetry import trace

def work(name):
    for again in range(2):
        lt.init(telemetry_dir="data")
        trace.get_tracer("app").start_span(f"{name} {again}").end()
        if not again:
            assert lt.shutdown().complete

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    process = context.Process(target=work, args=("process",))
    process.start()
    process.join()
    assert process.exitcode == 0
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(work, "pool").result()
"""


def test_a_worker_that_starts_telemetry_itself_loses_nothing_either(tmp_path: Path) -> None:
    _, status, _, err = run_until_end(WORKERS_OF_THEIR_OWN)
    assert (status, err) == (0, "")
    assert sorted(span["name"] for span in spans_in(tmp_path / "data")) == [
        *("pool 0", "pool 1", "process 0", "process 1")
    ]


def test_a_forked_worker_ends_in_time_whatever_the_collector_does() -> None:
    with broken_endpoint("answers nothing") as endpoint:
        code = WORKERS.format(arguments=f"otlp_endpoint={endpoint!r}, shutdown_timeout_s=0.5")
        seconds, status, _, err = run_until_end(code.replace("assert lt.shutdown().complete", "lt.shutdown()"))
    assert status == 0
    assert err.count("telemetry was lost: 1 of 1 spans to OTLP") == 3
    assert seconds < 3 * 0.5 + 8


def test_secrets_do_not_reach_the_files(tmp_path: Path) -> None:
    lt.init(telemetry_dir=tmp_path / "data", capture_content="SPAN_AND_EVENT", redact_patterns=["EMP-[0-9]+"])
    infer(lt.InferenceRequest(prompt="mail ada@example.com about EMP-77", max_tokens=8))
    lt.shutdown()
    text = "".join(path.read_text() for path in (tmp_path / "data").iterdir())
    assert "[redacted:email]" in text
    assert "[redacted:custom]" in text
    assert "ada@example.com" not in text
    assert "EMP-77" not in text
