"""What a mean of few measured values is worth: confidence intervals of Student's t, without scipy.

Tokens of one window share their text, so their losses are not independent and the spread of tokens promises
too much. Windows are taken as the units instead, each with its own mean, as clustered standard errors and
batch means do: E. Miller, "Adding Error Bars to Evals", 2024 (arXiv 2411.00640), on clustered errors and on
paired differences; A. Law, "Simulation Modeling and Analysis", on batch means. What two models lose on the same
window is compared window by window, which takes the text's own spread out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["CONFIDENCE", "Estimate", "mean_with_interval", "student_quantile"]

CONFIDENCE: Final = 0.95
"""Share of such intervals that have the true value in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure, and between which values the true one is with 95 % confidence.

    Attributes:
        value: The figure.
        low: The lower end; None where one window says nothing of a spread.
        high: The upper end.
    """

    value: float
    low: float | None
    high: float | None

    def through(self, function: Callable[[float], float]) -> Estimate:
        """The estimate of a growing function of it, such as a perplexity of a mean loss."""
        return Estimate(
            value=function(self.value),
            low=None if self.low is None else function(self.low),
            high=None if self.high is None else function(self.high),
        )

    def within(self, least: float, most: float) -> Estimate:
        """The same with ends that are possible at all."""
        return Estimate(
            value=self.value,
            low=None if self.low is None else max(self.low, least),
            high=None if self.high is None else min(self.high, most),
        )


def mean_with_interval(values: Sequence[float]) -> Estimate:
    """The mean of independent values, with its interval.

    Raises:
        ValueError: There are none.
    """
    count = len(values)
    if not count:
        raise ValueError("no values")
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(value=mean, low=None, high=None)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = student_quantile((1 + CONFIDENCE) / 2, count - 1) * spread / math.sqrt(count)
    return Estimate(value=mean, low=mean - half, high=mean + half)


def student_quantile(share: float, freedom: int) -> float:
    """The value below which Student's t stays with a probability.

    Args:
        share: The probability, from one half up and below one.
        freedom: Degrees of freedom, from one up.
    """
    low, high = 0.0, 1.0
    while _within(high, freedom) < 2 * share - 1:
        low, high = high, high * 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 2 * share - 1 else (low, middle)
    return (low + high) / 2


def _within(value: float, freedom: int) -> float:
    """Probability that Student's t is between -value and value: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(value / math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term = total = 0.0
    if freedom > 1:
        term = total = cosine if odd else 1.0
        for step in range(3 if odd else 2, freedom - 1, 2):
            term *= cosine**2 * (step - 1) / step
            total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
