"""What is free is read of whoever reads GPUs; here that is made up."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from llamatelemetry.distributed.free_memory import free_memory
from llamatelemetry.errors import GPUUnavailableError
from llamatelemetry.gpu.device import (
    DriverState,
    DriverStatus,
    FastReading,
    GPUDevice,
    RareReading,
    SlowReading,
)

GIB = 2**30


class MadeUpReader:
    """Devices and what is used of each."""

    def __init__(self, used: Mapping[GPUDevice, int | None], state: DriverState = DriverState.READY) -> None:
        self.status = DriverStatus(state=state, message="made up", fix="make up another")
        self.devices = tuple(used)
        self._used = used

    def open(self) -> DriverStatus:
        return self.status

    def close(self) -> None:
        pass

    def fast(self, device: GPUDevice) -> FastReading:
        return FastReading(memory_used_bytes=self._used[device])

    def slow(self, device: GPUDevice) -> SlowReading:
        return SlowReading()

    def rare(self, device: GPUDevice) -> RareReading:
        return RareReading()

    def absences(self, device: GPUDevice) -> Mapping[str, str]:
        return {"memory_used_bytes": "not supported"} if self._used[device] is None else {}


def t4(index: int) -> GPUDevice:
    return GPUDevice(index=index, uuid=f"GPU-{index}", name="Tesla T4", memory_total_bytes=15 * GIB)


def test_what_others_use_is_not_free() -> None:
    rooms = free_memory(MadeUpReader({t4(0): 0, t4(1): 6 * GIB}))
    assert [(room.index, room.uuid, room.name, room.free_bytes) for room in rooms] == [
        (0, "GPU-0", "Tesla T4", 15 * GIB),
        (1, "GPU-1", "Tesla T4", 9 * GIB),
    ]


def test_a_gpu_that_is_split_counts_by_its_instances() -> None:
    whole = GPUDevice(index=0, uuid="GPU-a", name="A100", memory_total_bytes=80 * GIB, mig_enabled=True)
    part = GPUDevice(
        index=0, uuid="MIG-a", name="A100 MIG 1g", memory_total_bytes=10 * GIB, parent_uuid="GPU-a", mig_enabled=True
    )
    [room] = free_memory(MadeUpReader({whole: 20 * GIB, part: GIB}))
    assert (room.uuid, room.mig, room.free_bytes) == ("MIG-a", True, 9 * GIB)


@pytest.mark.parametrize("state", [state for state in DriverState if state is not DriverState.READY])
def test_without_a_driver_the_error_says_how_to_plan_all_the_same(state: DriverState) -> None:
    with pytest.raises(
        GPUUnavailableError, match="made up: make up another; or say what is free with --vram"
    ) as caught:
        free_memory(MadeUpReader({}, state))
    assert caught.value.state == state.value


@pytest.mark.parametrize(
    ("device", "used", "reason"),
    [
        (t4(0), None, "not supported"),
        (GPUDevice(index=0, uuid="GPU-0", name="Tesla T4"), GIB, "the driver does not tell"),
    ],
)
def test_a_gpu_that_does_not_tell_its_memory_is_no_gpu_with_none(
    device: GPUDevice, used: int | None, reason: str
) -> None:
    with pytest.raises(GPUUnavailableError, match=f"Tesla T4 \\(GPU-0\\) .* {reason}.*--vram"):
        free_memory(MadeUpReader({device: used}))
