"""transformers under its instrumentor, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
import transformers
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tqdm import tqdm
from transformers import T5Config, T5ForConditionalGeneration
from transformers.generation import configuration_utils

from llamatelemetry.testing.semconv import assert_valid_metrics, assert_valid_spans
from llamatelemetry.transformers.instrumentor import TransformersInstrumentor

# Before there was a configuration of its own, continuous batching began with asking CUDA for its memory.
collect_ignore = [] if hasattr(configuration_utils, "ContinuousBatchingConfig") else ["test_continuous_batching.py"]

# transformers draws bars, and each draws a thread after it that nobody ends.
tqdm.monitor_interval = 0


class Traced:
    """An application under the instrumentor, with providers that keep everything."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        logs = InMemoryLogRecordExporter()
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
        self.tracer = self.tracer_provider.get_tracer("application")
        self.instrument()

    def instrument(self) -> None:
        TransformersInstrumentor().instrument(
            tracer_provider=self.tracer_provider,
            meter_provider=self.meter_provider,
            logger_provider=self.logger_provider,
        )

    def instrument_again(self) -> None:
        """Takes the environment as it is now."""
        TransformersInstrumentor().uninstrument()
        self.instrument()

    def spans(self) -> list[ReadableSpan]:
        """All spans so far, in the order of their starts, checked against the tables."""
        if TransformersInstrumentor().is_instrumented_by_opentelemetry:
            assert TransformersInstrumentor().flush()
        spans = sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        assert_valid_spans(spans, ["gen_ai", "llm"])
        assert_valid_metrics(self._reader.get_metrics_data() or [])
        return spans

    def inferences(self) -> list[ReadableSpan]:
        """The inference spans so far."""
        return [span for span in self.spans() if "gen_ai.operation.name" in (span.attributes or {})]

    def inference(self) -> ReadableSpan:
        """The only inference span."""
        [span] = self.inferences()
        return span

    def attributes(self) -> Mapping[str, Any]:
        """Those of the only inference span."""
        return self.inference().attributes or {}

    def tokens(self) -> list[tuple[int | None, int | None, str]]:
        """By inference: tokens in, tokens out, and why it ended."""
        return [
            (
                span.attributes.get("gen_ai.usage.input_tokens"),
                span.attributes.get("gen_ai.usage.output_tokens"),
                span.attributes["gen_ai.response.finish_reasons"][0],
            )
            for span in self.inferences()
        ]

    def reasons(self) -> list[tuple[str, ...]]:
        """Of each inference, why its answers ended."""
        return [span.attributes["gen_ai.response.finish_reasons"] for span in self.inferences()]

    def clear(self) -> None:
        """Forgets the spans so far."""
        self.spans()
        self._exporter.clear()


@pytest.fixture
def traced() -> Iterator[Traced]:
    """Transformers is instrumented."""
    running = Traced()
    yield running
    instrumentor = TransformersInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    running.tracer_provider.shutdown()


@pytest.fixture
def untraced(traced: Traced) -> Callable[[Callable[[], Any]], Any]:
    """Calls something as if nothing were instrumented, on the same random numbers."""

    def call(function: Callable[[], Any]) -> Any:
        traced.clear()
        TransformersInstrumentor().uninstrument()
        torch.manual_seed(0)
        try:
            return function()
        finally:
            traced.instrument()
            torch.manual_seed(0)

    return call


@pytest.fixture
def make_encoder_decoder() -> Callable[..., Any]:
    """Makes a T5 of two layers with random weights, the same each time."""

    def make(**options: Any) -> Any:
        config = {
            "vocab_size": 64,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": None,
        }
        torch.manual_seed(0)
        return T5ForConditionalGeneration(T5Config(**{**config, **options})).eval()

    return make


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers.utils.logging.set_verbosity_error()
