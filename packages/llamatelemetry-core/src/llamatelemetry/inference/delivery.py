"""The way of deltas from a slot's thread to whoever reads them.

It is bounded, so that a slow reader holds back its own answer and nothing else. The writer is told
how long it was held back, because that time is the reader's and not the model's.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from queue import SimpleQueue
from typing import Final, Protocol

from llamatelemetry.backends.protocol import TokenDelta
from llamatelemetry.clock import Clock

DELTA_LIMIT: Final = 1024
"""Deltas that may wait for their reader; past it the writer is held back until half are read."""


class DeltaSink(Protocol):
    """Where a job's deltas go as they arrive."""

    def put(self, delta: TokenDelta, /) -> int:
        """Takes one delta; returns the nanoseconds it held the writer back, and never raises."""
        ...

    def end(self) -> None:
        """Called once, after the last delta and after the future is settled."""
        ...

    def let_go(self) -> None:
        """Holds the writer back no more: nobody reads on, or somebody waits for the end."""
        ...


class _Valve:
    """Holds a writer back while too much waits. One writer, one reader."""

    __slots__ = ("_clock", "_closed", "_limit", "_lock", "_open", "holding")

    def __init__(self, limit: int, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        # Taken as itself: a condition is taken in Python, and Ctrl-C in the middle of that leaves it taken for ever.
        self._lock = threading.Lock()
        self._open = threading.Condition(self._lock)
        self._closed = False
        self.holding = False
        """True while the writer waits: the reader then calls :meth:`taken`."""

    def hold(self, waiting: SimpleQueue[TokenDelta | None] | deque[TokenDelta | None]) -> int:
        size = waiting.qsize if isinstance(waiting, SimpleQueue) else waiting.__len__
        start = self._clock.monotonic_ns()
        with self._lock:
            # Set before the size is looked at again: a reader who comes between is seen either way.
            self.holding = True
            self._open.wait_for(lambda: self._closed or size() <= self._limit // 2)
            self.holding = False
        return self._clock.monotonic_ns() - start

    def taken(self) -> None:
        with self._lock:
            self._open.notify()

    def let_go(self) -> None:
        with self._lock:
            self._closed = True
            self._open.notify()

    def is_full(self, size: int) -> bool:
        return size >= self._limit and not self._closed


class DeltaQueue:
    """Hands deltas to one reading thread. ``None`` says that none will follow.

    Args:
        clock: Times how long the writer is held back.
        limit: Deltas that may wait.
    """

    __slots__ = ("_get", "_put", "_queue", "_valve")

    def __init__(self, clock: Clock, limit: int = DELTA_LIMIT) -> None:
        self._queue: SimpleQueue[TokenDelta | None] = SimpleQueue()
        self._put = self._queue.put
        self._get = self._queue.get
        self._valve = _Valve(limit, clock)

    def put(self, delta: TokenDelta) -> int:
        """Takes one delta; returns the nanoseconds it held the writer back."""
        self._put(delta)
        if self._valve.is_full(self._queue.qsize()):
            return self._valve.hold(self._queue)
        return 0

    def get(self) -> TokenDelta | None:
        """Waits for the next delta; None after the last."""
        delta = self._get()
        if self._valve.holding:
            self._valve.taken()
        return delta

    def end(self) -> None:
        """Says that no delta follows."""
        self._put(None)

    def let_go(self) -> None:
        """Holds the writer back no more."""
        self._valve.let_go()


class LoopDeltas:
    """Hands deltas to one asyncio task.

    The loop is woken once per batch that piles up while it is busy, not once per delta.

    Args:
        loop: The task's loop.
        clock: Times how long the writer is held back.
        limit: Deltas that may wait.
    """

    __slots__ = ("_arrived", "_items", "_loop", "_valve", "_woken")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, limit: int = DELTA_LIMIT) -> None:
        self._loop = loop
        self._items: deque[TokenDelta | None] = deque()
        self._woken = False
        self._arrived = asyncio.Event()
        self._valve = _Valve(limit, clock)

    def put(self, delta: TokenDelta) -> int:
        """Takes one delta, in the writer's thread; returns the nanoseconds it held the writer back."""
        self._add(delta)
        if self._valve.is_full(len(self._items)):
            return self._valve.hold(self._items)
        return 0

    async def get(self) -> TokenDelta | None:
        """Waits for the next delta; None after the last."""
        while not self._items:
            self._arrived.clear()
            if not self._items:
                await self._arrived.wait()
        delta = self._items.popleft()
        if self._valve.holding:
            self._valve.taken()
        return delta

    def end(self) -> None:
        """Says that no delta follows."""
        self._add(None)

    def let_go(self) -> None:
        """Holds the writer back no more."""
        self._valve.let_go()

    def _add(self, item: TokenDelta | None) -> None:
        self._items.append(item)
        if not self._woken:
            self._woken = True
            # A closed loop has nobody left to read.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._woken = False
        self._arrived.set()
