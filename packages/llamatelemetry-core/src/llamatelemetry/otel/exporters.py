"""Exporters by name: from the settings to what the providers are given.

Everything that can be wrong with a setting is found here, while ``init()`` may still raise; and what
was made before something failed is unmade again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.trace import SpanProcessor

from llamatelemetry.config import Exporter, Settings
from llamatelemetry.otel import console, file_exporter, otlp
from llamatelemetry.otel.batch import Courier, Sender, close_all
from llamatelemetry.otel.delivery import Signal
from llamatelemetry.otel.processors import (
    LOG_DELAY_S,
    SPAN_DELAY_S,
    CourierLogProcessor,
    CourierMetricReader,
    CourierSpanProcessor,
)
from llamatelemetry.otel.prometheus import PrometheusEndpoint
from llamatelemetry.readers import without_credentials

_LOCAL_DELAY_S: Final = 1.0
"""A crash loses at most this much of what goes to files."""

_OTLP: Final[dict[Signal, Callable[[Settings], Sender[Any]]]] = {
    "traces": otlp.otlp_spans,
    "metrics": otlp.otlp_metrics,
    "logs": otlp.otlp_logs,
}
_CONSOLE: Final[dict[Signal, Callable[[], Sender[Any]]]] = {
    "traces": console.console_spans,
    "metrics": console.console_metrics,
    "logs": console.console_logs,
}
_FILES: Final[dict[Signal, Callable[[Path, int, int], Sender[Any]]]] = {
    "traces": file_exporter.file_spans,
    "metrics": file_exporter.file_metrics,
    "logs": file_exporter.file_logs,
}


class Exporters:
    """All exporters of a process, made from its settings.

    Attributes:
        span_processors: One per exporter of spans.
        log_processors: One per exporter of log records.
        metric_readers: One per exporter of metrics.
        couriers: Those of the above that queue.
        prometheus: The scrape endpoint, if there is one.

    Raises:
        ConfigurationError: A folder cannot be written or a port is taken.
        MissingDependencyError: An extra is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.span_processors: list[SpanProcessor] = []
        self.log_processors: list[CourierLogProcessor] = []
        self.metric_readers: list[MetricReader] = []
        self.couriers: list[Courier[Any]] = []
        self.prometheus: PrometheusEndpoint | None = None
        with ExitStack() as undo:
            undo.callback(self.discard)
            for name in settings.traces_exporters:
                self._add_spans(name)
            for name in settings.logs_exporters:
                self._add_logs(name)
            for name in settings.metrics_exporters:
                self._add_metrics(name)
            undo.pop_all()

    def start(self) -> None:
        """Starts to collect metrics; to be called once the readers belong to a provider."""
        for reader in self.metric_readers:
            if isinstance(reader, CourierMetricReader):
                reader.courier.start()

    def discard(self) -> None:
        """Ends everything at once, whatever is still queued."""
        close_all(self.couriers, time.monotonic())
        if self.prometheus is not None:
            self.prometheus.close()

    def _add_spans(self, exporter: Exporter) -> None:
        if exporter != "none":
            settings = self._settings
            delay_s = _delay(exporter, settings.span_delay_s, SPAN_DELAY_S)
            courier = self._courier("traces", exporter, delay_s, settings.span_queue_size, settings.span_batch_size)
            self.span_processors.append(CourierSpanProcessor(courier, self._settings.shutdown_timeout_s))

    def _add_logs(self, exporter: Exporter) -> None:
        if exporter != "none":
            settings = self._settings
            delay_s = _delay(exporter, settings.log_delay_s, LOG_DELAY_S)
            courier = self._courier("logs", exporter, delay_s, settings.log_queue_size, settings.log_batch_size)
            self.log_processors.append(CourierLogProcessor(courier, self._settings.shutdown_timeout_s))

    def _add_metrics(self, exporter: Exporter) -> None:
        if exporter == "none":
            return
        if exporter == "prometheus":
            self.prometheus = PrometheusEndpoint(self._settings.prometheus_host, self._settings.prometheus_port)
            self.metric_readers.append(self.prometheus.reader)
            return
        sender = self._make("metrics", exporter)
        reader = CourierMetricReader(
            exporter=self._place("metrics", exporter),
            sender=sender,
            renew=partial(self._make, "metrics", exporter),
            interval_s=self._settings.metric_interval_s,
            shutdown_timeout_s=self._settings.shutdown_timeout_s,
            preferences=otlp.reader_preferences(sender) if isinstance(sender, otlp.OtlpSender) else {},
        )
        self.metric_readers.append(reader)
        self.couriers.append(reader.courier)

    def _courier(
        self, signal: Signal, exporter: Exporter, delay_s: float, queue_size: int, batch_size: int
    ) -> Courier[Any]:
        courier: Courier[Any] = Courier(
            signal=signal,
            exporter=self._place(signal, exporter),
            sender=self._make(signal, exporter),
            renew=partial(self._make, signal, exporter),
            delay_s=delay_s,
            queue_size=queue_size,
            batch_size=batch_size,
        )
        self.couriers.append(courier)
        return courier

    def _make(self, signal: Signal, exporter: Exporter) -> Sender[Any]:
        settings = self._settings
        if exporter == "otlp":
            return _OTLP[signal](settings)
        if exporter == "console":
            return _CONSOLE[signal]()
        return _FILES[signal](settings.telemetry_dir, settings.file_max_bytes, settings.file_max_count)

    def _place(self, signal: Signal, exporter: Exporter) -> str:
        if exporter == "otlp":
            return f"OTLP {without_credentials(otlp.signal_url(self._settings, signal))}"
        return f"files in {self._settings.telemetry_dir}" if exporter == "file" else exporter


def _delay(exporter: Exporter, chosen_s: float | None, network_s: float) -> float:
    """How long items may wait for others: as chosen, or as it suits the exporter."""
    if chosen_s is not None:
        return chosen_s
    return {"console": 0.0, "file": _LOCAL_DELAY_S}.get(exporter, network_s)
