"""The best type for each group under a budget, if what groups cost adds up.

One option has to be chosen of each group: the multiple-choice knapsack problem, solved by dynamic programming
over bytes (H. Kellerer, U. Pferschy, D. Pisinger, "Knapsack Problems", 2004, chapter 11). Bytes are counted in
8192 steps of the range between the smallest and the largest file, and rounded up for each group, so that no
answer is past its budget and none misses the best by more than a step a group. One table answers for all budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

__all__ = ["STEPS", "best_choices", "cheapest_choices"]

STEPS: Final = 8192

_Costs = Sequence[Sequence[tuple[int, float]]]
"""Of each group, of each option: bytes, and what it costs."""


def best_choices(groups: _Costs, budget_bytes: int) -> list[int] | None:
    """The option of each group with the least cost in all; None where not even the smallest fit.

    Args:
        groups: Of each group, of each option, its bytes and its cost.
        budget_bytes: Bytes that all may take together.
    """
    table, unit, least = _table(groups)
    spare = budget_bytes - least
    if spare < 0:
        return None
    return _traced(table, min(int(spare / unit), STEPS))


def cheapest_choices(groups: _Costs, most_cost: float) -> list[int] | None:
    """The options that take the fewest bytes and cost no more together; None where all cost more.

    Args:
        groups: Of each group, of each option, its bytes and its cost.
        most_cost: What they may cost.
    """
    table, _, _ = _table(groups)
    enough = np.flatnonzero(table[-1][0] <= most_cost)
    return _traced(table, int(enough[0])) if enough.size else None


_Row = tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.int64]], list[int]]


def _table(groups: _Costs) -> tuple[list[_Row], float, int]:
    """What the first groups cost at least, by how many they are; a step in bytes; bytes of the smallest options.

    Of each number of groups: the least cost in each number of steps, the option that the last group then has,
    and the steps that each of its options takes.
    """
    smallest = [min(size for size, _ in options) for options in groups]
    range_bytes = sum(max(size for size, _ in options) for options in groups) - sum(smallest)
    unit = max(range_bytes / (STEPS - len(groups)), 1.0)
    costs = np.zeros(STEPS + 1)
    rows: list[_Row] = []
    for options, least in zip(groups, smallest, strict=True):
        steps = [int(np.ceil((size - least) / unit)) for size, _ in options]
        reached = np.full((len(options), STEPS + 1), np.inf)
        for number, (step, (_, cost)) in enumerate(zip(steps, options, strict=True)):
            reached[number, step:] = costs[: STEPS + 1 - step] + cost
        taken = reached.argmin(axis=0)
        costs = reached.min(axis=0)
        rows.append((costs, taken, steps))
    return rows, unit, sum(smallest)


def _traced(rows: Sequence[_Row], at: int) -> list[int]:
    chosen = []
    for _, taken, steps in reversed(rows):
        option = int(taken[at])
        chosen.append(option)
        at -= steps[option]
    return chosen[::-1]
