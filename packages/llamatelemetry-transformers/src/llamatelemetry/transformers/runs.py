"""One answer under way: tokens from the thread that makes them to the one that reads them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from llamatelemetry.backends.protocol import KVReport
from llamatelemetry.clock import SYSTEM_CLOCK
from llamatelemetry.errors import StreamInterruptedError
from llamatelemetry.transformers.logprobs import Logprobs
from llamatelemetry.transformers.sampling import Sampling

_LIVENESS_S: Final = 1.0
"""How long a reader waits before it looks whether anybody still writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be generated.

    Attributes:
        prompt: Tokens to go on from; at least one.
        max_tokens: Most tokens to generate; at least one.
        sampling: How they are drawn.
        eos: Tokens that end the answer.
        logprobs: Takes down how likely they were; None where nobody asks.
    """

    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    eos: frozenset[int]
    logprobs: Logprobs | None = None


class TokenFeed:
    """Tokens, as they are made. One thread writes, one reads, and any may end or cut it.

    Attributes:
        started_ns: When the model began with the prompt, in monotonic nanoseconds; None before.
        first_ns: When the first token was made.
        last_ns: When the latest was.

    Args:
        is_alive: Whether there still is somebody who writes.
    """

    def __init__(self, is_alive: Callable[[], bool]) -> None:
        self._is_alive = is_alive
        self._items: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self._is_cut = False
        self._cut_by: BaseException | None = None
        self.started_ns: int | None = None
        self.first_ns: int | None = None
        self.last_ns: int | None = None

    def put(self, token: int) -> None:
        """Hands over the next token."""
        self.last_ns = SYSTEM_CLOCK.monotonic_ns()
        if self.first_ns is None:
            self.first_ns = self.last_ns
        self._items.put(token)

    def end(self, error: BaseException | None = None) -> None:
        """Says that no more tokens come, and why, if that is an error."""
        self._items.put(error)

    def cut(self, error: BaseException | None = None) -> None:
        """Ends it here and now: tokens that nobody has read by then, nobody reads. The first call counts."""
        if not self._is_cut:
            self._cut_by = error
            self._is_cut = True
        self._items.put(None)

    def __iter__(self) -> Iterator[int]:
        """The tokens.

        Raises:
            StreamInterruptedError: Nobody writes any more, and nobody said so.
            BaseException: What it was ended or cut with.
        """
        while True:
            item = self._next()
            if self._is_cut:
                item = self._cut_by
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _next(self) -> int | BaseException | None:
        while True:
            try:
                return self._items.get(timeout=_LIVENESS_S)
            except queue.Empty:
                if self._is_alive():
                    continue
            try:
                return self._items.get_nowait()  # Its last words may have come between the wait and the question.
            except queue.Empty:
                raise StreamInterruptedError("whatever ran the model has ended without a word") from None


class Run(Protocol):
    """One answer under way, whoever makes it.

    Attributes:
        feed: Its tokens.
        admission_wait_ms: Milliseconds that it waited for its turn inside; None before.
    """

    feed: TokenFeed
    admission_wait_ms: float | None

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that did not have to be computed."""
        ...

    def report(self) -> KVReport | None:
        """Pages of KV cache it has held; None where there are no pages. Ask before :meth:`close`."""
        ...

    def stop(self) -> None:
        """Ends it as soon as that can be, and its feed at once. From any thread; idempotent, and never raises."""
        ...

    def close(self) -> None:
        """Ends it and lets go of what is kept for it; idempotent."""
        ...
