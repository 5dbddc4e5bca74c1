"""The scheduler: what waits, what may run now, on which slot, with which pages.

A pure data structure: no thread, no clock, no I/O. Time is handed in as seconds on any clock that
does not run backwards, and every answer is a typed decision with its reason. The engine drives it
under its lock; simulations and tests drive the same code without one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Final

from llamatelemetry.errors import IntegrityError, InvalidRequestError
from llamatelemetry.inference.deadlines import Entry
from llamatelemetry.inference.decisions import (
    Accepted,
    Admission,
    AdmitReason,
    Cancelled,
    Expired,
    Finished,
    GroupStats,
    Rejected,
    RejectReason,
    SchedulerStats,
    Ticket,
)
from llamatelemetry.inference.kv_cache import PagedKVCache, Reservation
from llamatelemetry.inference.policy import SchedulerConfig
from llamatelemetry.inference.slots import SlotTable
from llamatelemetry.inference.tokens import PackedTokens
from llamatelemetry.inference.waiting import WaitingQueue

_SMOOTHING: Final = 0.1
"""Weight of the newest gap between two completions."""


@dataclass(slots=True, kw_only=True)
class _Running:
    admission: Admission
    since: float
    computed: bool = False
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class SlotGroup:
    """One backend, as far as the scheduler sees it.

    Attributes:
        slots: Requests it runs at once.
        kv: Pages to reserve for what runs there; None does not count them.
    """

    slots: int
    kv: PagedKVCache | None = None


@dataclass(slots=True)
class _CachedTokens:
    prompt: int = 0
    reported: int = 0
    estimated: int = 0


class RequestScheduler:
    """Decides when each request may run. Not thread-safe; all times in seconds.

    At most as many run as there are slots. Which comes next is said by :class:`WaitingQueue`. The one
    that is next waits until its KV pages are free in one of the groups, and nothing smaller goes
    before it: else a stream of small requests could keep a large one out for ever. Every waiting
    request is in memory once, and every call costs O(log n) or less of those that wait, amortised.

    Args:
        config: Policies and bounds.
        groups: The backends. Slots are numbered from 0 through all of them.
    """

    def __init__(self, config: SchedulerConfig, *groups: SlotGroup) -> None:
        self.config: Final = config
        self._slots = SlotTable(*(group.slots for group in groups))
        self._kv = [group.kv for group in groups]
        self._queue = WaitingQueue(config)
        self._waiting: dict[int, Entry] = {}
        self._running: dict[int, _Running] = {}
        limits = [config.context_length, *(None if kv is None else kv.capacity_tokens for kv in self._kv)]
        self._limit = min((limit for limit in limits if limit is not None), default=None)
        self._closed = False
        self._last_finish: float | None = None
        self._gap_s: float | None = None
        self._accepted = self._expired = self._cancelled_waiting = self._cancelled_running = self._finished = 0
        self._rejected: Counter[RejectReason] = Counter()
        self._admitted: Counter[AdmitReason] = Counter()
        self._cached = [_CachedTokens() for _ in groups]

    @property
    def idle(self) -> bool:
        """True when nothing waits and nothing runs."""
        return not self._waiting and not self._running

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def submit(self, ticket: Ticket, now: float) -> Accepted | Rejected:
        """Lets a request in, or says why not.

        Raises:
            InvalidRequestError: The ticket's numbers make no request.
            IntegrityError: A request with its id waits or runs.
        """
        prompt_tokens, depth = ticket.prompt_tokens, len(self._waiting)
        if prompt_tokens < 1 or ticket.max_tokens < 1:
            raise InvalidRequestError("ticket", ticket, "give at least one prompt token and one to generate")
        if ticket.id in self._waiting or ticket.id in self._running:
            raise IntegrityError("RequestScheduler", f"request {ticket.id} was submitted twice")
        config, limit, cost = self.config, self._limit, self._cost_of(ticket)
        if self._closed:
            return self._reject(ticket, "closed", depth)
        if prompt_tokens >= cost:
            return self._reject(ticket, "context_overflow", prompt_tokens, limit)
        if ticket.deadline is not None and ticket.deadline < now:
            return self._reject(ticket, "deadline_passed", depth)
        if depth >= config.max_waiting:
            return self._reject(ticket, "queue_full_requests", depth, config.max_waiting, self._gap_s)
        waiting_tokens, most_tokens = self._queue.tokens, config.max_waiting_tokens
        if most_tokens is not None and waiting_tokens + cost > most_tokens:
            return self._reject(ticket, "queue_full_tokens", waiting_tokens, most_tokens, self._room_s(cost))
        self._waiting[ticket.id] = self._queue.add(ticket, cost)
        self._accepted += 1
        return Accepted(ticket=ticket, depth=depth)

    def admit(self, now: float) -> list[Admission | Expired]:
        """Everything that may run now, in order, after everything whose deadline has passed."""
        decisions: list[Admission | Expired] = [*self.expire(now)]
        slots, queue = self._slots, self._queue
        while slots.idle and (pick := queue.peek(now, slots.longest_prefix if slots.know_prefixes else None)):
            ticket = pick.entry.ticket
            place = self._place(pick.entry)
            if place is None:
                break
            slot, estimate, reservation = place
            queue.take(pick)
            del self._waiting[ticket.id]
            slots.occupy(slot)
            admission = Admission(
                ticket=ticket,
                slot=slot,
                reservation=reservation,
                cached_estimate=min(estimate, ticket.prompt_tokens - 1),
                waited_s=now - ticket.submitted,
                reason=pick.reason,
            )
            self._running[ticket.id] = _Running(admission=admission, since=now)
            self._admitted[pick.reason] += 1
            decisions.append(admission)
        return decisions

    def _place(self, entry: Entry) -> tuple[int, int, Reservation | None] | None:
        """A slot, the prompt tokens it should know, and its pages: the best slot if they are free there."""
        ticket, slots = entry.ticket, self._slots
        tokens = ticket.tokens if self.config.shared_pages else None
        best, known = slots.choose(ticket.tokens)
        for slot in chain((best,), slots.others(best)):
            kv = self._kv[slots.group_of(slot)]
            reservation = None if kv is None else kv.reserve(tokens, ticket.prompt_tokens, entry.cost)
            if reservation is not None and tokens is not None:
                return slot, reservation.cached_tokens, reservation
            if kv is None or reservation is not None:
                return slot, known if slot == best else slots.known(slot, ticket.tokens), reservation
        return None

    def prompt_computed(self, ticket_id: int) -> None:
        """Notes that a running request's whole prompt is in the cache: its first token has come.

        From now on others may share its prompt's pages, and its slot will know the prompt.

        Raises:
            IntegrityError: It does not run.
        """
        running = self._get_running(ticket_id)
        running.computed = True
        reservation, kv = running.admission.reservation, self._kv_of(running.admission)
        if kv is not None and reservation is not None:
            kv.publish(reservation, reservation.prompt_tokens)

    def finish(
        self, ticket_id: int, now: float, *, cached_tokens: int | None = None, held: PackedTokens | None = None
    ) -> Finished:
        """Frees the slot and the pages of a request that the backend has let go of, however it ended.

        Args:
            ticket_id: The request.
            now: The time.
            cached_tokens: Prompt tokens that the backend says it took from its cache, if it said so.
            held: What the slot's cache holds now; None is the prompt, if that was computed and is known.

        Raises:
            IntegrityError: It does not run.
        """
        running = self._get_running(ticket_id)
        del self._running[ticket_id]
        admission = running.admission
        ticket, reservation = admission.ticket, admission.reservation
        if cached_tokens is not None:
            cached = self._cached[self._slots.group_of(admission.slot)]
            cached.prompt += ticket.prompt_tokens
            cached.reported += cached_tokens
            cached.estimated += admission.cached_estimate
        kv = self._kv_of(admission)
        if kv is not None and reservation is not None:
            if cached_tokens is not None:
                kv.correct(reservation, cached_tokens)
            kv.release(reservation)
        if held is None and running.computed:
            held = ticket.tokens
        self._slots.vacate(admission.slot, held)
        self._finished += 1
        self._note_completion(now)
        return Finished(ticket=ticket, slot=admission.slot, ran_s=now - running.since, cancelled=running.cancelled)

    def put_back(self, ticket: Ticket) -> None:
        """Lets a request that ran and produced nothing wait again, before all others of its tenant and level.

        It is inside already: neither the bounds of the queue nor :meth:`drain` keep it out.

        Raises:
            IntegrityError: It waits or still runs.
        """
        if ticket.id in self._waiting or ticket.id in self._running:
            raise IntegrityError("RequestScheduler", f"request {ticket.id} was put back and is not gone")
        cost = ticket.prompt_tokens + ticket.max_tokens
        self._waiting[ticket.id] = self._queue.add_first(
            ticket, cost if self._limit is None else min(cost, self._limit)
        )
        self._accepted += 1

    def withdraw(self, group: int) -> None:
        """Admits nothing to a group any more, because its backend is gone; idempotent."""
        self._slots.withdraw(group)

    def restore(self, group: int) -> None:
        """Admits to a group again, whose backend has begun anew and holds nothing."""
        self._slots.restore(group)

    def cancel(self, ticket_id: int) -> Cancelled | None:
        """Takes a waiting request out, or marks a running one; None if it is neither, or marked already.

        A running request keeps its slot and pages until :meth:`finish`: the backend still has them.
        """
        entry = self._waiting.pop(ticket_id, None)
        if entry is not None:
            self._queue.remove(entry)
            self._cancelled_waiting += 1
            return Cancelled(ticket=entry.ticket, was="waiting")
        running = self._running.get(ticket_id)
        if running is None or running.cancelled:
            return None
        running.cancelled = True
        self._cancelled_running += 1
        return Cancelled(ticket=running.admission.ticket, was="running")

    def expire(self, now: float) -> list[Expired]:
        """Takes out every waiting request whose deadline has passed, earliest first."""
        expired = []
        while (entry := self._queue.first_expired(now)) is not None:
            del self._waiting[entry.ticket.id]
            self._queue.remove(entry)
            self._expired += 1
            expired.append(Expired(ticket=entry.ticket, waited_s=now - entry.ticket.submitted))
        return expired

    def drain(self) -> None:
        """Lets nothing more in; what waits will run."""
        self._closed = True

    def close(self) -> list[Cancelled]:
        """Lets nothing more in and cancels what waits, in order of arrival; what runs is for the caller to stop."""
        self._closed = True
        return [cancelled for number in list(self._waiting) if (cancelled := self.cancel(number)) is not None]

    def stats(self) -> SchedulerStats:
        """A snapshot."""
        return SchedulerStats(
            waiting=len(self._waiting),
            waiting_tokens=self._queue.tokens,
            running=len(self._running),
            slots=self._slots.slots,
            accepted=self._accepted,
            rejected=dict(self._rejected),
            admitted=dict(self._admitted),
            expired=self._expired,
            cancelled_waiting=self._cancelled_waiting,
            cancelled_running=self._cancelled_running,
            finished=self._finished,
            retry_after_s=self._gap_s,
            groups=tuple(self._group_stats(group) for group in range(len(self._kv))),
        )

    def _group_stats(self, group: int) -> GroupStats:
        cached, kv = self._cached[group], self._kv[group]
        return GroupStats(
            running=self._slots.busy(group),
            slots=self._slots.size(group),
            reported_prompt_tokens=cached.prompt,
            reported_cached_tokens=cached.reported,
            estimated_cached_tokens=cached.estimated,
            kv=None if kv is None else kv.stats(),
        )

    def check_integrity(self) -> None:
        """Proves that no request, slot or page is lost or held twice.

        Raises:
            IntegrityError: Names what is broken.
        """
        self._queue.check_integrity()
        self._slots.check_integrity()
        for kv in self._kv:
            if kv is not None:
                kv.check_integrity()
        if self._waiting != {entry.ticket.id: entry for entry in self._queue}:
            raise IntegrityError("RequestScheduler", "requests known to wait are not those in the queue")
        occupied = [running.admission.slot for running in self._running.values()]
        if len(set(occupied)) != len(occupied) or sorted(occupied) != self._slots.occupied():
            raise IntegrityError(
                "RequestScheduler", f"slots {sorted(occupied)} run and {self._slots.occupied()} are occupied"
            )
        ended = self._expired + self._cancelled_waiting + self._finished
        if self._accepted != len(self._waiting) + len(self._running) + ended:
            raise IntegrityError("RequestScheduler", f"of {self._accepted} requests {ended} ended and others are lost")

    def _cost_of(self, ticket: Ticket) -> int:
        """Tokens that a request is charged and has room reserved for: no more than it could ever use."""
        cost = ticket.prompt_tokens + ticket.max_tokens
        return cost if self._limit is None or cost < self._limit else self._limit

    def _kv_of(self, admission: Admission) -> PagedKVCache | None:
        return self._kv[self._slots.group_of(admission.slot)]

    def _get_running(self, ticket_id: int) -> _Running:
        running = self._running.get(ticket_id)
        if running is None:
            raise IntegrityError("RequestScheduler", f"request {ticket_id} does not run")
        return running

    def _reject(
        self, ticket: Ticket, reason: RejectReason, depth: int, limit: int | None = None, retry_s: float | None = None
    ) -> Rejected:
        self._rejected[reason] += 1
        return Rejected(ticket=ticket, reason=reason, depth=depth, limit=limit, retry_after_s=retry_s)

    def _room_s(self, cost: int) -> float | None:
        """Seconds until so many more tokens may wait, if requests of the mean cost go on leaving at this pace."""
        most, tokens = self.config.max_waiting_tokens, self._queue.tokens
        if self._gap_s is None or most is None or cost > most:
            return None
        return self._gap_s * max(1.0, (tokens + cost - most) * len(self._waiting) / tokens)

    def _note_completion(self, now: float) -> None:
        # Between two completions with nobody waiting lies the callers' pace, not the backend's.
        if self._last_finish is not None:
            gap = now - self._last_finish
            self._gap_s = gap if self._gap_s is None else self._gap_s + _SMOOTHING * (gap - self._gap_s)
        self._last_finish = now if self._waiting else None
