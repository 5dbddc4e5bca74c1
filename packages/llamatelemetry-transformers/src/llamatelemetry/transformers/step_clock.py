"""When the tokens of a generation were there, on whatever device they are made.

The host runs ahead of an accelerator: where it is when it has asked for a token says nothing of when
the token is made, and waiting for it would slow the generation down. So the device is asked to note
the time itself, and its notes are read when the generation is over and nothing waits any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from llamatelemetry.clock import SYSTEM_CLOCK

_MS_TO_NS: Final = 1e6


class StepClock(Protocol):
    """Notes moments."""

    def mark(self) -> None:
        """Notes when everything asked for so far is done. Never waits for it."""
        ...

    def read(self) -> list[int]:
        """The moments so far, in monotonic nanoseconds; waits for the device."""
        ...


class HostClock:
    """For what is done when the call that asked for it returns."""

    __slots__ = ("_moments", "mark")

    def __init__(self, now: Callable[[], int] = SYSTEM_CLOCK.monotonic_ns) -> None:
        self._moments: list[int] = []
        # Notes the time. As a method it would take twice as long, and it is called for each token.
        self.mark: Callable[[], None] = map(self._moments.append, iter(now, None)).__next__

    def read(self) -> list[int]:
        """The moments so far."""
        return self._moments


class DeviceEvent(Protocol):
    """What torch calls an event: a mark in a device's stream of work."""

    def synchronize(self) -> None:
        """Waits until the device is past it."""
        ...

    def elapsed_time(self, later: Any) -> float:
        """Milliseconds from it to another."""
        ...


class DeviceClock:
    """For what a device does later, in order.

    Events know the time between them and no other. The last one is waited for, so that its moment is
    known on the host's clock, and the others are counted back from it.

    Args:
        record: Puts an event into the device's stream of work.
        now: The host's monotonic clock, in nanoseconds.
    """

    __slots__ = ("_events", "_now", "_record")

    def __init__(self, record: Callable[[], DeviceEvent], now: Callable[[], int] = SYSTEM_CLOCK.monotonic_ns) -> None:
        self._record = record
        self._now = now
        self._events: list[DeviceEvent] = []

    def mark(self) -> None:
        """Has the device note the time when it gets there."""
        self._events.append(self._record())

    def read(self) -> list[int]:
        """The moments so far; waits until the device has done what it was asked."""
        if not self._events:
            return []
        last = self._record()
        last.synchronize()
        now = self._now()
        return [now - round(event.elapsed_time(last) * _MS_TO_NS) for event in self._events]


def step_clock(device: Any) -> StepClock:
    """The clock for what is done on a ``torch.device``.

    Accelerators that torch has timed events and streams for, CUDA above all, note the time themselves.
    The others are timed from the host.
    """
    if device.type == "cpu":
        return HostClock()
    import torch

    module = torch.get_device_module(device.type)
    if not hasattr(module, "Event") or not hasattr(module, "current_stream"):
        return HostClock()
    stream = module.current_stream(device)

    def record() -> DeviceEvent:
        event = module.Event(enable_timing=True)
        event.record(stream)
        return event  # type: ignore[no-any-return]

    return DeviceClock(record)
