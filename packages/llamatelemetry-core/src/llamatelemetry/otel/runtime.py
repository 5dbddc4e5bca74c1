"""All of a process's telemetry as one object: made by ``init()``, emptied by ``flush()``, ended by ``shutdown()``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any, Final

from opentelemetry.sdk.trace import SpanProcessor

from llamatelemetry.config import Settings
from llamatelemetry.gpu.enricher import GPUSpanEnricher
from llamatelemetry.gpu.monitor import GPUMonitor
from llamatelemetry.inference.sink import SpanEnricher, install_sink
from llamatelemetry.otel.batch import close_all, flush_all
from llamatelemetry.otel.bounded import Background
from llamatelemetry.otel.delivery import ShutdownReport
from llamatelemetry.otel.exporters import Exporters
from llamatelemetry.otel.file_exporter import prepare_folder
from llamatelemetry.otel.gpu_instruments import GPUInstruments
from llamatelemetry.otel.gpu_resource import gpu_resource
from llamatelemetry.otel.processors import RecordFirst
from llamatelemetry.otel.providers import Adopted, Providers, build_providers, find_adopted, make_global, withdraw
from llamatelemetry.otel.recorder import Recorder
from llamatelemetry.otel.redaction import Redactor, install_redactor, redactor_for
from llamatelemetry.otel.resource import build_resource
from llamatelemetry.otel.sampling import head_sampler
from llamatelemetry.otel.tail import SlowAndErrorFilter

SCOPE: Final = "llamatelemetry"
"""Instrumentation scope of everything we emit."""
_GPU_SHARE: Final = 0.2
"""Share of a shutdown that may pass until what has ended is measured."""
_RECORDER_SHARE: Final = 0.4
"""Share of what is left then that the recorder may use up before the exporters get the rest."""

_logger = logging.getLogger(__name__)


class Telemetry:
    """Everything between a finished record and the exporters' last byte.

    Args:
        settings: All of them, resolved.
        enrichers: Add attributes to inference spans.
        span_processors: The application's own; see every span that is recorded.
        detected: Resource attributes that plugins found.
        resource_attributes: Resource attributes that the caller gave.
        gpu: Watches the GPUs; ended with the rest.

    Attributes:
        settings: Those in force: with the folder made absolute and the port that was bound.

    Raises:
        ConfigurationError: Something in the settings cannot be used; nothing is left behind.
        MissingDependencyError: An extra is not installed; nothing is left behind.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        enrichers: Sequence[SpanEnricher] = (),
        span_processors: Sequence[SpanProcessor] = (),
        detected: Mapping[str, Any] | None = None,
        resource_attributes: Mapping[str, Any] | None = None,
        gpu: GPUMonitor | None = None,
    ) -> None:
        redactor = redactor_for(settings)
        self._gpu = gpu
        if gpu is not None:
            detected = {**gpu_resource(gpu.devices, gpu.status), **(detected or {})}
            enrichers = [*enrichers, GPUSpanEnricher(gpu.patience_s)]
        resource = build_resource(settings, detected, resource_attributes)
        adopted = find_adopted()
        settings = _prepared(settings, adopted)
        with ExitStack() as undo:
            self._exporters = Exporters(settings)
            undo.callback(self._exporters.discard)
            if self._exporters.prometheus is not None:
                settings = replace(settings, prometheus_port=self._exporters.prometheus.port)
            self.settings = settings
            self._tail = _tail_filter(settings, self._exporters)
            first = RecordFirst(self._record_ended, settings.shutdown_timeout_s)
            processors = [first, *span_processors, *([self._tail] if self._tail else self._exporters.span_processors)]
            self._providers = build_providers(self._exporters, processors, head_sampler(settings), resource, adopted)
            self._recorder = _recorder(self._providers, settings, redactor, enrichers)
            undo.pop_all()
        self._gpu_instruments = None if gpu is None else _gpu_instruments(self._providers, gpu)
        self._exporters.start()
        make_global(self._providers)
        install_redactor(redactor)
        install_sink(self._recorder)

    def flush(self, timeout_s: float) -> bool:
        """Sends everything that was recorded so far; False if some of it did not arrive in time."""
        deadline = time.monotonic() + timeout_s
        if self._gpu is not None:
            self._gpu.settle(min(timeout_s, self._gpu.patience_s))
        recorded = self._recorder.flush(deadline - time.monotonic())
        # Ours are flushed below; asking the meter provider as well would export everything twice.
        others = [p for p in [*self._providers.own(), *self._providers.adopted.all()] if not self._is_our_meter(p)]
        left_ms = max(1, int((deadline - time.monotonic()) * 1000))
        background = Background([partial(p.force_flush, left_ms) for p in others if hasattr(p, "force_flush")])
        delivered = flush_all(self._exporters.couriers, deadline)
        return background.wait(deadline) and recorded and delivered

    def shutdown(self, timeout_s: float, *, others_too: bool = False) -> ShutdownReport:
        """Sends what is left and ends everything of ours, within ``timeout_s`` whatever the receivers do.

        Says at WARNING what was lost.

        Args:
            timeout_s: Most seconds that it takes.
            others_too: Whether adopted providers have to send what they hold, since nobody else will ask them.
        """
        started = time.monotonic()
        deadline = started + timeout_s
        install_sink(None)
        if self._gpu is not None:
            self._gpu.settle(min(timeout_s * _GPU_SHARE, self._gpu.patience_s))
            self._gpu.conclude()
        records_lost = self._recorder.shutdown((deadline - time.monotonic()) * _RECORDER_SHARE)
        withdraw()
        install_redactor(None)
        if self._tail is not None:
            self._tail.release()
        closing: list[Callable[[], object]] = [provider.shutdown for provider in self._providers.own()]
        if self._exporters.prometheus is not None:
            closing.append(self._exporters.prometheus.close)
        adopted = self._providers.adopted
        # A meter provider exports again when it is shut down, which is not ours to do: the GPUs are gone by then.
        asked: list[Any] = adopted.all() if others_too else [adopted.meter_provider] if self._gpu_instruments else []
        left_ms = max(1, int((deadline - time.monotonic()) * 1000))
        closing.extend(partial(each.force_flush, left_ms) for each in asked if hasattr(each, "force_flush"))
        background = Background(closing)
        deliveries = close_all(self._exporters.couriers, deadline)
        background.wait(deadline)
        if self._gpu is not None and self._gpu_instruments is not None:
            self._gpu_instruments.close()
            self._gpu.close()
        report = ShutdownReport(
            deliveries=deliveries,
            records_lost=records_lost,
            traces_evicted=0 if self._tail is None else self._tail.evicted,
            duration_s=time.monotonic() - started,
        )
        if not report.complete:
            _logger.warning("telemetry was lost: %s", "; ".join(report.problems()))
        return report

    def _record_ended(self, timeout_s: float) -> bool:
        return self._recorder.flush(timeout_s)

    def _is_our_meter(self, provider: object) -> bool:
        return self._providers.adopted.meter_provider is None and provider is self._providers.meter_provider


