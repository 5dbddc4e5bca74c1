"""One priority level: whose turn it is among its tenants, and which of its requests is oldest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from heapq import heappop, heappush

from llamatelemetry.errors import IntegrityError
from llamatelemetry.inference.deadlines import Entry
from llamatelemetry.inference.policy import SchedulerConfig
from llamatelemetry.inference.tenant_queue import TenantQueue


class Level:
    """Shares one level between its tenants by weighted deficit round robin over tokens.

    The surplus form is used: in its turn a tenant gets ``quantum * weight`` tokens and is served while
    any are left; the last request may overdraw, and the tenant then sits out the rounds that pay the
    debt back. A turn so depends on what a tenant has taken, never on what it will ask for, and
    changing its queue cannot change its turn. Rounds in which nobody is served are skipped, so a pick
    costs O(log rounds owed) however small the quantum is.

    Over any time in which tenants i and j both have requests waiting here, what they are served, S,
    in tokens per weight, w, differs by at most ``2 * quantum + cost_i / w_i + cost_j / w_j``, where
    cost is that of a tenant's largest request. A tenant keeps a debt while others wait, even with
    nothing waiting itself; it never keeps credit. A newcomer's turn comes after those already in line.

    A tenant's turn comes after at most ``1 + (cost / (quantum * w) + 2) * others`` picks, where
    others is the sum over the other tenants of ``ceil(quantum * their weight / their smallest cost)``.

    Attributes:
        priority: The level's number.
        oldest: The request that arrived first of those waiting here; it has no meaning when none does.
    """

    __slots__ = ("_arrivals", "_config", "_round", "_rounds", "_tenants", "_turns", "oldest", "priority")

    def __init__(self, priority: int, config: SchedulerConfig, first: Entry) -> None:
        self.priority: int = priority
        self.oldest: Entry = first
        self._config = config
        self._arrivals: OrderedDict[int, Entry] = OrderedDict()
        self._tenants: dict[str | None, TenantQueue] = {}
        # For each round, the tenants whose turn is in it, in order; a heap of the rounds' numbers.
        self._turns: dict[int, OrderedDict[str | None, TenantQueue]] = {}
        self._rounds: list[int] = []
        self._round = 0
        self.add(first)

    def __len__(self) -> int:
        return len(self._arrivals)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._arrivals.values())

    def add(self, entry: Entry) -> None:
        """Puts a request in its tenant's queue, the last to have arrived or, if it was put back, the first."""
        self._arrivals[entry.number] = entry
        if entry.number < 0:
            self._arrivals.move_to_end(entry.number, last=False)
            self.oldest = entry
        name = entry.ticket.tenant if self._config.fair_tenants else None
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = TenantQueue(name, self._config)
            tenant.balance = tenant.share
            self._line_up(tenant, self._round + 1)
        tenant.add(entry)

    def remove(self, entry: Entry) -> None:
        """Takes out a request, already marked as not waiting, that will not be served."""
        tenant = self._tenants[entry.ticket.tenant if self._config.fair_tenants else None]
        self._take_out(entry, tenant)
        if not tenant and tenant.round <= self._round + 1:
            self._forget(tenant)

    def turn(self) -> TenantQueue:
        """The tenant whose turn it is. The level must not be empty."""
        while True:
            turns = self._turns[self._rounds[0]]
            while turns:
                tenant = next(iter(turns.values()))
                if tenant:
                    return tenant
                # It has nothing waiting and owes nothing any more.
                self._forget(tenant)
            del self._turns[heappop(self._rounds)]

    def serve(self, tenant: TenantQueue, entry: Entry) -> None:
        """Takes out a request, already marked as not waiting, of the tenant whose turn it is; charges it."""
        self._take_out(entry, tenant)
        self._round = tenant.round
        tenant.balance -= entry.cost
        if tenant.balance <= 0:
            # Remainders of floats are exact, so that no debt is lost and no credit made.
            rounds, rest = divmod(-tenant.balance, tenant.share)
            tenant.balance = tenant.share - rest
            del self._turns[tenant.round][tenant.name]
            self._line_up(tenant, tenant.round + int(rounds) + 1)
        elif not tenant:
            self._forget(tenant)

    def _take_out(self, entry: Entry, tenant: TenantQueue) -> None:
        tenant.remove(entry)
        del self._arrivals[entry.number]
        if entry is self.oldest:
            self.oldest = next(iter(self._arrivals.values()), entry)

    def _line_up(self, tenant: TenantQueue, turn: int) -> None:
        tenant.round = turn
        turns = self._turns.get(turn)
        if turns is None:
            turns = self._turns[turn] = OrderedDict()
            heappush(self._rounds, turn)
        turns[tenant.name] = tenant

    def _forget(self, tenant: TenantQueue) -> None:
        del self._turns[tenant.round][tenant.name]
        del self._tenants[tenant.name]

    def check_integrity(self) -> None:
        """Proves that every request is in its tenant's queue and every tenant has one turn.

        Raises:
            IntegrityError: Names what is broken.
        """
        if sum(len(tenant) for tenant in self._tenants.values()) != len(self._arrivals):
            raise IntegrityError("Level", "requests in order of arrival are not those in the tenants' queues")
        if list(self._arrivals) != sorted(self._arrivals):
            raise IntegrityError("Level", "requests are not in the order of arrival")
        if self._arrivals and self.oldest is not next(iter(self._arrivals.values())):
            raise IntegrityError("Level", "the oldest request is another")
        if sorted(self._rounds) != sorted(self._turns):
            raise IntegrityError("Level", "the heap of rounds is not that of the rounds there are")
        lined_up = [tenant for turns in self._turns.values() for tenant in turns.values()]
        if len(lined_up) != len(self._tenants):
            raise IntegrityError("Level", f"{len(self._tenants)} tenants have {len(lined_up)} turns")
        for name, tenant in self._tenants.items():
            tenant.check_integrity()
            if self._turns[tenant.round].get(name) is not tenant or tenant.round < self._round:
                raise IntegrityError("Level", f"tenant {name!r} has no turn in round {tenant.round}")
            if not 0 < tenant.balance <= tenant.share:
                raise IntegrityError("Level", f"tenant {name!r} may take {tenant.balance} of {tenant.share} tokens")
