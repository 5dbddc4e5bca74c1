"""Queue times and fairness of each policy, simulated event by event on the real scheduler.

Run: python benchmarks/scheduler_sim.py [--json] [--requests 1000000] [--servers 1 32 1000]

Each policy is given the same requests: so many in all, spread over the numbers of servers, once
arriving at random (Poisson, load 0.95) and once in bursts (load 0.85 on average, 1.5 inside them).
A server has eight slots, and one scheduler stands before all of them, as one engine does. Prompts
and answers are lognormal in length; a caller allows for up to twice the answer. One tenant of
twenty sends as much as all others together; a tenth of the requests is urgent and a third can wait;
a fifth has a deadline.

Queue times are of admitted requests. Fairness is Jain's index, 1 where all get the same and 1/n
where one gets all, over what each tenant was served relative to its max-min fair share: the mean of
the five-minute windows in which requests waited all the time. The scheduler's CPU is what its calls
took. Where the run is too short for three bursts, bursts and windows are shortened alike.

"Shared prompts" is a smaller run on one server, with real token ids: forty system prompts, the
cache of each slot modelled by what the scheduler says that it holds.
"""

from __future__ import annotations

import argparse
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from heapq import heappop, heappush
from random import Random
from statistics import mean
from typing import NamedTuple

from report import Row, report
from rich.console import Console
from rich.progress import Progress

from llamatelemetry.inference.decisions import Accepted, Admission, Expired, Ticket
from llamatelemetry.inference.kv_cache import PagedKVCache
from llamatelemetry.inference.metrics import percentile
from llamatelemetry.inference.places import SlotGroup
from llamatelemetry.inference.policy import FIFO, SchedulerConfig
from llamatelemetry.inference.scheduler import RequestScheduler
from llamatelemetry.inference.tokens import PackedTokens, pack_tokens

SLOTS = 8
CONTEXT = 8192
PAGES, PAGE_SIZE = 256, 64
"""A server's slots share room for 16,384 tokens."""
TENANTS = 20
PREFILL_TOKENS_PER_S = 2_000.0
DECODE_TOKENS_PER_S = 50.0
PROMPT = (5.7, 1.0)
ANSWER = (4.6, 0.8)
"""Logarithm's mean and deviation: medians of 300 and 100 tokens."""
POISSON_LOAD, BURSTY_LOAD = 0.95, 0.85
BURST_S, LULL_S, BURST_RATE = 600.0, 1200.0, 1.75
WINDOW_S = 300.0
URGENT, NORMAL, BATCH = 0, 1, 2
SYSTEM_PROMPTS, SYSTEM_TOKENS, OWN_TOKENS = 40, 512, 64
SHARED_PART = 20
"""The run with token ids is of one request in so many."""

POLICIES = {
    "fifo": FIFO,
    "priority": replace(FIFO, priorities=True, ageing_s=60.0),
    "fair": replace(FIFO, fair_tenants=True),
    "deadline": replace(FIFO, earliest_deadline_first=True, ageing_s=60.0),
    "all": SchedulerConfig(ageing_s=60.0),
}
PREFIX_POLICIES = {"fifo": FIFO, "prefix": replace(FIFO, prefix_window=16)}


class Request(NamedTuple):
    """A request, and the tokens that its answer will have."""

    ticket: Ticket
    answer_tokens: int


@dataclass(slots=True)
class Tally:
    """What came of one policy's requests."""

    waits: array[float] = field(default_factory=lambda: array("d"))
    urgent_waits: array[float] = field(default_factory=lambda: array("d"))
    with_deadline: int = 0
    missed: int = 0
    fairness: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    scheduler_s: float = 0.0
    requests: int = 0


class Fairness:
    """Tokens that tenants ask for and are served, window by window."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._waiting: Counter[str | None] = Counter()
        self._asked: Counter[str | None] = Counter()
        self._served: Counter[str | None] = Counter()
        self._total = 0
        self._always_waiting = False
        self._end = 0.0
        self.windows: list[float] = []

    def entered(self, tenant: str | None, tokens: int, now: float) -> None:
        """A request waits."""
        self._move_to(now)
        self._waiting[tenant] += tokens
        self._asked[tenant] += tokens
        self._total += 1

    def left(self, tenant: str | None, tokens: int, now: float, *, served: bool) -> None:
        """It left the queue, to be served or not."""
        self._move_to(now)
        self._waiting[tenant] -= tokens
        if served:
            self._served[tenant] += tokens
        self._total -= 1
        self._always_waiting &= self._total > 0

    def _move_to(self, now: float) -> None:
        while now >= self._end:
            if self._always_waiting:
                fair = fair_shares(self._asked, sum(self._served.values()))
                ratios = [self._served[tenant] / share for tenant, share in fair.items()]
                self.windows.append(sum(ratios) ** 2 / (len(ratios) * sum(ratio**2 for ratio in ratios)))
            self._served.clear()
            self._asked = +self._waiting
            self._always_waiting = self._total > 0
            self._end += self._window_s


def fair_shares(asked: Counter[str | None], tokens: int) -> dict[str | None, float]:
    """Splits tokens max-min fairly: nobody gets more than asked for, and what that leaves is the others'."""
    shares: dict[str | None, float] = {}
    left = float(tokens)
    for index, (tenant, wanted) in enumerate(sorted(asked.items(), key=lambda item: item[1])):
        shares[tenant] = min(wanted, left / (len(asked) - index))
        left -= shares[tenant]
    return shares


