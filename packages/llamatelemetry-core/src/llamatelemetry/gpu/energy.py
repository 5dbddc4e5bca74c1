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
from typing import Final

from llamatelemetry.errors import ConfigurationError

WEIGHTS_DOUBT: Final = 4.0
"""By how much decoding may be dearer or cheaper, against prompts, than the weights say."""
RULE_DOUBT: Final = 0.1
"""Part of a share by which the rule may be off in a window that several share, with the right weights."""
PROMPTS_DOUBT: Final = 0.5
"""The same for a prompt while another one is computed: when each began and ended is known, not which came first."""


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
    the model once, whoever takes part in it; those who do share it. The weights given here make a token
    that is decoded alone 40 times as dear as a prompt's, the middle of what was published of GPUs;
    ``docs/energy.md`` names the sources, and how to measure one's own.

    Attributes:
        prefill_token: One token of a prompt.
        decode_step: One step of decoding, however many requests take part.
        decode_token: What each request adds to a step by its own token.

    Raises:
        ConfigurationError: A weight is negative, not finite, or all are zero.
    """

    prefill_token: float = 1.0
    decode_step: float = 38.0
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
        margins_j: For each claim, by how many joules another way to divide might differ; 0 where it is alone.
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
    idle_j = min(window.energy_j, max(0.0, idle_w or 0.0) * window.duration_s)
    above_j = window.energy_j - idle_j
    ours_j = above_j * min(1.0, max(0.0, attributable))
    prompts, answers = _work(claims, weights)
    parts = _in_all(prompts, answers)
    if not any(parts):
        parts = [float(max(0, claim.overlap_ns)) for claim in claims]
    if not any(parts):
        nothing = (0.0,) * len(claims)
        return Split(shares_j=nothing, margins_j=nothing, idle_j=idle_j, unattributed_j=above_j)
    shares_j = _divide(ours_j, parts)
    margins_j = _margins(ours_j, shares_j, prompts, answers) if len(claims) > 1 else (0.0,)
    return Split(shares_j=shares_j, margins_j=margins_j, idle_j=idle_j, unattributed_j=above_j - ours_j)


def _margins(
    amount: float, shares: Sequence[float], prompts: Sequence[float], answers: Sequence[float]
) -> tuple[float, ...]:
    """By how much each share might be off: the rule, prompts whose progress nobody knows, and the weights."""
    margins = [share * RULE_DOUBT for share in shares]
    if sum(map(bool, prompts)) > 1:
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            margins[i] += shares[i] * PROMPTS_DOUBT * (prompt / (prompt + answer) if prompt else 0.0)
    if any(prompts) and any(answers):
        off = [0.0] * len(shares)
        for factor in (WEIGHTS_DOUBT, 1 / WEIGHTS_DOUBT):
            others = _divide(amount, _in_all(prompts, answers, factor))
            off = [max(most, abs(other - share)) for most, other, share in zip(off, others, shares, strict=True)]
        margins = [margin + most for margin, most in zip(margins, off, strict=True)]
    return tuple(margins)


def _work(claims: Sequence[Claim], weights: WorkWeights) -> tuple[list[float], list[float]]:
    """Work of each claim, in no unit: on its prompt and on its answer."""
    prefill = [max(0.0, claim.prefill_tokens) for claim in claims]
    decode = [max(0.0, claim.decode_tokens) for claim in claims]
    # Both divided by their greatest, so that no product is too large or too small to tell.
    most = max((*prefill, *decode), default=0.0) or 1.0
    dearest = max(weights.prefill_token, weights.decode_step, weights.decode_token)
    decode = [tokens / most for tokens in decode]
    prompts = [weights.prefill_token / dearest * (tokens / most) for tokens in prefill]
    answers = [
        weights.decode_token / dearest * tokens + weights.decode_step / dearest * steps
        for tokens, steps in zip(decode, _shared_steps(decode), strict=True)
    ]
    return prompts, answers


def _shared_steps(decode: Sequence[float]) -> list[float]:
    """Of the steps that gave these tokens, what falls to each request if those in a step share it equally.

    Requests of one batch go in step, so where one has fewer tokens than another, it was not there for
    the rest of the steps. This is the airport game, whose Shapley value has this closed form (S. C.
    Littlechild and G. Owen, 1973).
    """
    shared = [0.0] * len(decode)
    before = share = 0.0
    for place, i in enumerate(sorted(range(len(decode)), key=decode.__getitem__)):
        share += (decode[i] - before) / (len(decode) - place)
        before, shared[i] = decode[i], share
    return shared


def _in_all(prompts: Sequence[float], answers: Sequence[float], factor: float = 1.0) -> list[float]:
    return [prompt + answer * factor for prompt, answer in zip(prompts, answers, strict=True)]


def _divide(amount: float, parts: Sequence[float]) -> tuple[float, ...]:
    """Divides in proportion; what rounding leaves goes to the largest part, so that the sum is the amount."""
    total = math.fsum(parts)
    largest = max(range(len(parts)), key=parts.__getitem__)
    shares = [0.0] * len(parts)
    left = amount
    for i, part in enumerate(parts):
        if i != largest:
            shares[i] = min(left, amount * (part / total))
            left -= shares[i]
    shares[largest] = left
    return tuple(shares)


class RequestEnergy:
    """Adds up what one request drew on one device, window after window, in constant memory.

    Attributes:
        energy_j: Joules above idle.
    """

    __slots__ = ("_by_power", "_counter_ns", "_edges_j", "_longest_ns", "_margin_j", "_rough_j2", "energy_j")

    def __init__(self) -> None:
        self.energy_j: float = 0.0
        self._margin_j = 0.0
        self._by_power = False
        # Of the counter's windows: how long it was in flight in them, the longest, the roughest first and last edge.
        self._counter_ns = self._longest_ns = 0
        self._edges_j: tuple[float, float] | None = None
        self._rough_j2 = 0.0

    def add(self, window: EnergyWindow, claim: Claim, *, share_j: float, margin_j: float) -> None:
        """Adds its share of the next window; windows come in the order of time.

        Args:
            window: The window.
            claim: What the request did in it.
            share_j: Its share, from :class:`Split`.
            margin_j: Its margin.
        """
        self.energy_j += share_j
        self._margin_j += margin_j
        rough_j = window.step_j * (share_j / window.energy_j) if window.energy_j else window.step_j
        if window.method is EnergyMethod.POWER:
            self._by_power = True
            self._rough_j2 += rough_j * rough_j
            return
        self._counter_ns += claim.overlap_ns
        self._longest_ns = max(self._longest_ns, window.end_ns - window.start_ns)
        self._edges_j = (rough_j if self._edges_j is None else self._edges_j[0], rough_j)

    @property
    def method(self) -> EnergyMethod | None:
        """How the figure came about, by its coarsest part; None before the first window.

        A request that was in flight for less than the counter's windows are long is interpolated.
        """
        if self._by_power:
            return EnergyMethod.POWER
        if self._edges_j is None:
            return None
        return EnergyMethod.INTERPOLATED if self._counter_ns < self._longest_ns else EnergyMethod.COUNTER

    @property
    def uncertainty_j(self) -> float:
        """By how much ``energy_j`` may be wrong, either way.

        Three things are in it, taken to be independent of each other. What the counter held back at the
        begin and at the end of the request; between its windows that cancels, so the larger of the two
        counts, once. How power may have run between two readings, for each window by itself. And the
        margins of the division, which add up, since weights that are wrong are wrong in each window.

        The meter's own error is not in it, nor is that of the idle power.
        """
        edge_j = max(self._edges_j or (0.0,))
        return math.sqrt(edge_j * edge_j + self._rough_j2 + self._margin_j * self._margin_j)


def uncertainty_j(requests: Sequence[RequestEnergy]) -> float:
    """Uncertainty of what a request drew on several devices together.

    Devices compute the same requests with the same weights, so their uncertainties add up.
    """
    return math.fsum(request.uncertainty_j for request in requests)
