"""What is seen of one decoding loop, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llamatelemetry.transformers.step_clock import StepClock, step_clock


class Steps:
    """What was seen of one decoding loop.

    Args:
        config: The generation configuration in force, as ``generate`` prepared it.
        previewed: Whether the criteria are asked about the candidates too, before each step.

    Attributes:
        config: As given.
        done: After each step, which sequences are complete; kept where there are several.
        latest: The sequences after the latest step.
        several: Whether there are several sequences; known from the first step on.
    """

    __slots__ = ("_clock", "_lengths", "_mark", "_previewed", "config", "done", "latest", "several")

    def __init__(self, config: Any, *, previewed: bool = False) -> None:
        self.config = config
        self._previewed = previewed
        self._lengths: list[int] = []
        self.done: list[Any] = []
        self.latest: Any = None
        self.several = False
        self._clock: StepClock | None = None
        self._mark: Callable[[], None] | None = None

    @property
    def any_made(self) -> bool:
        """Whether there was a step at all."""
        return len(self._lengths) > self._previewed

    def note(self, sequences: Any) -> None:
        """Notes that the criteria are asked about sequences. This is what a token costs, so it does no more."""
        (self._mark or self._begin(sequences))()
        self._lengths.append(sequences.shape[1])
        self.latest = sequences

    def _begin(self, sequences: Any) -> Callable[[], None]:
        self.several = sequences.shape[0] > 1
        self._clock = clock = step_clock(sequences.device)
        self._mark = clock.mark
        return clock.mark

    def read(self) -> tuple[list[int], list[int]]:
        """How many tokens a sequence had after each step, its prompt included, and when the step was made.

        Moments are in monotonic nanoseconds; it waits for the device.
        """
        moments = [] if self._clock is None else self._clock.read()
        if self._previewed:
            return self._lengths[1::2], moments[1::2]
        return self._lengths, moments
