"""Which steps of a stage its span shows: a bounded number, spread evenly, the first and the last among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_EVENTS = 64
"""Events of steps on one span; OpenTelemetry's SDK keeps 128 events of any kind and drops the oldest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """One step of a stage.

    Attributes:
        number: Which it was.
        monotonic_ns: When it ended.
        duration_s: Since the one before; None of the first.
        loss: Its loss.
        learning_rate: Its learning rate.
        figures: More of it, under names of the caller's own.
    """

    number: int
    monotonic_ns: int
    duration_s: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    figures: Mapping[str, float] | None = None


class StepLog:
    """Counts every step and keeps some of them.

    While there are few, all are kept. Whenever there is no more room, every second one goes, and from
    then on only half as many come in. So memory is bounded, and what is kept is spread evenly over however
    many there will have been.

    Args:
        most: Steps to keep, at least two.
    """

    def __init__(self, most: int = DEFAULT_EVENTS) -> None:
        self._most = max(2, most)
        self._kept: list[TrainingStep] = []
        self._stride = 1
        self._last: TrainingStep | None = None
        self.count: int = 0
        self.loss_first: float | None = None
        self.loss_last: float | None = None
        self.loss_min: float | None = None

    def add(self, step: TrainingStep) -> None:
        """Takes the next step."""
        if self.count % self._stride == 0:
            if len(self._kept) == self._most - 1:  # One place is the last one's.
                self._kept = self._kept[::2]
                self._stride *= 2
            if self.count % self._stride == 0:
                self._kept.append(step)
        self.count += 1
        self._last = step
        if step.loss is not None:
            self.loss_first = step.loss if self.loss_first is None else self.loss_first
            self.loss_last = step.loss
            if not math.isnan(step.loss):
                self.loss_min = step.loss if self.loss_min is None else min(step.loss, self.loss_min)

    def kept(self) -> tuple[TrainingStep, ...]:
        """The steps to show, in order."""
        if self._last is None or self._kept[-1] is self._last:
            return tuple(self._kept)
        return (*self._kept, self._last)
