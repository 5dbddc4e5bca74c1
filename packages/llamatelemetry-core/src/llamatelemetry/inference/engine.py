"""The engine: requests go in, the scheduler orders them, backends run them, results come out.

This is the face of it. The order is decided in ``scheduler``, threads and retries are in
``dispatcher``, and what a prompt weighs is found out in ``prompts``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

from llamatelemetry.backends.protocol import Backend, CacheReporting, KVState, ModelInfo, StreamEnd
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.errors import ConfigurationError, EngineClosedError, NotSupportedError, RequestCancelledError
from llamatelemetry.inference import live
from llamatelemetry.inference.decisions import Ticket
from llamatelemetry.inference.delivery import DeltaQueue, DeltaSink, LoopDeltas
from llamatelemetry.inference.dispatcher import Dispatcher
from llamatelemetry.inference.events import EventRecorder
from llamatelemetry.inference.job import InferenceFuture, Job
from llamatelemetry.inference.kv_cache import PagedKVCache
from llamatelemetry.inference.lane import Lane, page_size_of
from llamatelemetry.inference.places import SlotGroup
from llamatelemetry.inference.policy import SchedulerConfig
from llamatelemetry.inference.prompts import PromptTokenizer
from llamatelemetry.inference.result import InferenceResult
from llamatelemetry.inference.retry import RetryPolicy
from llamatelemetry.inference.scheduler import RequestScheduler
from llamatelemetry.inference.sink import current_sink
from llamatelemetry.inference.stats import engine_stats
from llamatelemetry.inference.stream import AsyncInferenceStream, InferenceStream

_OPEN_ENDED_TOKENS: Final = 512
"""Room that a request without ``max_tokens`` gets at a time."""

_NEAR_LIMIT: Final = 0.9
"""Share of a slot from which an estimate is not good enough, and the backend is asked for the count."""

_MOST_PAGES: Final = 2**20
"""Pages past which no books are kept: no GPU holds so many, whatever a server says, and the books would fill memory."""

_numbers = itertools.count(1)


class InferenceEngine:
    """Runs requests on one backend or several, never more at once than they have slots.

    Backends are opened here, so a constructed engine is ready. Use it as a context manager, or call
    :meth:`close`. All methods are thread-safe. An engine does not survive a fork.

    Args:
        backend: A registered name (``"echo"``, ``"llamacpp"``), a backend object, or several of
            these that serve the same model.
        scheduling: Order and bounds of the queue; by default priorities with ageing, tenants by
            fair share, deadlines and prefixes, each of which does nothing unless requests use it.
        retry: When a request that failed before its first token is tried again.
        clock: Time that requests are measured on.
        options: Given to the named backend's constructor, such as ``model=`` or ``server_url=``.

    Raises:
        UnknownNameError: No installed plugin registers the name.
        ConfigurationError: The named backend has no such option, or several serve different models.
        BackendStartError: A backend did not become ready.
    """

    def __init__(
        self,
        backend: str | Backend | Sequence[str | Backend],
        *,
        scheduling: SchedulerConfig | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock = SYSTEM_CLOCK,
        **options: Any,
    ) -> None:
        self._clock = clock
        self._pid = os.getpid()
        backends = [backend] if isinstance(backend, str | Backend) else [*backend]
        if not backends:
            raise ConfigurationError("backend", backends, "give at least one")
        made = [_make_backend(each, options) for each in backends]
        with contextlib.ExitStack() as undo:
            for each in made:
                undo.callback(each.close)
            lanes = _open_lanes(made)
            self._lanes: tuple[Lane, ...] = lanes
            self.info: ModelInfo = _info_of(lanes)
            self._prompts = PromptTokenizer(lanes[0].backend.tokenize)
            self._limit = min((i.context_length for i in _infos(lanes) if i.context_length is not None), default=None)
            self._scheduling = scheduling or SchedulerConfig()
            self._dispatcher = Dispatcher(
                lanes,
                self._scheduler_of(lanes),
                retry=retry or RetryPolicy(),
                clock=clock,
                kv_estimated=not self._scheduling.shared_pages,
                learn=self._learn,
            )
            undo.pop_all()
        live.add(self)

    def submit(self, request: InferenceRequest) -> InferenceFuture:
        """Queues a request and returns a cancellable future of its :class:`InferenceResult`.

        Raises:
            QueueFullError: The queue takes no more.
            ContextOverflowError: The prompt fits no slot.
            DeadlineExceededError: Its deadline has passed already.
            NotSupportedError: It is for embeddings, which the backend does not make, or for several answers.
            EngineClosedError: The engine is closed, or belongs to the process this one forked from.
        """
        return self._enqueue(request, None)

    def generate(self, request: InferenceRequest) -> InferenceResult:
        """Runs a request and waits for its result; an interrupt cancels the request.

        Raises:
            LlamatelemetryError: It was not let in, as :meth:`submit` says, or failed;
                ``error.partial`` holds what was generated.
        """
        future = self.submit(request)
        try:
            return future.result()
        except BaseException:
            future.abandon()
            raise

    def choices(self, request: InferenceRequest) -> tuple[InferenceResult, ...]:
        """``request.n`` answers to one question, asked as so many requests, each with its own span.

        They share the prompt's cache where the backend's slots do. With a seed, the answers are those
        of the seed and the ones that follow it; greedy sampling gives the same answer each time.

        Raises:
            LlamatelemetryError: One of them was not let in or failed; the others are cancelled.
        """
        seeds = [None if request.seed is None else request.seed + index for index in range(request.n)]
        futures: list[InferenceFuture] = []
        try:
            for index, seed in enumerate(seeds):
                one = replace(request, n=1, seed=seed, request_id=f"{request.request_id}-{index}")
                futures.append(self.submit(one))
            return tuple(future.result() for future in futures)
        except BaseException:
            for future in futures:
                future.abandon()
            raise

    def embed(self, texts: Sequence[str]) -> tuple[tuple[float, ...], ...]:
        """One vector per text.

        Raises:
            NotSupportedError: The backend makes no embeddings; the message says how it would.
            LlamatelemetryError: The request failed.
        """
        return self.generate(InferenceRequest(input=texts)).embeddings

    def stream(self, request: InferenceRequest) -> InferenceStream:
        """Queues a request and returns an iterator over its deltas.

        Raises:
            LlamatelemetryError: It was not let in, as :meth:`submit` says.
        """
        deltas = DeltaQueue(self._clock)
        return InferenceStream(self._enqueue(request, deltas), deltas)

    async def agenerate(self, request: InferenceRequest) -> InferenceResult:
        """:meth:`generate` for asyncio; cancelling the task cancels the request."""
        return await asyncio.wrap_future(await self._enqueue_async(request, None))

    def astream(self, request: InferenceRequest) -> AsyncInferenceStream:
        """:meth:`stream` for asyncio; call it with the event loop running.

        What :meth:`submit` raises is raised by the first step of the iteration.
        """
        deltas = LoopDeltas(asyncio.get_running_loop(), self._clock)
        return AsyncInferenceStream(asyncio.ensure_future(self._enqueue_async(request, deltas)), deltas)

    def stats(self) -> live.EngineStats:
        """The engine's figures at this moment."""
        scheduled, tally = self._dispatcher.stats()
        return engine_stats(
            self.info,
            _infos(self._lanes),
            scheduled,
            tally,
            caches=[_cache_of(lane.backend) for lane in self._lanes],
            kv_estimated=not self._scheduling.shared_pages,
        )

    def close(self, *, drain: bool = True, timeout_s: float | None = None) -> None:
        """Ends the engine and closes its backends; idempotent.

        Args:
            drain: Finish what was submitted; False cancels it.
            timeout_s: Most seconds to drain before the rest is cancelled; None waits.
        """
        if self._pid != os.getpid():
            return
        with contextlib.ExitStack() as ends:
            # Whatever one of them raises, and Ctrl-C while it drains, the others are closed.
            ends.callback(live.discard, self)
            for lane in reversed(self._lanes):
                ends.callback(lane.backend.close)
            self._dispatcher.close(drain=drain, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Leaving by an exception, Ctrl-C above all, must not wait for answers nobody will read.
        self.close(drain=kind is None)

    def _enqueue(self, request: InferenceRequest, deltas: DeltaSink | None) -> InferenceFuture:
        if self._pid != os.getpid():
            raise EngineClosedError("an engine does not survive a fork; make one in the child process")
        self._dispatcher.check_open()
        if request.input is not None and not self.info.embeddings:
            raise NotSupportedError(f"{self.info.model} was opened without embeddings: open the backend with them")
        if request.n != 1:
            raise NotSupportedError(f"n={request.n}: a request has one answer; engine.choices(request) asks for each")
        recorder = EventRecorder(
            request,
            self.info,
            streaming=deltas is not None,
            queue_depth=self._dispatcher.depth,
            clock=self._clock,
        )
        job = Job(recorder, current_sink().begin(recorder.opening), deltas)
        try:
            ticket = self._ticket(request)
        except BaseException:
            # Ctrl-C, above all, while a backend elsewhere is asked for tokens: the span that began must end.
            job.settle(None, RequestCancelledError("the request was given up before it was queued"))
            raise
        recorder.queued(ticket.prompt_tokens)
        self._dispatcher.submit(job, ticket)
        return job.future

    async def _enqueue_async(self, request: InferenceRequest, deltas: DeltaSink | None) -> InferenceFuture:
        """Queues a request without holding up the event loop while its prompt is tokenized elsewhere."""
        if self.info.in_process:
            return self._enqueue(request, deltas)
        entered: list[InferenceFuture] = []
        given_up = threading.Event()

        def enter() -> InferenceFuture:
            entered.append(self._enqueue(request, deltas))
            if given_up.is_set():
                entered[0].abandon()
            return entered[0]

        try:
            return await asyncio.to_thread(enter)
        except asyncio.CancelledError:
            # The thread goes on; whichever of the two comes second sees the other, and gives it up.
            given_up.set()
            for future in entered:
                future.abandon()
            raise

    def _ticket(self, request: InferenceRequest) -> Ticket:
        submitted = self._clock.monotonic_ns() * 1e-9
        prompt = self._prompts.prompt_of(request)
        count, limit = prompt.count, self._limit
        if limit is not None and count > _NEAR_LIMIT * limit:
            # A backend that cannot count just now leaves the estimate, and has the last word on the request.
            with contextlib.suppress(Exception):
                count = self._lanes[0].backend.count_prompt_tokens(request) or count
        room = _OPEN_ENDED_TOKENS if limit is None else min(_OPEN_ENDED_TOKENS, max(1, limit - count))
        return Ticket(
            id=next(_numbers),
            prompt_tokens=count,
            max_tokens=request.max_tokens or room,
            submitted=submitted,
            tenant=request.tenant,
            priority=request.priority,
            deadline=None if request.deadline_s is None else submitted + request.deadline_s,
            tokens=prompt.tokens,
        )

    def _learn(self, job: Job, end: StreamEnd) -> None:
        if end.usage.input_tokens is not None:
            self._prompts.learn(job.request, end.usage.input_tokens)

    def _scheduler_of(self, lanes: tuple[Lane, ...]) -> RequestScheduler:
        config = self._scheduling
        if config.context_length is None:
            config = replace(config, context_length=self._limit)
        groups = (SlotGroup(each.slots, _pages_of(each), each.kv_pages_shared) for each in _infos(lanes))
        return RequestScheduler(config, *groups)


def _infos(lanes: Sequence[Lane]) -> list[ModelInfo]:
    return [lane.info for lane in lanes]


def _info_of(lanes: tuple[Lane, ...]) -> ModelInfo:
    """What is true of all lanes; a request's address is not known before it has a slot."""
    first = lanes[0].info
    if len(lanes) == 1:
        return first
    for lane in lanes[1:]:
        if (lane.info.model, lane.info.provider) != (first.model, first.provider):
            raise ConfigurationError("backend", [info.model for info in _infos(lanes)], "give backends of one model")
    return replace(first, slots=sum(info.slots for info in _infos(lanes)), server_address=None, server_port=None)


def _pages_of(info: ModelInfo) -> PagedKVCache | None:
    if info.context_length is None:
        return None
    size = page_size_of(info)
    # Rounded up, so that books in whole pages never keep out what a slot can hold.
    of_a_slot = -(-info.context_length // size)
    pages = info.slots * of_a_slot if info.kv_tokens is None else max(info.kv_tokens // size, of_a_slot)
    return PagedKVCache(pages, size) if pages <= _MOST_PAGES else None


def _cache_of(backend: Backend) -> KVState | None:
    return backend.kv_state() if isinstance(backend, CacheReporting) else None


def _open_lanes(backends: Sequence[Backend]) -> tuple[Lane, ...]:
    lanes: list[Lane] = []
    first_slot = 0
    for index, backend in enumerate(backends):
        lane = Lane(backend, backend.open(), index=index, first_slot=first_slot)
        lanes.append(lane)
        first_slot += lane.info.slots
    return tuple(lanes)


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
