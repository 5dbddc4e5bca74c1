"""Traces what an application does with transformers, without a line of it changed.

OpenTelemetry's own entry point: ``opentelemetry-instrument python app.py`` finds it, and so does

    from llamatelemetry.transformers.instrumentor import TransformersInstrumentor

    TransformersInstrumentor().instrument()
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # Not typed.

from llamatelemetry.otel.import_watch import ImportWatch
from llamatelemetry.otel.instrumentation import InstrumentationSink
from llamatelemetry.otel.patches import Patches
from llamatelemetry.transformers.asked import PIPELINES, pipeline_patch
from llamatelemetry.transformers.batching_observer import MANAGER, REQUESTS, SCHEDULER, BatchingObserver
from llamatelemetry.transformers.generate_observer import GENERATION, GenerateObserver

_INSTRUMENTS: Final = ("transformers >= 5, < 6",)


class TransformersInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """One inference span for each request that transformers answers, measured inside the generation.

    Seen are ``generate`` of every model, with and without a streamer, in batches, with beams and with an
    assistant; the pipelines that generate text; and continuous batching. It imports neither torch nor
    transformers: what is imported already is patched at once, and the rest when it is.

    ``instrument()`` takes ``tracer_provider``, ``meter_provider`` and ``logger_provider``; without any,
    the recorder of ``llamatelemetry.init()`` or the process's providers are used.
    """

    _running: _Running | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """What has to be installed, as a requirement."""
        return _INSTRUMENTS

    def flush(self) -> bool:
        """Waits, a second at most, until what has ended is recorded; False if time ran out."""
        return self._running is None or self._running.flush()

    def _instrument(self, **kwargs: Any) -> None:
        self._running = _Running(
            InstrumentationSink(
                tracer_provider=kwargs.get("tracer_provider"),
                meter_provider=kwargs.get("meter_provider"),
                logger_provider=kwargs.get("logger_provider"),
            )
        )

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None


class _Running:
    """What an instrumented process has, and what has to go again."""

    def __init__(self, sink: InstrumentationSink) -> None:
        self._sink = sink
        self._patches = Patches()
        self._batching = BatchingObserver(sink, self._patches)
        pipelines = dict.fromkeys(PIPELINES, pipeline_patch(self._patches))
        self._watch = ImportWatch(
            {
                GENERATION: GenerateObserver(sink, self._patches).patch,
                REQUESTS: self._batching.patch_requests,
                SCHEDULER: self._batching.patch_scheduler,
                MANAGER: self._batching.patch_manager,
                **pipelines,
            }
        )
        self._watch.start()

    def flush(self) -> bool:
        return self._sink.flush()

    def stop(self) -> None:
        self._watch.stop()
        self._patches.restore()
        self._batching.close()
        self._sink.close()
