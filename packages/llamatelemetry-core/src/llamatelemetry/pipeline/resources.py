"""What a stage cost: time, CPU of this process and of its children, and memory at its peak."""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamatelemetry.clock import SYSTEM_CLOCK, Clock

_PERIOD_S: Final = 0.1
_STATM: Final = Path("/proc/self/statm")
_STATUS: Final = Path("/proc/self/status")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
"""Bytes in what ``getrusage`` counts memory in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResources:
    """What a stage cost. A figure nobody measured is None.

    Attributes:
        wall_s: Seconds from its begin to its end.
        cpu_s: CPU seconds of this process in it, all threads together.
        children_cpu_s: CPU seconds of child processes that ended in it.
        memory_peak_bytes: Most memory that this process held: exact where it is the most of its life so
            far, otherwise the highest of ten looks a second.
        children_memory_peak_bytes: Most memory of any one child that ended in it; None unless that is the
            most of any child so far, which is all that the system tells.
    """

    wall_s: float
    cpu_s: float
    children_cpu_s: float
    memory_peak_bytes: int | None = None
    children_memory_peak_bytes: int | None = None


class ResourceWatch:
    """Measures from its making until :meth:`close`.

    Args:
        clock: Where intervals come from.
        on_look: Called about ten times a second meanwhile, in another thread; it must not raise.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK, on_look: Callable[[], object] | None = None) -> None:
        self.on_look: Callable[[], object] | None = on_look
        self._clock = clock
        self._begun_ns = clock.monotonic_ns()
        self._own = resource.getrusage(resource.RUSAGE_SELF)
        self._children = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._high_water = _high_water_bytes()
        self.peak_bytes: int = 0
        _looks.join(self)

    def close(self) -> StageResources:
        """Ends it; returns what there was."""
        _looks.leave(self)
        own = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        high_water = _high_water_bytes()
        if high_water > self._high_water:
            self.peak_bytes = high_water
        grew = children.ru_maxrss > self._children.ru_maxrss
        return StageResources(
            wall_s=(self._clock.monotonic_ns() - self._begun_ns) / 1e9,
            cpu_s=_cpu_s(own) - _cpu_s(self._own),
            children_cpu_s=_cpu_s(children) - _cpu_s(self._children),
            memory_peak_bytes=self.peak_bytes or None,
            children_memory_peak_bytes=children.ru_maxrss * _RSS_UNIT if grew else None,
        )


class _Looks:
    """One thread that looks at this process's memory while anybody watches, and none otherwise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: set[ResourceWatch] = set()
        self._idle: threading.Event | None = None

    def join(self, watch: ResourceWatch) -> None:
        with self._lock:
            self._watches.add(watch)
            self._look()
            if self._idle is None:
                self._idle = threading.Event()
                threading.Thread(
                    target=self._run, args=(self._idle,), name="llamatelemetry-memory", daemon=True
                ).start()

    def leave(self, watch: ResourceWatch) -> None:
        with self._lock:
            self._look()
            self._watches.discard(watch)
            if not self._watches and self._idle is not None:
                self._idle.set()
                self._idle = None

    def forget(self) -> None:
        """In a forked child: neither the thread nor what it watched is there."""
        self.__init__()  # type: ignore[misc]  # the lock may have been held

    def _run(self, idle: threading.Event) -> None:
        while not idle.wait(_PERIOD_S):
            with self._lock:
                self._look()
                told = [watch.on_look for watch in self._watches if watch.on_look is not None]
            for tell in told:
                tell()

    def _look(self) -> None:
        try:
            resident = int(_STATM.read_bytes().split()[1]) * _PAGE
        except (OSError, ValueError, IndexError):
            return
        for watch in self._watches:
            watch.peak_bytes = max(watch.peak_bytes, resident)


def _high_water_bytes() -> int:
    """Most memory of this process's life; what ``getrusage`` tells begins with what its parent had."""
    try:
        for line in _STATUS.read_bytes().splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def _cpu_s(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


_looks: Final = _Looks()
os.register_at_fork(after_in_child=_looks.forget)
