"""Metrics for Prometheus to scrape: a small HTTP server with a registry of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatelemetry.errors import ConfigurationError, MissingDependencyError
from llamatelemetry.forks import after_fork

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader


class PrometheusEndpoint:
    """Serves ``/metrics`` until closed.

    Args:
        host: Address to bind.
        port: Port to bind; 0 takes a free one.

    Attributes:
        reader: Collects when scraped; belongs into the meter provider.
        port: The port that was bound.

    Raises:
        MissingDependencyError: The extra ``prometheus`` is not installed.
        ConfigurationError: Nothing can listen there.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            from opentelemetry.exporter.prometheus import PrometheusMetricReader
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            raise MissingDependencyError(
                "the Prometheus endpoint",
                "opentelemetry-exporter-prometheus",
                "pip install 'llamatelemetry-core[prometheus]'",
            ) from None
        registry = CollectorRegistry()
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except (OSError, OverflowError, UnicodeError) as error:
            raise ConfigurationError(
                "prometheus_port", port, f"{host}:{port} cannot be listened on ({error}): give a free port, or 0"
            ) from None
        self.port: int = self._server.server_port
        # Registered after the port is held: a reader cannot be left behind by a port that is taken.
        self.reader: MetricReader = PrometheusMetricReader(registry=registry)
        self._closed = False
        after_fork(self._after_fork)

    def close(self) -> None:
        """Stops serving and frees the port; takes up to half a second, the server's polling interval."""
        if not self._closed:
            self._closed = True
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def _after_fork(self) -> None:
        # The server's thread is the parent's. A child that kept the socket would keep the port.
        self._closed = True
        self._server.socket.close()
