"""The figures of one device, each a question to NVML in the binding's words.

Costs on a real machine differ by three orders of magnitude, hence three rates: memory, utilization,
power and energy answer in microseconds, a list of processes takes milliseconds, and each direction of
``nvmlDeviceGetPcieThroughput`` counts bytes for 20 ms before it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ctypes import c_uint, c_ulonglong
from operator import attrgetter
from typing import Any, Final

from llamatelemetry.gpu.device import GPUDevice, RareReading, SlowReading
from llamatelemetry.gpu.nvml_calls import Asking
from llamatelemetry.gpu.nvml_counters import NvlinkCounters, XidCounter
from llamatelemetry.gpu.nvml_fast import FastFigures
from llamatelemetry.gpu.nvml_names import throttle_reasons
from llamatelemetry.gpu.nvml_processes import ProcessUtilization, process_ways, with_utilization
from llamatelemetry.gpu.nvml_questions import Question, Way

# Enumerations of nvml.h that never change; not all bindings name them the same.
_SENSOR_GPU: Final = 0
_CLOCK_SM: Final = 1
_CLOCK_MEMORY: Final = 2
_PCIE_SENT: Final = 0
_PCIE_RECEIVED: Final = 1
_ECC_CORRECTED: Final = 0
_ECC_UNCORRECTED: Final = 1
_SINCE_DRIVER_LOADED: Final = 0

# NVML says "KB/s"; nvidia-smi and others print it as such.
_BYTES_PER_KB: Final = 1000


class DeviceFigures:
    """Reads one device that is open.

    Args:
        binding: The module ``pynvml``.
        handle: NVML's handle of the device.
        device: The device.
        xids: Xid events counted so far, if it was open before.

    Attributes:
        device: As given.
        fast: Reads memory, utilization, power and energy.
        xids: Counts Xid events.
    """

    def __init__(self, binding: Any, handle: Any, device: GPUDevice, xids: int = 0) -> None:
        self.device = device
        self.xids: XidCounter = XidCounter(binding, handle, xids)
        self._binding = binding
        self._handle = handle
        self._subject = _subject(device)
        # What some drivers say that an instance draws is what the whole GPU does, which would be counted twice.
        self.fast: FastFigures = FastFigures(binding, handle, self._subject, draws=device.parent_uuid is None)
        self._temperature = self._question(
            "temperature_c",
            self._way("nvmlDeviceGetTemperature", _SENSOR_GPU, then=_celsius),
            # Alone from CUDA 14 on.
            ("nvmlDeviceGetTemperatureV", lambda: float(binding.nvmlDeviceGetTemperatureV(handle, _SENSOR_GPU))),
        )
        self._sm_clock = self._question("sm_clock_mhz", self._way("nvmlDeviceGetClockInfo", _CLOCK_SM))
        self._memory_clock = self._question("memory_clock_mhz", self._way("nvmlDeviceGetClockInfo", _CLOCK_MEMORY))
        self._throttling = self._question(
            "throttle_reasons",
            self._way("nvmlDeviceGetCurrentClocksEventReasons", answer=c_ulonglong(), then=_reasons),
            # Before driver 535.
            self._way("nvmlDeviceGetCurrentClocksThrottleReasons", answer=c_ulonglong(), then=_reasons),
        )
        self._ecc_corrected = self._question("ecc_corrected", self._ecc(_ECC_CORRECTED))
        self._ecc_uncorrected = self._question("ecc_uncorrected", self._ecc(_ECC_UNCORRECTED))
        self._xids = self._question("xid_errors", ("nvmlDeviceRegisterEvents", self.xids.count))
        self._processes = self._question("processes", *process_ways(binding, handle))
        self._shares = self._question(
            "processes.utilization",
            ("nvmlDeviceGetProcessUtilization", ProcessUtilization(binding, handle).shares),
        )
        self._pcie_sent = self._question("pcie_transmitted_bytes_per_s", self._pcie(_PCIE_SENT))
        self._pcie_received = self._question("pcie_received_bytes_per_s", self._pcie(_PCIE_RECEIVED))
        self._nvlink = self._question(
            "nvlink_transmitted_bytes", "nvlink_received_bytes", *NvlinkCounters(binding, handle).ways()
        )

    def slow(self) -> SlowReading:
        """Temperature, clocks, throttling and errors.

        Raises:
            DeviceLostError: The device is gone.
        """
        return SlowReading(
            temperature_c=self._temperature.ask(),
            sm_clock_mhz=self._sm_clock.ask(),
            memory_clock_mhz=self._memory_clock.ask(),
            throttle_reasons=self._throttling.ask(),
            ecc_corrected=self._ecc_corrected.ask(),
            ecc_uncorrected=self._ecc_uncorrected.ask(),
            xid_errors=self._xids.ask(),
        )

    def rare(self) -> RareReading:
        """Processes and traffic; takes tens of milliseconds.

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

    def absences(self) -> Iterator[tuple[str, str]]:
        """Names of figures that were asked for and are not there, and why."""
        own = (value for value in vars(self).values() if isinstance(value, Question))
        for question in (*self.fast.questions, *own):
            if question.reason is not None:
                for figure in question.figures:
                    yield figure, question.reason

    def _question(self, *parts: str | Way) -> Question:
        figures = tuple(part for part in parts if isinstance(part, str))
        return Question(figures, self._subject, *(part for part in parts if not isinstance(part, str)))

    def _way(
        self,
        function: str,
        *arguments: Any,
        answer: Any = None,
        then: Callable[[Any], Any] = attrgetter("value"),
    ) -> Way:
        answer = c_uint() if answer is None else answer
        return function, Asking(self._binding, function, self._handle, *arguments, answer=answer, then=then)

    def _ecc(self, kind: int) -> Way:
        return self._way("nvmlDeviceGetTotalEccErrors", kind, _SINCE_DRIVER_LOADED, answer=c_ulonglong())

    def _pcie(self, direction: int) -> Way:
        return self._way("nvmlDeviceGetPcieThroughput", direction, then=lambda answer: answer.value * _BYTES_PER_KB)


def _celsius(answer: c_uint) -> float:
    return float(answer.value)


def _reasons(bits: c_ulonglong) -> tuple[str, ...]:
    return throttle_reasons(bits.value)


def _subject(device: GPUDevice) -> str:
    if device.parent_uuid is not None:
        return "a MIG instance"
    return "a GPU split into MIG instances" if device.mig_enabled else "this device"
