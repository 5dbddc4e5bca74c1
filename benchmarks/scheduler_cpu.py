"""Cycles a second of the scheduler: one submission, one admission and one completion each.

Run: python benchmarks/scheduler_cpu.py [--json]

Every policy is on; requests are of mixed tenants, priorities and deadlines, on eight slots. With
reservation only, prompts are counted and not compared. With prefix hashing each has 1,024 tokens,
the first 512 of them one of fifty system prompts; packing them, which the engine does once for each
text, is told apart. Both keep a constant number of requests waiting. The baseline is the queue that
one would write first: a list sorted by urgency, out of which the first request is taken.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import deque
from random import Random

from report import Row, report

from llamatelemetry.inference.decisions import Admission, Ticket
from llamatelemetry.inference.kv_cache import PagedKVCache
from llamatelemetry.inference.places import SlotGroup
from llamatelemetry.inference.policy import SchedulerConfig
from llamatelemetry.inference.scheduler import RequestScheduler
from llamatelemetry.inference.tokens import PackedTokens, pack_tokens

SLOTS = 8
PAGES = 1024
PROMPT_TOKENS = 1024
SYSTEM_PROMPTS = 50
ANSWER_TOKENS = 128
TENANTS = 50
PRIORITIES = 4
WITH_DEADLINE = 0.3
CYCLES = 20_000
HASHED_CYCLES = 5_000
REPEATS = 3
WAITING = (1_000, 10_000, 100_000)
BUDGET, HASHED_BUDGET = 50_000, 15_000


Asked = tuple[int, str, int, float | None, PackedTokens | None]
"""Prompt length, tenant, priority, deadline, tokens."""


class Callers:
    """Makes tickets; the same ones each time."""

    def __init__(self, *, hashed: bool) -> None:
        self._dice = Random(1)  # noqa: S311 - repeatable, and nobody's secret
        self._made = 0
        self._hashed = hashed
        self._systems = [self._words(PROMPT_TOKENS // 2) for _ in range(SYSTEM_PROMPTS)]

    def _words(self, count: int) -> list[int]:
        return [self._dice.randrange(50_000) for _ in range(count)]

    def prepare(self, count: int) -> list[Asked]:
        """What so many callers will ask."""
        dice = self._dice
        return [
            (
                PROMPT_TOKENS if self._hashed else dice.randrange(64, PROMPT_TOKENS),
                f"tenant-{dice.randrange(TENANTS)}",
                dice.randrange(PRIORITIES),
                1e9 + dice.random() if dice.random() < WITH_DEADLINE else None,
                self.pack() if self._hashed else None,
            )
            for _ in range(count)
        ]

    def pack(self) -> PackedTokens:
        """A prompt's tokens."""
        return pack_tokens(self._dice.choice(self._systems) + self._words(PROMPT_TOKENS // 2))

    def ticket(self, asked: Asked, now: float) -> Ticket:
        """The ticket of one of them."""
        self._made += 1
        prompt_tokens, tenant, priority, deadline, tokens = asked
        return Ticket(
            id=self._made,
            prompt_tokens=prompt_tokens,
            max_tokens=ANSWER_TOKENS,
            submitted=now,
            tenant=tenant,
            priority=priority,
            deadline=deadline,
            tokens=tokens,
        )


def cycles_per_second(waiting: int, *, hashed: bool) -> float:
    """Cycles in a second of CPU with so many requests waiting."""
    callers = Callers(hashed=hashed)
    config = SchedulerConfig(max_waiting=waiting + SLOTS, shared_pages=hashed)
    scheduler = RequestScheduler(config, SlotGroup(SLOTS, PagedKVCache(PAGES)))
    now = 0.0
    for _ in range(waiting + SLOTS):
        now += 1e-3
        (asked,) = callers.prepare(1)
        scheduler.submit(callers.ticket(asked, now), now)
    running = deque(decision.ticket.id for decision in scheduler.admit(now))
    cycles = HASHED_CYCLES if hashed else CYCLES
    batch = callers.prepare(cycles)
    start = time.process_time()
    for asked in batch:
        now += 1e-3
        scheduler.submit(callers.ticket(asked, now), now)
        scheduler.finish(running.popleft(), now)
        for decision in scheduler.admit(now):
            if isinstance(decision, Admission):
                running.append(decision.ticket.id)
                scheduler.prompt_computed(decision.ticket.id)
    spent = time.process_time() - start
    # A cycle that admitted nothing would be no cycle, and one that found nothing no hashing.
    (group,) = scheduler.stats().groups
    assert scheduler.stats().finished == cycles
    assert (group.kv is not None and group.kv.hit_tokens > 0) == hashed
    return cycles / spent


def sorted_list_cycles_per_second(waiting: int) -> float:
    """The same with a list sorted by level, then arrival: no tenants, no deadlines, no pages."""
    callers = Callers(hashed=False)
    queue: list[tuple[int, int, Ticket]] = []

    def submit(ticket: Ticket) -> None:
        insort(queue, (ticket.priority, ticket.id, ticket))

    for asked in callers.prepare(waiting):
        submit(callers.ticket(asked, 0.0))
    running: dict[int, Ticket] = {}
    batch = callers.prepare(CYCLES)
    start = time.process_time()
    for asked in batch:
        submit(callers.ticket(asked, 0.0))
        _, number, ticket = queue.pop(0)
        running[number] = ticket
        del running[number]
    return CYCLES / (time.process_time() - start)


def packing_us() -> float:
    """Microseconds of CPU that packing a prompt takes."""
    tokens = list(range(10_000, 10_000 + PROMPT_TOKENS))
    start = time.process_time()
    for _ in range(CYCLES):
        pack_tokens(tokens)
    return (time.process_time() - start) / CYCLES * 1e6


def main() -> None:
    """Measures and prints."""
    rows = []
    for waiting in WAITING:
        value = max(cycles_per_second(waiting, hashed=False) for _ in range(REPEATS))
        rows.append(
            Row(
                name=f"reservation only, {waiting:,} waiting",
                value=value,
                unit="cycles/s",
                baseline=max(sorted_list_cycles_per_second(waiting) for _ in range(REPEATS)),
                budget=f">= {BUDGET}",
            )
        )
    for waiting in WAITING:
        value = max(cycles_per_second(waiting, hashed=True) for _ in range(REPEATS))
        rows.append(
            Row(
                name=f"with prefix hashing, {waiting:,} waiting",
                value=value,
                unit="cycles/s",
                budget=f">= {HASHED_BUDGET}",
            )
        )
    rows.append(
        Row(name=f"packing {PROMPT_TOKENS:,} tokens", value=min(packing_us() for _ in range(REPEATS)), unit="us")
    )
    report("Scheduler, CPU of one core", rows)


if __name__ == "__main__":
    main()
