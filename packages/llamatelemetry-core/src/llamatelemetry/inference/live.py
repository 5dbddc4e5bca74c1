"""The engines alive in this process: what metrics observe, and what exit must close."""

from __future__ import annotations

import atexit
import threading
import weakref
from dataclasses import dataclass
from typing import Protocol

from llamatelemetry.backends.protocol import ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """One engine at one moment.

    Attributes:
        model: The model it serves.
        queue_depth: Requests waiting.
        requests_active: Requests running.
    """

    model: ModelInfo
    queue_depth: int
    requests_active: int


class LiveEngine(Protocol):
    """What this module needs of an engine."""

    def stats(self) -> EngineStats:
        """A snapshot."""
        ...

    def close(self, *, drain: bool = True) -> None:
        """Ends the engine."""
        ...


_engines: weakref.WeakSet[LiveEngine] = weakref.WeakSet()
_lock = threading.Lock()


def add(engine: LiveEngine) -> None:
    """Notes an engine that was opened."""
    with _lock:
        _engines.add(engine)


def discard(engine: LiveEngine) -> None:
    """Forgets an engine that was closed."""
    with _lock:
        _engines.discard(engine)


def stats() -> tuple[EngineStats, ...]:
    """A snapshot of each live engine."""
    with _lock:
        engines = list(_engines)
    return tuple(engine.stats() for engine in engines)


def close_all() -> None:
    """Cancels what runs and closes every engine: the first thing interpreter exit does."""
    with _lock:
        engines = list(_engines)
    for engine in engines:
        engine.close(drain=False)


# Exit must not wait for answers nobody will read, nor leave a model server behind.
atexit.register(close_all)
