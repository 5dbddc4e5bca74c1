"""Answers as they come: iterators over a running request, for threads and for asyncio.

A stream owns its request: closing it, abandoning it or cancelling the task that reads it cancels
the request, so that no slot works for nobody.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from llamatelemetry.backends.protocol import TokenDelta
from llamatelemetry.errors import EngineClosedError

if TYPE_CHECKING:
    from llamatelemetry.inference.delivery import DeltaQueue, LoopDeltas
    from llamatelemetry.inference.job import InferenceFuture
    from llamatelemetry.inference.result import InferenceResult


def _abandon_from_finalizer(future: InferenceFuture) -> None:
    """Cancels from another thread: the collector may run this while the current one holds a lock."""
    if not future.foreign and not future.done():
        # At interpreter exit no thread can be started; exit closes the engine itself.
        with contextlib.suppress(RuntimeError):
            _thread.start_new_thread(future.abandon, ())


class InferenceStream(Iterator[TokenDelta]):
    """Iterates over the deltas of one answer; :meth:`result` has the rest.

    Iteration raises the request's error, if there is one, after the deltas that came before it.
    """

    def __init__(self, future: InferenceFuture, deltas: DeltaQueue) -> None:
        self._future = future
        self._deltas = deltas
        self._get = deltas.get
        self._ended = False

    @property
    def trace_id(self) -> str | None:
        """Trace the request is in, 32 hex digits."""
        return self._future.trace_id

    def __next__(self) -> TokenDelta:
        if self._ended:
            raise StopIteration
        if self._future.foreign:
            raise EngineClosedError("a stream does not survive a fork: the answer goes to the parent process")
        try:
            delta = self._get()
        except BaseException:
            # Ctrl-C in a notebook: the traceback it keeps would keep this stream, and with it the slot.
            self.close()
            raise
        if delta is not None:
            return delta
        self._ended = True
        self._future.result()
        raise StopIteration

    def result(self, timeout_s: float | None = None) -> InferenceResult:
        """The whole answer; waits for it and passes over deltas not yet read. An interrupt cancels the request.

        Raises:
            LlamatelemetryError: The request failed.
            TimeoutError: It is not finished within ``timeout_s``; it goes on.
        """
        if not self._future.foreign:
            self._deltas.let_go()
        try:
            return self._future.result(timeout_s)
        except KeyboardInterrupt:
            self.close()
            raise

    def close(self) -> None:
        """Cancels the request if it still runs; idempotent."""
        self._ended = True
        self._future.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        _abandon_from_finalizer(self._future)


class AsyncInferenceStream(AsyncIterator[TokenDelta]):
    """The asyncio form of :class:`InferenceStream`.

    Attributes:
        trace_id: Trace the request is in, 32 hex digits; known from the first delta on.
    """

    def __init__(self, entering: asyncio.Future[InferenceFuture], deltas: LoopDeltas) -> None:
        self._entering = entering
        self._deltas = deltas
        self._ended = False
        self.trace_id: str | None = None

    async def __anext__(self) -> TokenDelta:
        if self._ended:
            raise StopAsyncIteration
        try:
            future = await self._entered()
            delta = await self._deltas.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if delta is not None:
            return delta
        self._ended = True
        future.result()
        raise StopAsyncIteration

    async def result(self) -> InferenceResult:
        """The whole answer; waits for it and passes over deltas not yet read. Cancelling the task cancels the request.

        Raises:
            LlamatelemetryError: The request failed.
        """
        try:
            future = await self._entered()
            self._deltas.let_go()
            # Not by the deltas: of a stream that was closed, nobody has read the last one.
            result = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            await self.aclose()
            raise
        self._ended = True
        return result

    async def aclose(self) -> None:
        """Cancels the request if it still runs; idempotent."""
        self._ended = True
        self._abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._entering.done():
            self._entering.cancel()
        elif not self._entering.cancelled() and self._entering.exception() is None:
            _abandon_from_finalizer(self._entering.result())

    async def _entered(self) -> InferenceFuture:
        future = await asyncio.shield(self._entering)
        self.trace_id = future.trace_id
        return future

    def _abandon(self) -> None:
        if not self._entering.done():
            self._entering.cancel()
        elif not self._entering.cancelled() and self._entering.exception() is None:
            self._entering.result().abandon()
