"""How whatever measures hardware is told which requests are being worked on.

The engine knows this protocol and no hardware. When a request is sent to its backend, the installed
meter is shown its :class:`WorkInProgress` and from then on looks at it whenever it likes: the
engine says nothing more, so a token costs no more than before. Every time is monotonic, because a
share of energy must not move when the calendar does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llamatelemetry.backends.protocol import ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What has been done for one request so far. Times are monotonic nanoseconds.

    Attributes:
        begun_ns: When it was first sent to a backend.
        dispatched_ns: When the try that counts was sent; the same unless it is tried again.
        token_ns: When each delta arrived. It grows while it is read, as the request goes on.
        prefill_tokens: Prompt tokens to compute, cached ones excluded: the engine's estimate, and the
            backend's own count once it has told it; None while nothing is known.
        ended_ns: When it ended; None while it goes on.
    """

    begun_ns: int
    dispatched_ns: int
    token_ns: Sequence[int]
    prefill_tokens: int | None
    ended_ns: int | None


class WorkInProgress(Protocol):
    """A request that was sent to a backend. Any thread may look at any time."""

    @property
    def served_by(self) -> ModelInfo:
        """The model it was sent to."""
        ...

    def work(self) -> Work:
        """What has been done for it so far."""
        ...


class HardwareUse(Protocol):
    """What one request did to the hardware. A figure nobody measured is None."""

    @property
    def energy_j(self) -> float | None:
        """Energy attributed to it, in joules."""
        ...

    @property
    def memory_peak_bytes(self) -> int | None:
        """Highest GPU memory use while it ran."""
        ...

    @property
    def memory_delta_bytes(self) -> int | None:
        """GPU memory after minus before."""
        ...


class PendingUse(Protocol):
    """What a request did to the hardware, which is known a moment after its end."""

    def wait(self, timeout_s: float | None = None) -> HardwareUse | None:
        """Returns it as soon as it is known, and what is known when time is up; None for nothing.

        Args:
            timeout_s: Most seconds to wait; None lets the meter decide, which is about one of its periods.
        """
        ...


class RequestMeter(Protocol):
    """Measures hardware under requests. Called in the thread that runs the request; never raises."""

    def begin(self, work: WorkInProgress) -> PendingUse | None:
        """Takes note of a request; cheap. None where there is nothing to measure."""
        ...


class _NoMeter:
    __slots__ = ()

    def begin(self, work: WorkInProgress) -> PendingUse | None:
        return None


_NO_METER = _NoMeter()
_meter: RequestMeter = _NO_METER


def install_meter(meter: RequestMeter | None) -> None:
    """Makes ``meter`` the process's meter; None measures nothing from now on."""
    global _meter  # noqa: PLW0603  a process has one meter, as it has one sink
    _meter = _NO_METER if meter is None else meter


def current_meter() -> RequestMeter:
    """The meter that requests are shown to."""
    return _meter
