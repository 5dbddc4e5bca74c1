"""One request on its way through the engine: its state, and the future its caller holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future

from llamatelemetry.backends.protocol import (
    Backend,
    CancelToken,
    FinishReason,
    Placement,
    StreamEnd,
    TokenDelta,
)
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import (
    BackendError,
    EngineClosedError,
    LlamatelemetryError,
    RequestCancelledError,
    StreamInterruptedError,
)
from llamatelemetry.inference.delivery import DeltaSink
from llamatelemetry.inference.events import EventRecorder
from llamatelemetry.inference.metering import PendingUse, current_meter
from llamatelemetry.inference.result import InferenceResult, result_from
from llamatelemetry.inference.sink import RequestTrace

Progress = Callable[[int], int]
"""Told how many deltas have come; returns at how many it wants to be told again, 0 for never."""


class InferenceFuture(Future[InferenceResult]):
    """A ``concurrent.futures.Future`` whose ``cancel()`` also stops a request that already runs.

    In a forked child it stops nothing, because the answer is its parent's and so is the socket it comes through,
    which the child has too; and there it waits for nothing, because nothing will come.
    """

    def __init__(self, cancel: CancelToken, trace_id: str | None) -> None:
        super().__init__()
        self._cancel_token = cancel
        self._started = False
        self._settled = False
        self._pid = os.getpid()
        self.trace_id = trace_id

    @property
    def foreign(self) -> bool:
        """True in a process that was forked from the one that asked."""
        return self._pid != os.getpid()

    def running(self) -> bool:
        """True from dispatch to the end."""
        return self._started and not self.done()

    def cancel(self) -> bool:
        """Stops the request wherever it is; False if it is already done."""
        if self.foreign:
            return False
        # Never marked as running for the base class, so that it can be cancelled at any time.
        accepted = super().cancel()
        if accepted:
            self._cancel_token.cancel()
        return accepted

    def abandon(self) -> None:
        """Stops the request, and lets it settle with what it produced."""
        if not self.foreign and not self.done():
            self._cancel_token.cancel()

    def result(self, timeout: float | None = None) -> InferenceResult:
        """The answer, as ``concurrent.futures`` gives it.

        Raises:
            LlamatelemetryError: The request failed.
            EngineClosedError: This process was forked from the one that asked before there was an answer.
            TimeoutError: It is not finished within ``timeout`` seconds.
        """
        self._check_process()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What :meth:`result` raises, or None; waits for it as that does."""
        self._check_process()
        return super().exception(timeout)

    def _check_process(self) -> None:
        if self.foreign and not self._settled:
            raise EngineClosedError("a request does not survive a fork: the answer goes to the parent process")

    def mark_started(self) -> None:
        """Notes that the backend has it now."""
        self._started = True

    def settle(self, outcome: InferenceResult | LlamatelemetryError) -> None:
        """Gives the result or the error, unless the caller cancelled meanwhile."""
        # Taking the state under the base class's own lock decides against a concurrent cancel().
        if not self.set_running_or_notify_cancel():
            return
        if isinstance(outcome, LlamatelemetryError):
            self.set_exception(outcome)
        else:
            self.set_result(outcome)
        self._settled = True


