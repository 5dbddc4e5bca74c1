"""Which devices NVML shows, and what does not change about each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llamatelemetry.gpu.device import GPUDevice
from llamatelemetry.gpu.nvml_questions import Verdict, judge

Versions = tuple[str | None, str | None]
"""Version of the driver, and the highest version of CUDA that it runs."""


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """A device and NVML's handle of it."""

    device: GPUDevice
    handle: Any


@dataclass(frozen=True, slots=True)
class FoundGPU:
    """One index of NVML: a GPU with its MIG instances, or the error of one that does not answer.

    Attributes:
        uuid: Of the GPU; what stands for it where it does not answer.
        found: The GPU, then its instances; empty where it does not answer.
        error: Why it does not answer.
    """

    uuid: str
    found: tuple[FoundDevice, ...] = ()
    error: Exception | None = None


def find_gpus(binding: Any) -> tuple[FoundGPU, ...]:
    """All GPUs that NVML shows, by index.

    Raises:
        NVMLError: They cannot even be counted.
    """
    return tuple(_gpu(binding, index) for index in range(binding.nvmlDeviceGetCount()))


def driver_versions(binding: Any) -> Versions:
    """Version of the driver, and the highest version of CUDA that it runs."""
    driver = _optional(binding, "nvmlSystemGetDriverVersion")
    cuda = _optional(binding, "nvmlSystemGetCudaDriverVersion_v2")
    return driver, None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"


def _gpu(binding: Any, index: int) -> FoundGPU:
    try:
        handle = binding.nvmlDeviceGetHandleByIndex(index)
        uuid = binding.nvmlDeviceGetUUID(handle)
        mig = _optional(binding, "nvmlDeviceGetMigMode", handle)
        memory = _memory(binding, handle)
        pci = _optional(binding, "nvmlDeviceGetPciInfo", handle)
        limit_mw = _optional(binding, "nvmlDeviceGetEnforcedPowerLimit", handle)
        gpu = GPUDevice(
            index=index,
            uuid=uuid,
            name=_optional(binding, "nvmlDeviceGetName", handle) or "NVIDIA GPU",
            compute_capability=_optional(binding, "nvmlDeviceGetCudaComputeCapability", handle),
            memory_total_bytes=memory and memory[0],
            memory_reserved_bytes=memory and memory[1],
            pci_bus_id=None if pci is None else pci.busId,
            power_limit_w=None if limit_mw is None else limit_mw / 1000,
            mig_enabled=None if mig is None else bool(mig[0]),
        )
        instances = tuple(_instances(binding, handle, gpu)) if gpu.mig_enabled else ()
    except Exception as error:  # noqa: BLE001 - one GPU that is gone must not hide the others.
        return FoundGPU(f"index {index}", error=error)
    return FoundGPU(uuid, (FoundDevice(gpu, handle), *instances))


def _instances(binding: Any, parent_handle: Any, parent: GPUDevice) -> Iterator[FoundDevice]:
    for place in range(_optional(binding, "nvmlDeviceGetMaxMigDeviceCount", parent_handle) or 0):
        handle = _optional(binding, "nvmlDeviceGetMigDeviceHandleByIndex", parent_handle, place)
        if handle is None:  # A place that no instance takes, or one that this container was not given.
            continue
        memory = _memory(binding, handle)
        yield FoundDevice(
            GPUDevice(
                index=parent.index,
                uuid=binding.nvmlDeviceGetUUID(handle),
                name=_optional(binding, "nvmlDeviceGetName", handle) or f"{parent.name} MIG",
                compute_capability=parent.compute_capability,
                memory_total_bytes=memory and memory[0],
                memory_reserved_bytes=memory and memory[1],
                pci_bus_id=parent.pci_bus_id,
                parent_uuid=parent.uuid,
            ),
            handle,
        )


def _memory(binding: Any, handle: Any) -> tuple[int, int | None] | None:
    """Memory there is, and what of it the driver keeps; the second is None where only the old call answers."""
    memory = _optional(binding, "nvmlDeviceGetMemoryInfo", handle, binding.nvmlMemory_v2)
    if memory is not None:
        return memory.total, memory.reserved
    memory = _optional(binding, "nvmlDeviceGetMemoryInfo", handle)
    return None if memory is None else (memory.total, None)


def _optional(binding: Any, function: str, *arguments: Any) -> Any:
    """The answer, or None where there is none.

    Raises:
        NVMLError: The device is gone.
    """
    try:
        return getattr(binding, function)(*arguments)
    except Exception as error:
        if judge(error) is Verdict.LOST:
            raise
        return None
