"""What a GPU is, and what was read of it at one moment: data only.

Every figure is optional. One that the device, the driver or the container does not tell is None,
never zero, and :meth:`llamatelemetry.gpu.nvml.Nvml.absences` says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DriverState(StrEnum):
    """How far NVML could be opened."""

    READY = "ready"
    NO_DRIVER = "no_driver"
    NO_PERMISSION = "no_permission"
    VERSION_MISMATCH = "version_mismatch"
    NO_DEVICE = "no_device"
    LOST = "lost"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverStatus:
    """What became of opening NVML.

    Attributes:
        state: How far it could be opened; anything but ``ready`` means that no device is read.
        message: What was found, in one sentence.
        fix: What to do about it; empty where nothing is wrong.
        driver_version: For example ``550.54.15``.
        cuda_version: Highest CUDA version the driver runs, for example ``12.4``.
        hidden: Devices that ``CUDA_VISIBLE_DEVICES`` leaves out.
    """

    state: DriverState
    message: str
    fix: str = ""
    driver_version: str | None = None
    cuda_version: str | None = None
    hidden: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GPUDevice:
    """One GPU, or one MIG instance of one, as it does not change.

    Attributes:
        index: NVML's index of the GPU, as ``nvidia-smi`` counts.
        uuid: ``GPU-…`` or ``MIG-…``; names the device everywhere else.
        name: For example ``Tesla T4``.
        compute_capability: Major and minor, such as ``(7, 5)``.
        memory_total_bytes: Memory there is.
        memory_reserved_bytes: Memory of it that the driver keeps for itself. It is not in
            ``memory_used_bytes``, except where this is None: old drivers count it as used.
        pci_bus_id: For example ``00000000:00:04.0``.
        power_limit_w: Power limit enforced at the moment of reading, in watts.
        parent_uuid: The GPU that a MIG instance is a part of; None for a whole GPU.
        mig_enabled: Whether the GPU is split into MIG instances; None where it cannot be.
    """

    index: int
    uuid: str
    name: str
    compute_capability: tuple[int, int] | None = None
    memory_total_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    pci_bus_id: str | None = None
    power_limit_w: float | None = None
    parent_uuid: str | None = None
    mig_enabled: bool | None = None

    @property
    def label(self) -> str:
        """A short name for people, as ``nvidia-smi`` counts: ``GPU 0``; MIG instances of one GPU share it."""
        return f"GPU {self.index}" if self.parent_uuid is None else f"GPU {self.index} MIG"


@dataclass(frozen=True, slots=True, kw_only=True)
class FastReading:
    """What is read ten times a second.

    Attributes:
        memory_used_bytes: Memory in use, by whatever process, without what the driver reserves for itself.
        utilization: Share of the driver's last measuring period in which a kernel ran, 0 to 1.
        memory_controller_utilization: Share of it in which memory was read or written, 0 to 1.
        power_w: Power drawn, in watts: of the instant where there is such a field, else the driver's average.
        energy_mj: The energy counter, in millijoules since the driver was loaded.
    """

    memory_used_bytes: int | None = None
    utilization: float | None = None
    memory_controller_utilization: float | None = None
    power_w: float | None = None
    energy_mj: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowReading:
    """What is read once a second.

    Attributes:
        temperature_c: Temperature of the GPU, in degrees Celsius.
        sm_clock_mhz: Clock of the multiprocessors.
        memory_clock_mhz: Clock of the memory.
        throttle_reasons: Why clocks are held down, in NVML's words, such as ``sw_power_cap``; empty for not.
        ecc_corrected: Memory errors that were corrected since the driver was loaded.
        ecc_uncorrected: Memory errors that could not be.
        xid_errors: Xid events since sampling began.
    """

    temperature_c: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    xid_errors: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GPUProcess:
    """One process on a GPU.

    Attributes:
        pid: Its id, in the driver's PID namespace.
        memory_bytes: GPU memory it holds; None where the driver does not say.
        utilization: Its share of the multiprocessors' time lately, 0 to 1; None where the driver does not say.
    """

    pid: int
    memory_bytes: int | None = None
    utilization: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RareReading:
    """What costs milliseconds and is read every five seconds; with more than five devices, of one device a second.

    Attributes:
        processes: Processes that compute on it; None where the driver does not say.
        pcie_transmitted_bytes_per_s: Bytes sent over PCIe per second, as the driver measured just now.
        pcie_received_bytes_per_s: Bytes received over PCIe per second.
        nvlink_transmitted_bytes: Bytes sent over all NVLinks, a counter.
        nvlink_received_bytes: Bytes received over all NVLinks, a counter.
    """

    processes: tuple[GPUProcess, ...] | None = None
    pcie_transmitted_bytes_per_s: int | None = None
    pcie_received_bytes_per_s: int | None = None
    nvlink_transmitted_bytes: int | None = None
    nvlink_received_bytes: int | None = None
