"""Runs somebody else's Python for so long and no longer."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class _TimeIsUp(BaseException):
    """Ends the thread that takes too long. No Exception, so that nobody on the way there keeps it."""


class _Outcome(Generic[_T]):
    """Runs a function, and keeps what it returns or raises."""

    def __init__(self, function: Callable[[], _T]) -> None:
        self._function = function
        self.value: _T | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.value = self._function()
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller of run_within is the one to have it
            self.error = error
        except _TimeIsUp:
            pass


def run_within(timeout_s: float, function: Callable[[], _T]) -> _T:
    """What a function returns, if it does so in time.

    It runs in a thread of its own. One that takes longer is ended at its next bytecode instruction,
    so that a loop ends; a single call that is not Python's, such as making one huge string, runs on
    in a thread that nobody waits for.

    Args:
        timeout_s: Most seconds.
        function: What to run.

    Raises:
        TimeoutError: It took longer.
        Exception: Whatever it raised.
    """
    outcome = _Outcome(function)
    thread = threading.Thread(target=outcome.run, name="llamatelemetry-bounded", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive() and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_TimeIsUp))
        raise TimeoutError
    if outcome.error is not None:
        raise outcome.error
    return outcome.value  # type: ignore[return-value]  # it returned, so that this is what it returned
