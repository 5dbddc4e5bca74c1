"""The engine: requests go in, run in order of arrival on the backend's slots, results come out.

One thread per slot in flight, started when first needed; queued requests cost memory, not threads.
Ordering lives in one place, the queue below, which the scheduler will take over.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from llamatelemetry.backends.protocol import Backend, ModelInfo
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.errors import ConfigurationError, EngineClosedError, RequestCancelledError
from llamatelemetry.inference import live
from llamatelemetry.inference.delivery import DeltaQueue, DeltaSink, LoopDeltas
from llamatelemetry.inference.job import InferenceFuture, Job
from llamatelemetry.inference.record import EventRecorder
from llamatelemetry.inference.result import InferenceResult
from llamatelemetry.inference.sink import current_sink
from llamatelemetry.inference.stream import AsyncInferenceStream, InferenceStream

_CANCEL_GRACE_S: Final = 2.0
"""A cancelled request that a backend does not let go of is left to its daemon thread after this."""


class InferenceEngine:
    """Runs requests on one backend, at most ``info.slots`` at a time, in order of arrival.

    The backend is opened here, so a constructed engine is ready. Use it as a context manager, or
    call :meth:`close`. All methods are thread-safe. An engine does not survive a fork.

    Args:
        backend: A registered name (``"echo"``, ``"llamacpp"``) or a backend object.
        clock: Time that requests are measured on.
        options: Given to the named backend's constructor, such as ``model=`` or ``server_url=``.

    Raises:
        UnknownNameError: No installed plugin registers the name.
        ConfigurationError: The named backend has no such option.
        BackendStartError: The backend did not become ready.
    """

    def __init__(self, backend: str | Backend, *, clock: Clock = SYSTEM_CLOCK, **options: Any) -> None:
        self._backend = _make_backend(backend, options)
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._queue: OrderedDict[int, Job] = OrderedDict()
        self._running: set[Job] = set()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closing = False
        self._pid = os.getpid()
        try:
            self.info: ModelInfo = self._backend.open()
        except BaseException:
            self._backend.close()
            raise
        live.add(self)

    def submit(self, request: InferenceRequest) -> InferenceFuture:
        """Queues a request and returns a cancellable future of its :class:`InferenceResult`.

        Raises:
            EngineClosedError: The engine is closed, or belongs to the process this one forked from.
        """
        return self._enqueue(request, None).future

    def generate(self, request: InferenceRequest) -> InferenceResult:
        """Runs a request and waits for its result; an interrupt cancels the request.

        Raises:
            EngineClosedError: The engine is closed.
            LlamatelemetryError: The request failed; ``error.partial`` holds what was generated.
        """
        future = self.submit(request)
        try:
            return future.result()
        except BaseException:
            future.abandon()
            raise

    def stream(self, request: InferenceRequest) -> InferenceStream:
        """Queues a request and returns an iterator over its deltas.

        Raises:
            EngineClosedError: The engine is closed.
        """
        deltas = DeltaQueue(self._clock)
        return InferenceStream(self._enqueue(request, deltas).future, deltas)

    async def agenerate(self, request: InferenceRequest) -> InferenceResult:
        """:meth:`generate` for asyncio; cancelling the task cancels the request."""
        return await asyncio.wrap_future(self.submit(request))

    def astream(self, request: InferenceRequest) -> AsyncInferenceStream:
        """:meth:`stream` for asyncio; call it with the event loop running."""
        deltas = LoopDeltas(asyncio.get_running_loop(), self._clock)
        return AsyncInferenceStream(self._enqueue(request, deltas).future, deltas)

    def stats(self) -> live.EngineStats:
        """How many requests wait and run at this moment."""
        with self._lock:
            return live.EngineStats(
                model=self.info,
                queue_depth=len(self._queue),
                requests_active=len(self._running),
            )

    def close(self, *, drain: bool = True, timeout_s: float | None = None) -> None:
        """Ends the engine and closes the backend; idempotent.

        Args:
            drain: Finish what was submitted; False cancels it.
            timeout_s: Most seconds to drain before the rest is cancelled; None waits.
        """
        if self._pid != os.getpid():
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if drain:
                for job in (*self._queue.values(), *self._running):
                    job.release_reader()
                self._changed.wait_for(lambda: not self._queue and not self._running, timeout_s)
            waiting = list(self._queue.values())
            self._queue.clear()
            running = list(self._running)
        for job in waiting:
            job.finish_unrun(EngineClosedError("the engine was closed before the request could run"))
        for job in running:
            job.cancel_reason = EngineClosedError("the engine was closed while the request ran")
            job.cancel.cancel()
        limit = time.monotonic() + _CANCEL_GRACE_S
        for thread in self._threads:
            thread.join(max(0.0, limit - time.monotonic()))
        self._backend.close()
        live.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Leaving by an exception, Ctrl-C above all, must not wait for answers nobody will read.
        self.close(drain=kind is None)

    def _enqueue(self, request: InferenceRequest, deltas: DeltaSink | None) -> Job:
        self._check_open()
        recorder = EventRecorder(
            request,
            self.info,
            streaming=deltas is not None,
            queue_depth=len(self._queue),
            clock=self._clock,
        )
        job = Job(recorder, current_sink().begin(recorder.opening), deltas)
        with self._changed:
            closed = self._closing
            if not closed:
                self._queue[id(job)] = job
                if self._idle < len(self._queue) and len(self._threads) < self.info.slots:
                    self._start_worker()
                self._changed.notify()
        if closed:
            job.finish_unrun(EngineClosedError("the engine is closed; make a new one"))
            job.future.result()
        job.cancel.on_cancel(lambda: self._cancel_waiting(job))
        return job

    def _check_open(self) -> None:
        if self._pid != os.getpid():
            raise EngineClosedError("an engine does not survive a fork; make one in the child process")
        if self._closing:
            raise EngineClosedError("the engine is closed; make a new one")

    def _cancel_waiting(self, job: Job) -> None:
        with self._changed:
            waiting = self._queue.pop(id(job), None)
            self._changed.notify_all()
        if waiting is not None:
            waiting.finish_unrun(RequestCancelledError("the request was cancelled while it waited"))

    def _start_worker(self) -> None:
        thread = threading.Thread(target=self._work, name=f"llamatelemetry-slot-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            job.run(self._backend)
            with self._changed:
                self._running.discard(job)
                self._changed.notify_all()

    def _next_job(self) -> Job | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._queue or self._closing)
            self._idle -= 1
            if not self._queue:
                return None
            _, job = self._queue.popitem(last=False)
            self._running.add(job)
            return job


def _make_backend(backend: str | Backend, options: dict[str, Any]) -> Backend:
    if not isinstance(backend, str):
        if options:
            raise ConfigurationError("options", sorted(options), "give options only with a backend's name")
        return backend
    from llamatelemetry.plugins import load_plugins

    factory: Callable[..., Backend] = load_plugins().resolve_backend(backend)
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise ConfigurationError(f"InferenceEngine({backend!r})", sorted(options), str(error)) from None
    return factory(**options)
