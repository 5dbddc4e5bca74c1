"""The figures of one device that are read once a second: temperature, clocks, throttling and errors."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_uint, c_ulonglong
from operator import attrgetter
from struct import Struct
from typing import Any, Final

from llamatelemetry.gpu.device import SlowReading
from llamatelemetry.gpu.nvml_calls import Asking
from llamatelemetry.gpu.nvml_counters import XidCounter
from llamatelemetry.gpu.nvml_names import throttle_reasons
from llamatelemetry.gpu.nvml_questions import Question, Way
from llamatelemetry.gpu.nvml_together import Answers, Together

# Enumerations of nvml.h that never change; not all bindings name them the same.
_SENSOR_GPU: Final = 0
_CLOCK_SM: Final = 1
_CLOCK_MEMORY: Final = 2
_ECC_CORRECTED: Final = 0
_ECC_UNCORRECTED: Final = 1
_SINCE_DRIVER_LOADED: Final = 0

_LAYOUT: Final = Struct("<III4xQQQ")
"""Temperature, both clocks, reasons, both counts of errors."""
_TEMPERATURE, _SM, _MEMORY, _REASONS, _CORRECTED, _UNCORRECTED = 0, 4, 8, 16, 24, 32

_value: Final[Callable[[Any], Any]] = attrgetter("value")


class SlowFigures:
    """Reads them of one device that is open, in one thread at a time.

    Args:
        binding: The module ``pynvml``.
        handle: NVML's handle of the device.
        subject: The device in words, as for a question.
        xids: Counts its Xid events.

    Attributes:
        questions: What is asked.
    """

    __slots__ = ("_together", "_xids", "questions")

    def __init__(self, binding: Any, handle: Any, subject: str, xids: XidCounter) -> None:
        answers = Answers(_LAYOUT)

        def way(function: str, *arguments: Any, kind: Any, at: int, then: Callable[[Any], Any] = _value) -> Way:
            answer = answers.placed(kind, at)
            return function, Asking(binding, function, handle, *arguments, answer=answer, then=then)

        def question(figure: str, *ways: Way) -> Question:
            return Question((figure,), subject, *ways)

        def clock(which: int, at: int) -> Way:
            return way("nvmlDeviceGetClockInfo", which, kind=c_uint, at=at)

        def errors(which: int, at: int) -> Way:
            return way("nvmlDeviceGetTotalEccErrors", which, _SINCE_DRIVER_LOADED, kind=c_ulonglong, at=at)

        def reasons(function: str) -> Way:
            return way(function, kind=c_ulonglong, at=_REASONS, then=lambda bits: throttle_reasons(bits.value))

        self._together = Together(
            answers,
            question(
                "temperature_c",
                way("nvmlDeviceGetTemperature", _SENSOR_GPU, kind=c_uint, at=_TEMPERATURE, then=_celsius),
                # Alone from CUDA 14 on.
                ("nvmlDeviceGetTemperatureV", lambda: float(binding.nvmlDeviceGetTemperatureV(handle, _SENSOR_GPU))),
            ),
            question("sm_clock_mhz", clock(_CLOCK_SM, _SM)),
            question("memory_clock_mhz", clock(_CLOCK_MEMORY, _MEMORY)),
            question(
                "throttle_reasons",
                reasons("nvmlDeviceGetCurrentClocksEventReasons"),
                # Before driver 535.
                reasons("nvmlDeviceGetCurrentClocksThrottleReasons"),
            ),
            question("ecc_corrected", errors(_ECC_CORRECTED, _CORRECTED)),
            question("ecc_uncorrected", errors(_ECC_UNCORRECTED, _UNCORRECTED)),
        )
        self._xids = question("xid_errors", ("nvmlDeviceRegisterEvents", xids.count))
        self.questions: tuple[Question, ...] = (*self._together.questions, self._xids)

    def read(self) -> SlowReading:
        """Reads them.

        Raises:
            DeviceLostError: The device is gone.
        """
        if (taken := self._together.take()) is None:
            temperature, sm_clock, memory_clock, reasons, corrected, uncorrected = self._together.ask()
        else:
            figures = (float(taken[0]), taken[1], taken[2], throttle_reasons(taken[3]), *taken[4:])
            temperature, sm_clock, memory_clock, reasons, corrected, uncorrected = (
                figure if answered else None for figure, answered in zip(figures, self._together.answered, strict=True)
            )
        return SlowReading(
            temperature_c=temperature,
            sm_clock_mhz=sm_clock,
            memory_clock_mhz=memory_clock,
            throttle_reasons=reasons,
            ecc_corrected=corrected,
            ecc_uncorrected=uncorrected,
            xid_errors=self._xids.ask(),
        )


def _celsius(answer: c_uint) -> float:
    return float(answer.value)
