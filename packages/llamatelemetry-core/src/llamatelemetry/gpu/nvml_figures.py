"""The figures of one device, each a question to NVML in the binding's words.

Costs on a real machine differ by three orders of magnitude, hence three rates: memory, utilization,
power and energy answer in microseconds, a list of processes takes milliseconds, and each direction of
``nvmlDeviceGetPcieThroughput`` counts bytes for 20 ms before it answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llamatelemetry.gpu.device import GPUDevice
from llamatelemetry.gpu.nvml_counters import XidCounter
from llamatelemetry.gpu.nvml_fast import FastFigures
from llamatelemetry.gpu.nvml_rare import RareFigures
from llamatelemetry.gpu.nvml_slow import SlowFigures


class DeviceFigures:
    """What is read of one device that is open.

    Args:
        binding: The module ``pynvml``.
        handle: NVML's handle of the device.
        device: The device.
        xids: Xid events counted so far, if it was open before.

    Attributes:
        xids: Counts Xid events.
        fast: Reads memory, utilization, power and energy.
        slow: Reads temperature, clocks, throttling and errors.
        rare: Reads processes and traffic.
    """

    __slots__ = ("fast", "rare", "slow", "xids")

    def __init__(self, binding: Any, handle: Any, device: GPUDevice, xids: int = 0) -> None:
        subject = _subject(device)
        self.xids: XidCounter = XidCounter(binding, handle, xids)
        # What some drivers say that an instance draws is what the whole GPU does, which would be counted twice.
        self.fast: FastFigures = FastFigures(binding, handle, subject, draws=device.parent_uuid is None)
        self.slow: SlowFigures = SlowFigures(binding, handle, subject, self.xids)
        self.rare: RareFigures = RareFigures(binding, handle, subject)

    def absences(self) -> Iterator[tuple[str, str]]:
        """Names of figures that were asked for and are not there, and why."""
        for question in (*self.fast.questions, *self.slow.questions, *self.rare.questions):
            if question.reason is not None:
                for figure in question.figures:
                    yield figure, question.reason


def _subject(device: GPUDevice) -> str:
    if device.parent_uuid is not None:
        return "a MIG instance"
    return "a GPU split into MIG instances" if device.mig_enabled else "this device"
