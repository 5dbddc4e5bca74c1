"""The scheduler: what waits, what may run now, on which slot, with which pages.

A pure data structure: no thread, no clock, no I/O. Time is handed in as seconds on any clock that
does not run backwards, and every answer is a typed decision with its reason. The engine drives it
under its lock; simulations and tests drive the same code without one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
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
    Rejected,
    RejectReason,
    SchedulerStats,
    Ticket,
)
from llamatelemetry.inference.places import Place, Places, SlotGroup
from llamatelemetry.inference.policy import SchedulerConfig
from llamatelemetry.inference.tokens import PackedTokens
from llamatelemetry.inference.waiting import WaitingQueue

_SMOOTHING: Final = 0.1
"""Weight of the newest gap between two completions."""


@dataclass(slots=True, kw_only=True)
class _Running:
    ticket: Ticket
    place: Place
    since: float
    computed: bool = False
    cancelled: bool = False


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
        self._places = Places(groups, shared_pages=config.shared_pages)
        self._queue = WaitingQueue(config)
        self._waiting: dict[int, Entry] = {}
        self._running: dict[int, _Running] = {}
        limits = (config.context_length, self._places.capacity_tokens)
        self._limit = min((limit for limit in limits if limit is not None), default=None)
        self._closed = False
        self._last_finish: float | None = None
        self._gap_s: float | None = None
        self._accepted = self._expired = self._cancelled_waiting = self._cancelled_running = self._finished = 0
        self._rejected: Counter[RejectReason] = Counter()
        self._admitted: Counter[AdmitReason] = Counter()

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
        slots, queue = self._places.slots, self._queue
        while slots.idle and (pick := queue.peek(now, slots.longest_prefix if slots.know_prefixes else None)):
            ticket = pick.entry.ticket
            place = self._places.take(ticket, pick.entry.cost)
            if place is None:
                break
            queue.take(pick)
            del self._waiting[ticket.id]
            self._running[ticket.id] = _Running(ticket=ticket, place=place, since=now)
            self._admitted[pick.reason] += 1
            decisions.append(
                Admission(
                    ticket=ticket,
                    slot=place.slot,
                    reservation=place.reservation,
                    cached_estimate=place.known,
                    waited_s=now - ticket.submitted,
                    reason=pick.reason,
                )
            )
        return decisions

    def prompt_computed(self, ticket_id: int) -> None:
        """Notes that a running request's whole prompt is in the cache: its first token has come.

        From now on others may share its prompt's pages, and its slot will know the prompt.

        Raises:
            IntegrityError: It does not run.
        """
        running = self._get_running(ticket_id)
        running.computed = True
        self._places.prompt_computed(running.place)

    def grow(self, ticket_id: int, generated_tokens: int) -> bool:
        """Makes room for an answer of so many tokens in all, for a request that may exceed its ``max_tokens``.

        Without room nothing changes and the request runs on: the backend has the last word.

        Returns:
            Whether there was room.

        Raises:
            IntegrityError: It does not run.
        """
        running = self._get_running(ticket_id)
        total = running.ticket.prompt_tokens + generated_tokens
        return self._places.grow(running.place, total if self._limit is None else min(total, self._limit))

    def finish(
        self,
        ticket_id: int,
        now: float,
        *,
        cached_tokens: int | None = None,
        prompt_tokens: int | None = None,
        held: PackedTokens | None = None,
    ) -> Finished:
        """Frees the slot and the pages of a request that the backend has let go of, however it ended.

        Args:
            ticket_id: The request.
            now: The time.
            cached_tokens: Prompt tokens that the backend says it took from its cache, if it said so.
            prompt_tokens: Prompt tokens that it says there were; None leaves it at the ticket's estimate.
            held: What the slot's cache holds now; None is the prompt, if that was computed and is known.

        Raises:
            IntegrityError: It does not run.
        """
        running = self._get_running(ticket_id)
        del self._running[ticket_id]
        ticket, place = running.ticket, running.place
        if held is None and running.computed:
            held = ticket.tokens
        self._places.leave(place, ticket, held=held, cached_tokens=cached_tokens, prompt_tokens=prompt_tokens)
        self._finished += 1
        self._note_completion(now)
        return Finished(ticket=ticket, slot=place.slot, ran_s=now - running.since, cancelled=running.cancelled)

    def put_back(self, ticket: Ticket) -> None:
        """Lets a request that ran and produced nothing wait again, before all others of its tenant and level.

        It is inside already: neither the bounds of the queue nor :meth:`drain` keep it out.

        Raises:
            IntegrityError: It waits or still runs.
        """
        if ticket.id in self._waiting or ticket.id in self._running:
            raise IntegrityError("RequestScheduler", f"request {ticket.id} was put back and is not gone")
        self._waiting[ticket.id] = self._queue.add_first(ticket, self._cost_of(ticket))
        self._accepted += 1

    def withdraw(self, group: int) -> None:
        """Admits nothing to a group any more, because its backend is gone; idempotent."""
        self._places.withdraw(group)

    def restore(self, group: int) -> None:
        """Admits to a group again, whose backend has begun anew and holds nothing."""
        self._places.restore(group)

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
        return Cancelled(ticket=running.ticket, was="running")

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
            slots=self._places.slots.slots,
            accepted=self._accepted,
            rejected=dict(self._rejected),
            admitted=dict(self._admitted),
            expired=self._expired,
            cancelled_waiting=self._cancelled_waiting,
            cancelled_running=self._cancelled_running,
            finished=self._finished,
            retry_after_s=self._gap_s,
            groups=self._places.stats(),
        )

    def check_integrity(self) -> None:
        """Proves that no request, slot or page is lost or held twice.

        Raises:
            IntegrityError: Names what is broken.
        """
        self._queue.check_integrity()
        self._places.check_integrity([running.place for running in self._running.values()])
        if self._waiting != {entry.ticket.id: entry for entry in self._queue}:
            raise IntegrityError("RequestScheduler", "requests known to wait are not those in the queue")
        ended = self._expired + self._cancelled_waiting + self._finished
        if self._accepted != len(self._waiting) + len(self._running) + ended:
            raise IntegrityError("RequestScheduler", f"of {self._accepted} requests {ended} ended and others are lost")

    def _cost_of(self, ticket: Ticket) -> int:
        """Tokens that a request is charged and has room reserved for: no more than it could ever use."""
        cost = ticket.prompt_tokens + ticket.max_tokens
        return cost if self._limit is None or cost < self._limit else self._limit

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
