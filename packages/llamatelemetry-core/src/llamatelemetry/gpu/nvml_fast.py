"""The figures of one device that are read ten times a second: memory, utilization, power and energy.

With sixteen devices that is 640 calls a second, and what Python does around each costs more than the
call. So the answers of a device lie side by side in memory that is taken once: while nothing is
refused, a round makes the calls one after the other and takes all figures out at once. Otherwise each
is asked for by its question, which knows what a refusal means.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_uint, c_ulonglong
from operator import attrgetter
from struct import Struct
from typing import Any, Final

from llamatelemetry.gpu.device import FastReading
from llamatelemetry.gpu.nvml_calls import UNSIGNED_INT, Asking, field_value, number
from llamatelemetry.gpu.nvml_questions import Question, Way

_POWER_INSTANT: Final = 186
"""NVML_FI_DEV_POWER_INSTANT of nvml.h; not all bindings name it."""

_ANSWERS: Final = Struct("<32xQ 2I 24xIII4x Q")
"""nvmlMemory_v2_t, nvmlUtilization_t, nvmlFieldValue_t and a number, as nvml.h lays them out, one after the other.

Taken out: used; gpu, memory; valueType, nvmlReturn, value as an unsigned int; the number.
"""
_MEMORY_V2, _UTILIZATION, _FIELD, _ENERGY = 0, 40, 48, 88
# Of two ways one is used at a time, so the older way's answer lies where the figure is then in the same place.
_MEMORY: Final = _MEMORY_V2 + 16
_USAGE: Final = _FIELD + 32


class FastFigures:
    """Reads them of one device that is open, in one thread at a time.

    Args:
        binding: The module ``pynvml``.
        handle: NVML's handle of the device.
        subject: The device in words, as for a question.
        draws: Whether power and energy are its own; they are not asked for otherwise.

    Attributes:
        questions: What is asked, for memory, utilization, power and energy.
    """

    __slots__ = ("_answered", "_block", "_calls", "_field", "questions")

    def __init__(self, binding: Any, handle: Any, subject: str, *, draws: bool) -> None:
        self._block = bytearray(_ANSWERS.size)

        def placed(kind: Any, at: int) -> Any:
            return kind.from_buffer(self._block, at)

        memory_v2 = placed(binding.c_nvmlMemory_v2_t, _MEMORY_V2)
        memory_v2.version = binding.nvmlMemory_v2
        self._field = placed(binding.c_nvmlFieldValue_t, _FIELD)
        self._field.fieldId = _POWER_INSTANT

        def asked(function: str, *arguments: Any, answer: Any, then: Callable[[Any], Any], words: str = "") -> Way:
            return function + words, Asking(binding, function, handle, *arguments, answer=answer, then=then)

        def drawn(figure: str, *ways: Way) -> Question:
            if draws:
                return Question((figure,), subject, *ways)
            reason = "what a MIG instance draws is measured on its whole GPU only"
            return Question((figure,), subject, reason=reason)

        self.questions: tuple[Question, ...] = (
            Question(
                ("memory_used_bytes",),
                subject,
                asked("nvmlDeviceGetMemoryInfo_v2", answer=memory_v2, then=_used),
                asked("nvmlDeviceGetMemoryInfo", answer=placed(binding.c_nvmlMemory_t, _MEMORY), then=_used),
            ),
            Question(
                ("utilization", "memory_controller_utilization"),
                subject,
                asked(
                    "nvmlDeviceGetUtilizationRates",
                    answer=placed(binding.c_nvmlUtilization_t, _UTILIZATION),
                    then=_shares,
                ),
            ),
            drawn(
                "power_w",
                asked(
                    "nvmlDeviceGetFieldValues",
                    1,
                    answer=self._field,
                    then=lambda answer: field_value(binding, answer) / 1000,
                    words="(POWER_INSTANT)",
                ),
                asked("nvmlDeviceGetPowerUsage", answer=placed(c_uint, _USAGE), then=_watts),
            ),
            drawn(
                "energy_mj",
                asked(
                    "nvmlDeviceGetTotalEnergyConsumption",
                    answer=placed(c_ulonglong, _ENERGY),
                    then=attrgetter("value"),
                ),
            ),
        )
        self._answered: tuple[bool, ...] = ()
        self._calls: tuple[Callable[[], int], ...] = ()

    def read(self) -> FastReading:
        """Reads them.

        Raises:
            DeviceLostError: The device is gone.
        """
        if not self._calls:
            return self._ask_each()
        for call in self._calls:
            if call():
                return self._ask_each()
        used, gpu, controller, kind, refused, milliwatts, energy_mj = _ANSWERS.unpack(self._block)
        if refused or kind != UNSIGNED_INT:
            return self._ask_each()
        memory, utilization, power, energy = self._answered
        return FastReading(
            memory_used_bytes=used if memory else None,
            utilization=gpu / 100 if utilization else None,
            memory_controller_utilization=controller / 100 if utilization else None,
            power_w=milliwatts / 1000 if power else None,
            energy_mj=energy_mj if energy else None,
        )

    def _ask_each(self) -> FastReading:
        memory, utilization, power, energy = (question.ask() for question in self.questions)
        gpu, controller = utilization or (None, None)
        self._remember()
        return FastReading(
            memory_used_bytes=memory,
            utilization=gpu,
            memory_controller_utilization=controller,
            power_w=power,
            energy_mj=energy,
        )

    def _remember(self) -> None:
        """Takes over the calls for the next rounds, if every figure is answered, or never will be."""
        self._calls = ()
        if all(question.is_settled for question in self.questions):
            ways = [question.call for question in self.questions]
            self._answered = tuple(each is not None for each in ways)
            self._calls = tuple(each.call for each in ways if isinstance(each, Asking))
            if not any(isinstance(each, Asking) and each.answer is self._field for each in ways):
                # The field is not asked for any more, and what it said of itself would stand for the older way.
                self._field.valueType, self._field.nvmlReturn = UNSIGNED_INT, 0


def _used(memory: Any) -> Any:
    return number(memory, "used")


def _shares(rates: Any) -> tuple[float, float]:
    return number(rates, "gpu") / 100, number(rates, "memory") / 100


def _watts(milliwatts: c_uint) -> float:
    return milliwatts.value / 1000
