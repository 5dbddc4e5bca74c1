"""Asking NVML for a figure that may not be there: once refused for good, it is not asked for again.

NVML refuses in many ways, and they mean different things. A device that is gone answers nothing any
more; a figure that is not supported never will be; a call that timed out may work the next time.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, StrEnum
from typing import Any, Final

Way = tuple[str, Callable[[], Any]]
"""A function of NVML for people to read of, and what calls it and makes the figure of its answer."""

PATIENCE: Final = 3
"""Unknown errors in a row after which a function that has never answered is given up."""


class Code(IntEnum):
    """Those of NVML's return codes that are told apart: nvmlReturn_t of nvml.h."""

    SUCCESS = 0
    UNINITIALIZED = 1
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    NOT_FOUND = 6
    DRIVER_NOT_LOADED = 9
    TIMEOUT = 10
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    CORRUPTED_INFOROM = 14
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    OPERATING_SYSTEM = 17
    LIB_RM_VERSION_MISMATCH = 18
    VGPU_ECC_NOT_SUPPORTED = 22
    FREQ_NOT_SUPPORTED = 24
    ARGUMENT_VERSION_MISMATCH = 25
    DEPRECATED = 26
    GPU_NOT_FOUND = 28
    UNKNOWN = 999


class Verdict(StrEnum):
    """What an error means for the next call."""

    LOST = "lost"
    FINAL = "final"
    PASSING = "passing"


_LOST: Final = frozenset(
    {
        Code.UNINITIALIZED,  # Somebody else in this process shut NVML down once too often.
        Code.DRIVER_NOT_LOADED,
        Code.GPU_IS_LOST,
        Code.RESET_REQUIRED,
        Code.GPU_NOT_FOUND,
    }
)
_FINAL: Final = frozenset(
    {
        Code.INVALID_ARGUMENT,
        Code.NOT_SUPPORTED,
        Code.NO_PERMISSION,
        Code.NOT_FOUND,
        Code.FUNCTION_NOT_FOUND,
        Code.CORRUPTED_INFOROM,
        Code.OPERATING_SYSTEM,
        Code.VGPU_ECC_NOT_SUPPORTED,
        Code.FREQ_NOT_SUPPORTED,
        Code.ARGUMENT_VERSION_MISMATCH,
        Code.DEPRECATED,
    }
)


class DeviceLostError(Exception):
    """The device does not answer any more, whatever it is asked; never leaves this room."""


def code_of(error: Exception) -> int | None:
    """The NVML return code in an error of the binding; None for an error that is not NVML's."""
    value = getattr(error, "value", None)
    return value if isinstance(value, int) else None


def judge(error: Exception) -> Verdict:
    """What an error means. Codes that nobody knows yet pass; what is no answer of NVML does not."""
    code = code_of(error)
    if code in _LOST:
        return Verdict.LOST
    return Verdict.FINAL if code is None or code in _FINAL else Verdict.PASSING


class Question:
    """One question about one device, with the ways to ask it, best first, and what became of it.

    Args:
        figures: What the answer is for: fields of a reading.
        subject: What is asked, in words: "this device", "a MIG instance".
        ways: Ways to ask; one that is refused for good is left for the next.
        reason: Why it is not asked at all, where there are no ways.

    Attributes:
        figures: As given.
        call: What asks now; None where nothing does any more.
        reason: Why the last answer was None; None after an answer.
    """

    __slots__ = ("_answered", "_refusal", "_subject", "_unknown", "_ways", "call", "figures", "reason")

    def __init__(self, figures: tuple[str, ...], subject: str, *ways: Way, reason: str | None = None) -> None:
        self.figures: tuple[str, ...] = figures
        self.call: Callable[[], Any] | None = ways[0][1] if ways else None
        self.reason: str | None = reason
        self._refusal: str | None = None
        self._subject = subject
        self._ways = list(ways)
        self._answered = False
        self._unknown = 0

    @property
    def is_settled(self) -> bool:
        """Whether what asks now was answered the last time, or nothing asks any more."""
        return self.call is None or (self._answered and self.reason is None)

    def ask(self) -> Any:
        """The answer; None where there is none.

        Raises:
            DeviceLostError: The device answers nothing any more.
        """
        while (call := self.call) is not None:
            try:
                answer = call()
            except Exception as error:  # noqa: BLE001 - a figure that cannot be had is absent, whatever the binding does.
                if not self._refused(error):
                    return None
            else:
                self._answered = True
                self.reason = None
                return answer
        return None

    def _refused(self, error: Exception) -> bool:
        """Notes an error; True if the next way may be tried."""
        verdict = judge(error)
        if verdict is Verdict.LOST:
            raise DeviceLostError(str(error)) from error
        reason = _words(self._ways[0][0], error, self._subject)
        if verdict is Verdict.PASSING:
            # Some functions say "unknown error" where they are not supported, such as memory v2 in WSL.
            self._unknown = self._unknown + 1 if code_of(error) == Code.UNKNOWN and not self._answered else 0
            if self._unknown < PATIENCE:
                self.reason = f"{reason}; it is asked again"
                return False
        # That an older or newer function is missing too explains nothing.
        self.reason = self._refusal = self._refusal if self._refusal and _is_missing(error) else reason
        self._answered, self._unknown = False, 0
        del self._ways[0]
        self.call = self._ways[0][1] if self._ways else None
        return True


def _is_missing(error: Exception) -> bool:
    return isinstance(error, AttributeError) or code_of(error) == Code.FUNCTION_NOT_FOUND


def _words(function: str, error: Exception, subject: str) -> str:
    if isinstance(error, AttributeError):
        return f"the installed nvidia-ml-py has no {function}"
    match code_of(error):
        case Code.NOT_SUPPORTED:
            return f"{function} is not supported on {subject}"
        case Code.NO_PERMISSION:
            return f"{function} is not permitted to this user"
        case Code.FUNCTION_NOT_FOUND:
            return f"the driver has no {function}"
        case _:
            return f"{function} failed: {str(error) or type(error).__name__}"
