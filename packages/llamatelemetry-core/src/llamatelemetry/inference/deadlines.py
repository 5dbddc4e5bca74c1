"""One waiting request's place in the queues, and the heap that finds the earliest deadline."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from llamatelemetry.errors import IntegrityError
from llamatelemetry.inference.decisions import Ticket

_FEW: Final = 16
"""Dead entries that are not worth rebuilding a heap for."""


class Entry:
    """A request that waits.

    Attributes:
        ticket: The request.
        number: Its place in the order of arrival; negative, and below all others, if it was put back.
        cost: Tokens it may take, prompt and answer: what it is charged, and what it reserves.
        bypassed: Times it was passed over for another's prefix.
        waiting: False once it left the queue.
    """

    __slots__ = ("bypassed", "cost", "number", "ticket", "waiting")

    def __init__(self, ticket: Ticket, number: int, cost: int) -> None:
        self.ticket: Ticket = ticket
        self.number: int = number
        self.cost: int = cost
        self.bypassed: int = 0
        self.waiting: bool = True


class DeadlineHeap:
    """Entries with a deadline, earliest first, equal ones by arrival.

    One that leaves the queue is only marked, and thrown away when it surfaces or when the marked
    ones are the most: each costs O(log n) once, and memory stays in proportion to those that wait.
    """

    __slots__ = ("_gone", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry]] = []
        self._gone = 0

    def __len__(self) -> int:
        return len(self._heap) - self._gone

    def push(self, deadline: float, entry: Entry) -> None:
        """Adds an entry that waits."""
        heappush(self._heap, (deadline, entry.number, entry))

    def first(self) -> Entry | None:
        """The waiting entry with the earliest deadline."""
        heap = self._heap
        while heap and not heap[0][2].waiting:
            heappop(heap)
            self._gone -= 1
        return heap[0][2] if heap else None

    def note_gone(self) -> None:
        """Notes that one of the entries does not wait any more."""
        self._gone += 1
        if self._gone > _FEW and self._gone * 2 > len(self._heap):
            self._heap = [item for item in self._heap if item[2].waiting]
            heapify(self._heap)
            self._gone = 0

    def check_integrity(self, waiting: int) -> None:
        """Proves that exactly so many entries wait here, and that the others are few.

        Raises:
            IntegrityError: Names what is broken.
        """
        alive = sum(1 for item in self._heap if item[2].waiting)
        if not alive == waiting == len(self):
            raise IntegrityError("DeadlineHeap", f"{alive} wait, {len(self)} are counted, {waiting} are expected")
        if self._gone > max(_FEW, len(self._heap) // 2):
            raise IntegrityError("DeadlineHeap", f"{self._gone} of {len(self._heap)} entries are dead")
