from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.distributed.partition import cut_evenly

MIB = 2**20
sizes = st.lists(st.integers(0, 500).map(MIB.__mul__), min_size=1, max_size=8)
room_sizes = st.lists(st.integers(0, 2000).map(MIB.__mul__), min_size=1, max_size=4)


def least_room_left(things: list[int], rooms: list[int], counts: tuple[int, ...]) -> int:
    left, first = [], 0
    for room, count in zip(rooms, counts, strict=True):
        if count:
            left.append(room - sum(things[first : first + count]))
        first += count
    return min(left)


def every_cut(things: int, holders: int) -> list[tuple[int, ...]]:
    cuts = combinations(range(things + holders - 1), holders - 1)
    edges = [(-1, *cut, things + holders - 1) for cut in cuts]
    return [tuple(b - a - 1 for a, b in pairwise(edge)) for edge in edges]


@given(things=sizes, rooms=room_sizes)
def test_no_other_cut_leaves_more_room_at_the_fullest(things: list[int], rooms: list[int]) -> None:
    counts = cut_evenly(len(things), rooms, lambda _holder, first, stop: sum(things[first:stop]))
    assert sum(counts) == len(things)
    best = max(least_room_left(things, rooms, cut) for cut in every_cut(len(things), len(rooms)))
    assert best - MIB <= least_room_left(things, rooms, counts) <= best


def test_a_holder_may_get_nothing() -> None:
    costs = [100 * MIB] * 3
    counts = cut_evenly(3, [50 * MIB, 400 * MIB], lambda _holder, first, stop: sum(costs[first:stop]))
    assert counts == (0, 3)


def test_what_a_holder_costs_by_itself_counts_once_it_gets_something() -> None:
    counts = cut_evenly(
        4, [1000 * MIB, 1000 * MIB], lambda holder, first, stop: (stop - first + 6 * holder) * 100 * MIB
    )
    assert counts == (4, 0)


def test_where_nothing_fits_the_shortage_is_the_smallest_there_can_be() -> None:
    counts = cut_evenly(10, [100 * MIB, 300 * MIB], lambda _holder, first, stop: (stop - first) * 100 * MIB)
    assert counts == (4, 6)
