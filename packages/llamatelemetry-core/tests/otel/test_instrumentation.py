from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import llamatelemetry
from llamatelemetry.backends.protocol import ModelInfo, StreamEnd, Usage
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.inference.observation import Observation
from llamatelemetry.otel.instrumentation import InstrumentationSink
from llamatelemetry.testing.semconv import assert_valid_metrics, assert_valid_spans

MODEL = ModelInfo(model="m", provider="transformers", in_process=True)


class Elsewhere:
    """Providers that are not ours."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def sink(self) -> InstrumentationSink:
        return InstrumentationSink(tracer_provider=self.tracer_provider, meter_provider=self.meter_provider)


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    yield Elsewhere()
    llamatelemetry.shutdown()


def observe(sink: InstrumentationSink) -> None:
    seen = Observation(InferenceRequest(prompt=""), MODEL, sink)
    seen.started()
    seen.token()
    seen.finish(StreamEnd(finish_reason="stop", usage=Usage(input_tokens=3, output_tokens=1)))


def test_observations_become_valid_spans_and_metrics_of_whatever_providers_are_given(elsewhere):
    sink = elsewhere.sink()
    observe(sink)
    sink.close()
    spans = elsewhere.spans.get_finished_spans()
    assert {span.name for span in spans} == {"text_completion m", "prefill", "decode"}
    assert_valid_spans(spans, ["gen_ai", "llm"])
    assert_valid_metrics(elsewhere.reader.get_metrics_data())


def test_providers_that_are_given_go_before_the_recorder_of_init(elsewhere):
    ours = InMemorySpanExporter()
    llamatelemetry.init(exporters="none", span_processors=[SimpleSpanProcessor(ours)], gpu=False)
    sink = elsewhere.sink()
    observe(sink)
    sink.close()
    assert (len(elsewhere.spans.get_finished_spans()), len(ours.get_finished_spans())) == (3, 0)


def test_without_any_the_recorder_of_init_is_used_while_there_is_one(elsewhere):
    sink = InstrumentationSink()
    ours = InMemorySpanExporter()
    observe(sink)  # Nobody has set a provider yet: it goes nowhere.
    llamatelemetry.init(exporters="none", span_processors=[SimpleSpanProcessor(ours)], gpu=False)
    observe(sink)
    llamatelemetry.flush()
    sink.close()
    assert len(ours.get_finished_spans()) == 3


def test_content_is_captured_where_init_or_the_environment_says_so(elsewhere, monkeypatch):
    assert not InstrumentationSink().captures_content
    llamatelemetry.init(exporters="none", capture_content="SPAN_ONLY", gpu=False)
    assert InstrumentationSink().captures_content
    assert not elsewhere.sink().captures_content
    llamatelemetry.shutdown()
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    assert elsewhere.sink().captures_content


def test_a_variable_that_cannot_be_used_is_said_once_and_nothing_is_observed(elsewhere, monkeypatch, caplog):
    monkeypatch.setenv("LLAMATELEMETRY_SEMCONV", "none such")
    for _ in range(2):
        sink = elsewhere.sink()
        observe(sink)
        assert not sink.captures_content
    (said,) = (record.message for record in caplog.records)
    assert said.startswith("llamatelemetry does not observe inferences: LLAMATELEMETRY_SEMCONV='none such' is not")
    assert elsewhere.spans.get_finished_spans() == ()


def test_a_disabled_sdk_observes_nothing_and_starts_no_thread(elsewhere, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    before = threading.active_count()
    observe(InstrumentationSink())
    assert threading.active_count() == before


def test_nothing_is_observed_where_instrumentation_is_suppressed(elsewhere):
    sink = elsewhere.sink()
    with suppress_instrumentation():
        observe(sink)
    sink.close()
    assert elsewhere.spans.get_finished_spans() == ()
    assert elsewhere.reader.get_metrics_data() is None


AT_EXIT = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from llamatelemetry.backends.protocol import ModelInfo, StreamEnd
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.inference.observation import Observation
from llamatelemetry.otel.instrumentation import InstrumentationSink

sink = InstrumentationSink()
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name + chr(10))))
trace.set_tracer_provider(provider)
for _ in range(200):
    seen = Observation(InferenceRequest(prompt=""), ModelInfo(model="m", provider="p", in_process=True), sink)
    seen.started()
    seen.finish(StreamEnd(finish_reason="stop"))
"""


def test_what_ends_just_before_the_process_does_is_recorded_before_its_provider_stops():
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines().count("text_completion m") == 200
    assert done.stderr == ""


def test_a_closed_sink_is_kept_by_nobody(elsewhere):
    sink = elsewhere.sink()
    observe(sink)
    sink.close()
    gone = weakref.ref(sink)
    del sink
    gc.collect()
    assert gone() is None
