"""Drives the scheduler: threads for what runs, memory for what waits.

Everything that happens to a request between ``submit`` and its future passes here: it waits in the
scheduler, is admitted to a slot, runs in a thread, may be tried again, and is settled once. The
scheduler decides; this module obeys, under one lock that no backend call is made with.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from llamatelemetry.backends.protocol import Placement, StreamEnd, Usage
from llamatelemetry.clock import Clock
from llamatelemetry.errors import (
    BackendStartError,
    ContextOverflowError,
    DeadlineExceededError,
    EngineClosedError,
    LlamatelemetryError,
    QueueFullError,
    RequestCancelledError,
)
from llamatelemetry.inference.decisions import Admission, Expired, Rejected, SchedulerStats, Ticket
from llamatelemetry.inference.job import Job
from llamatelemetry.inference.lane import Lane, page_size_of
from llamatelemetry.inference.record import KVHold
from llamatelemetry.inference.retry import TRANSIENT, RetryBudget, RetryPolicy, retrying
from llamatelemetry.inference.scheduler import RequestScheduler
from llamatelemetry.inference.stats import Tally

_CANCEL_GRACE_S: Final = 2.0
"""A cancelled request that a backend does not let go of is left to its daemon thread after this."""

_KEEPER_S: Final = 0.05
"""How late a deadline may be noticed while every slot is busy."""

MAX_RESTARTS: Final = 1
"""Times that one request is sent again because its server died under it."""


class Dispatcher:
    """Runs jobs on lanes in the scheduler's order. Thread-safe.

    Args:
        lanes: The backends, opened.
        scheduler: Decides what runs next; its slots are the lanes', in their order.
        retry: When a failed request is tried again.
        clock: The scheduler's time.
        kv_estimated: Whether its pages are books about a cache that nobody here can see.
        learn: Told what each finished job's backend said, in the slot's thread.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        scheduler: RequestScheduler,
        *,
        retry: RetryPolicy,
        clock: Clock,
        kv_estimated: bool,
        learn: Callable[[Job, StreamEnd], None],
    ) -> None:
        self._lanes = lanes
        self._lane_of = [lane for lane in lanes for _ in lane.slots]
        self._scheduler = scheduler
        self._retry = retry
        self._budget = RetryBudget(retry)
        self._clock = clock
        self._kv_estimated = kv_estimated
        self._learn = learn
        # Taken as itself: a condition is taken in Python, and Ctrl-C in the middle of that leaves it taken for ever.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._jobs: dict[int, Job] = {}
        self._ready: deque[tuple[Job, Admission]] = deque()
        self._serving: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._idle_threads = 0
        self._keeper: threading.Thread | None = None
        self._closing = False
        self._ended = False
        self._tally = Tally()

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return self._scheduler.waiting

    def check_open(self) -> None:
        """Raises EngineClosedError once nothing is let in any more."""
        if self._closing:
            raise EngineClosedError("the engine is closed; make a new one")

    def submit(self, job: Job, ticket: Ticket) -> None:
        """Lets a job wait for its turn.

        Raises:
            QueueFullError: The queue takes no more.
            ContextOverflowError: The prompt fits no slot.
            DeadlineExceededError: Its deadline has passed already.
            EngineClosedError: Nothing is let in any more.
        """
        self._budget.request_made()
        try:
            with self._lock:
                error = self._enter(job, ticket)
                if error is None:
                    if ticket.deadline is not None:
                        self._start_keeper()
                    expired = self._admit()
        except BaseException:
            # Ctrl-C, or no thread to be had: its caller will not get the future.
            self._withdraw(job, ticket.id)
            raise
        if error is not None:
            job.settle(None, error)  # it was never in, so it is not among those that ended
            raise error
        self._settle_expired(expired)
        job.cancel.on_cancel(lambda: self._cancel(ticket.id))

    def stats(self) -> tuple[SchedulerStats, Tally]:
        """The scheduler's figures at this moment, and what became of requests so far."""
        with self._lock:
            return self._scheduler.stats(), replace(self._tally)

    def close(self, *, drain: bool, timeout_s: float | None) -> None:
        """Lets nothing more in and ends what there is; idempotent.

        Args:
            drain: Finish it; False cancels it.
            timeout_s: Most seconds to drain before the rest is cancelled; None waits.
        """
        with self._lock:
            self._closing = True
            self._scheduler.drain()
            jobs = list(self._jobs.values())
        try:
            if drain:
                for job in jobs:
                    job.release_reader()
                with self._lock:
                    self._changed.wait_for(lambda: not self._jobs, timeout_s)
        finally:
            # Also where Ctrl-C ended the wait: nobody will read what is left.
            self._end()

    def _end(self) -> None:
        """Cancels whatever waits or runs, and ends the threads."""
        with self._lock:
            self._ended = True
            waiting = [self._jobs.pop(cancelled.ticket.id) for cancelled in self._scheduler.close()]
            running = list(self._jobs.values())
            self._changed.notify_all()
        for job in waiting:
            self._settle(job, None, EngineClosedError("the engine was closed before the request could run"))
        for job in running:
            job.stop(EngineClosedError("the engine was closed while the request ran"))
        limit = time.monotonic() + _CANCEL_GRACE_S
        for thread in (*self._threads, *([self._keeper] if self._keeper else [])):
            # Done-callbacks run in slots' threads, and one of them may be what closes the engine.
            if thread is not threading.current_thread():
                thread.join(max(0.0, limit - time.monotonic()))

    def _now(self) -> float:
        return self._clock.monotonic_ns() * 1e-9

    def _enter(self, job: Job, ticket: Ticket) -> LlamatelemetryError | None:
        # First of all: what the scheduler knows must be known here, wherever Ctrl-C comes.
        self._jobs[ticket.id] = job
        job.entered = True
        decision = self._scheduler.submit(ticket, self._now())
        if isinstance(decision, Rejected):
            job.entered = False
            del self._jobs[ticket.id]
            return _error_of(decision, self._now())
        return None

    def _admit(self) -> list[tuple[Job, Expired]]:
        """Takes from the scheduler what may run now; call with the lock held."""
        expired = []
        for decision in self._scheduler.admit(self._now()):
            job = self._jobs[decision.ticket.id]
            if isinstance(decision, Expired):
                del self._jobs[decision.ticket.id]
                expired.append((job, decision))
                continue
            lane = self._lane_of[decision.slot]
            job.recorder.admitted(
                model=lane.info,
                kv=self._kv_hold(decision, lane),
                reason=decision.reason,
                slot=decision.slot - lane.first_slot,
            )
            self._ready.append((job, decision))
            if len(self._ready) > self._idle_threads and len(self._threads) < len(self._lane_of):
                self._start_thread()
        self._changed.notify_all()
        return expired

    def _kv_hold(self, admission: Admission, lane: Lane) -> KVHold | None:
        if admission.reservation is None:
            return None
        return KVHold(
            pages=admission.reservation.pages,
            page_size=page_size_of(lane.info),
            estimated=self._kv_estimated,
            cached_estimate=admission.cached_estimate,
        )

    def _settle_expired(self, expired: list[tuple[Job, Expired]]) -> None:
        for job, decision in expired:
            self._settle(job, None, _deadline_error(decision.ticket, decision.waited_s))

    def _settle(self, job: Job, end: StreamEnd | None, error: LlamatelemetryError | None) -> None:
        with self._lock:
            if error is None:
                self._tally.completed += 1
            elif isinstance(error, RequestCancelledError | EngineClosedError):
                self._tally.cancelled += 1
            else:
                self._tally.failed += 1
        job.settle(end, error)

    def _withdraw(self, job: Job, number: int) -> None:
        """Takes back a request whose entering was broken off, as far as it came."""
        with self._lock:
            cancelled = self._scheduler.cancel(number)
            runs = number in self._serving or any(ready is job for ready, _ in self._ready)
            if cancelled is not None and cancelled.was == "running" and not runs:
                # It was admitted, and no thread has been told.
                self._scheduler.finish(number, self._now())
            # Where it was entered and is gone, a slot has run it and settles it.
            ours = not runs and (self._jobs.pop(number, None) is not None or not job.entered)
            expired = self._admit()
        if runs:
            job.cancel.cancel()
        elif ours:
            job.settle(None, RequestCancelledError("the request was given up before it was queued"))
        self._settle_expired(expired)

    def _cancel(self, number: int) -> None:
        with self._lock:
            cancelled = self._scheduler.cancel(number)
            waiting = self._jobs.pop(number, None) if cancelled is not None and cancelled.was == "waiting" else None
            # The one who was in its way may have left the queue.
            expired = self._admit()
        if waiting is not None:
            self._settle(
                waiting,
                None,
                waiting.cancel_reason or RequestCancelledError("the request was cancelled while it waited"),
            )
        self._settle_expired(expired)

    def _start_thread(self) -> None:
        name = f"llamatelemetry-slot-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        # First: the system may refuse it, and the next request then tries again.
        thread.start()
        self._threads.append(thread)

    def _start_keeper(self) -> None:
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, name="llamatelemetry-deadlines", daemon=True)
            self._keeper.start()

    def _keep(self) -> None:
        """Notices deadlines that pass while nothing else happens."""
        while True:
            with self._lock:
                if self._ended or (self._closing and not self._jobs):
                    return
                expired = self._admit() if self._scheduler.waiting else []
            self._settle_expired(expired)
            time.sleep(_KEEPER_S)

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            self._serve(*taken)

    def _take(self) -> tuple[Job, Admission] | None:
        with self._lock:
            self._idle_threads += 1
            self._changed.wait_for(lambda: self._ready or self._ended or (self._closing and not self._jobs))
            self._idle_threads -= 1
            if not self._ready:
                return None
            job, admission = self._ready.popleft()
            self._serving.add(admission.ticket.id)
            return job, admission

    def _serve(self, job: Job, admission: Admission) -> None:
        lane = self._lane_of[admission.slot]
        end: StreamEnd | None = None
        error: LlamatelemetryError | None = None
        try:
            end = self._attempts(job, lane, admission)
        except LlamatelemetryError as raised:
            error = raised
        if end is not None:
            lane.served()
            self._learn(job, end)
        gone = isinstance(error, TRANSIENT) and not job.cancel.cancelled and lane.is_gone()
        revives = gone and lane.begin_restart()
        again = gone and not job.produced and job.restarts < MAX_RESTARTS
        if again and error is not None:
            job.restarts += 1
            job.recorder.attempt_failed(error.error_type)
        if not self._leave(admission, lane, end, again=again):
            self._settle(job, end, error)
        if revives:
            self._revive(lane)

    def _attempts(self, job: Job, lane: Lane, admission: Admission) -> StreamEnd:
        unwanted = threading.Event()
        job.cancel.on_cancel(unwanted.set)
        placement = Placement(
            slot_id=admission.slot - lane.first_slot, cancel=job.cancel, traceparent=job.trace.traceparent
        )
        caller = retrying(
            self._retry,
            self._budget,
            may_retry=lambda _error: not job.produced and not job.cancel.cancelled and not lane.is_gone(),
            on_failure=lambda error: self._note_retry(job, error),
            sleep=unwanted.wait,
        )
        return caller(job.attempt, lane.backend, placement, lambda count: self._progress(job, admission.ticket, count))

    def _note_retry(self, job: Job, error: LlamatelemetryError) -> None:
        with self._lock:
            self._tally.retried += 1
        job.recorder.attempt_failed(error.error_type)

    def _progress(self, job: Job, ticket: Ticket, count: int) -> int:
        """Notes that the prompt is computed, and makes room as an answer without a bound grows."""
        with self._lock:
            if count == 1:
                self._scheduler.prompt_computed(ticket.id)
            if job.request.max_tokens is not None:
                return 0
            if count < ticket.max_tokens:
                return ticket.max_tokens
            self._scheduler.grow(ticket.id, count + ticket.max_tokens)
            return count + ticket.max_tokens

    def _leave(self, admission: Admission, lane: Lane, end: StreamEnd | None, *, again: bool) -> bool:
        """Gives the slot back, and the job its place at the head of the queue if it is to run again and may."""
        number = admission.ticket.id
        with self._lock:
            self._serving.discard(number)
            if lane.state != "up":
                self._scheduler.withdraw(lane.index)
            usage = Usage() if end is None else end.usage
            self._scheduler.finish(
                number, self._now(), cached_tokens=usage.cached_tokens, prompt_tokens=usage.input_tokens
            )
            again = again and not self._ended
            if again:
                self._scheduler.put_back(admission.ticket)
                self._tally.retried += 1
            else:
                del self._jobs[number]
            expired = self._admit()
        self._settle_expired(expired)
        return again

    def _revive(self, lane: Lane) -> None:
        error = lane.restart(lambda: self._closing)
        stranded: list[Job] = []
        with self._lock:
            if error is None:
                self._scheduler.restore(lane.index)
            elif all(each.state == "down" for each in self._lanes):
                stranded = [self._jobs.pop(cancelled.ticket.id) for cancelled in self._scheduler.close()]
                self._closing = True
            expired = self._admit()
        for job in stranded:
            self._settle(job, None, BackendStartError(f"no backend is left to run it: {error}"))
        self._settle_expired(expired)


def _error_of(rejected: Rejected, now: float) -> LlamatelemetryError:
    ticket, limit = rejected.ticket, rejected.limit or 0
    match rejected.reason:
        case "queue_full_requests":
            return QueueFullError(rejected.depth, limit, unit="requests", retry_after_s=rejected.retry_after_s)
        case "queue_full_tokens":
            return QueueFullError(rejected.depth, limit, unit="tokens", retry_after_s=rejected.retry_after_s)
        case "context_overflow":
            return ContextOverflowError(ticket.prompt_tokens, limit)
        case "deadline_passed":
            return _deadline_error(ticket, now - ticket.submitted)
        case "closed":
            return EngineClosedError("the engine is closed; make a new one")


def _deadline_error(ticket: Ticket, waited_s: float) -> DeadlineExceededError:
    return DeadlineExceededError((ticket.deadline or 0.0) - ticket.submitted, waited_s)
