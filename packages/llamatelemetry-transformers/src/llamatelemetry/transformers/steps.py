"""What is seen of one decoding loop, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llamatelemetry.transformers.step_clock import StepClock, step_clock


class Steps:
    """What was seen of one decoding loop.

    Args:
        config: The generation configuration in force, as ``generate`` prepared it.
        one_by_one: Whether every step brings one token, so that their number follows from that of the steps.
        previewed: Whether the criteria are asked about the candidates too, before each step.

    Attributes:
        config: As given.
        mark: Notes that the criteria are asked; None before :meth:`begin`.
        latest: The sequences that they were asked about last.
        sizes: How long those were, each time; None where steps bring one token each.
        done: After each step, which sequences are complete; None where there is one.
        returned: The sequences that the ``generate`` it ran in returned; None before, and where it failed.
    """

    __slots__ = ("_clock", "_first", "_previewed", "config", "done", "latest", "mark", "returned", "sizes")

    def __init__(self, config: Any, *, one_by_one: bool = True, previewed: bool = False) -> None:
        self.config: Any = config
        self.mark: Callable[[], None] | None = None
        self.latest: Any = None
        self.sizes: list[int] | None = None if one_by_one else []
        self.done: list[Any] | None = None
        self.returned: Any = None
        self._previewed = previewed
        self._clock: StepClock | None = None
        self._first = 0

    @property
    def any_made(self) -> bool:
        """Whether there was a step at all."""
        return self.latest is not None and (not self._previewed or len(self.sizes or ()) > 1)

    def begin(self, sequences: Any) -> Callable[[], None]:
        """Takes in the first sequences that the criteria are asked about; returns :attr:`mark`."""
        self._first = sequences.shape[1]
        if sequences.shape[0] > 1:
            self.done = []
        self._clock = clock = step_clock(sequences.device)
        self.mark = clock.mark
        return clock.mark

    def read(self) -> tuple[list[int], list[int]]:
        """How many tokens a sequence had after each step, its prompt included, and when the step was made.

        Moments are in monotonic nanoseconds; it waits for the device.
        """
        moments = [] if self._clock is None else self._clock.read()
        if self.sizes is None:
            lengths = list(range(self._first, self._first + len(moments)))
            if lengths:
                # A model's own loop may bring several tokens in a step all the same; then the last one has them.
                lengths[-1] = self.latest.shape[1]
            return lengths, moments
        if self._previewed:
            return self.sizes[1::2], moments[1::2]
        return self.sizes, moments
