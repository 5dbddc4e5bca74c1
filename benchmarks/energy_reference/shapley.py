"""The Shapley value, exactly: what a fair division is, for a handful of players.

The share of a player is what it adds to those who are there already, on average over all orders in
which they might have come. It is the only division that gives out the whole, gives the same to those
who do the same, gives nothing to those who add nothing, and adds up over games (L. S. Shapley, "A
value for n-person games", 1953). It needs the value of each of the 2^n coalitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def shapley(players: int, value: Callable[[int], float]) -> list[float]:
    """Shapley values of a game.

    Args:
        players: How many there are.
        value: What a coalition is worth; bit ``i`` is set where player ``i`` takes part.

    Returns:
        The share of each player. They add up to the worth of all together, less that of nobody.
    """
    worth = [value(coalition) for coalition in range(1 << players)]
    orders = math.factorial(players)
    # In how many orders exactly so many come before a player.
    weight = [math.factorial(before) * math.factorial(players - 1 - before) / orders for before in range(players)]
    return [
        math.fsum(
            weight[coalition.bit_count()] * (worth[coalition | 1 << player] - worth[coalition])
            for coalition in range(1 << players)
            if not coalition & 1 << player
        )
        for player in range(players)
    ]
