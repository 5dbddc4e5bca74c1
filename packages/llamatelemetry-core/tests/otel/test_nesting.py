from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import context as otel_context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util.genai.handler import TelemetryHandler
from opentelemetry.util.genai.invocation import CLIENT_EMBEDDING_CONTEXT_KEY, CLIENT_INFERENCE_CONTEXT_KEY

import llamatelemetry as lt
from llamatelemetry.backends.echo import EchoBackend
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.otel.nesting import OUTER_EMBEDDING_KEY, OUTER_INFERENCE_KEY, inside_inference, mark_inside

PROMPT = lt.InferenceRequest(prompt="one two", max_tokens=2)


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    lt.init(exporters="none", gpu=False, span_processors=[SimpleSpanProcessor(exporter)])
    yield exporter
    lt.shutdown()


def names(exported: InMemorySpanExporter) -> list[str]:
    lt.flush()
    return [span.name for span in exported.get_finished_spans() if "gen_ai.operation.name" in (span.attributes or {})]


class CallsAnInstrumentedClient(EchoBackend):
    """Asks something else for its answer, as a backend over a client library does."""

    def stream(self, request, placement):
        handler = TelemetryHandler()
        with handler.inference("openai", request_model="remote") as invocation:
            invocation.input_tokens = 5
        with handler.embedding("openai", request_model="remote"):
            pass
        yield from super().stream(request, placement)


def test_the_keys_are_those_of_util_genai() -> None:
    assert (OUTER_INFERENCE_KEY, OUTER_EMBEDDING_KEY) == (CLIENT_INFERENCE_CONTEXT_KEY, CLIENT_EMBEDDING_CONTEXT_KEY)


def test_what_is_marked_is_inside_and_nothing_else_is() -> None:
    assert not inside_inference()
    token = otel_context.attach(mark_inside(otel_context.get_current()))
    assert inside_inference()
    otel_context.detach(token)
    assert not inside_inference()


def test_a_client_instrumented_with_util_genai_inside_our_engine_makes_no_second_span(
    exported: InMemorySpanExporter,
) -> None:
    with InferenceEngine(CallsAnInstrumentedClient()) as engine:
        engine.generate(PROMPT)
    assert names(exported) == ["text_completion echo"]


def test_our_engine_inside_an_inference_of_util_genai_makes_no_second_span(exported: InMemorySpanExporter) -> None:
    with InferenceEngine("echo") as engine:
        with TelemetryHandler().inference("openai", request_model="outer"):
            inner = engine.generate(PROMPT)
        after = engine.generate(PROMPT)
    assert names(exported) == ["chat outer", "text_completion echo"]
    outer, ours = (span for span in exported.get_finished_spans() if span.parent is None)
    assert inner.trace_id == f"{outer.context.trace_id:032x}"
    assert after.trace_id == f"{ours.context.trace_id:032x}"


def test_an_embedding_of_util_genai_has_ours_inside_it_as_well(exported: InMemorySpanExporter) -> None:
    with TelemetryHandler().embedding("openai", request_model="outer"), InferenceEngine("echo") as engine:
        engine.generate(PROMPT)
    assert names(exported) == ["embeddings outer"]


def test_a_client_that_another_provider_records_is_suppressed_too() -> None:
    elsewhere, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(elsewhere))
    handler = TelemetryHandler(tracers, MeterProvider([reader], shutdown_on_exit=False))
    token = otel_context.attach(mark_inside(otel_context.get_current()))
    with handler.inference("openai", request_model="remote"):
        pass
    otel_context.detach(token)
    assert elsewhere.get_finished_spans() == ()
    assert reader.get_metrics_data() is None
