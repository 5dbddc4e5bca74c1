"""A GPU at one moment, all that is known of it together."""

from __future__ import annotations

from dataclasses import dataclass

from llamatelemetry.gpu.device import FastReading, GPUDevice, RareReading, SlowReading


@dataclass(frozen=True, slots=True, kw_only=True)
class GPUSnapshot:
    """The latest readings of one device. They are of different ages, each at most its own period old.

    Attributes:
        device: The device.
        monotonic_ns: When the fast reading was taken, on the sampler's monotonic clock.
        lost: True while the device does not answer; the readings are then the last ones.
        fast: Memory, utilization, power, energy.
        slow: Temperature, clocks, throttling, errors.
        rare: Processes and traffic.
        energy_j: Joules since sampling began, by the counter, or else by adding up power; None for neither.
    """

    device: GPUDevice
    monotonic_ns: int
    lost: bool = False
    fast: FastReading = FastReading()
    slow: SlowReading = SlowReading()
    rare: RareReading = RareReading()
    energy_j: float | None = None
