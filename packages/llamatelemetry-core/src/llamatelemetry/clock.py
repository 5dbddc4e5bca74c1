"""Time, as something to be handed in.

Everything that measures takes a :class:`Clock`, so that a test can own time instead of waiting
for it. Intervals come from the monotonic source; Unix time is read once per request and only to
place those intervals on the calendar, so that a stepped system clock cannot bend a span.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Sources of time.

    Attributes:
        monotonic_ns: Nanoseconds that never go back; the origin means nothing.
        time_ns: Nanoseconds since the Unix epoch.
        sleep: Waits that many seconds.
    """

    monotonic_ns: Callable[[], int] = time.perf_counter_ns
    time_ns: Callable[[], int] = time.time_ns
    sleep: Callable[[float], None] = time.sleep


SYSTEM_CLOCK = Clock()


class ManualClock:
    """A clock that moves only when told to, or when something sleeps on it.

    Thread-safe. ``clock`` is the :class:`Clock` to hand in.
    """

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_ns = start_ns
        self._lock = threading.Lock()
        self.clock: Clock = Clock(monotonic_ns=self.now_ns, time_ns=self.now_ns, sleep=self.advance)

    def now_ns(self) -> int:
        """Current time in nanoseconds."""
        return self._now_ns

    def advance(self, seconds: float) -> None:
        """Moves time forward by ``seconds``."""
        with self._lock:
            self._now_ns += round(seconds * 1e9)
