"""Random histories of the scheduler and its parts, beside models too simple to be wrong.

The models keep plain lists and look at everything every time. After each step the real structure
proves its own integrity, and has to have answered as its model did.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from math import ceil
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llamatelemetry.errors import IntegrityError
from llamatelemetry.inference.decisions import Accepted, Admission, Expired, Rejected, Ticket
from llamatelemetry.inference.kv_cache import PagedKVCache, Reservation
from llamatelemetry.inference.places import SlotGroup
from llamatelemetry.inference.policy import SchedulerConfig
from llamatelemetry.inference.scheduler import RequestScheduler
from llamatelemetry.inference.slots import SlotTable
from llamatelemetry.inference.tokens import pack_tokens

Tokens = tuple[int, ...]

# Two ids and short prompts: prefixes are shared, pages run out and chains fork all the time.
WHICH = st.integers(0, 99)
PROMPTS = st.lists(st.integers(1, 2), min_size=1, max_size=9).map(tuple)


def pack(tokens: Tokens | None):
    return None if tokens is None else pack_tokens(tokens)


def shared_prefix(one: Tokens, other: Tokens) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


@dataclass(eq=False)
class HeldPages:
    """What the model knows of one reservation: its findable prefixes and the number of its other pages."""

    tokens: Tokens | None
    prompt_tokens: int
    prefixes: list[Tokens]
    own: int


class PagesModel:
    """Findable pages as the whole prefixes they stand for; those nobody holds in a list, oldest first."""

    def __init__(self, pages: int, page_size: int) -> None:
        self.pages = pages
        self.page_size = page_size
        self.live: list[HeldPages] = []
        self.cached: list[Tokens] = []

    def held(self) -> Counter[Tokens]:
        return Counter(prefix for held in self.live for prefix in held.prefixes)

    def blank(self) -> int:
        return self.pages - len(self.held()) - len(self.cached) - sum(held.own for held in self.live)

    def reserve(self, tokens: Tokens | None, prompt_tokens: int, total: int) -> HeldPages | None:
        prefixes: list[Tokens] = []
        if tokens is not None:
            known = {*self.held(), *self.cached}
            for end in range(self.page_size, prompt_tokens, self.page_size):
                if tokens[:end] not in known:
                    break
                prefixes.append(tokens[:end])
        own = ceil(total / self.page_size) - len(prefixes)
        kept = [prefix for prefix in self.cached if prefix not in prefixes]
        if own > self.blank() + len(kept):
            return None
        evicted = max(0, own - self.blank())
        self.cached = kept[evicted:]
        self.live.append(HeldPages(tokens, prompt_tokens, prefixes, own))
        return self.live[-1]

    def publish(self, held: HeldPages, computed: int) -> None:
        if held.tokens is None:
            return
        pages = min(computed, held.prompt_tokens) // self.page_size
        for page in range(len(held.prefixes), pages):
            prefix = held.tokens[: (page + 1) * self.page_size]
            if prefix in self.cached:
                self.cached.remove(prefix)
            held.prefixes.append(prefix)
            held.own -= 1

    def resize(self, held: HeldPages, total: int) -> bool:
        own = ceil(total / self.page_size) - len(held.prefixes)
        more = own - held.own
        if more > self.blank() + len(self.cached):
            return False
        self.cached = self.cached[max(0, more - self.blank()) :]
        held.own = own
        return True

    def release(self, held: HeldPages) -> None:
        self.live.remove(held)
        left = self.held()
        self.cached += [prefix for prefix in reversed(held.prefixes) if prefix not in left]


class CacheHistory(RuleBasedStateMachine):
    """Reserve, publish, grow, trim, release in any order, on few small pages."""

    @initialize(pages=st.integers(1, 12), page_size=st.integers(1, 3))
    def make(self, pages: int, page_size: int) -> None:
        self.cache = PagedKVCache(pages, page_size)
        self.model = PagesModel(pages, page_size)
        self.pairs: list[tuple[Reservation, HeldPages]] = []

    @rule(tokens=PROMPTS, known=st.booleans(), more=st.integers(0, 9))
    def reserve(self, tokens, known, more) -> None:
        prompt, length = (tokens if known else None), len(tokens)
        reservation = self.cache.reserve(pack(prompt), length, length + more)
        held = self.model.reserve(prompt, length, length + more)
        assert (reservation is None) == (held is None)
        if reservation is not None and held is not None:
            assert reservation.cached_tokens == len(held.prefixes) * self.model.page_size < length
            self.pairs.append((reservation, held))

    @precondition(lambda self: self.pairs)
    @rule(which=WHICH, computed=st.integers(0, 10))
    def publish(self, which: int, computed: int) -> None:
        reservation, held = self.pairs[which % len(self.pairs)]
        self.cache.publish(reservation, computed)
        self.model.publish(held, computed)

    @precondition(lambda self: self.pairs)
    @rule(which=WHICH, more=st.integers(0, 12))
    def grow_or_trim(self, which: int, more: int) -> None:
        reservation, held = self.pairs[which % len(self.pairs)]
        total = held.prompt_tokens + more
        if ceil(total / self.model.page_size) < reservation.pages:
            self.cache.trim(reservation, total)
            assert self.model.resize(held, total)
        else:
            assert self.cache.grow(reservation, total) == self.model.resize(held, total)

    @precondition(lambda self: self.pairs)
    @rule(which=WHICH)
    def release(self, which: int) -> None:
        pair = self.pairs[which % len(self.pairs)]
        self.pairs.remove(pair)
        self.cache.release(pair[0])
        self.model.release(pair[1])
        with pytest.raises(IntegrityError):
            self.cache.release(pair[0])

    @invariant()
    def agrees(self) -> None:
        self.cache.check_integrity()
        stats, held = self.cache.stats(), self.model.held()
        assert stats.used == len(held) + sum(one.own for one in self.model.live)
        assert stats.shared == sum(1 for count in held.values() if count > 1)
        assert stats.cached == len(self.model.cached)
        for reservation, one in self.pairs:
            assert len(reservation.chain) == len(one.prefixes)
            assert len(reservation.own) == one.own


class SlotsModel:
    """Idle slots and what they hold, in the order they became idle."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.group_of = [group for group, size in enumerate(sizes) for _ in range(size)]
        self.idle: list[tuple[int, Tokens]] = [(slot, ()) for slot in range(sum(sizes))]
        self.withdrawn: set[int] = set()

    def offered(self) -> list[tuple[int, Tokens]]:
        return [pair for pair in self.idle if self.group_of[pair[0]] not in self.withdrawn]

    def use(self, slot: int) -> tuple[float, int]:
        group = self.group_of[slot]
        idle = [other for other, _ in self.idle]
        busy = 1 - sum(1 for other in idle if self.group_of[other] == group) / self.sizes[group]
        return busy, idle.index(slot)

    def longest(self, tokens: Tokens | None) -> int:
        return max((shared_prefix(tokens or (), held) for _, held in self.offered()), default=0)

    def candidates(self, tokens: Tokens | None) -> list[int]:
        """Where to run it: best first, then one slot of each other group."""
        longest = self.longest(tokens)
        equals = [slot for slot, held in self.offered() if shared_prefix(tokens or (), held) == longest]
        best = [min(equals, key=self.use)]
        for slot, _ in sorted(self.offered(), key=lambda pair: self.use(pair[0])):
            if self.group_of[slot] not in [self.group_of[other] for other in best]:
                best.append(slot)
        return best

    def take(self, slot: int, tokens: Tokens | None) -> int:
        held = dict(self.idle)[slot]
        self.idle.remove((slot, held))
        return shared_prefix(tokens or (), held)

    def vacate(self, slot: int, tokens: Tokens | None) -> None:
        self.idle.append((slot, () if self.group_of[slot] in self.withdrawn else tokens or ()))

    def withdraw(self, group: int) -> None:
        self.withdrawn.add(group)
        self.idle = [(slot, () if self.group_of[slot] == group else held) for slot, held in self.idle]