class Job:
    """A request, its timestamps, its trace and the future that is settled exactly once.

    Args:
        recorder: Its timestamps.
        trace: Its place in a trace.
        deltas: Where its deltas go; None keeps them for the result alone.
    """

    __slots__ = (
        *("_deltas", "_hardware", "_reasoning", "_text", "cancel", "cancel_reason"),
        *("entered", "future", "recorder", "restarts", "trace"),
    )

    def __init__(self, recorder: EventRecorder, trace: RequestTrace, deltas: DeltaSink | None) -> None:
        self.recorder: EventRecorder = recorder
        self.trace: RequestTrace = trace
        self.cancel: CancelToken = CancelToken()
        self.future: InferenceFuture = InferenceFuture(self.cancel, trace.trace_id)
        self.cancel_reason: LlamatelemetryError | None = None
        self.restarts: int = 0
        self.entered: bool = False
        """True once it is among those that wait or run, and for ever after."""
        self._deltas = deltas
        if deltas is not None:
            self.cancel.on_cancel(deltas.let_go)
        self._hardware: PendingUse | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []

    @property
    def request(self) -> InferenceRequest:
        """What was asked."""
        return self.recorder.opening.request

    @property
    def produced(self) -> bool:
        """True once a delta has come: it cannot be tried again from then on."""
        return self.recorder.has_tokens

    def attempt(self, backend: Backend, placement: Placement, progress: Progress) -> StreamEnd:
        """Streams the answer in this thread, once.

        Args:
            backend: Who answers.
            placement: Where.
            progress: Called when the first delta has come, and again when it said.

        Raises:
            LlamatelemetryError: It failed or was cancelled; what came before that is kept.
        """
        self._check_wanted()
        self.recorder.dispatched()
        if self._hardware is None:
            self._hardware = current_meter().begin(self.recorder)
        self.future.mark_started()
        try:
            with self.trace.active():
                end = self._consume(backend, placement, progress)
        except LlamatelemetryError:
            self._check_wanted()
            raise
        except BaseException as raised:
            # A backend may fail in any way: a panic in Rust is no Exception. The caller gets one kind of error,
            # and this thread, which is the slot's, goes on.
            self._check_wanted()
            raise BackendError(f"the backend failed with {type(raised).__name__}: {raised}") from raised
        if end is None:
            self._check_wanted()
            raise StreamInterruptedError("the backend's stream ended before the answer was finished")
        return end

    def settle(self, end: StreamEnd | None, error: LlamatelemetryError | None = None) -> None:
        """Ends it, once: with what the backend said last, or with what went wrong."""
        if end is None:
            cancelled = isinstance(error, RequestCancelledError | EngineClosedError)
            reason: FinishReason = "cancelled" if cancelled else "error"
            end = StreamEnd(finish_reason=reason)
        record = self.recorder.finish(
            end, text="".join(self._text), reasoning="".join(self._reasoning), error=error, hardware=self._hardware
        )
        self.trace.finish(record)
        result = result_from(record, trace_id=self.trace.trace_id, raw=end.raw)
        if error is not None:
            error.partial = result
        self.future.settle(error or result)
        if self._deltas is not None:
            self._deltas.end()
        self.cancel.disarm()

    def release_reader(self) -> None:
        """Holds the answer back no more for its reader: the engine waits for the end."""
        if self._deltas is not None:
            self._deltas.let_go()

    def stop(self, reason: LlamatelemetryError) -> None:
        """Cancels it wherever it is, for a reason that its caller is told."""
        self.cancel_reason = reason
        self.cancel.cancel()

    def _check_wanted(self) -> None:
        if self.cancel.cancelled:
            raise self.cancel_reason or RequestCancelledError("the request was cancelled while it ran")

    def _consume(self, backend: Backend, placement: Placement, progress: Progress) -> StreamEnd | None:
        token, cancel = self.recorder.token, self.cancel
        put: Callable[[TokenDelta], int] | None = None if self._deltas is None else self._deltas.put
        add_text, add_reasoning = self._text.append, self._reasoning.append
        stream = backend.stream(self.request, placement)
        count, next_report = 0, 1
        try:
            for item in stream:
                if isinstance(item, StreamEnd):
                    return item
                token()
                count += 1
                if count == next_report:
                    next_report = progress(count)
                if item.channel == "content":
                    add_text(item.text)
                elif item.channel == "reasoning":
                    add_reasoning(item.text)
                if put is not None and (held_ns := put(item)):
                    self.recorder.held_back(held_ns)
                if cancel.cancelled:
                    break
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()
        return None
