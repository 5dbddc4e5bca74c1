"""What a few measurements say of what was measured, and how sure that is.

Intervals are of the bootstrap: the measurements are drawn anew, with repetition, many times, and what the statistic
is then is where it may lie. That needs no normal distribution, which times of requests do not have. The draws come
from a fixed seed, so the same measurements have the same interval.

Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap, chapter 13 (the percentile interval).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Final

from llamatelemetry.inference.metrics import percentile

__all__ = ["CONFIDENCE", "Estimate", "mean_of", "median_of"]

CONFIDENCE: Final = 0.95
"""Of intervals."""
_DRAWS: Final = 1000
_SEED: Final = 20261126
_FEWEST: Final = 5
"""Measurements below which an interval would only pretend to be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and where it may lie.

    Attributes:
        value: The figure.
        low: Lower end of the interval; None where there are too few measurements for one.
        high: Upper end.
        count: Measurements that it is made of.
    """

    value: float
    low: float | None
    high: float | None
    count: int


def mean_of(measured: Sequence[float | None]) -> Estimate | None:
    """The mean of what was measured; None where nothing was."""
    return _estimate(measured, fmean)


def median_of(measured: Sequence[float | None]) -> Estimate | None:
    """The median of what was measured; None where nothing was."""
    return _estimate(measured, median)


def _estimate(measured: Sequence[float | None], statistic: Callable[[Sequence[float]], float]) -> Estimate | None:
    values = [each for each in measured if each is not None]
    if not values:
        return None
    low, high = _interval(values, statistic) if len(values) >= _FEWEST else (None, None)
    return Estimate(value=statistic(values), low=low, high=high, count=len(values))


def _interval(
    values: Sequence[float], statistic: Callable[[Sequence[float]], float]
) -> tuple[float | None, float | None]:
    draw = random.Random(_SEED)  # noqa: S311  Nobody is to be surprised by it.
    drawn = sorted(statistic(draw.choices(values, k=len(values))) for _ in range(_DRAWS))
    outside = (1 - CONFIDENCE) / 2
    return percentile(drawn, outside), percentile(drawn, 1 - outside)
