"""Which request the energy of a GPU is for: the arithmetic, without threads and without a clock.

A meter tells what a device drew in a window of time. Above what the device draws when idle, that
energy is divided among the requests in flight in the window, in proportion to their work. What is
divided adds up to what was measured: requests, idle and unattributed are the window's energy, to
rounding. The rule is a cheap stand-in for the Shapley value, which is fair and exponential;
``benchmarks/energy_attribution.py`` says how near it comes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from llamatelemetry.errors import ConfigurationError


class EnergyMethod(StrEnum):
    """How a figure in joules came about, from the best to the coarsest."""

    COUNTER = "counter"
    INTERPOLATED = "counter_interpolated"
    POWER = "power"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyWindow:
    """What one device drew between two moments.

    Attributes:
        start_ns: Begin, on the sampler's monotonic clock.
        end_ns: End.
        energy_j: Joules drawn in it.
        method: ``counter``, or ``power`` for power added up.
        step_j: Joules that may belong to the window before or after it: what the counter holds back
            until its next step, or what power may have done between two readings.
    """

    start_ns: int
    end_ns: int
    energy_j: float
    method: EnergyMethod
    step_j: float

    @property
    def duration_s(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) * 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkWeights:
    """What the work of a request costs, relative to each other; only ratios matter.

    A decoder computes one token for every request of the batch in each step. Most of a step is reading
    the model once, whoever takes part in it; those who do share it.

    Attributes:
        prefill_token: One token of a prompt.
        decode_step: One step of decoding, however many requests take part.
        decode_token: What each request adds to a step by its own token.

    Raises:
        ConfigurationError: A weight is negative, not finite, or all are zero.
    """

    prefill_token: float = 1.0
    decode_step: float = 18.0
    decode_token: float = 2.0

    def __post_init__(self) -> None:
        for name in ("prefill_token", "decode_step", "decode_token"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"weights.{name}", value, "give a number from 0")
        if not (self.prefill_token or self.decode_step or self.decode_token):
            raise ConfigurationError("weights", 0.0, "give at least one weight above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one request did in one window, cut to it.

    Attributes:
        overlap_ns: For how long it was in flight.
        prefill_tokens: Prompt tokens computed, without those from a cache; a fraction where it ends in mid-prompt.
        decode_tokens: Tokens generated; a fraction where a token took longer than the window.
    """

    overlap_ns: int
    prefill_tokens: float = 0.0
    decode_tokens: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Where the energy of a window went.

    Attributes:
        shares_j: Joules of each claim, in the order they were given.
        margins_j: For each claim, by how many joules another way to divide would differ; 0 where it is alone.
        idle_j: What the device draws anyway.
        unattributed_j: Above idle, and of no request.
    """

    shares_j: tuple[float, ...]
    margins_j: tuple[float, ...]
    idle_j: float
    unattributed_j: float


def split_window(
    window: EnergyWindow,
    claims: Sequence[Claim],
    *,
    idle_w: float | None,
    weights: WorkWeights = WorkWeights(),
    attributable: float = 1.0,
) -> Split:
    """Divides the energy of a window.

    Args:
        window: What was measured.
        claims: The requests in flight in it.
        idle_w: Power the device draws when idle; None for not known: then nothing is idle.
        weights: What the requests' work costs.
        attributable: Share of the energy above idle that this server has, 0 to 1; the rest is other processes'.

    Returns:
        The shares; with ``idle_j`` and ``unattributed_j`` they add up to ``window.energy_j``.
    """
    raise NotImplementedError


@dataclass(slots=True, kw_only=True)
class RequestEnergy:
    """Adds up what one request drew on one device, window after window, in constant memory.

    Attributes:
        energy_j: Joules above idle.
    """

    energy_j: float = 0.0

    def add(self, window: EnergyWindow, claim: Claim, *, share_j: float, margin_j: float) -> None:
        """Adds its share of the next window; windows come in the order of time.

        Args:
            window: The window.
            claim: What the request did in it.
            share_j: Its share, from :class:`Split`.
            margin_j: Its margin.
        """
        raise NotImplementedError

    @property
    def method(self) -> EnergyMethod | None:
        """How the figure came about; None before the first window."""
        raise NotImplementedError

    @property
    def uncertainty_j(self) -> float:
        """By how much ``energy_j`` may be wrong, either way."""
        raise NotImplementedError


def uncertainty_j(requests: Sequence[RequestEnergy]) -> float:
    """Uncertainty of what a request drew on several devices together."""
    raise NotImplementedError
