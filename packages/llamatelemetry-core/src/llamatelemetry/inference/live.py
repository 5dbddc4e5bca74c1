"""The engines alive in this process: what metrics observe, and what exit must close.

What an engine counted outlives it, because a sum over engines must not fall when one is closed.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Protocol

from llamatelemetry.backends.protocol import ModelInfo

CLOSED_MODELS: Final = 256
"""Models of closed engines whose counts are kept; past it the one longest unused is forgotten."""

_NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """One engine at one moment, and its counts since it was opened. Figures nobody measured are None.

    Attributes:
        model: The model it serves.
        queue_depth: Requests waiting.
        requests_active: Requests running.
        queued_tokens: Tokens, prompts' and answers' together, that wait.
        slots: Requests that can run at once.
        kv_pages_used: KV-cache pages that running requests hold.
        kv_pages_limit: Pages there are.
        kv_pages_shared: Pages that two requests or more hold.
        kv_estimated: True where the pages are the engine's own books about a cache it cannot see.
        prefix_queries_tokens: Prompt tokens of the requests that the engine made an estimate for.
        prefix_hits_tokens: Those of them that it expected to be cached.
        prefix_reported_queries_tokens: Prompt tokens of the requests that the backend reported on.
        prefix_reported_hits_tokens: Those of them that it took from its cache.
        rejected: Requests not let in, by reason.
        completed: Requests that succeeded.
        failed: Requests that were let in and failed, deadlines that passed in the queue among them.
        cancelled: Requests that were cancelled, waiting or running.
        retried: Tries that failed before the first token and were made again.
        backends: The same for each backend, where there are several; what they share, which is the
            queue and what became of requests, is the engine's alone.
    """

    model: ModelInfo
    queue_depth: int = 0
    requests_active: int = 0
    queued_tokens: int | None = None
    slots: int | None = None
    kv_pages_used: int | None = None
    kv_pages_limit: int | None = None
    kv_pages_shared: int | None = None
    kv_estimated: bool = True
    prefix_queries_tokens: int | None = None
    prefix_hits_tokens: int | None = None
    prefix_reported_queries_tokens: int | None = None
    prefix_reported_hits_tokens: int | None = None
    rejected: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    backends: tuple[EngineStats, ...] = ()

    @property
    def prefix_hit_ratio(self) -> float | None:
        """Share of prompt tokens taken from the cache, as the backend reports it; None before its first word."""
        queries, hits = self.prefix_reported_queries_tokens, self.prefix_reported_hits_tokens
        return hits / queries if queries and hits is not None else None


class LiveEngine(Protocol):
    """What this module needs of an engine."""

    def stats(self) -> EngineStats:
        """A snapshot."""
        ...

    def close(self, *, drain: bool = True) -> None:
        """Ends the engine."""
        ...


_SHARED_COUNTS: Final = ("rejected", "completed", "failed", "cancelled", "retried")
_BACKEND_COUNTS: Final = (
    *("prefix_queries_tokens", "prefix_hits_tokens"),
    *("prefix_reported_queries_tokens", "prefix_reported_hits_tokens"),
)

_engines: weakref.WeakSet[LiveEngine] = weakref.WeakSet()
_closed: OrderedDict[ModelInfo, EngineStats] = OrderedDict()
_lock = threading.Lock()


def add(engine: LiveEngine) -> None:
    """Notes an engine that was opened."""
    with _lock:
        _engines.add(engine)


def discard(engine: LiveEngine) -> None:
    """Forgets an engine that was closed, and keeps what it counted; call it without the engine's locks."""
    final = engine.stats()
    with _lock:
        if engine not in _engines:
            return
        _engines.discard(engine)
        _keep(final, _SHARED_COUNTS)
        for backend in final.backends or (final,):
            _keep(backend, _BACKEND_COUNTS)


def stats() -> tuple[EngineStats, ...]:
    """A snapshot of each live engine."""
    with _lock:
        engines = list(_engines)
    return tuple(engine.stats() for engine in engines)


def closed() -> tuple[EngineStats, ...]:
    """What engines counted that are closed by now, one for each model; only counts mean anything."""
    with _lock:
        return tuple(_closed.values())


def close_all() -> None:
    """Cancels what runs and closes every engine, whatever one of them raises: the first thing interpreter exit does."""
    with _lock:
        engines = list(_engines)
    with ExitStack() as ends:
        for engine in engines:
            ends.callback(engine.close, drain=False)


def _keep(final: EngineStats, counts: tuple[str, ...]) -> None:
    before = _closed.pop(final.model, None) or EngineStats(model=final.model)
    sums: dict[str, Any] = {name: _sum(getattr(before, name), getattr(final, name)) for name in counts}
    _closed[final.model] = replace(before, **sums)
    while len(_closed) > CLOSED_MODELS:
        _closed.popitem(last=False)


def _sum(before: Any, final: Any) -> Any:
    if before is None or final is None:
        return final if before is None else before
    if isinstance(final, Mapping):
        return {key: before.get(key, 0) + final.get(key, 0) for key in (*before, *final)}
    return before + final


def _forget_parents() -> None:
    """A child process has no engines, and its parent counts for itself; anything may be half changed."""
    global _lock, _engines, _closed
    _lock, _engines, _closed = threading.Lock(), weakref.WeakSet(), OrderedDict()


# Exit must not wait for answers nobody will read, nor leave a model server behind.
atexit.register(close_all)
os.register_at_fork(after_in_child=_forget_parents)