def lengths(dice: Random) -> tuple[int, int]:
    """Tokens of a prompt and of its answer."""
    prompt = min(CONTEXT // 2, 1 + int(dice.lognormvariate(*PROMPT)))
    return prompt, min(CONTEXT // 4, 1 + int(dice.lognormvariate(*ANSWER)))


def service_s(prompt: float, answer: float) -> float:
    """Seconds that a slot takes for so many tokens."""
    return prompt / PREFILL_TOKENS_PER_S + answer / DECODE_TOKENS_PER_S


@cache
def mean_service_s() -> float:
    """The mean of that over requests as they come."""
    dice = seeded(0)
    return sum(service_s(*lengths(dice)) for _ in range(10_000)) / 10_000


def seeded(seed: int) -> Random:
    """Dice that fall the same way in every run."""
    return Random(seed)  # noqa: S311 - repeatable, and nobody's secret


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all policies are tried on."""

    servers: int
    bursty: bool
    requests: int

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.servers} x {SLOTS} slots, {'bursts' if self.bursty else 'Poisson'}"

    @property
    def rate(self) -> float:
        """Requests a second."""
        return (BURSTY_LOAD if self.bursty else POISSON_LOAD) * self.servers * SLOTS / mean_service_s()

    @property
    def scale(self) -> float:
        """By what bursts are shortened so that three of them happen."""
        return min(1.0, self.requests / self.rate / (3 * (BURST_S + LULL_S)))


def arrivals(world: World) -> Iterator[Request]:
    """Requests in order of arrival."""
    dice = seeded(1)
    rate, burst_s, lull_s = world.rate, BURST_S * world.scale, LULL_S * world.scale
    lull_rate = 1.0 - (BURST_RATE - 1.0) * BURST_S / LULL_S
    now, turn, factor = 0.0, lull_s if world.bursty else float("inf"), lull_rate if world.bursty else 1.0
    for number in range(world.requests):
        now += dice.expovariate(rate * factor)
        while now > turn:
            factor = lull_rate if factor == BURST_RATE else BURST_RATE
            turn += burst_s if factor == BURST_RATE else lull_s
        prompt, answer = lengths(dice)
        level = dice.random()
        ticket = Ticket(
            id=number,
            prompt_tokens=prompt,
            max_tokens=max(1, int(answer * dice.uniform(1.0, 2.0))),
            submitted=now,
            tenant="flood" if dice.random() < 0.5 else f"tenant-{dice.randrange(TENANTS - 1)}",
            priority=URGENT if level < 0.1 else NORMAL if level < 0.7 else BATCH,
            deadline=now + dice.uniform(5.0, 60.0) if dice.random() < 0.2 else None,
        )
        yield Request(ticket, answer)


def shared_prompts(requests: int) -> Iterator[Request]:
    """Requests that begin with one of a few system prompts; short answers."""
    dice = seeded(2)
    systems = [pack_tokens([dice.randrange(50_000) for _ in range(SYSTEM_TOKENS)]) for _ in range(SYSTEM_PROMPTS)]
    prompt = SYSTEM_TOKENS + OWN_TOKENS
    rate, now = POISSON_LOAD * SLOTS / service_s(prompt, 20), 0.0
    for number in range(requests):
        now += dice.expovariate(rate)
        own = pack_tokens([dice.randrange(50_000) for _ in range(OWN_TOKENS)])
        tokens = PackedTokens(dice.choice(systems) + own)
        ticket = Ticket(id=number, prompt_tokens=prompt, max_tokens=20, submitted=now, priority=NORMAL, tokens=tokens)
        yield Request(ticket, 20)


class Simulation:
    """One scheduler, its servers, and the events between them."""

    def __init__(self, config: SchedulerConfig, servers: int, *, window_s: float = WINDOW_S) -> None:
        groups = [SlotGroup(SLOTS, PagedKVCache(PAGES, PAGE_SIZE)) for _ in range(servers)]
        endless = replace(config, max_waiting=10**9, context_length=CONTEXT)
        self._scheduler = RequestScheduler(endless, *groups)
        self._completions: list[tuple[float, int]] = []
        self._answers: dict[int, int] = {}
        self._fairness = Fairness(window_s)
        self.tally = Tally()

    def run(self, requests: Iterator[Request], advance: Callable[[], None]) -> Tally:
        """Serves every request; calls ``advance`` for each."""
        completions = self._completions
        for request in requests:
            while completions and completions[0][0] <= request.ticket.submitted:
                self._complete(*heappop(completions))
            self._arrive(request)
            advance()
        while completions:
            self._complete(*heappop(completions))
        self.tally.fairness = self._fairness.windows
        return self.tally

    def _arrive(self, request: Request) -> None:
        ticket, tally = request.ticket, self.tally
        now = ticket.submitted
        self._answers[ticket.id] = request.answer_tokens
        tally.requests += 1
        tally.with_deadline += ticket.deadline is not None
        start = time.thread_time()
        decision = self._scheduler.submit(ticket, now)
        admitted = self._scheduler.admit(now)
        tally.scheduler_s += time.thread_time() - start
        assert isinstance(decision, Accepted)
        self._fairness.entered(ticket.tenant, ticket.prompt_tokens + ticket.max_tokens, now)
        self._begin(admitted, now)

    def _complete(self, now: float, number: int) -> None:
        start = time.thread_time()
        self._scheduler.prompt_computed(number)
        self._scheduler.finish(number, now)
        admitted = self._scheduler.admit(now)
        self.tally.scheduler_s += time.thread_time() - start
        self._begin(admitted, now)

    def _begin(self, decisions: list[Admission | Expired], now: float) -> None:
        tally = self.tally
        for decision in decisions:
            ticket = decision.ticket
            answer = self._answers.pop(ticket.id)
            served = isinstance(decision, Admission)
            self._fairness.left(ticket.tenant, ticket.prompt_tokens + ticket.max_tokens, now, served=served)
            if isinstance(decision, Expired):
                tally.missed += 1
                continue
            tally.waits.append(decision.waited_s)
            if ticket.priority == URGENT:
                tally.urgent_waits.append(decision.waited_s)
            tally.prompt_tokens += ticket.prompt_tokens
            tally.cached_tokens += decision.cached_estimate
            took = service_s(ticket.prompt_tokens - decision.cached_estimate, answer)
            heappush(self._completions, (now + took, ticket.id))


def figures(name: str, tally: Tally, fifo: Tally) -> Iterator[Row]:
    """What one policy did, beside what first in, first out did with the same requests."""
    for row in measured(name, tally, fifo):
        yield replace(row, baseline=None) if tally is fifo else row


def measured(name: str, tally: Tally, fifo: Tally) -> Iterator[Row]:
    """The same, first in, first out beside itself too."""
    for part, waits, others in (
        ("queue time", tally.waits, fifo.waits),
        ("urgent queue time", tally.urgent_waits, fifo.urgent_waits),
    ):
        ordered, baseline = sorted(waits), sorted(others)
        for share in (0.5, 0.99) if part == "queue time" else (0.99,):
            value = percentile(ordered, share)
            if value is not None:
                unit = f"s p{share * 100:.0f}"
                yield Row(name=f"{name}, {part}", value=value, unit=unit, baseline=percentile(baseline, share))
    if tally.with_deadline:
        missed, others_missed = tally.missed / tally.with_deadline, fifo.missed / fifo.with_deadline
        yield Row(name=f"{name}, deadlines missed", value=missed, unit="share", baseline=others_missed)
    if tally.fairness and fifo.fairness:
        yield Row(name=f"{name}, fairness", value=mean(tally.fairness), unit="Jain", baseline=mean(fifo.fairness))
    if tally.cached_tokens:
        cached, others_cached = (each.cached_tokens / each.prompt_tokens for each in (tally, fifo))
        yield Row(name=f"{name}, prompt tokens cached", value=cached, unit="share", baseline=others_cached)
    spent, baseline_spent = (each.scheduler_s / each.requests * 1e6 for each in (tally, fifo))
    yield Row(name=f"{name}, scheduler", value=spent, unit="us/request", baseline=baseline_spent)


def main() -> None:
    """Simulates and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000, help="requests that each policy is given")
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 32, 1000], help="numbers of servers")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    each, shared = options.requests // (2 * len(options.servers)), options.requests // SHARED_PART
    worlds = [
        World(servers=servers, bursty=bursty, requests=each) for servers in options.servers for bursty in (False, True)
    ]
    rows: list[Row] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        total = len(worlds) * len(POLICIES) * each + len(PREFIX_POLICIES) * shared
        task = progress.add_task("", total=total)
        for world in worlds:
            tallies: dict[str, Tally] = {}
            for name, config in POLICIES.items():
                progress.update(task, description=f"{world.name}: {name}")
                simulation = Simulation(config, world.servers, window_s=WINDOW_S * world.scale)
                tallies[name] = simulation.run(arrivals(world), lambda: progress.advance(task))
                rows += figures(f"{world.name}: {name}", tallies[name], tallies["fifo"])
        tallies = {}
        for name, config in PREFIX_POLICIES.items():
            progress.update(task, description=f"shared prompts: {name}")
            tallies[name] = Simulation(config, 1).run(shared_prompts(shared), lambda: progress.advance(task))
            rows += figures(f"1 x {SLOTS} slots, shared prompts: {name}", tallies[name], tallies["fifo"])
    report(f"Scheduler simulated, {options.requests:,} requests for each policy, against first in, first out", rows)


if __name__ == "__main__":
    main()
