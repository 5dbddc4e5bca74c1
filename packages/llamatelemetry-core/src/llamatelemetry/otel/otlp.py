"""OTLP over the network: the SDK's exporters behind the courier's interface.

They are imported when asked for: one brings requests, the other grpc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, Generic, TypeVar

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan

from llamatelemetry.config import Protocol, Settings
from llamatelemetry.errors import MissingDependencyError
from llamatelemetry.otel.delivery import Signal

_T = TypeVar("_T")

_PATHS: Final[dict[Signal, str]] = {"traces": "/v1/traces", "metrics": "/v1/metrics", "logs": "/v1/logs"}
"""https://opentelemetry.io/docs/specs/otlp/#otlphttp-request"""
_DEFAULT_ENDPOINTS: Final[dict[Protocol, str]] = {
    "http/protobuf": "http://localhost:4318",
    "grpc": "http://localhost:4317",
}
"""OTEL_EXPORTER_OTLP_ENDPOINT's defaults in OpenTelemetry's OTLP exporter specification."""


class OtlpSender(Generic[_T]):
    """Sends through one of the SDK's exporters.

    Args:
        exporter: It.
        export: Calls it with a batch; returns how many items arrived.
    """

    def __init__(self, exporter: Any, export: Callable[[Any, Sequence[_T]], int]) -> None:
        self.exporter = exporter
        self._export = export

    def send(self, batch: Sequence[_T]) -> int:
        """Exports the batch, with the exporter's own retries."""
        return self._export(self.exporter, batch)

    def close(self) -> None:
        """Ends the wait between two retries and closes the connection."""
        self.exporter.shutdown()

    def disown(self) -> None:
        """Leaves the connection to the parent."""


def signal_url(settings: Settings, signal: Signal) -> str:
    """Where a signal goes: its own endpoint as it is; or the base, with the signal's path for HTTP.

    Source: "Endpoint URLs for OTLP/HTTP" in OpenTelemetry's OTLP exporter specification.
    """
    own: str | None = getattr(settings, f"otlp_{signal}_endpoint")
    if own is not None:
        return own
    base = signal_endpoint(settings, signal)
    return base if signal_protocol(settings, signal) == "grpc" else base + _PATHS[signal]


def signal_endpoint(settings: Settings, signal: Signal) -> str:
    """The endpoint that a signal goes to, as it was given: its own, the base, or the protocol's default."""
    own: str | None = getattr(settings, f"otlp_{signal}_endpoint")
    return own or settings.otlp_endpoint or _DEFAULT_ENDPOINTS[signal_protocol(settings, signal)]


def otlp_spans(settings: Settings) -> OtlpSender[ReadableSpan]:
    """A sender of spans."""
    from opentelemetry.sdk.trace.export import SpanExportResult

    if signal_protocol(settings, "traces") == "grpc":
        _require_grpc()
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        exporter: Any = GrpcExporter(**_arguments(settings, "traces"))
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(**_arguments(settings, "traces"))
    return OtlpSender(exporter, lambda to, batch: len(batch) if to.export(batch) is SpanExportResult.SUCCESS else 0)


def otlp_logs(settings: Settings) -> OtlpSender[ReadableLogRecord]:
    """A sender of log records."""
    from opentelemetry.sdk._logs.export import LogRecordExportResult

    if signal_protocol(settings, "logs") == "grpc":
        _require_grpc()
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter

        exporter: Any = GrpcExporter(**_arguments(settings, "logs"))
    else:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

        exporter = OTLPLogExporter(**_arguments(settings, "logs"))
    return OtlpSender(
        exporter, lambda to, batch: len(batch) if to.export(batch) is LogRecordExportResult.SUCCESS else 0
    )


def otlp_metrics(settings: Settings) -> OtlpSender[MetricsData]:
    """A sender of metrics."""
    from opentelemetry.sdk.metrics.export import MetricExportResult

    if signal_protocol(settings, "metrics") == "grpc":
        _require_grpc()
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        exporter: Any = GrpcExporter(**_arguments(settings, "metrics"))
    else:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        exporter = OTLPMetricExporter(**_arguments(settings, "metrics"))

    def export(to: Any, batch: Sequence[MetricsData]) -> int:
        return sum(to.export(data) is MetricExportResult.SUCCESS for data in batch)

    return OtlpSender(exporter, export)


def reader_preferences(sender: OtlpSender[MetricsData]) -> dict[str, Any]:
    """What OTEL_EXPORTER_OTLP_METRICS_* say of temporality and aggregation, as ``MetricReader`` takes it."""
    # Private, and read the same way by the SDK's own periodic reader: exporters show it nowhere else.
    return {
        "preferred_temporality": sender.exporter._preferred_temporality,  # noqa: SLF001
        "preferred_aggregation": sender.exporter._preferred_aggregation,  # noqa: SLF001
    }


def signal_protocol(settings: Settings, signal: Signal) -> Protocol:
    """The protocol that a signal is sent with: its own, or that of all."""
    own: Protocol | None = getattr(settings, f"otlp_{signal}_protocol")
    return own or settings.otlp_protocol


def _arguments(settings: Settings, signal: Signal) -> dict[str, Any]:
    # gRPC metadata keys are lowercase; HTTP does not care.
    own: Mapping[str, str] | None = getattr(settings, f"otlp_{signal}_headers")
    chosen = settings.otlp_headers if own is None else own
    headers = {name.lower(): value for name, value in chosen.items()}
    return {"endpoint": signal_url(settings, signal), "headers": headers or None}


def _require_grpc() -> None:
    try:
        import_module("opentelemetry.exporter.otlp.proto.grpc.exporter")
    except ImportError:
        raise MissingDependencyError(
            "OTLP over gRPC", "opentelemetry-exporter-otlp-proto-grpc", "pip install 'llamatelemetry-core[grpc]'"
        ) from None
