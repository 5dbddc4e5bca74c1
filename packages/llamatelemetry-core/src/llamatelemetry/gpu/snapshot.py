"""GPUs at one moment: a sample of one, a round over all, and all that is known of one together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from llamatelemetry.gpu.device import FastReading, GPUDevice, RareReading, SlowReading

if TYPE_CHECKING:  # Names of OpenTelemetry's, which reading a GPU does without.
    from llamatelemetry.semconv.hw import State

DEGRADING: Final = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"})
"""Throttle reasons that say that something is wrong. Being held at the power limit is how GPUs work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One device in one round of sampling.

    Attributes:
        uuid: The device.
        monotonic_ns: When it was read, on the sampler's monotonic clock; never before its last sample.
        fast: Memory, utilization, power, energy; empty while the device is lost.
        lost: True while the device does not answer.
        temperature_c: The latest known, at most a second older, in degrees Celsius.
        throttle_reasons: The latest known; empty for none, None where they are not told.
    """

    uuid: str
    monotonic_ns: int
    fast: FastReading = field(default_factory=FastReading)
    lost: bool = False
    temperature_c: float | None = None
    throttle_reasons: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One round of sampling.

    Attributes:
        monotonic_ns: When it began: no sample of it is older.
        samples: One for each device known, lost ones among them, in the order of the sampler's devices.
    """

    monotonic_ns: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GPUSnapshot:
    """The latest readings of one device. They are of different ages, each about its own period at most.

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
    fast: FastReading = field(default_factory=FastReading)
    slow: SlowReading = field(default_factory=SlowReading)
    rare: RareReading = field(default_factory=RareReading)
    energy_j: float | None = None

    @property
    def memory_utilization(self) -> float | None:
        """Share of the memory that is in use, 0 to 1; None where use or size is not told."""
        used, total = self.fast.memory_used_bytes, self.device.memory_total_bytes
        return used / total if used is not None and total else None

    @property
    def state(self) -> State:
        """``failed`` while it is lost, ``degraded`` while a reason of :data:`DEGRADING` holds, else ``ok``."""
        if self.lost:
            return "failed"
        return "ok" if DEGRADING.isdisjoint(self.slow.throttle_reasons or ()) else "degraded"
