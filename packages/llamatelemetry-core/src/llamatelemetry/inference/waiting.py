"""The waiting queue: every policy, put together into one answer to "who is next?"."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from llamatelemetry.errors import IntegrityError
from llamatelemetry.inference.deadlines import DeadlineHeap, Entry
from llamatelemetry.inference.decisions import AdmitReason, Ticket
from llamatelemetry.inference.level import Level
from llamatelemetry.inference.policy import SchedulerConfig
from llamatelemetry.inference.tenant_queue import LongestPrefix, TenantQueue


class Pick(NamedTuple):
    """Who is next, and why. Good until the queue changes."""

    entry: Entry
    tenant: TenantQueue
    level: Level
    reason: AdmitReason
    aged: bool


class WaitingQueue:
    """Orders what waits: level, then the tenant whose turn it is there, then that tenant's own order.

    The most urgent level is served first. Ageing lifts a level, never a request past its tenant's
    turn: of any ``aged_every`` admissions in a row at most one is *aged*. It is so when none of the
    ``aged_every - 1`` before it was, and a level that none of them took from has a request that
    waited more than ``ageing_s``; of several such levels it goes to the one whose oldest request
    arrived first.

    No starvation: a request that has waited ``ageing_s`` is admitted, or expires, within
    ``(2 * aged_every - 1) * (older + 1) * turn * own`` admissions, where

    * older is the number of requests, in all levels, that arrived before it and still wait, or are
      put back before it is admitted;
    * turn is the number of picks within which a tenant of its level is served again, as
      :class:`Level` bounds it; 1 without fair tenants;
    * own is ``aged_every`` with earliest deadline first, else 1.

    Where its level never comes first, as under a stream of more urgent requests that never ends, and
    without the other two policies, that is ``aged_every * (older + 1)``.

    Proof: take ``2 * aged_every - 1`` admissions in a row while it waits. Among the last
    ``aged_every`` one is aged, or its own level was taken from. At the aged one its level is taken
    from, or an older request's, or its own was just before. So one of them took from a level whose
    oldest request is itself or older; and a level needs ``turn * own`` of those to reach its oldest.

    Attributes:
        tokens: Tokens, prompts' and answers' together, that wait.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.tokens: int = 0
        self._config = config
        self._levels: dict[int, Level] = {}
        self._order: list[int] = []
        # The number of each level's oldest request, and the level: oldest first.
        self._ages: list[tuple[int, int]] = []
        self._deadlines = DeadlineHeap()
        self._waiting = 0
        self._arrived = 0
        self._before_all = 0
        self._since_aged = 0
        # The levels that the last admissions took from.
        self._recent: deque[int] = deque(maxlen=config.aged_every - 1)

    def __len__(self) -> int:
        return self._waiting

    def add(self, ticket: Ticket, cost: int) -> Entry:
        """Puts a request in the queue; ``cost`` is what it is charged, in tokens."""
        entry = Entry(ticket, self._arrived, cost)
        self._arrived += 1
        return self._enter(entry)

    def add_first(self, ticket: Ticket, cost: int) -> Entry:
        """Puts a request in the queue as if it had arrived before all others; they wait one turn longer."""
        self._before_all -= 1
        return self._enter(Entry(ticket, self._before_all, cost))

    def _enter(self, entry: Entry) -> Entry:
        ticket = entry.ticket
        priority = ticket.priority if self._config.priorities else 0
        level = self._levels.get(priority)
        if level is None:
            self._levels[priority] = Level(priority, self._config, entry)
            insort(self._order, priority)
            insort(self._ages, (entry.number, priority))
        else:
            oldest = level.oldest
            level.add(entry)
            if level.oldest is not oldest:
                self._update_age(level, oldest)
        if ticket.deadline is not None:
            self._deadlines.push(ticket.deadline, entry)
        self._waiting += 1
        self.tokens += entry.cost
        return entry

    def peek(self, now: float, longest_prefix: LongestPrefix | None) -> Pick | None:
        """Who is next; None if nobody waits. Changes nothing."""
        if not self._waiting:
            return None
        aged = self._aged_level(now)
        level = self._levels[self._order[0]] if aged is None else aged
        tenant = level.turn()
        entry = head = tenant.head(now)
        if longest_prefix is not None:
            entry = tenant.prefer(head, now, longest_prefix)
        reason: AdmitReason = "prefix" if entry is not head else "next" if aged is None else "aged"
        return Pick(entry, tenant, level, reason, aged is not None)

    def take(self, pick: Pick) -> None:
        """Admits who is next: takes it out and charges its tenant and level."""
        entry, tenant, level, reason, aged = pick
        oldest = level.oldest
        tenant.took(entry, for_prefix=reason == "prefix")
        self._leave(entry)
        level.serve(tenant, entry)
        self._recent.append(level.priority)
        self._since_aged = 0 if aged else self._since_aged + 1
        self._update_age(level, oldest)

    def remove(self, entry: Entry) -> None:
        """Takes out a request that is cancelled or expired."""
        priority = entry.ticket.priority if self._config.priorities else 0
        level = self._levels[priority]
        oldest = level.oldest
        self._leave(entry)
        level.remove(entry)
        self._update_age(level, oldest)

    def first_expired(self, now: float) -> Entry | None:
        """A waiting request whose deadline has passed, the earliest."""
        entry = self._deadlines.first()
        if entry is None or entry.ticket.deadline is None or entry.ticket.deadline >= now:
            return None
        return entry

    def __iter__(self) -> Iterator[Entry]:
        for level in self._levels.values():
            yield from level

    def _leave(self, entry: Entry) -> None:
        entry.waiting = False
        if entry.ticket.deadline is not None:
            self._deadlines.note_gone()
        self._waiting -= 1
        self.tokens -= entry.cost

    def _update_age(self, level: Level, oldest: Entry) -> None:
        """Keeps the order of levels right after a request came or left; ``oldest`` was its level's before."""
        ages = self._ages
        if not len(level):
            del ages[bisect_left(ages, (oldest.number, level.priority))]
            del self._order[bisect_left(self._order, level.priority)]
            # What tenants owe is forgotten with it: nobody waited for them.
            del self._levels[level.priority]
        elif level.oldest is not oldest:
            del ages[bisect_left(ages, (oldest.number, level.priority))]
            insort(ages, (level.oldest.number, level.priority))

    def _aged_level(self, now: float) -> Level | None:
        ageing_s, every = self._config.ageing_s, self._config.aged_every
        if ageing_s is None or self._since_aged < every - 1:
            return None
        # Few are looked at: fewer than `every` are recent, and only those put back are out of order.
        for number, priority in self._ages:
            level = self._levels[priority]
            overdue = now - level.oldest.ticket.submitted > ageing_s
            if overdue and priority not in self._recent:
                return level
            if not overdue and number >= 0:
                return None
        return None

    def check_integrity(self) -> None:
        """Proves that what is counted waits, in its level, with its deadline, in order of age.

        Raises:
            IntegrityError: Names what is broken.
        """
        if sum(len(level) for level in self._levels.values()) != self._waiting:
            raise IntegrityError("WaitingQueue", f"{self._waiting} requests are counted and other ones wait")
        if self._order != sorted(self._levels):
            raise IntegrityError("WaitingQueue", f"levels {sorted(self._levels)} are ordered {self._order}")
        ages = sorted((level.oldest.number, priority) for priority, level in self._levels.items() if len(level))
        if self._ages != ages:
            raise IntegrityError("WaitingQueue", f"levels are ordered by age as {self._ages}, not {ages}")
        for level in self._levels.values():
            level.check_integrity()
        entries = list(self)
        self._deadlines.check_integrity(sum(1 for entry in entries if entry.ticket.deadline is not None))
        if sum(entry.cost for entry in entries) != self.tokens:
            raise IntegrityError("WaitingQueue", f"{self.tokens} tokens are counted and other ones wait")
