"""The GPUs of this machine and what is free on each, for a plan."""

from __future__ import annotations

from llamatelemetry.distributed.placement import GPURoom
from llamatelemetry.errors import GPUUnavailableError
from llamatelemetry.gpu.device import DriverState
from llamatelemetry.gpu.reader import GPUReader

_OTHERWISE = "say what is free with --vram, such as --vram 15GiB,15GiB"


def free_memory(reader: GPUReader) -> tuple[GPURoom, ...]:
    """What is free on each device that a CUDA program of this process could use, at this moment.

    A GPU that is split into MIG instances is not among them; its instances are.

    Args:
        reader: Reads the GPUs; opened here and left open.

    Raises:
        GPUUnavailableError: No GPU can be read, or one does not tell its memory.
    """
    status = reader.open()
    if status.state is not DriverState.READY:
        raise GPUUnavailableError(status.state.value, status.message, f"{status.fix}; or {_OTHERWISE}".lstrip("; "))
    rooms = []
    for device in reader.devices:
        if device.mig_enabled and device.parent_uuid is None:
            continue
        reading = reader.fast(device)
        used = None if reading is None else reading.memory_used_bytes
        if used is None or device.memory_total_bytes is None:
            reason = reader.absences(device).get("memory_used_bytes", "the driver does not tell")
            message = f"{device.name} ({device.uuid}) does not say how much of its memory is used: {reason}"
            raise GPUUnavailableError(status.state.value, message, _OTHERWISE)
        rooms.append(
            GPURoom(
                index=device.index,
                free_bytes=device.memory_total_bytes - used,
                name=device.name,
                uuid=device.uuid,
                mig=device.parent_uuid is not None,
            )
        )
    return tuple(rooms)
