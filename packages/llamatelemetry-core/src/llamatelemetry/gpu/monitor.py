"""The GPUs of this process, watched: driver, sampler and ledger as one object, from ``init()`` to ``shutdown()``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.gpu.device import DriverState, DriverStatus, GPUDevice, GPUProcess
from llamatelemetry.gpu.energy import WorkWeights
from llamatelemetry.gpu.ledger import GPULedger
from llamatelemetry.gpu.nvml import Nvml
from llamatelemetry.gpu.reader import GPUReader
from llamatelemetry.gpu.sampler import GPUSampler
from llamatelemetry.gpu.snapshot import GPUSnapshot
from llamatelemetry.gpu.totals import EnergyTotals
from llamatelemetry.inference.metering import install_meter

_PATIENCE_PERIODS: Final = 2.5
"""An outcome is known with the first sample after the end, or with the second where the counter stood still."""

_log = logging.getLogger(__name__)


class GPUMonitor:
    """Samples every visible GPU and keeps the ledger. Made by :func:`start_monitor`.

    Args:
        reader: The driver, opened.
        status: What became of opening it.
        interval_s: Seconds between two samples.
        idle_power_w: What a GPU draws when idle, in watts; None takes the least that was seen.
        weights: What the work of requests costs.
        clock: Time of the samples: the engines' own.

    Attributes:
        status: The driver's state and versions.
        devices: The visible devices when sampling began.
        patience_s: Most seconds after a request's end until its outcome is known, if sampling works.
        ledger: Whose energy and memory it was.
    """

    def __init__(
        self,
        reader: GPUReader,
        status: DriverStatus,
        *,
        interval_s: float,
        idle_power_w: float | None = None,
        weights: WorkWeights | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.status: DriverStatus = status
        self.devices: tuple[GPUDevice, ...] = reader.devices
        self.patience_s: float = _PATIENCE_PERIODS * interval_s
        self._sampler = GPUSampler(reader, interval_s=interval_s, clock=clock)
        self.ledger: GPULedger = GPULedger(
            lambda: self._sampler.devices,
            self._processes,
            wake=self._sampler.snapshots,
            patience_s=self.patience_s,
            weights=weights,
            idle_power_w=idle_power_w,
        )
        self._subscription = self._sampler.subscribe(self.ledger.on_tick)
        install_meter(self.ledger)

    def snapshots(self) -> Sequence[GPUSnapshot]:
        """The latest readings of each device; no call of the driver."""
        return self._sampler.snapshots()

    def energy_totals(self) -> Mapping[str, EnergyTotals]:
        """Where each device's energy went so far, by UUID."""
        return self.ledger.totals()

    def settle(self, timeout_s: float) -> bool:
        """Waits until what has ended is measured; False if time ran out."""
        return self.ledger.settle(timeout_s)

    def conclude(self) -> None:
        """Closes every account with what is known; samples go on for the last metrics."""
        install_meter(None)
        self.ledger.stop()

    def close(self) -> None:
        """Ends the sampling; idempotent."""
        self.conclude()
        self._subscription.close()
        self._sampler.close()

    def _processes(self) -> Mapping[str, tuple[GPUProcess, ...]]:
        return {
            snapshot.device.uuid: snapshot.rare.processes
            for snapshot in self._sampler.snapshots()
            if snapshot.rare.processes is not None
        }


def start_monitor(
    *, interval_s: float, idle_power_w: float | None = None, weights: WorkWeights | None = None
) -> GPUMonitor | None:
    """Watches the GPUs there are; without any, says so once at INFO and returns None."""
    reader = Nvml()
    status = reader.open()
    if status.state is not DriverState.READY:
        reader.close()
        _log.info("no GPU is measured: %s%s", status.message, f" ({status.fix})" if status.fix else "")
        return None
    return GPUMonitor(reader, status, interval_s=interval_s, idle_power_w=idle_power_w, weights=weights)
