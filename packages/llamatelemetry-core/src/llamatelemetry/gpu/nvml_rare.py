"""The figures of one device that take milliseconds and are read every few seconds: processes and traffic."""

from __future__ import annotations

from ctypes import c_uint
from typing import Any, Final

from llamatelemetry.gpu.device import RareReading
from llamatelemetry.gpu.nvml_calls import Asking
from llamatelemetry.gpu.nvml_counters import NvlinkCounters
from llamatelemetry.gpu.nvml_processes import ProcessUtilization, process_ways, with_utilization
from llamatelemetry.gpu.nvml_questions import Question, Way

# Enumeration of nvml.h that never changes; not all bindings name it the same.
_PCIE_SENT: Final = 0
_PCIE_RECEIVED: Final = 1

# NVML says "KB/s"; nvidia-smi and others print it as such.
_BYTES_PER_KB: Final = 1000


class RareFigures:
    """Reads them of one device that is open, in one thread at a time.

    Args:
        binding: The module ``pynvml``.
        handle: NVML's handle of the device.
        subject: The device in words, as for a question.

    Attributes:
        questions: What is asked.
    """

    __slots__ = ("_nvlink", "_pcie_received", "_pcie_sent", "_processes", "_shares", "questions")

    def __init__(self, binding: Any, handle: Any, subject: str) -> None:
        def pcie(direction: int) -> Way:
            function, answer = "nvmlDeviceGetPcieThroughput", c_uint()
            return function, Asking(binding, function, handle, direction, answer=answer, then=_bytes)

        shares = ProcessUtilization(binding, handle).shares
        self._processes = Question(("processes",), subject, *process_ways(binding, handle))
        self._shares = Question(("processes.utilization",), subject, ("nvmlDeviceGetProcessUtilization", shares))
        self._pcie_sent = Question(("pcie_transmitted_bytes_per_s",), subject, pcie(_PCIE_SENT))
        self._pcie_received = Question(("pcie_received_bytes_per_s",), subject, pcie(_PCIE_RECEIVED))
        self._nvlink = Question(
            ("nvlink_transmitted_bytes", "nvlink_received_bytes"), subject, *NvlinkCounters(binding, handle).ways()
        )
        self.questions: tuple[Question, ...] = (
            self._processes,
            self._shares,
            self._pcie_sent,
            self._pcie_received,
            self._nvlink,
        )

    def read(self) -> RareReading:
        """Reads them; takes tens of milliseconds.

        Raises:
            DeviceLostError: The device is gone.
        """
        processes = self._processes.ask()
        if processes:
            processes = with_utilization(processes, self._shares.ask())
        sent, received = self._nvlink.ask() or (None, None)
        return RareReading(
            processes=processes,
            pcie_transmitted_bytes_per_s=self._pcie_sent.ask(),
            pcie_received_bytes_per_s=self._pcie_received.ask(),
            nvlink_transmitted_bytes=sent,
            nvlink_received_bytes=received,
        )


def _bytes(answer: c_uint) -> int:
    return answer.value * _BYTES_PER_KB
