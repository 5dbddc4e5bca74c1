"""The figures of one device that are read ten times a second: memory, utilization, power and energy."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_uint, c_ulonglong
from operator import attrgetter
from struct import Struct
from typing import Any, Final

from llamatelemetry.gpu.device import FastReading
from llamatelemetry.gpu.nvml_calls import UNSIGNED_INT, Asking, field_value, number
from llamatelemetry.gpu.nvml_questions import Question, Way
from llamatelemetry.gpu.nvml_together import Answers, Together

_POWER_INSTANT: Final = 186
"""NVML_FI_DEV_POWER_INSTANT of nvml.h; not all bindings name it."""

_LAYOUT: Final = Struct("<32xQ 2I 24xIII4x Q")
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
    """

    __slots__ = ("_field", "_power", "_together")

    def __init__(self, binding: Any, handle: Any, subject: str, *, draws: bool) -> None:
        answers = Answers(_LAYOUT)
        memory_v2 = answers.placed(binding.c_nvmlMemory_v2_t, _MEMORY_V2)
        memory_v2.version = binding.nvmlMemory_v2
        self._field = answers.placed(binding.c_nvmlFieldValue_t, _FIELD)
        self._field.fieldId = _POWER_INSTANT

        def way(function: str, *arguments: Any, answer: Any, then: Callable[[Any], Any]) -> Way:
            return function, Asking(binding, function, handle, *arguments, answer=answer, then=then)

        def drawn(figure: str, *ways: Way) -> Question:
            if draws:
                return Question((figure,), subject, *ways)
            return Question((figure,), subject, reason="what a MIG instance draws is measured on its whole GPU only")

        memory = Question(
            ("memory_used_bytes",),
            subject,
            way("nvmlDeviceGetMemoryInfo_v2", answer=memory_v2, then=_used),
            way("nvmlDeviceGetMemoryInfo", answer=answers.placed(binding.c_nvmlMemory_t, _MEMORY), then=_used),
        )
        rates = answers.placed(binding.c_nvmlUtilization_t, _UTILIZATION)
        utilization = Question(
            ("utilization", "memory_controller_utilization"),
            subject,
            way("nvmlDeviceGetUtilizationRates", answer=rates, then=_shares),
        )
        function, instant = way(
            "nvmlDeviceGetFieldValues", 1, answer=self._field, then=lambda field: field_value(binding, field) / 1000
        )
        self._power = drawn(
            "power_w",
            (f"{function}(POWER_INSTANT)", instant),
            way("nvmlDeviceGetPowerUsage", answer=answers.placed(c_uint, _USAGE), then=_watts),
        )
        counter = answers.placed(c_ulonglong, _ENERGY)
        energy = drawn(
            "energy_mj", way("nvmlDeviceGetTotalEnergyConsumption", answer=counter, then=attrgetter("value"))
        )
        self._together = Together(answers, memory, utilization, self._power, energy)

    @property
    def questions(self) -> tuple[Question, ...]:
        """What is asked, for memory, utilization, power and energy."""
        return self._together.questions

    def read(self) -> FastReading:
        """Reads them.

        Raises:
            DeviceLostError: The device is gone.
        """
        if (taken := self._together.take()) is None:
            return self._ask()
        used, gpu, controller, kind, refused, milliwatts, energy_mj = taken
        if refused or kind != UNSIGNED_INT:
            return self._ask()
        memory, utilization, power, energy = self._together.answered
        return FastReading(
            memory_used_bytes=used if memory else None,
            utilization=gpu / 100 if utilization else None,
            memory_controller_utilization=controller / 100 if utilization else None,
            power_w=milliwatts / 1000 if power else None,
            energy_mj=energy_mj if energy else None,
        )

    def _ask(self) -> FastReading:
        memory, utilization, power, energy = self._together.ask()
        gpu, controller = utilization or (None, None)
        if not (isinstance(way := self._power.call, Asking) and way.answer is self._field):
            # The field is not asked for any more, and what it said of itself would stand for the older way.
            self._field.valueType, self._field.nvmlReturn = UNSIGNED_INT, 0
        return FastReading(
            memory_used_bytes=memory,
            utilization=gpu,
            memory_controller_utilization=controller,
            power_w=power,
            energy_mj=energy,
        )


def _used(memory: Any) -> Any:
    return number(memory, "used")


def _shares(rates: Any) -> tuple[float, float]:
    return number(rates, "gpu") / 100, number(rates, "memory") / 100


def _watts(milliwatts: c_uint) -> float:
    return milliwatts.value / 1000
