"""What the sampler needs of whoever reads GPUs: NVML, or something that a test made up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from llamatelemetry.gpu.device import DriverStatus, FastReading, GPUDevice, RareReading, SlowReading


class GPUReader(Protocol):
    """Reads GPUs. Called by one thread at a time; nothing of it raises."""

    @property
    def status(self) -> DriverStatus:
        """What became of opening it last; ``lost`` once a device was lost and none is left."""
        ...

    @property
    def devices(self) -> tuple[GPUDevice, ...]:
        """The devices that this process may see, in CUDA's order; none unless the status is ready."""
        ...

    def open(self) -> DriverStatus:
        """Opens it, or opens it again, which finds devices that came back or were reset."""
        ...

    def close(self) -> None:
        """Lets go of the driver; again is harmless."""
        ...

    def fast(self, device: GPUDevice) -> FastReading | None:
        """What takes microseconds; None once the device does not answer any more, until it is opened again."""
        ...

    def slow(self, device: GPUDevice) -> SlowReading:
        """What takes longer or changes slowly."""
        ...

    def rare(self, device: GPUDevice) -> RareReading:
        """What takes milliseconds."""
        ...

    def absences(self, device: GPUDevice) -> Mapping[str, str]:
        """Which figures it does not tell, and why, in words."""
        ...
