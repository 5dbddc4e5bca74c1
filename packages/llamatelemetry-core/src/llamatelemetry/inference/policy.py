"""How waiting requests are ordered: the policies, which compose, and their bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from llamatelemetry.errors import ConfigurationError

_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """What a scheduler promises. Every policy can be turned off; with all off it is first in, first out.

    Attributes:
        max_waiting: Requests that may wait; one more is rejected.
        max_waiting_tokens: Tokens, prompts' and answers' together, that may wait; None is any number.
        context_length: Tokens one slot can hold; None if that is not known.
        priorities: Whether a more urgent level, the smaller number, is served first.
        ageing_s: Seconds after which a waiting request lifts its level; None lets levels starve.
        aged_every: Of so many admissions one is for an aged level; at least 2.
        fair_tenants: Whether tenants of one level share by weight, or are one queue.
        weights: Share of each tenant, relative to the others; 1 for one not named.
        quantum: Tokens that weight 1 is worth per turn: smaller alternates tenants more finely.
        earliest_deadline_first: Whether one tenant's requests of one level run in order of deadline;
            those without one last, in order of arrival.
        prefix_window: Requests at the head of a queue among which the one runs first whose prefix an
            idle slot holds; 0 is off.
        min_prefix_gain: Tokens that a slot must hold beyond what the head would find.
        max_bypass: Times that a request may be passed over for another's prefix.
        shared_pages: Whether the backend's slots share pages of equal prefixes, where it does not say so
            itself. Without it each request's pages are counted in full, and only the slot it runs on
            counts as a cache.

    Raises:
        ConfigurationError: A value is outside its range.
    """

    max_waiting: int = 10_000
    max_waiting_tokens: int | None = None
    context_length: int | None = None
    priorities: bool = True
    ageing_s: float | None = 30.0
    aged_every: int = 4
    fair_tenants: bool = True
    weights: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    quantum: int = 1024
    earliest_deadline_first: bool = True
    prefix_window: int = 8
    min_prefix_gain: int = 16
    max_bypass: int = 8
    shared_pages: bool = False

    def __post_init__(self) -> None:
        least: tuple[tuple[str, float | None, int], ...] = (
            ("max_waiting", self.max_waiting, 1),
            ("max_waiting_tokens", self.max_waiting_tokens, 1),
            ("context_length", self.context_length, 1),
            ("ageing_s", self.ageing_s, 0),
            ("aged_every", self.aged_every, 2),
            ("quantum", self.quantum, 1),
            ("prefix_window", self.prefix_window, 0),
            ("min_prefix_gain", self.min_prefix_gain, 1),
            ("max_bypass", self.max_bypass, 0),
        )
        for name, value, low in least:
            if value is not None and not low <= value < math.inf:
                raise ConfigurationError(name, value, f"give at least {low}")
        for tenant, weight in self.weights.items():
            if not 0 < weight < math.inf:
                raise ConfigurationError(f"weights[{tenant!r}]", weight, "give a number above 0")


FIFO: Final = SchedulerConfig(
    priorities=False, ageing_s=None, fair_tenants=False, earliest_deadline_first=False, prefix_window=0
)
"""First in, first out: every policy off."""
