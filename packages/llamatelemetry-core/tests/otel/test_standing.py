from __future__ import annotations

import asyncio

from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider

from llamatelemetry.otel.standing import StandingLoggerProvider, StandingTracerProvider


def tracing() -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def names(exporter: InMemorySpanExporter) -> list[str]:
    return [span.name for span in exporter.get_finished_spans()]


def test_a_tracer_obtained_at_any_time_leads_to_the_provider_of_the_moment() -> None:
    standing = StandingTracerProvider()
    tracer = standing.get_tracer("scope", "1.0", attributes={"a": 1})
    with tracer.start_as_current_span("nowhere") as span:
        assert not span.is_recording()
    (first, to_first), (second, to_second) = tracing(), tracing()
    standing.lead_to(first)
    tracer.start_span("one").end()
    standing.lead_to(second)
    tracer.start_span("two").end()
    standing.lead_to(NoOpTracerProvider())
    tracer.start_span("nowhere").end()
    assert (names(to_first), names(to_second)) == (["one"], ["two"])
    scope = to_second.get_finished_spans()[0].instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.version, scope.attributes) == ("scope", "1.0", {"a": 1})


def test_functions_decorated_before_there_is_a_provider_are_traced_once_there_is() -> None:
    standing = StandingTracerProvider()
    tracer = standing.get_tracer("scope")

    @tracer.start_as_current_span("sync")
    def work() -> bool:
        return trace.get_current_span().is_recording()

    @tracer.start_as_current_span("async")
    async def work_later() -> bool:
        await asyncio.sleep(0)
        return trace.get_current_span().is_recording()

    assert not work()
    provider, exporter = tracing()
    standing.lead_to(provider)
    assert work()
    assert asyncio.run(work_later())
    assert names(exporter) == ["sync", "async"]


def test_one_scope_has_one_tracer() -> None:
    standing = StandingTracerProvider()
    assert standing.get_tracer("a") is standing.get_tracer("a")
    assert standing.get_tracer("a") is not standing.get_tracer("a", attributes={"k": [1]})


def test_what_libraries_ask_of_an_sdk_provider_reaches_it() -> None:
    standing = StandingTracerProvider()
    assert not hasattr(standing, "add_span_processor")
    provider, _ = tracing()
    standing.lead_to(provider)
    extra = InMemorySpanExporter()
    standing.add_span_processor(SimpleSpanProcessor(extra))
    standing.get_tracer("t").start_span("seen").end()
    assert names(extra) == ["seen"]
    assert standing.resource is provider.resource


def test_a_logger_obtained_at_any_time_leads_to_the_provider_of_the_moment() -> None:
    standing = StandingLoggerProvider()
    logger = standing.get_logger("scope")
    logger.emit(body="nowhere")
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    standing.lead_to(provider)
    assert logger.enabled()
    logger.emit(body="somewhere")
    assert [log.log_record.body for log in exporter.get_finished_logs()] == ["somewhere"]
    assert standing.resource is provider.resource
