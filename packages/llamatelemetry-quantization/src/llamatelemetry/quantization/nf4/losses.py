"""What four bits lost, in numbers that add up over tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llamatelemetry.quantization.nf4.runtime import load_torch

__all__ = ["Loss", "TensorLoss", "measure_loss", "sum_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What became of some numbers.

    Attributes:
        elements: How many there are.
        size_bytes: Bytes that they take now, scales included.
        signal: Sum of their squares, before.
        noise: Sum of the squares of the differences.
        max_abs_error: The largest difference, as a magnitude.
    """

    elements: int
    size_bytes: int
    signal: float
    noise: float
    max_abs_error: float

    @property
    def relative_error(self) -> float | None:
        """Root of the noise over root of the signal; None where all numbers were zero."""
        return math.sqrt(self.noise / self.signal) if self.signal else None

    @property
    def snr_db(self) -> float | None:
        """Signal over noise in decibels; None where nothing was lost, or all numbers were zero."""
        return 10 * math.log10(self.signal / self.noise) if self.noise and self.signal else None

    @property
    def bits_per_weight(self) -> float | None:
        """Bits for each number, scales included; None where there is no number."""
        return 8 * self.size_bytes / self.elements if self.elements else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLoss:
    """What one tensor lost.

    Attributes:
        name: The tensor.
        shape: Its sizes.
        loss: What became of its numbers.
    """

    name: str
    shape: tuple[int, ...]
    loss: Loss


def measure_loss(original: Any, back: Any, *, size_bytes: int) -> Loss:
    """Compares numbers with what came back of them.

    Args:
        original: A ``torch.Tensor``.
        back: One of the same shape, on the same device.
        size_bytes: Bytes that the numbers took in between.

    Raises:
        MissingDependencyError: torch is not installed; carries the command that installs it.
    """
    torch = load_torch()
    wide = original.detach().float()
    difference = wide - back.detach().float()
    # Adds up in float64 without a copy of that size.
    signal, noise = (float(torch.linalg.vector_norm(each, dtype=torch.float64)) ** 2 for each in (wide, difference))
    largest = float(difference.abs().max()) if difference.numel() else 0.0
    return Loss(elements=wide.numel(), size_bytes=size_bytes, signal=signal, noise=noise, max_abs_error=largest)


def sum_of(losses: Iterable[Loss]) -> Loss:
    """What became of all numbers together."""
    found = list(losses)
    return Loss(
        elements=sum(each.elements for each in found),
        size_bytes=sum(each.size_bytes for each in found),
        signal=math.fsum(each.signal for each in found),
        noise=math.fsum(each.noise for each in found),
        max_abs_error=max((each.max_abs_error for each in found), default=0.0),
    )
