"""Calls that are made again and again, straight to the library that NVIDIA's binding loaded.

The binding makes a new structure for every answer and reads its members in Python, which takes longer
than the library does, ten times a second for each device. Here a call has the memory of its answer for
good. Library, structures and errors are the binding's own, so what is refused is refused in its words.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import byref
from functools import partial
from typing import Any, Final

from llamatelemetry.gpu.nvml_questions import Code

UNSIGNED_INT: Final = 1
"""NVML_VALUE_TYPE_UNSIGNED_INT of nvmlValueType_t."""
_FIELD_MEMBERS: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Members of nvmlValue_t, in the order of nvmlValueType_t."""


def bound(binding: Any, function: str, *arguments: Any) -> Callable[[], int]:
    """A function of NVML with all its arguments, which returns NVML's code and raises nothing."""
    try:
        found = getattr(binding.nvmlLib, function)
    except AttributeError:
        return lambda: int(Code.FUNCTION_NOT_FOUND)
    return partial(found, *arguments)


class Asking:
    """A call that is made in one thread at a time, and raises the binding's NVMLError.

    Args:
        binding: The module ``pynvml``, initialised.
        function: What nvml.h calls it.
        arguments: All but the last, which is where the answer goes.
        answer: What is passed as that, each time.
        then: Makes the figure of it.

    Attributes:
        call: Makes the call, returns NVML's code and raises nothing.
        answer: As given.
    """

    __slots__ = ("_error", "_then", "answer", "call")

    def __init__(self, binding: Any, function: str, *arguments: Any, answer: Any, then: Callable[[Any], Any]) -> None:
        self.call: Callable[[], int] = bound(binding, function, *arguments, byref(answer))
        self.answer: Any = answer
        self._error = binding.NVMLError
        self._then = then

    def __call__(self) -> Any:
        """The figure.

        Raises:
            NVMLError: NVML refused.
        """
        if code := self.call():
            raise self._error(code)
        return self._then(self.answer)


def number(answer: Any, member: str) -> Any:
    """A member of a structure that is no text: the binding's own way looks first whether it is one."""
    return object.__getattribute__(answer, member)


def field_value(binding: Any, answer: Any) -> Any:
    """The value in an ``nvmlFieldValue_t``.

    Raises:
        NVMLError: The call was good, and the field refused.
    """
    if code := number(answer, "nvmlReturn"):
        raise binding.NVMLError(code)
    return getattr(number(answer, "value"), _FIELD_MEMBERS[number(answer, "valueType")])
