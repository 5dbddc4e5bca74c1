"""What is compared: each instrumentation as its own instructions say, and where it writes what it measured.

None exports content, and all write to the same kind of providers, in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from opentelemetry._logs import get_logger, set_logger_provider
from opentelemetry.metrics import get_meter, set_meter_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_tracer, set_tracer_provider

from llamatelemetry.config import Settings
from llamatelemetry.inference.sink import install_sink
from llamatelemetry.otel.recorder import Recorder
from llamatelemetry.otel.redaction import redactor_for

Settle = Callable[[], object]
"""Waits until what has ended is recorded."""


class Memory:
    """Global providers that keep everything in memory."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self._logs = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        loggers = LoggerProvider(shutdown_on_exit=False)
        loggers.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        set_tracer_provider(tracers)
        self.metrics = InMemoryMetricReader()
        set_meter_provider(MeterProvider([self.metrics], shutdown_on_exit=False))
        set_logger_provider(loggers)

    def clear(self) -> None:
        """Forgets spans and events."""
        self.spans.clear()
        self._logs.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One instrumentation.

    Attributes:
        distribution: Its name on the package index; empty for none at all.
        switch_on: Instruments this process; returns what waits for it.
        names: The attributes that its figures have, of those that have one.
    """

    distribution: str
    switch_on: Callable[[], Settle]
    names: Mapping[str, str]


def _nothing() -> Settle:
    return lambda: None


def _ours() -> Settle:
    settings = Settings()
    recorder = Recorder(
        tracer=get_tracer("llamatelemetry"),
        meter=get_meter("llamatelemetry"),
        logger=get_logger("llamatelemetry"),
        settings=settings,
        redactor=redactor_for(settings),
    )
    # The recorder has a thread; only whoever has the recorder can wait for it.
    install_sink(recorder)
    import_module("llamatelemetry.transformers.instrumentor").TransformersInstrumentor().instrument()
    return partial(recorder.flush, 60)


def _traceloop() -> Settle:
    os.environ["TRACELOOP_TRACE_CONTENT"] = "false"
    import_module("opentelemetry.instrumentation.transformers").TransformersInstrumentor().instrument()
    return lambda: None


def _openlit() -> Settle:
    # Without a price list of its own it asks the network for one.
    prices = Path(tempfile.mkdtemp(), "prices.json")
    prices.write_text("{}")
    import_module("openlit").init(capture_message_content=False, pricing_json=str(prices), disable_batch=True)
    return lambda: None


def _genai_otel() -> Settle:
    config = import_module("genai_otel.config").OTelConfig()
    import_module("genai_otel.instrumentors.huggingface_instrumentor").HuggingFaceInstrumentor().instrument(config)
    return lambda: None


STANDARD = {
    "model": "gen_ai.request.model",
    "input": "gen_ai.usage.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "finish": "gen_ai.response.finish_reasons",
}

CONTENDERS = {
    "nothing": Contender(distribution="", switch_on=_nothing, names={}),
    "llamatelemetry": Contender(
        distribution="llamatelemetry-transformers",
        switch_on=_ours,
        names={**STANDARD, "first": "llamatelemetry.time_to_first_token"},
    ),
    "traceloop": Contender(
        distribution="opentelemetry-instrumentation-transformers", switch_on=_traceloop, names=STANDARD
    ),
    "openlit": Contender(
        distribution="openlit", switch_on=_openlit, names={**STANDARD, "first": "gen_ai.server.time_to_first_token"}
    ),
    "genai-otel": Contender(distribution="genai-otel-instrument", switch_on=_genai_otel, names=STANDARD),
}


def requests_of(spans: Any) -> list[Mapping[str, Any]]:
    """Attributes of the spans that stand for an inference, whatever its conventions; phases of one are not."""
    found = [dict(span.attributes or {}) for span in sorted(spans, key=lambda span: span.start_time)]
    return [span for span in found if {"gen_ai.operation.name", "llm.request.type", "gen_ai.system"} & span.keys()]
