"""What became of telemetry, in numbers: what was taken, what arrived, what was lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Signal = Literal["traces", "metrics", "logs"]

_UNITS = {"traces": "spans", "metrics": "metric exports", "logs": "log records"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The account of one exporter.

    Attributes:
        signal: What it exports.
        exporter: Where to, for a reader: ``otlp http://127.0.0.1:4318/v1/traces``.
        accepted: Spans, log records or metric exports that were handed to it.
        exported: How many of them arrived.
        lost: How many will not arrive. What is neither is still waiting.
    """

    signal: Signal
    exporter: str
    accepted: int
    exported: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownReport:
    """What ``shutdown()`` leaves behind.

    Attributes:
        deliveries: One account per exporter.
        records_lost: Finished requests that never became telemetry.
        traces_evicted: Traces the tail sampler gave up undecided, for lack of memory.
        duration_s: How long shutting down took, in seconds.
    """

    deliveries: tuple[Delivery, ...] = ()
    records_lost: int = 0
    traces_evicted: int = 0
    duration_s: float = 0.0

    @property
    def spans_lost(self) -> int:
        """Spans that did not arrive, summed over exporters."""
        return self._lost("traces")

    @property
    def metric_exports_lost(self) -> int:
        """Metric exports that did not arrive, summed over exporters."""
        return self._lost("metrics")

    @property
    def log_records_lost(self) -> int:
        """Log records that did not arrive, summed over exporters."""
        return self._lost("logs")

    @property
    def complete(self) -> bool:
        """True when nothing was lost."""
        return not self.problems()

    def problems(self) -> list[str]:
        """One phrase for each thing that was lost; empty when nothing was."""
        found = [
            f"{delivery.lost} of {delivery.accepted} {_UNITS[delivery.signal]} to {delivery.exporter}"
            for delivery in self.deliveries
            if delivery.lost
        ]
        if self.records_lost:
            found.append(f"{self.records_lost} finished requests that were not recorded in time")
        if self.traces_evicted:
            found.append(f"{self.traces_evicted} traces that the tail sampler had no room to keep")
        return found

    def _lost(self, signal: Signal) -> int:
        return sum(delivery.lost for delivery in self.deliveries if delivery.signal == signal)