class SlotHistory(RuleBasedStateMachine):
    """Slots chosen, occupied and vacated, groups withdrawn and restored, in any order."""

    @initialize(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
    def make(self, sizes: list[int]) -> None:
        self.table = SlotTable(*sizes)
        self.model = SlotsModel(sizes)
        self.busy: list[int] = []

    @precondition(lambda self: self.model.offered())
    @rule(tokens=st.none() | PROMPTS)
    def occupy(self, tokens: Tokens | None) -> None:
        slot, known = self.table.choose(pack(tokens))
        assert [slot, *self.table.others(slot)] == self.model.candidates(tokens)
        assert known == self.table.known(slot, pack(tokens)) == self.model.take(slot, tokens)
        self.table.occupy(slot)
        self.busy.append(slot)

    @precondition(lambda self: self.busy)
    @rule(which=WHICH, tokens=st.none() | PROMPTS)
    def vacate(self, which: int, tokens: Tokens | None) -> None:
        slot = self.busy[which % len(self.busy)]
        self.busy.remove(slot)
        self.table.vacate(slot, pack(tokens))
        self.model.vacate(slot, tokens)
        with pytest.raises(IntegrityError):
            self.table.vacate(slot, None)

    @rule(which=WHICH)
    def withdraw(self, which: int) -> None:
        self.table.withdraw(which % len(self.model.sizes))
        self.model.withdraw(which % len(self.model.sizes))

    @rule(which=WHICH)
    def restore(self, which: int) -> None:
        self.table.restore(which % len(self.model.sizes))
        self.model.withdrawn.discard(which % len(self.model.sizes))

    @rule(tokens=PROMPTS, beyond=st.integers(0, 9))
    def look(self, tokens: Tokens, beyond: int) -> None:
        longest = self.model.longest(tokens)
        assert self.table.longest_prefix(pack(tokens), beyond) == (longest if longest > beyond else 0)

    @invariant()
    def agrees(self) -> None:
        self.table.check_integrity()
        assert self.table.idle == bool(self.model.offered())
        assert self.table.occupied() == sorted(self.busy)


@dataclass
class Turn:
    """A tenant's place in its level: its round, its place in it, and the tokens it may take."""

    round: int
    place: int
    balance: float
    passed: int = 0


@dataclass
class LevelModel:
    """Whose turn it is: tenants by name."""

    turns: dict[str | None, Turn] = field(default_factory=dict)
    round: int = 0
    places: int = 0


class QueueModel:
    """The policies, said again with lists: who is next is found by sorting everything."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.waiting: list[Ticket] = []
        self.bypassed: Counter[int] = Counter()
        self.levels: dict[int, LevelModel] = {}
        self.history: list[tuple[int, bool]] = []

    def level_of(self, ticket: Ticket) -> int:
        return ticket.priority if self.config.priorities else 0

    def tenant_of(self, ticket: Ticket) -> str | None:
        return ticket.tenant if self.config.fair_tenants else None

    def in_level(self, level: int) -> list[Ticket]:
        return [ticket for ticket in self.waiting if self.level_of(ticket) == level]

    def share(self, tenant: str | None) -> float:
        return self.config.quantum * (1 if tenant is None else self.config.weights.get(tenant, 1))

    def add(self, ticket: Ticket) -> None:
        self.waiting.append(ticket)
        level = self.levels.setdefault(self.level_of(ticket), LevelModel())
        tenant = self.tenant_of(ticket)
        if tenant not in level.turns:
            level.places += 1
            level.turns[tenant] = Turn(level.round + 1, level.places, self.share(tenant))

    def put_back(self, ticket: Ticket) -> None:
        self.add(ticket)
        self.waiting.insert(0, self.waiting.pop())
        self.bypassed[ticket.id] = 0

    def overdue(self, ticket: Ticket, now: float) -> bool:
        return self.config.ageing_s is not None and now - ticket.submitted > self.config.ageing_s

    def aged_level(self, now: float) -> int | None:
        every = self.config.aged_every
        recent = self.history[-(every - 1) :]
        if len(recent) < every - 1 or any(aged for _, aged in recent):
            return None
        oldest = {self.level_of(ticket): ticket for ticket in reversed(self.waiting)}
        for ticket in sorted(oldest.values(), key=self.waiting.index):
            if self.overdue(ticket, now) and self.level_of(ticket) not in [level for level, _ in recent]:
                return self.level_of(ticket)
        return None

    def next(self, now: float, longest_prefix) -> tuple[Ticket, str, bool]:
        aged = self.aged_level(now)
        number = min(map(self.level_of, self.waiting)) if aged is None else aged
        level, waiting = self.levels[number], self.in_level(number)
        tenants = {self.tenant_of(ticket) for ticket in waiting}
        tenant = min(tenants, key=lambda name: (level.turns[name].round, level.turns[name].place))
        turn = level.turns[tenant]
        # Whoever is past and has nothing waiting is forgotten.
        for name, other in list(level.turns.items()):
            if (other.round, other.place) < (turn.round, turn.place):
                del level.turns[name]
        line = [ticket for ticket in waiting if self.tenant_of(ticket) == tenant]
        head = line[0]
        dated = [ticket for ticket in line if ticket.deadline is not None]
        lifted = turn.passed >= self.config.aged_every - 1 and self.overdue(head, now)
        if self.config.earliest_deadline_first and dated and not lifted:
            head = min(dated, key=lambda ticket: ticket.deadline)
        chosen = head
        if head.deadline is None and not self.overdue(head, now):
            found = longest_prefix(head) + self.config.min_prefix_gain - 1
            for ticket in line[: self.config.prefix_window]:
                if longest_prefix(ticket) > found:
                    chosen, found = ticket, longest_prefix(ticket)
                if self.bypassed[ticket.id] >= self.config.max_bypass:
                    break
        reason = "prefix" if chosen is not head else "next" if aged is None else "aged"
        return chosen, reason, aged is not None

    def take(self, ticket: Ticket, reason: str, cost: int, *, aged: bool) -> None:
        number, tenant = self.level_of(ticket), self.tenant_of(ticket)
        level = self.levels[number]
        turn = level.turns[tenant]
        line = [other for other in self.in_level(number) if self.tenant_of(other) == tenant]
        turn.passed = 0 if ticket is line[0] else turn.passed + 1
        if reason == "prefix":
            self.bypassed.update(other.id for other in line[: line.index(ticket)])
        self.history.append((number, aged))
        self.waiting.remove(ticket)
        level.round = turn.round
        turn.balance -= cost
        if turn.balance <= 0:
            while turn.balance <= 0:
                turn.balance += self.share(tenant)
                turn.round += 1
            level.places += 1
            turn.place = level.places
        elif len(line) == 1:
            del level.turns[tenant]
        self.drop_if_empty(number)

    def remove(self, ticket: Ticket) -> None:
        number, tenant = self.level_of(ticket), self.tenant_of(ticket)
        level = self.levels[number]
        self.waiting.remove(ticket)
        left = any(self.tenant_of(other) == tenant for other in self.in_level(number))
        if not left and level.turns[tenant].round <= level.round + 1:
            del level.turns[tenant]
        self.drop_if_empty(number)

    def drop_if_empty(self, number: int) -> None:
        if not self.in_level(number):
            del self.levels[number]


class Bounds:
    """What the docstrings promise, watched from outside: fairness, no starvation, no endless bypassing."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.dearest = 0
        self.cheapest = 10**9
        self.served: Counter[tuple[int, str | None]] = Counter()
        self.together: dict[tuple[int, str | None, str | None], tuple[float, float]] = {}
        self.overdue: dict[int, tuple[int, int]] = {}
        self.admissions = self.put_back = 0
        self.most_tenants = 0

    def cost(self, cost: int) -> None:
        self.dearest, self.cheapest = max(self.dearest, cost), min(self.cheapest, cost)

    def weight(self, tenant: str | None) -> float:
        return 1.0 if tenant is None else self.config.weights.get(tenant, 1.0)

    def admitted(self, queue: QueueModel, ticket: Ticket, cost: int) -> None:
        self.admissions += 1
        self.served[queue.level_of(ticket), queue.tenant_of(ticket)] += cost

    def watch(self, queue: QueueModel, now: float) -> None:
        self.watch_fairness(queue)
        if self.config.ageing_s is not None:
            self.watch_starvation(queue, now)
        assert max(queue.bypassed.values(), default=0) <= self.config.max_bypass

    def watch_fairness(self, queue: QueueModel) -> None:
        pairs = {
            (level, *pair)
            for level in queue.levels
            for pair in combinations(sorted({queue.tenant_of(ticket) or "" for ticket in queue.in_level(level)}), 2)
        }
        self.together = {key: since for key, since in self.together.items() if key in pairs}
        for level, one, other in pairs:
            weights = self.weight(one), self.weight(other)
            now = self.served[level, one or None] / weights[0], self.served[level, other or None] / weights[1]
            since = self.together.setdefault((level, one, other), now)
            bound = 2 * self.config.quantum + self.dearest / weights[0] + self.dearest / weights[1]
            assert abs((now[0] - since[0]) - (now[1] - since[1])) <= bound

    def watch_starvation(self, queue: QueueModel, now: float) -> None:
        known = max((len(level.turns) for level in queue.levels.values()), default=0)
        self.most_tenants = max(self.most_tenants, known)
        still = {}
        for older, ticket in enumerate(queue.waiting):
            if queue.overdue(ticket, now):
                since, ahead = still[ticket.id] = self.overdue.get(ticket.id, (self.admissions, older - self.put_back))
                assert self.admissions - since < self.starvation_bound(ahead + self.put_back)
        self.overdue = still

    def starvation_bound(self, older: int) -> float:
        every, quantum = self.config.aged_every, self.config.quantum
        weights = [1.0, *self.config.weights.values()]
        turn = 1.0
        if self.config.fair_tenants:
            others = (self.most_tenants - 1) * ceil(quantum * max(weights) / self.cheapest)
            turn += (self.dearest / (quantum * min(weights)) + 2) * others
        own = every if self.config.earliest_deadline_first else 1
        return (2 * every - 1) * (older + 1) * turn * own


CONFIGS = st.builds(
    SchedulerConfig,
    max_waiting=st.integers(8, 60),
    max_waiting_tokens=st.none() | st.integers(60, 400),
    context_length=st.none() | st.integers(8, 20),
    priorities=st.booleans(),
    ageing_s=st.none() | st.integers(0, 4),
    aged_every=st.integers(2, 4),
    fair_tenants=st.booleans(),
    weights=st.sampled_from([{}, {"a": 2.0}, {"a": 0.25, "b": 3.0}]),
    quantum=st.integers(1, 30),
    earliest_deadline_first=st.booleans(),
    prefix_window=st.integers(0, 4),
    min_prefix_gain=st.integers(1, 3),
    max_bypass=st.integers(0, 3),
    shared_pages=st.booleans(),
)


GROUPS = st.tuples(st.integers(1, 3), st.none() | st.integers(6, 24))
"""Slots of a backend, and its pages if they are counted."""


class SchedulerHistory(RuleBasedStateMachine):
    """Requests submitted, admitted, computed, finished, cancelled and expired in any order."""

    @initialize(config=CONFIGS, groups=st.lists(GROUPS, min_size=1, max_size=3))
    def make(self, config: SchedulerConfig, groups: list[tuple[int, int | None]]) -> None:
        self.config = config
        self.scheduler = RequestScheduler(
            config, *(SlotGroup(slots, pages and PagedKVCache(pages, 2)) for slots, pages in groups)
        )
        self.queue = QueueModel(config)
        self.slots = SlotsModel([slots for slots, _ in groups])
        self.pages = [pages and PagesModel(pages, 2) for _, pages in groups]
        self.bounds = Bounds(config)
        limits = [config.context_length, *(pages and pages * 2 for _, pages in groups)]
        self.limit = min(filter(None, limits), default=10**9)
        self.now = 0.0
        self.tokens: dict[int, Tokens | None] = {}
        self.running: dict[int, tuple[Admission, HeldPages | None]] = {}
        self.computed: set[int] = set()
        self.cancelled: set[int] = set()
        self.ends: Counter[int] = Counter()
        self.admitted_ids: set[int] = set()
        self.put_back = 0
        self.accepted: set[int] = set()

    def cost(self, ticket: Ticket) -> int:
        return min(ticket.prompt_tokens + ticket.max_tokens, self.limit)

    @rule(
        tokens=PROMPTS,
        known=st.sampled_from([True, True, True, False]),
        max_tokens=st.integers(1, 12),
        tenant=st.sampled_from(["a", "b", "c"]),
        priority=st.integers(0, 2),
        patience=st.sampled_from([None, None, None, -1, 0, 3, 9, 9]),
        copies=st.integers(1, 4),
    )
    def submit(self, *, tokens, known, max_tokens, tenant, priority, patience, copies) -> None:
        for _ in range(copies):
            ticket = Ticket(
                id=len(self.tokens),
                prompt_tokens=len(tokens),
                max_tokens=max_tokens,
                submitted=self.now,
                tenant=tenant,
                priority=priority,
                deadline=None if patience is None else self.now + patience,
                tokens=pack(tokens if known else None),
            )
            self.tokens[ticket.id] = tokens if known else None
            decision = self.scheduler.submit(ticket, self.now)
            reason = self.refusal(ticket)
            if reason is None:
                assert isinstance(decision, Accepted)
                assert decision.depth == len(self.queue.waiting)
                self.queue.add(ticket)
                self.bounds.cost(self.cost(ticket))
                self.accepted.add(ticket.id)
            else:
                assert isinstance(decision, Rejected)
                assert decision.reason == reason

    def refusal(self, ticket: Ticket) -> str | None:
        waiting = self.queue.waiting
        if ticket.prompt_tokens + 1 > self.limit:
            return "context_overflow"
        if ticket.deadline is not None and ticket.deadline < self.now:
            return "deadline_passed"
        if len(waiting) >= self.config.max_waiting:
            return "queue_full_requests"
        most = self.config.max_waiting_tokens
        if most is not None and sum(map(self.cost, [*waiting, ticket])) > most:
            return "queue_full_tokens"
        return None

    def expect_expired(self) -> list[Ticket]:
        late = [ticket for ticket in self.queue.waiting if ticket.deadline is not None and ticket.deadline < self.now]
        for ticket in late:
            self.queue.remove(ticket)
            self.ends[ticket.id] += 1
        return sorted(late, key=lambda ticket: ticket.deadline)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        assert [expired.ticket for expired in self.scheduler.expire(self.now)] == self.expect_expired()

    @rule()
    def admit(self) -> None:
        decisions = self.scheduler.admit(self.now)
        late = self.expect_expired()
        assert [one.ticket for one in decisions if isinstance(one, Expired)] == late
        admissions = [one for one in decisions if isinstance(one, Admission)]
        assert len(admissions) + len(late) == len(decisions)
        for admission in admissions:
            self.expect(admission)
        if self.slots.offered() and self.queue.waiting:
            # What is next has to wait for pages.
            ticket, _, _ = self.queue.next(self.now, self.longest)
            assert self.place(ticket) is None

    def longest(self, ticket: Ticket) -> int:
        return self.slots.longest(self.tokens[ticket.id])

    def page_tokens(self, ticket: Ticket) -> Tokens | None:
        return self.tokens[ticket.id] if self.config.shared_pages else None

    def expect(self, admission: Admission) -> None:
        ticket = admission.ticket
        expected, reason, aged = self.queue.next(self.now, self.longest)
        assert (ticket, admission.reason) == (expected, reason)
        assert ticket.deadline is None or self.now <= ticket.deadline
        assert ticket.id not in self.admitted_ids
        self.admitted_ids.add(ticket.id)
        place = self.place(ticket)
        assert place is not None
        slot, held = place
        if held is not None:
            assert admission.reservation is not None
            assert admission.reservation.pages == ceil(self.cost(ticket) / 2)
        cached = self.slots.take(slot, self.tokens[ticket.id])
        if held is not None and held.tokens is not None:
            cached = len(held.prefixes) * 2
        assert (admission.slot, admission.cached_estimate) == (slot, min(cached, ticket.prompt_tokens - 1))
        assert admission.waited_s == self.now - ticket.submitted
        self.queue.take(ticket, reason, self.cost(ticket), aged=aged)
        self.bounds.admitted(self.queue, ticket, self.cost(ticket))
        self.running[ticket.id] = admission, held

    def place(self, ticket: Ticket) -> tuple[int, HeldPages | None] | None:
        """The first slot that has room for it, and its pages."""
        for slot in self.slots.candidates(self.tokens[ticket.id]):
            pages = self.pages[self.slots.group_of[slot]]
            if pages is None:
                return slot, None
            held = pages.reserve(self.page_tokens(ticket), ticket.prompt_tokens, self.cost(ticket))
            if held is not None:
                return slot, held
        return None

    @rule(which=WHICH)
    def lose_backend(self, which: int) -> None:
        """What ran there and had produced nothing waits again, before the others."""
        group = which % len(self.slots.sizes)
        self.scheduler.withdraw(group)
        self.slots.withdraw(group)
        for chosen, (admission, _) in sorted(self.running.items()):
            if self.slots.group_of[admission.slot] == group and chosen not in self.computed | self.cancelled:
                self.end(chosen, None)
                self.scheduler.put_back(admission.ticket)
                self.queue.put_back(admission.ticket)
                self.admitted_ids.discard(chosen)
                self.put_back += 1
                self.bounds.put_back += 1
                self.ends[chosen] -= 1

    @rule(which=WHICH)
    def regain_backend(self, which: int) -> None:
        self.scheduler.restore(which % len(self.slots.sizes))
        self.slots.withdrawn.discard(which % len(self.slots.sizes))
        pages = self.pages[which % len(self.slots.sizes)]
        if pages is not None:
            pages.cached = []

    @rule(rounds=st.integers(1, 5), seconds=st.sampled_from([0.0, 0.25, 1.0]), answer=st.none() | PROMPTS)
    def serve(self, rounds: int, seconds: float, answer: Tokens | None) -> None:
        """Everything that runs ends, and what comes next does, as in an engine that is busy."""
        for _ in range(rounds):
            self.admit()
            self.now += seconds
            for chosen in sorted(self.running):
                self.compute_prompt(chosen)
                self.end(chosen, answer)
            self.agrees()

    @precondition(lambda self: self.running)
    @rule(which=WHICH)
    def compute_one_prompt(self, which: int) -> None:
        self.compute_prompt(sorted(self.running)[which % len(self.running)])

    def compute_prompt(self, chosen: int) -> None:
        self.scheduler.prompt_computed(chosen)
        self.computed.add(chosen)
        admission, held = self.running[chosen]
        if held is not None:
            self.pages_of(admission).publish(held, held.prompt_tokens)

    def pages_of(self, admission: Admission) -> PagesModel:
        return self.pages[self.slots.group_of[admission.slot]]

    @precondition(lambda self: self.running)
    @rule(which=WHICH, answer=st.none() | PROMPTS)
    def finish(self, which: int, answer: Tokens | None) -> None:
        self.end(sorted(self.running)[which % len(self.running)], answer)

    def end(self, chosen: int, answer: Tokens | None) -> None:
        admission, held = self.running.pop(chosen)
        tokens = self.tokens[chosen]
        after = None if answer is None or tokens is None else tokens + answer
        finished = self.scheduler.finish(chosen, self.now, held=pack(after), cached_tokens=0)
        assert (finished.slot, finished.cancelled) == (admission.slot, chosen in self.cancelled)
        if after is None and chosen in self.computed:
            after = tokens
        self.slots.vacate(admission.slot, after)
        if held is not None:
            self.pages_of(admission).release(held)
        self.ends[chosen] += 1

    @precondition(lambda self: self.tokens)
    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        chosen = which % len(self.tokens)
        decision = self.scheduler.cancel(chosen)
        waiting = [ticket for ticket in self.queue.waiting if ticket.id == chosen]
        if waiting:
            assert decision is not None
            assert decision.was == "waiting"
            self.queue.remove(waiting[0])
            self.ends[chosen] += 1
        elif chosen in self.running and chosen not in self.cancelled:
            assert decision is not None
            assert decision.was == "running"
            self.cancelled.add(chosen)
        else:
            assert decision is None

    @invariant()
    def agrees(self) -> None:
        self.scheduler.check_integrity()
        stats = self.scheduler.stats()
        assert stats.waiting == len(self.queue.waiting)
        assert stats.waiting_tokens == sum(map(self.cost, self.queue.waiting))
        assert stats.running == len(self.running) <= stats.slots
        assert stats.finished + stats.expired + stats.cancelled_waiting == self.ends.total() + self.put_back
        self.bounds.watch(self.queue, self.now)

    def teardown(self) -> None:
        """However it went, everything let in ends exactly once."""
        if not hasattr(self, "scheduler"):
            return
        for cancelled in self.scheduler.close():
            self.ends[cancelled.ticket.id] += 1
        for chosen in list(self.running):
            self.end(chosen, None)
        assert self.scheduler.idle
        assert +self.ends == Counter(self.accepted)
        self.scheduler.check_integrity()
        assert all(group.kv is None or group.kv.used == 0 for group in self.scheduler.stats().groups)


def submit_some(day: SchedulerHistory, dice: Random, patience: list[float | None]) -> None:
    day.submit(
        tokens=tuple(dice.choices([1, 2], k=dice.randint(1, 9))),
        known=dice.random() < 0.8,
        max_tokens=dice.randint(1, 12),
        tenant=dice.choice("abc"),
        priority=dice.choice([0, 0, 0, 1, 2]),
        patience=dice.choice(patience),
        copies=dice.randint(1, 3),
    )


def finish_one(day: SchedulerHistory, dice: Random, _: list[float | None]) -> None:
    if day.running:
        if dice.random() < 0.8:
            day.compute_one_prompt(dice.randint(0, 99))
        day.finish(dice.randint(0, 99), dice.choice([None, None, (1,), (2, 2)]))


def cancel_one(day: SchedulerHistory, dice: Random, _: list[float | None]) -> None:
    late = range(max(0, len(day.tokens) - 60), len(day.tokens))
    if late:
        day.cancel(dice.choice(sorted(day.running) or late if dice.random() < 0.5 else late))


ACTIONS = {
    submit_some: 35,
    finish_one: 25,
    cancel_one: 4,
    lambda day, *_: day.admit(): 20,
    lambda day, dice, _: day.wait(dice.choice([0.1, 0.5, 2])): 10,
    lambda day, *_: day.expire(): 3,
    lambda day, dice, _: day.lose_backend(dice.randint(0, 99)): 1,
    lambda day, dice, _: day.regain_backend(dice.randint(0, 99)): 2,
}
"""What happens in a busy day, and how often."""


@pytest.mark.parametrize("seed", range(60))
def test_no_busy_day_breaks_it(seed) -> None:
    """The same rules in long runs under load, with every policy in play: hypothesis prefers short ones."""
    dice = Random(seed)
    config = SchedulerConfig(
        max_waiting=60,
        priorities=dice.random() < 0.8,
        ageing_s=dice.choice([0.5, 1, 4, None]),
        aged_every=dice.choice([2, 3, 4]),
        fair_tenants=dice.random() < 0.7,
        weights=dice.choice([{}, {"a": 2.0}, {"a": 0.25, "b": 3.0}]),
        quantum=dice.choice([1, 5, 20, 60]),
        earliest_deadline_first=dice.random() < 0.5,
        prefix_window=dice.choice([0, 4, 8]),
        min_prefix_gain=dice.choice([1, 2]),
        max_bypass=dice.choice([0, 1, 3]),
        shared_pages=dice.random() < 0.5,
    )
    patience = dice.choice([[None], [None, None, None, 0, 3, 20], [20, 40, 60]])
    day = SchedulerHistory()
    day.make(
        config=config, groups=dice.choice([[(1, None)], [(2, 12)], [(4, 40)], [(2, 14), (1, None)], [(2, 12)] * 3])
    )
    for _ in range(500):
        (action,) = dice.choices(list(ACTIONS), list(ACTIONS.values()))
        action(day, dice, patience)
        day.agrees()
    day.teardown()


@pytest.mark.parametrize(
    ("machine", "histories", "steps"), [(CacheHistory, 150, 60), (SlotHistory, 100, 50), (SchedulerHistory, 250, 100)]
)
def test_no_history_breaks_it(machine, histories, steps) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=histories,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
