"""NF4 and FP4 once more, in numpy and from the sources alone, to hold bitsandbytes' answers against.

NF4's values are quantiles of the normal distribution, eight below zero and seven above it: QLoRA, section 3 and
appendix E, https://arxiv.org/abs/2305.14314. FP4's are those of a sign, two bits of exponent and one of mantissa,
in steps such that the largest is one.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np


def nf4_values() -> np.ndarray:
    # The outermost quantile is the mean of what fifteen and sixteen equal shares of the normal leave outside.
    edge = 1 - (1 / 30 + 1 / 32) / 2
    normal = NormalDist().inv_cdf
    above = [normal(share) for share in np.linspace(edge, 0.5, 9)[:-1]]
    below = [-normal(share) for share in np.linspace(edge, 0.5, 8)[:-1]]
    values = np.array(sorted([*above, 0.0, *below]))
    return values / values.max()


def fp4_values() -> np.ndarray:
    magnitudes = [0.0, 0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]
    return np.array(sorted({sign * value / 12 for value in magnitudes for sign in (1, -1)}))


VALUES = {"nf4": nf4_values(), "fp4": fp4_values()}


def blocks(numbers: np.ndarray, size: int) -> np.ndarray:
    """Rows of ``size``, the last filled up with zeros."""
    flat = numbers.reshape(-1).astype(np.float64)
    return np.pad(flat, (0, -flat.size % size)).reshape(-1, size)


def nearest(numbers: np.ndarray, name: str, size: int) -> np.ndarray:
    """What is closest to each number among the sixteen values times the largest magnitude of its block."""
    rows = blocks(numbers, size)
    scales = np.abs(rows).max(axis=1, keepdims=True)
    values = VALUES[name]
    choices = np.abs(rows[:, :, None] - scales[:, :, None] * values).argmin(axis=2)
    return (values[choices] * scales).reshape(-1)[: numbers.size].reshape(numbers.shape)
