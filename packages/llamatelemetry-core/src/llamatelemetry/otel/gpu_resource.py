"""The GPUs of a process, as attributes of its resource."""

from __future__ import annotations

from collections.abc import Sequence

from llamatelemetry.gpu.device import DriverState, DriverStatus, GPUDevice
from llamatelemetry.plugins.hookspecs import ResourceValue
from llamatelemetry.semconv.gpu import GPUResourceFacts, gpu_resource_attributes


def gpu_resource(devices: Sequence[GPUDevice], status: DriverStatus) -> dict[str, ResourceValue]:
    """What the resource says of GPUs; empty where there is no driver to ask.

    Args:
        devices: Those that the process sees. Instances of a GPU that is among them are left out: they are
            its parts, and requests are measured on the whole.
        status: What became of opening the driver.
    """
    whole = {device.uuid for device in devices}
    devices = [device for device in devices if device.parent_uuid not in whole]
    sizes = [device.memory_total_bytes for device in devices]
    known = [size for size in sizes if size is not None]
    counted = bool(devices) or status.state is DriverState.NO_DEVICE
    facts = GPUResourceFacts(
        count=len(devices) if counted else None,
        names=tuple(device.name for device in devices) or None,
        uuids=tuple(device.uuid for device in devices) or None,
        memory_total_bytes=sum(known) if known and len(known) == len(sizes) else None,
        driver_version=status.driver_version,
        cuda_version=status.cuda_version,
    )
    return {**gpu_resource_attributes(facts)}