def _prepared(settings: Settings, adopted: Adopted) -> Settings:
    """Leaves out exporters that an adopted provider makes needless, and makes the folder of the others."""
    if adopted.tracer_provider is not None:
        settings = replace(settings, traces_exporters=("none",))
    if adopted.meter_provider is not None:
        settings = replace(settings, metrics_exporters=("none",))
    if adopted.logger_provider is not None:
        settings = replace(settings, logs_exporters=("none",))
    if "file" in {*settings.traces_exporters, *settings.metrics_exporters, *settings.logs_exporters}:
        settings = replace(settings, telemetry_dir=prepare_folder(settings.telemetry_dir))
    return settings


def _tail_filter(settings: Settings, exporters: Exporters) -> SlowAndErrorFilter | None:
    if settings.sampler != "keep_slow_and_errors":
        return None
    return SlowAndErrorFilter(exporters.span_processors, 1.0 if settings.sampler_arg is None else settings.sampler_arg)


def _recorder(
    providers: Providers, settings: Settings, redactor: Redactor, enrichers: Sequence[SpanEnricher]
) -> Recorder:
    ours = version("llamatelemetry-core")
    return Recorder(
        tracer=providers.tracer_provider.get_tracer(SCOPE, ours),
        meter=providers.meter_provider.get_meter(SCOPE, ours),
        logger=providers.logger_provider.get_logger(SCOPE, ours),
        settings=settings,
        redactor=redactor,
        enrichers=enrichers,
    )


def _gpu_instruments(providers: Providers, gpu: GPUMonitor) -> GPUInstruments:
    return GPUInstruments(
        providers.meter_provider.get_meter(SCOPE, version("llamatelemetry-core")),
        snapshots=gpu.snapshots,
        driver_version=lambda: gpu.status.driver_version,
        energy=gpu.energy_totals,
    )
