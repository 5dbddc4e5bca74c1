"""One tenant's waiting requests in one level: by deadline, else by arrival, prefixes a little earlier."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

from llamatelemetry.errors import IntegrityError
from llamatelemetry.inference.deadlines import DeadlineHeap, Entry
from llamatelemetry.inference.policy import SchedulerConfig
from llamatelemetry.inference.tokens import PackedTokens

LongestPrefix = Callable[[PackedTokens | None, int], int]
"""Most tokens of a prompt's beginning that an idle slot holds; 0 if not more than a number."""


class TenantQueue:
    """The order among one tenant's requests of one level.

    With deadlines in use the earliest comes first, and requests without one come last, by arrival.
    So that those do not wait forever, of ``aged_every`` requests taken one is the oldest of all, once
    that one has waited ``ageing_s``.

    Where the order is that of arrival, the one of the first ``prefix_window`` requests may come first
    whose prefix an idle slot holds longest. No request is passed over for that more than
    ``max_bypass`` times, and none that has a deadline or has waited ``ageing_s`` while it is the head.

    Attributes:
        balance: Tokens the tenant may still take in its turn; kept by the level.
        round: Round in which its turn is; kept by the level.
    """

    __slots__ = ("_config", "_line", "_passed", "_urgent", "balance", "name", "round", "share")

    def __init__(self, name: str | None, config: SchedulerConfig) -> None:
        self.name: str | None = name
        self.share: float = config.quantum * (1.0 if name is None else config.weights.get(name, 1.0))
        self.balance: float = 0.0
        self.round: int = 0
        self._config = config
        self._line: OrderedDict[int, Entry] = OrderedDict()
        self._urgent = DeadlineHeap()
        self._passed = 0

    def __len__(self) -> int:
        return len(self._line)

    def add(self, entry: Entry) -> None:
        """Puts a request in the queue, the last to have arrived or, if it was put back, the first."""
        self._line[entry.number] = entry
        if entry.number < 0:
            self._line.move_to_end(entry.number, last=False)
        if entry.ticket.deadline is not None and self._config.earliest_deadline_first:
            self._urgent.push(entry.ticket.deadline, entry)

    def remove(self, entry: Entry) -> None:
        """Takes a request, already marked as not waiting, from wherever it is in the queue."""
        del self._line[entry.number]
        if entry.ticket.deadline is not None and self._config.earliest_deadline_first:
            self._urgent.note_gone()

    def head(self, now: float) -> Entry:
        """The request that comes first, prefixes aside. The queue must not be empty."""
        oldest = next(iter(self._line.values()))
        urgent = self._urgent.first()
        if urgent is None or (self._passed >= self._config.aged_every - 1 and self.overdue(oldest, now)):
            return oldest
        return urgent

    def overdue(self, entry: Entry, now: float) -> bool:
        """Whether a request has waited ``ageing_s``."""
        ageing_s = self._config.ageing_s
        return ageing_s is not None and now - entry.ticket.submitted > ageing_s

    def prefer(self, head: Entry, now: float, longest_prefix: LongestPrefix) -> Entry:
        """The request to run in place of the head because a slot knows its prefix; else the head."""
        config = self._config
        if config.prefix_window < 2 or head.ticket.deadline is not None or self.overdue(head, now):
            return head
        best, longest = head, longest_prefix(head.ticket.tokens, 0) + config.min_prefix_gain - 1
        for entry in islice(self._line.values(), config.prefix_window):
            if entry is not head and (found := longest_prefix(entry.ticket.tokens, longest)):
                best, longest = entry, found
            if entry.bypassed >= config.max_bypass:
                break
        return best

    def took(self, entry: Entry, *, for_prefix: bool) -> None:
        """Notes that a request, not removed yet, is taken out of turn or in turn."""
        oldest = next(iter(self._line.values()))
        if entry is oldest:
            self._passed = 0
        else:
            self._passed += 1
        if for_prefix:
            for other in self._line.values():
                if other is entry:
                    break
                other.bypassed += 1

    def check_integrity(self) -> None:
        """Proves that every request waits, in the order of arrival, and that no bound is exceeded.

        Raises:
            IntegrityError: Names what is broken.
        """
        numbers = list(self._line)
        if numbers != sorted(numbers):
            raise IntegrityError("TenantQueue", f"requests are not in the order of arrival: {numbers}")
        for number, entry in self._line.items():
            if not entry.waiting or entry.number != number:
                raise IntegrityError("TenantQueue", f"request {entry.ticket.id} is queued and does not wait")
            if entry.bypassed > self._config.max_bypass:
                raise IntegrityError("TenantQueue", f"request {entry.ticket.id} was bypassed {entry.bypassed} times")
        in_heap = self._config.earliest_deadline_first
        self._urgent.check_integrity(
            sum(1 for entry in self._line.values() if in_heap and entry.ticket.deadline is not None)
        )
