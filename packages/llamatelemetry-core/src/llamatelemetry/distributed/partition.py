"""Cutting a row of things into consecutive pieces, one for each holder, so that all have room left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

_GRAIN: Final = 2**20
"""Rooms are told apart no finer than this: a mebibyte, where the unit is a byte."""

Cost = Callable[[int, int, int], int]
"""Holder, first thing, stop: what the things from ``first`` up to ``stop`` cost that holder. Grows with the piece."""


def cut_evenly(things: int, rooms: Sequence[int], cost: Cost) -> tuple[int, ...]:
    """How many things each holder takes, in order, so that the least room left is as large as it can be.

    Room left may be negative: then it is the smallest shortage there can be. A holder that takes nothing
    costs nothing and does not count.

    Args:
        things: How many there are; at least one.
        rooms: What each holder has room for; at least one.
        cost: What a piece costs a holder.
    """
    left_alone = [room - cost(holder, 0, things) for holder, room in enumerate(rooms)]
    low, high = max(left_alone), max(rooms)
    alone = left_alone.index(low)
    best = tuple(things if holder == alone else 0 for holder in range(len(rooms)))
    while high - low > _GRAIN:
        middle = (low + high) // 2
        counts = _fill(things, rooms, cost, middle)
        if counts is None:
            high = middle
        else:
            low, best = middle, counts
    return best


def _fill(things: int, rooms: Sequence[int], cost: Cost, left: int) -> tuple[int, ...] | None:
    """Gives each holder in turn as much as leaves it ``left``; None if things remain.

    It takes no cleverness: a holder that takes less than it can only leaves more to those after it.
    """
    counts = []
    first = 0
    for holder, room in enumerate(rooms):
        low, high = first, things
        while low < high:
            middle = (low + high + 1) // 2
            if room - cost(holder, first, middle) >= left:
                low = middle
            else:
                high = middle - 1
        counts.append(low - first)
        first = low
    return tuple(counts) if first == things else None
