"""What a request, or a section of a user's code, did to the GPUs: data only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from llamatelemetry.gpu.device import GPUDevice
from llamatelemetry.gpu.energy import EnergyMethod

EnergyScope = Literal["process", "device"]
"""Whose work the energy is divided among: the processes that serve, or all that ran on the device."""

_T = TypeVar("_T", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """What one interval did to one device. Memory and utilization are the device's, whoever used it.

    Attributes:
        device: The device.
        memory_before_bytes: Memory in use at the last sample before it.
        memory_after_bytes: Memory in use at the first sample after it.
        memory_peak_bytes: Most of any sample from the one before it to the one after it.
        process_memory_bytes: Memory that the process that serves holds, where the driver tells.
        utilization: Mean of the samples, 0 to 1.
        energy_j: Energy above idle that is its share, in joules.
        idle_j: What the device would have taken idle, of a section; None of a request, which has no part of it.
        energy_method: How the energy came about.
        energy_uncertainty_j: By how much it may be wrong, either way.
        energy_scope: ``process`` where other processes' part was taken off first.
        temperature_max_c: Highest of the samples.
        throttle_reasons: Why clocks were held down in any of them; empty for never.
    """

    device: GPUDevice
    memory_before_bytes: int | None = None
    memory_after_bytes: int | None = None
    memory_peak_bytes: int | None = None
    process_memory_bytes: int | None = None
    utilization: float | None = None
    energy_j: float | None = None
    idle_j: float | None = None
    energy_method: EnergyMethod | None = None
    energy_uncertainty_j: float | None = None
    energy_scope: EnergyScope = "device"
    temperature_max_c: float | None = None
    throttle_reasons: tuple[str, ...] | None = None

    @property
    def memory_delta_bytes(self) -> int | None:
        """Memory after minus before."""
        before, after = self.memory_before_bytes, self.memory_after_bytes
        return None if before is None or after is None else after - before


@dataclass(frozen=True, slots=True, kw_only=True)
class GPUUse:
    """What one interval did to all its devices. A sum of which a part is not known is None.

    Attributes:
        devices: Each of them.
        memory_peak_bytes: Most memory that all of them together had in use in any round of samples.
        energy_uncertainty_j: By how much ``energy_j`` may be wrong, either way.
    """

    devices: tuple[DeviceUse, ...]
    memory_peak_bytes: int | None = None
    energy_uncertainty_j: float | None = None

    @property
    def memory_before_bytes(self) -> int | None:
        """Memory in use before it."""
        return self._sum(lambda use: use.memory_before_bytes)

    @property
    def memory_delta_bytes(self) -> int | None:
        """Memory after minus before."""
        return self._sum(lambda use: use.memory_delta_bytes)

    @property
    def process_memory_bytes(self) -> int | None:
        """Memory that the process that serves holds."""
        return self._sum(lambda use: use.process_memory_bytes)

    @property
    def utilization(self) -> float | None:
        """Mean over the devices, 0 to 1."""
        total = self._sum(lambda use: use.utilization)
        return None if total is None else total / len(self.devices)

    @property
    def energy_j(self) -> float | None:
        """Energy above idle that is its share, in joules."""
        return self._sum(lambda use: use.energy_j)

    @property
    def idle_j(self) -> float | None:
        """What the devices would have taken idle, of a section."""
        return self._sum(lambda use: use.idle_j)

    @property
    def energy_method(self) -> EnergyMethod | None:
        """The coarsest of the devices' methods."""
        order = tuple(EnergyMethod)
        return max((use.energy_method for use in self.devices if use.energy_method), key=order.index, default=None)

    @property
    def energy_scope(self) -> EnergyScope:
        """``process`` only if it is so on every device."""
        return "process" if all(use.energy_scope == "process" for use in self.devices) else "device"

    @property
    def temperature_max_c(self) -> float | None:
        """Highest temperature of any device."""
        return max(_known(use.temperature_max_c for use in self.devices), default=None)

    @property
    def throttle_reasons(self) -> tuple[str, ...] | None:
        """Why clocks were held down on any of them; None where no device tells."""
        told = [use.throttle_reasons for use in self.devices if use.throttle_reasons is not None]
        return tuple(dict.fromkeys(reason for reasons in told for reason in reasons)) if told else None

    def _sum(self, figure: Callable[[DeviceUse], _T | None]) -> _T | None:
        known = _known(figure(use) for use in self.devices)
        return sum(known[1:], known[0]) if known and len(known) == len(self.devices) else None


def _known(values: Iterable[_T | None]) -> list[_T]:
    return [value for value in values if value is not None]
